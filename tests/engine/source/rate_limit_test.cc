// SPDX-License-Identifier: Apache-2.0
#include "engine/source/rate_limit.h"

#include <gtest/gtest.h>

namespace
{

constexpr uint64_t kMs = 1000000;
constexpr uint64_t kMB = 1000000; // at 1 MB/s a byte takes a microsecond

class RateLimit : public testing::Test
{
  protected:
    uint64_t Wait(uint64_t ms, uint64_t used, uint64_t rate = kMB)
    {
        return haul_rate_limit_wait(&limit_, rate, used, start_ + ms * kMs);
    }
    haul_rate_limit limit_{};
    uint64_t start_ = 1000 * kMs;
};

TEST_F(RateLimit, NoneNeverWaits)
{
    EXPECT_EQ(Wait(0, 0, 0), 0u);
    EXPECT_EQ(Wait(0, UINT64_MAX, 0), 0u);
}

TEST_F(RateLimit, WaitsForWhatWasSentTooEarly)
{
    EXPECT_EQ(Wait(0, 5000), 0u) << "what went before the limit does not count";
    EXPECT_NEAR(static_cast<double>(Wait(0, 15000)), 10e6, 2);
    EXPECT_NEAR(static_cast<double>(Wait(4, 15000)), 6e6, 2);
    EXPECT_EQ(Wait(10, 15000), 0u);
}

TEST_F(RateLimit, AfterIdling50MsWorthGoAtOnce)
{
    EXPECT_EQ(Wait(0, 0), 0u);
    EXPECT_EQ(Wait(10000, 0), 0u);
    EXPECT_EQ(Wait(10000, 50000), 0u);
    EXPECT_NEAR(static_cast<double>(Wait(10000, 51000)), 1e6, 2);
}

TEST_F(RateLimit, AnotherRateBeginsAnew)
{
    EXPECT_EQ(Wait(0, 0), 0u);
    EXPECT_NEAR(static_cast<double>(Wait(0, 40000)), 40e6, 2);
    EXPECT_EQ(Wait(0, 40000, 2 * kMB), 0u);
    EXPECT_NEAR(static_cast<double>(Wait(0, 60000, 2 * kMB)), 10e6, 2);
    EXPECT_EQ(Wait(0, 60000, 0), 0u);
    EXPECT_EQ(Wait(0, 60000, 2 * kMB), 0u) << "nor does what went without any";
}

// Pages under way are counted as what such pages took before: zero pages take next to nothing.
TEST_F(RateLimit, BytesThatWereOnlyGuessedAreGivenBack)
{
    EXPECT_EQ(Wait(0, 900000), 0u) << "all of it under way when the limit was set";
    EXPECT_EQ(Wait(1, 1000), 0u);
    EXPECT_NEAR(static_cast<double>(Wait(1, 11000)), 9e6, 2) << "and the next bytes count from there";
}

TEST_F(RateLimit, AGuessAfterIdlingIsGivenBackToo)
{
    EXPECT_EQ(Wait(0, 0), 0u);
    EXPECT_EQ(Wait(1000, 500000), 0u);
    EXPECT_EQ(Wait(1001, 100), 0u);
    EXPECT_EQ(Wait(2000, 200), 0u);
}

TEST_F(RateLimit, NoWaitIsLongerThanTheLongest)
{
    EXPECT_EQ(Wait(0, 0, 1), 0u);
    EXPECT_EQ(Wait(0, UINT64_MAX, 1), HAUL_RATE_LIMIT_LONGEST_NS);
}

// Several threads share one limit, and the one that looked at the clock first may come last.
TEST_F(RateLimit, AnEarlierTimeIsNoIdling)
{
    EXPECT_EQ(Wait(5, 0), 0u);
    EXPECT_NEAR(static_cast<double>(Wait(4, 10000)), 10e6, 2);
}

} // namespace
