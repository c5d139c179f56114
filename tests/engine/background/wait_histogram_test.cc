// SPDX-License-Identifier: Apache-2.0
#include "engine/background/wait_histogram.h"

#include <gtest/gtest.h>

#include <memory>

namespace
{

using Histogram = std::unique_ptr<haul_wait_histogram>;

Histogram Make()
{
    return std::make_unique<haul_wait_histogram>();
}

TEST(WaitHistogram, HasNoPercentilesWithoutWaits)
{
    Histogram histogram = Make();
    EXPECT_EQ(haul_wait_histogram_percentile(histogram.get(), 50), 0u);
    EXPECT_EQ(haul_wait_histogram_percentile(histogram.get(), 100), 0u);
}

TEST(WaitHistogram, NeverSaysMoreThanTheLongest)
{
    for (uint64_t only : {uint64_t{0}, uint64_t{1}, uint64_t{15}, uint64_t{16}, uint64_t{17},
                          uint64_t{1000003}, uint64_t{1} << 50, UINT64_MAX}) {
        Histogram histogram = Make();
        haul_wait_histogram_add(histogram.get(), only);
        EXPECT_EQ(haul_wait_histogram_percentile(histogram.get(), 50), only);
        EXPECT_EQ(haul_wait_histogram_percentile(histogram.get(), 100), only);
        EXPECT_EQ(histogram->longest_ns, only);
    }
}

TEST(WaitHistogram, IsAtMostABucketTooHigh)
{
    for (uint64_t value = 1; value < uint64_t{1} << 38; value = value * 9 / 8 + 1) {
        Histogram histogram = Make();
        haul_wait_histogram_add(histogram.get(), value);
        haul_wait_histogram_add(histogram.get(), value * 100);
        uint64_t half = haul_wait_histogram_percentile(histogram.get(), 50);
        EXPECT_GE(half, value);
        EXPECT_LE(half, value + value / HAUL_WAIT_STEPS + 1);
    }
}

TEST(WaitHistogram, FindsTheNinetyNinthOfAHundred)
{
    Histogram histogram = Make();
    for (int i = 0; i < 990; i++) {
        haul_wait_histogram_add(histogram.get(), 10);
    }
    for (int i = 0; i < 10; i++) {
        haul_wait_histogram_add(histogram.get(), 1000000);
    }
    EXPECT_EQ(histogram->count, 1000u);
    EXPECT_LE(haul_wait_histogram_percentile(histogram.get(), 50), 11u);
    EXPECT_LE(haul_wait_histogram_percentile(histogram.get(), 99), 11u);
    EXPECT_EQ(haul_wait_histogram_percentile(histogram.get(), 99.1), 1000000u);
}

} // namespace
