// SPDX-License-Identifier: Apache-2.0
// Rule R2's barrier: nobody enters round n + 1 before everybody finished round n.
#include "engine/destination/barrier.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

namespace
{

class Barrier : public testing::Test
{
  protected:
    void Make(unsigned channels)
    {
        haul_barrier_init(&barrier_, channels);
        made_ = true;
    }
    void TearDown() override
    {
        if (made_) {
            haul_barrier_destroy(&barrier_);
        }
    }
    haul_barrier barrier_;
    bool made_ = false;
};

TEST_F(Barrier, OneChannelNeverWaits)
{
    Make(1);
    haul_error error{};
    for (uint32_t round = 1; round < 100; round++) {
        ASSERT_EQ(haul_barrier_arrive(&barrier_, round, &error), 1);
        EXPECT_EQ(haul_barrier_wait(&barrier_, round, 0), -ETIMEDOUT) << "released too early";
        haul_barrier_release(&barrier_);
        EXPECT_EQ(haul_barrier_wait(&barrier_, round, 0), 0);
    }
}

TEST_F(Barrier, NoThreadRunsAhead)
{
    constexpr unsigned kThreads = 8, kRounds = 200;
    Make(kThreads);
    std::atomic<unsigned> inside[kRounds + 2]{};
    std::atomic<unsigned> last{0}, wrong{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; t++) {
        threads.emplace_back([&, t] {
            haul_error error{};
            for (uint32_t round = 1; round <= kRounds; round++) {
                wrong += round > 1 && inside[round - 1] != kThreads;
                inside[round]++;
                if (t % 3 == round % 3) {
                    std::this_thread::yield();
                }
                int rc = haul_barrier_arrive(&barrier_, round, &error);
                if (rc == 1) {
                    last++;
                    wrong += inside[round] != kThreads;
                    haul_barrier_release(&barrier_);
                }
                wrong += rc < 0;
            }
        });
    }
    for (auto &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(wrong, 0u);
    EXPECT_EQ(last, kRounds) << "exactly one thread reports each round";
    EXPECT_EQ(haul_barrier_wait(&barrier_, kRounds, 0), 0);
    EXPECT_EQ(haul_barrier_wait(&barrier_, kRounds + 1, 1), -ETIMEDOUT);
}

TEST_F(Barrier, MarkOfAnotherRoundIsRefused)
{
    Make(2);
    haul_error error{};
    EXPECT_EQ(haul_barrier_arrive(&barrier_, 2, &error), -EPROTO);
    EXPECT_STREQ(error.message, "the mark of round 2 came where round 1 was due");
    EXPECT_EQ(haul_barrier_arrive(&barrier_, 0, &error), -EPROTO);
    EXPECT_STREQ(error.message, "the mark of round 0 came where round 1 was due");
    EXPECT_EQ(barrier_.arrived, 0u) << "a refused mark does not count";
}

TEST_F(Barrier, AbortReleasesWhoWaitsForTheOthers)
{
    Make(3);
    std::atomic<int> results[2];
    std::vector<std::thread> threads;
    for (auto &result : results) {
        threads.emplace_back([&] {
            haul_error error{};
            result = haul_barrier_arrive(&barrier_, 1, &error);
        });
    }
    std::atomic<int> waited{0};
    threads.emplace_back([&] { waited = haul_barrier_wait(&barrier_, 1, 60000); });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    haul_barrier_abort(&barrier_);
    for (auto &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(results[0], -ECANCELED);
    EXPECT_EQ(results[1], -ECANCELED);
    EXPECT_EQ(waited, -ECANCELED);
    haul_error error{};
    EXPECT_EQ(haul_barrier_arrive(&barrier_, 1, &error), -ECANCELED) << "for good";
    EXPECT_STREQ(error.message, "cancelled");
}

TEST_F(Barrier, WhatWasDoneBeforeTheAbortStaysDone)
{
    Make(1);
    haul_error error{};
    ASSERT_EQ(haul_barrier_arrive(&barrier_, 1, &error), 1);
    haul_barrier_release(&barrier_);
    haul_barrier_abort(&barrier_);
    EXPECT_EQ(haul_barrier_wait(&barrier_, 1, 0), 0);
    EXPECT_EQ(haul_barrier_wait(&barrier_, 2, 0), -ECANCELED);
}

TEST_F(Barrier, WaitSleepsUntilTheRoundIsDone)
{
    Make(1);
    std::thread finisher([&] {
        haul_error error{};
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        if (haul_barrier_arrive(&barrier_, 1, &error) == 1) {
            haul_barrier_release(&barrier_);
        }
    });
    EXPECT_EQ(haul_barrier_wait(&barrier_, 1, 60000), 0);
    finisher.join();
}

} // namespace
