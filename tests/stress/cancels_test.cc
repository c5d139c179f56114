// SPDX-License-Identifier: Apache-2.0
// Cancels at random moments, from either side: the guest always ends with exactly one owner.
#include "tests/engine/move.h"
#include "tests/engine/resources.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>
#include <string>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr int kMoves = 200;
constexpr int kWarmUp = 20;

TEST(Cancels, AtRandomMomentsLeaveOneOwner)
{
    // Reading the machine's real topology would take most of the time.
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1);
    std::mt19937 random(4242);
    Resources before{};
    int moved = 0, stayed = 0, uncertain = 0;
    Guest from({2 * kMiB}, true);
    from.Run(5, 500);
    double window_us = 50000; // in which a move is cancelled: kept at about twice what one takes here
    for (int i = 0; i < kMoves; i++) {
        SCOPED_TRACE("move " + std::to_string(i));
        if (i == kWarmUp) {
            before = Resources::Now();
        }
        Guest to({2 * kMiB}, false);
        from.handed_over = 0;
        haul_options options = Options();
        options.channels = 1 + random() % 4;
        options.max_bandwidth_bytes_per_s = random() % 2 ? 100 * kMiB : 0;
        auto wait_us = static_cast<useconds_t>(random() % 1000 * window_us / 1000);
        bool source_side = random() % 2;
        Move move(from, to, options, random() % 2 ? "tcp:127.0.0.1:0" : "");
        usleep(wait_us);
        int cancelled = haul_cancel(source_side ? move.source : move.destination);
        ASSERT_TRUE(cancelled == 0 || cancelled == -EALREADY);
        move.source_result = haul_wait(move.source, &move.source_error);
        char id[33];
        haul_id(move.destination, id);
        bool met = std::string(id) != std::string(32, '0');
        if (!met) {
            haul_cancel(move.destination); // it waits for somebody to come, as it should
        }
        move.Wait();
        if (move.source_result == 0) {
            ASSERT_EQ(move.destination_result, 0) << move.destination_error.message;
            ASSERT_EQ(to.starts, 1u);
            ASSERT_FALSE(from.running()) << "two owners";
            ASSERT_EQ(move.stats.ownership, HAUL_OWNER_DESTINATION);
            std::string where;
            ASSERT_TRUE(SameMemory(from, to, &where)) << where;
            moved++;
        } else if (move.stats.ownership == HAUL_OWNER_UNCERTAIN) {
            // The destination was cancelled when HANDOVER was on its way: nobody runs the guest, and the
            // source says so.
            ASSERT_FALSE(source_side)
                << "its own cancel is decided before HANDOVER: " << move.source_error.message;
            ASSERT_EQ(to.starts, 0u);
            ASSERT_FALSE(from.running());
            uncertain++;
        } else {
            if (source_side || met) {
                ASSERT_EQ(move.source_result, -ECANCELED) << move.source_error.message;
            } // else it found nobody
            ASSERT_EQ(move.destination_result, -ECANCELED) << move.destination_error.message;
            ASSERT_EQ(to.starts, 0u);
            ASSERT_TRUE(from.running());
            ASSERT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
            stayed++;
        }
        window_us *= move.source_result == 0 ? 0.9 : 1.1;
        from.Run(0, 0); // what moved is forgotten: the next move starts here again
    }
    from.Pause();
    before.threads -= 1; // the guest's own
    ExpectNoMoreThan(before);
    EXPECT_GT(moved, 5);
    EXPECT_GT(stayed, 5);
    EXPECT_LT(uncertain, kMoves / 10) << "the window is much shorter than that";
}

} // namespace
