// SPDX-License-Identifier: Apache-2.0
// Bandwidth, threshold and predicted downtime, by hand-computed numbers.
#include "engine/source/estimate.h"

#include <gtest/gtest.h>

#include <string>

namespace
{

constexpr uint64_t kMs = 1000000;
constexpr uint64_t kMB = 1000000;
constexpr uint64_t kHandingOver = 200000; // the caller's record, in each last pass

class Estimate : public testing::Test
{
  protected:
    Estimate()
    {
        haul_estimate_init(&estimate_);
    }
    void Window(uint64_t bytes, uint64_t busy_ns)
    {
        haul_window window = {.delivered_bytes = bytes, .busiest_ns = busy_ns};
        haul_estimate_add_window(&estimate_, &window);
    }
    void Round(uint64_t pages, uint64_t bytes, uint64_t ns, bool first = false, bool limited = false)
    {
        haul_round_sample sample = {
            .pages = pages, .wire_bytes = bytes, .elapsed_ns = ns, .first = first, .limited = limited};
        haul_estimate_add_round(&estimate_, &sample);
    }
    haul_downtime Predict(uint64_t pages) const
    {
        haul_downtime downtime;
        haul_estimate_downtime(&estimate_, pages, &downtime);
        return downtime;
    }
    haul_estimate estimate_;
};

TEST_F(Estimate, NothingMeasuredIsZeroAndThePredictionStillHasANumber)
{
    EXPECT_EQ(haul_estimate_bandwidth(&estimate_), 0u);
    EXPECT_EQ(haul_estimate_threshold(&estimate_, 300 * kMs), 0u);
    // 5 ms to stop, 5 ms to start, and the guess of 100 MB/s: 1000 pages and 64 KiB of state.
    haul_downtime downtime = Predict(1000);
    EXPECT_EQ(downtime.stop_ns, 5 * kMs);
    EXPECT_EQ(downtime.start_ns, 5 * kMs);
    EXPECT_NEAR(static_cast<double>(downtime.last_pass_ns), 40.96e6 + kHandingOver, 1e3);
    EXPECT_NEAR(static_cast<double>(downtime.device_ns), 0.65536e6, 1e3);
}

TEST_F(Estimate, FirstWindowIsTakenAsItIs)
{
    Window(100 * kMB, 100 * kMs);
    EXPECT_EQ(haul_estimate_bandwidth(&estimate_), 1000 * kMB);
}

TEST_F(Estimate, LaterWindowsAreSmoothedByTheirBusyTime)
{
    Window(100 * kMB, 100 * kMs);
    Window(50 * kMB, 100 * kMs); // half the rate, weight 100 / (100 + 300)
    EXPECT_NEAR(static_cast<double>(haul_estimate_bandwidth(&estimate_)), 875e6, 1);
    haul_estimate before = estimate_;
    Window(5 * kMB, 10 * kMs); // the same rate over a tenth of the time moves it less
    EXPECT_LT(before.bandwidth_bytes_per_s - estimate_.bandwidth_bytes_per_s, 20e6);
    for (int i = 0; i < 50; i++) {
        Window(50 * kMB, 100 * kMs);
    }
    EXPECT_NEAR(static_cast<double>(haul_estimate_bandwidth(&estimate_)), 500e6, 1e6) << "it follows";
}

TEST_F(Estimate, EncodingThatIsCountedLateComesOffTheNextWindows)
{
    uint64_t seen = 0;
    EXPECT_EQ(haul_estimate_carrying_ns(&seen, 100 * kMs, 40 * kMs), 60 * kMs);
    EXPECT_EQ(haul_estimate_carrying_ns(&seen, 200 * kMs, 40 * kMs), 100 * kMs)
        << "in the middle of encoding";
    EXPECT_EQ(haul_estimate_carrying_ns(&seen, 210 * kMs, 140 * kMs), 0u) << "of which 90 ms were";
    EXPECT_EQ(haul_estimate_carrying_ns(&seen, 290 * kMs, 140 * kMs), 0u);
    EXPECT_EQ(haul_estimate_carrying_ns(&seen, 310 * kMs, 140 * kMs), 10 * kMs);
    EXPECT_EQ(haul_estimate_carrying_ns(&seen, 310 * kMs, 320 * kMs), 0u);
}

TEST_F(Estimate, OnlyBusyTimeCounts)
{
    // The same bytes in a window that was mostly idle: the channel says 10 ms, not the 100 ms of the window.
    Window(10 * kMB, 10 * kMs);
    EXPECT_EQ(haul_estimate_bandwidth(&estimate_), 1000 * kMB);
}

TEST_F(Estimate, WindowsWithoutWorkDoNotLowerIt)
{
    Window(100 * kMB, 100 * kMs);
    for (int i = 0; i < 100; i++) {
        Window(0, 0);             // scanning zero pages, or held back by max-bandwidth
        Window(65535, 100 * kMs); // less than 64 KiB says nothing
        Window(65536, 999);       // so does less than a microsecond
    }
    EXPECT_EQ(haul_estimate_bandwidth(&estimate_), 1000 * kMB);
}

TEST_F(Estimate, ThresholdIsBandwidthTimesLimit)
{
    Window(100 * kMB, 100 * kMs);
    EXPECT_EQ(haul_estimate_threshold(&estimate_, 300 * kMs), 300 * kMB);
    EXPECT_EQ(haul_estimate_threshold(&estimate_, 0), 0u);
    EXPECT_EQ(haul_estimate_threshold(&estimate_, 1 * kMs), 1 * kMB);
}

// More nanoseconds than 64 bits hold must not come out as none, and stop the guest.
TEST_F(Estimate, WhatTakesForEverIsNotPredictedAsNothing)
{
    estimate_.switchover_bandwidth_bytes_per_s = 1;
    constexpr uint64_t kYear = kMs * 1000 * 86400 * 365;
    for (uint64_t gigabytes : {1, 16, 64, 1024, 1048576}) {
        EXPECT_GE(Predict(gigabytes << 18).total_ns, kYear) << gigabytes;
    }
    estimate_.switchover_bandwidth_bytes_per_s = UINT64_MAX;
    EXPECT_GT(haul_estimate_threshold(&estimate_, 2000000 * kMs), uint64_t{1} << 60);
}

TEST_F(Estimate, TheUsersSwitchoverBandwidthReplacesTheEstimate)
{
    Window(100 * kMB, 100 * kMs);
    Round(1000, 1000 * 4096, 1 * kMs);
    estimate_.switchover_bandwidth_bytes_per_s = 10 * kMB;
    EXPECT_EQ(haul_estimate_bandwidth(&estimate_), 10 * kMB);
    EXPECT_EQ(haul_estimate_threshold(&estimate_, 300 * kMs), 3 * kMB);
    EXPECT_NEAR(static_cast<double>(Predict(1000).last_pass_ns - kHandingOver), 409.6e6, 1e5)
        << "and the measured cost of a page";
}

TEST_F(Estimate, PartsAddUp)
{
    estimate_.costs.stop_ns = 3 * kMs;
    estimate_.costs.start_ns = 7 * kMs;
    estimate_.costs.sync_ns = 2 * kMs;
    estimate_.costs.device_ns = 13 * kMs;
    estimate_.verify_ns = 11 * kMs;
    estimate_.round_trip_ns = 1 * kMs;
    estimate_.costs.state_bytes = kMB;
    Window(100 * kMB, 100 * kMs);
    Round(1000, 1000 * 4096, 10 * kMs);
    haul_downtime downtime = Predict(2000);
    EXPECT_EQ(downtime.stop_ns, 3 * kMs);
    EXPECT_EQ(downtime.last_pass_ns,
              // two scans; a round trip, for the second round is waited for; 9 of 10 ms carried 1000 pages
              2 * 2 * kMs + 1 * kMs + 18 * kMs + 11 * kMs + kHandingOver);
    EXPECT_EQ(downtime.device_ns, 13 * kMs + 1 * kMs + 1 * kMs) << "its own, its bytes, PREPARE";
    EXPECT_EQ(downtime.start_ns, 8 * kMs);
    EXPECT_EQ(downtime.total_ns,
              downtime.stop_ns + downtime.last_pass_ns + downtime.device_ns + downtime.start_ns);
}

TEST_F(Estimate, MorePagesNeverTakeLess)
{
    Window(100 * kMB, 100 * kMs);
    Round(1000, 1000 * 4096, 10 * kMs);
    uint64_t before = 0;
    for (uint64_t pages = 0; pages < 100000; pages = pages * 2 + 1) {
        uint64_t now = Predict(pages).total_ns;
        EXPECT_GE(now, before) << pages;
        before = now;
    }
}

TEST_F(Estimate, LateRoundsReplaceTheBulkRound)
{
    Round(100000, 100000 * 4096ull, 10000 * kMs, true); // fresh destination memory: 100 us a page
    Round(1000, 1000 * 1024, 10 * kMs);                 // then 10 us a page, compressed to a quarter
    EXPECT_EQ(haul_estimate_ns_per_page(&estimate_), 10000);
    EXPECT_EQ(estimate_.wire_bytes_per_page, 1024);
    Round(1000, 1000 * 2048, 20 * kMs); // later ones are blended
    EXPECT_EQ(haul_estimate_ns_per_page(&estimate_), 15000);
    EXPECT_EQ(estimate_.wire_bytes_per_page, 1536);
}

TEST_F(Estimate, RateLimitedRoundsDoNotChangeTheCostOfAPage)
{
    Round(1000, 1000 * 4096, 10 * kMs);
    Round(1000, 1000 * 4096, 10000 * kMs, false, true);
    EXPECT_EQ(haul_estimate_ns_per_page(&estimate_), 10000);
    EXPECT_EQ(Predict(1000).last_pass_ns, 10 * kMs + kHandingOver);
}

TEST_F(Estimate, TheBulkRoundIsNoLatency)
{
    Window(100 * kMB, 100 * kMs);
    Round(100000, 100000 * 4096ull, 1000 * kMs, true);
    EXPECT_EQ(Predict(0).last_pass_ns, kHandingOver);
}

TEST_F(Estimate, ARoundHasALatency)
{
    Window(100 * kMB, 100 * kMs);
    auto rounds = [this] { return Predict(0).last_pass_ns - kHandingOver; };
    estimate_.round_trip_ns = 2 * kMs;
    EXPECT_EQ(rounds(), 2 * kMs) << "a round trip until a round without pages was seen";
    Round(10, 10 * 4096, 5 * kMs); // too few pages to say what one costs
    EXPECT_EQ(haul_estimate_ns_per_page(&estimate_), 0);
    EXPECT_EQ(rounds(), 3 * kMs + 5 * kMs) << "the first round's trip passes while state is saved";
    EXPECT_EQ(Predict(0).start_ns, 5 * kMs + 2 * kMs);
    Round(5, 5 * 4096, 1 * kMs);
    Round(5, 5 * 4096, 2 * kMs);
    EXPECT_EQ(rounds(), 1 * kMs) << "the least of all, and no trip takes longer than a round";
    EXPECT_EQ(Predict(0).start_ns, 5 * kMs + 1 * kMs);
    Round(1000, 1000 * 4096, 11 * kMs);
    EXPECT_EQ(haul_estimate_ns_per_page(&estimate_), 10000) << "the latency is not the pages'";
}

TEST_F(Estimate, ALatencyLongerThanARoundLeavesThePagesACost)
{
    Round(0, 0, 10 * kMs);
    Round(1000, 1000 * 4096, 4 * kMs);
    EXPECT_EQ(haul_estimate_ns_per_page(&estimate_), 1000) << "a quarter";
}

TEST_F(Estimate, ARoundOfFewPagesUnderARateLimitIsNoLatency)
{
    Round(10, 10 * 4096, 800 * kMs, false, true);
    EXPECT_EQ(estimate_.round_latency_ns, 0u) << "it waited for the limit";
    Round(0, 0, 2 * kMs, false, true);
    EXPECT_EQ(estimate_.round_latency_ns, 2 * kMs) << "no page had to wait";
}

TEST_F(Estimate, TheLongestPartIsNamed)
{
    auto longest = [this] {
        uint64_t ns = 0;
        haul_downtime downtime = Predict(0);
        const char *what = haul_estimate_longest_part(&estimate_, &downtime, &ns);
        return std::to_string(ns / kMs) + " ms " + what;
    };
    estimate_.costs = {.stop_ns = 5 * kMs};
    EXPECT_EQ(longest(), "5 ms to stop the guest");
    estimate_.costs.sync_ns = 4 * kMs;
    EXPECT_EQ(longest(), "8 ms to look for written pages");
    estimate_.round_trip_ns = 5 * kMs;
    EXPECT_EQ(longest(), "10 ms for round trips");
    estimate_.flush_ns = 11 * kMs;
    EXPECT_EQ(longest(), "11 ms to flush the destination's disks");
    estimate_.verify_ns = 12 * kMs;
    EXPECT_EQ(longest(), "12 ms to hash the memory (verify)");
    estimate_.costs.device_ns = 20 * kMs;
    EXPECT_EQ(longest(), "25 ms to save, carry and load the state of devices"); // with a trip
    estimate_.sending_ns = 30 * kMs;
    EXPECT_EQ(longest(), "30 ms to write the record of the handover here");
    estimate_.receiving_ns = 40 * kMs;
    EXPECT_EQ(longest(), "40 ms to write the record of the handover at the destination");
    estimate_.costs.start_ns = 50 * kMs;
    EXPECT_EQ(longest(), "50 ms to start the guest");
}

} // namespace
