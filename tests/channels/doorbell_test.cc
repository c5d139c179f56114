/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/doorbell.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>
#include <vector>

namespace
{

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

TEST(Doorbell, RingBeforeTheWaitIsNotLost)
{
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    uint32_t ticket = haul_doorbell_ticket(&bell);
    haul_doorbell_ring(&bell);
    EXPECT_TRUE(haul_doorbell_wait(&bell, ticket, 0));
}

TEST(Doorbell, RingBeforeTheTicketDoesNotWake)
{
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    haul_doorbell_ring(&bell);
    uint32_t ticket = haul_doorbell_ticket(&bell);
    EXPECT_FALSE(haul_doorbell_wait(&bell, ticket, 1000000));
}

TEST(Doorbell, WaitEndsAfterItsTime)
{
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    auto start = Clock::now();
    EXPECT_FALSE(haul_doorbell_wait(&bell, haul_doorbell_ticket(&bell), 30000000));
    EXPECT_GE(Clock::now() - start, 30ms);
}

TEST(Doorbell, RingWakesASleeper)
{
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    uint32_t ticket = haul_doorbell_ticket(&bell);
    std::thread ringer([&] {
        std::this_thread::sleep_for(20ms);
        haul_doorbell_ring(&bell);
    });
    EXPECT_TRUE(haul_doorbell_wait(&bell, ticket, UINT64_MAX));
    ringer.join();
}

TEST(Doorbell, SleeperUsesNoCpu)
{
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    haul_doorbell_wait(&bell, haul_doorbell_ticket(&bell), 100000000);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    EXPECT_LT((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec, 20000000);
}

/*
 * Two ringers and one waiter that handles each piece of work and then waits without a limit: one lost wake-up
 * and this never ends. The pauses are there to let the waiter fall asleep.
 */
TEST(Doorbell, NoWakeUpIsEverLost)
{
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    const unsigned each = 100000;
    std::atomic<unsigned> work{0}, done{0};
    std::vector<std::thread> ringers;
    for (int i = 0; i < 2; i++) {
        ringers.emplace_back([&, i] {
            for (unsigned n = 0; n < each; n++) {
                unsigned mine = work.fetch_add(1, std::memory_order_relaxed) + 1;
                haul_doorbell_ring(&bell);
                if (n % 64 == static_cast<unsigned>(i))
                    while (done.load(std::memory_order_relaxed) < mine)
                        std::this_thread::yield();
            }
        });
    }
    unsigned seen = 0;
    while (seen < 2 * each) {
        uint32_t ticket = haul_doorbell_ticket(&bell);
        unsigned now = work.load(std::memory_order_relaxed);
        if (now == seen) {
            haul_doorbell_wait(&bell, ticket, UINT64_MAX);
            continue;
        }
        seen = now;
        done.store(seen, std::memory_order_relaxed);
    }
    for (auto &ringer : ringers)
        ringer.join();
    EXPECT_EQ(2 * each, seen);
}

} // namespace
