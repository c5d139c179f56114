// SPDX-License-Identifier: Apache-2.0
#include "engine/source/throttle_steps.h"

#include <gtest/gtest.h>

#include <vector>

namespace
{

constexpr double kMB = 1e6;

// What one step after the other makes of a guest that writes in proportion to its speed, from 0 up to `most`.
std::vector<unsigned> All(const haul_throttle_steps &steps, double dirty_at_full_speed, double bandwidth)
{
    std::vector<unsigned> all;
    for (unsigned now = 0; now < steps.most_percent;) {
        now = haul_throttle_steps_next(&steps, now, dirty_at_full_speed * (100 - now) / 100, bandwidth);
        all.push_back(now);
        if (all.size() > 100) {
            break;
        }
    }
    return all;
}

TEST(ThrottleSteps, GrowByIncrementsFromTheFirstToTheEnd)
{
    EXPECT_EQ(All({30, 25, 70, false}, 0, 0), (std::vector<unsigned>{30, 55, 70}));
    EXPECT_EQ(All({99, 1, 99, false}, 0, 0), (std::vector<unsigned>{99}));
    EXPECT_EQ(All({1, 99, 99, false}, 0, 0), (std::vector<unsigned>{1, 99}));
}

TEST(ThrottleSteps, WithoutTailslowRatesDoNotMatter)
{
    const haul_throttle_steps steps = {20, 10, 99, false};
    EXPECT_EQ(haul_throttle_steps_next(&steps, 20, 101 * kMB, 100 * kMB), 30u);
    EXPECT_EQ(haul_throttle_steps_next(&steps, 20, 1 * kMB, 100 * kMB), 30u);
}

TEST(ThrottleSteps, AtTheirEndTheyStay)
{
    const haul_throttle_steps steps = {20, 10, 60, true};
    EXPECT_EQ(haul_throttle_steps_next(&steps, 60, 900 * kMB, 100 * kMB), 60u);
    EXPECT_EQ(haul_throttle_steps_next(&steps, 80, 900 * kMB, 100 * kMB), 60u) << "it was lowered meanwhile";
}

TEST(ThrottleSteps, WithTailslowTheLastIncrementsAreThoseThatAreNeeded)
{
    const haul_throttle_steps steps = {20, 10, 99, true};
    EXPECT_EQ(haul_throttle_steps_next(&steps, 0, 101 * kMB, 100 * kMB), 20u) << "the first is whole";
    EXPECT_EQ(haul_throttle_steps_next(&steps, 20, 200 * kMB, 100 * kMB), 30u) << "40 % would be needed";
    EXPECT_EQ(haul_throttle_steps_next(&steps, 50, 125 * kMB, 100 * kMB), 60u) << "just a whole one";
    EXPECT_EQ(haul_throttle_steps_next(&steps, 50, 110 * kMB, 100 * kMB), 54u) << "4.5 % would be needed";
    EXPECT_EQ(haul_throttle_steps_next(&steps, 90, 200 * kMB, 100 * kMB), 95u)
        << "5 of the 10 % that are left";
    EXPECT_EQ(haul_throttle_steps_next(&steps, 50, 101 * kMB, 100 * kMB), 51u) << "half a percent is needed";
}

TEST(ThrottleSteps, WithTailslowAGuestThatWritesLessThanTheBandwidthStillGetsSlower)
{
    const haul_throttle_steps steps = {20, 10, 99, true};
    EXPECT_EQ(haul_throttle_steps_next(&steps, 50, 100 * kMB, 100 * kMB), 51u);
    EXPECT_EQ(haul_throttle_steps_next(&steps, 50, 1 * kMB, 100 * kMB), 51u);
    EXPECT_EQ(All({20, 10, 23, true}, 50 * kMB, 100 * kMB), (std::vector<unsigned>{20, 21, 22, 23}));
}

TEST(ThrottleSteps, WithTailslowUnknownRatesMakeWholeIncrements)
{
    const haul_throttle_steps steps = {20, 10, 99, true};
    EXPECT_EQ(haul_throttle_steps_next(&steps, 20, 0, 100 * kMB), 30u);
    EXPECT_EQ(haul_throttle_steps_next(&steps, 20, 200 * kMB, 0), 30u);
}

// 250 MB/s at full speed and 100 MB/s: 60 % is what it takes.
TEST(ThrottleSteps, WithTailslowAWholeSequenceNearsWhatItTakes)
{
    EXPECT_EQ(All({20, 30, 64, true}, 250 * kMB, 100 * kMB),
              (std::vector<unsigned>{20, 50, 60, 61, 62, 63, 64}));
}

TEST(ThrottleSteps, ArePackedWithoutLoss)
{
    for (const haul_throttle_steps &steps :
         {haul_throttle_steps{1, 2, 3, false}, {99, 98, 99, true}, {7, 99, 64, false}}) {
        haul_throttle_steps same = haul_throttle_steps_unpack(haul_throttle_steps_pack(&steps));
        EXPECT_EQ(same.initial_percent, steps.initial_percent);
        EXPECT_EQ(same.increment_percent, steps.increment_percent);
        EXPECT_EQ(same.most_percent, steps.most_percent);
        EXPECT_EQ(same.tailslow, steps.tailslow);
    }
}

} // namespace
