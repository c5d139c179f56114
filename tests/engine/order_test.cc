// SPDX-License-Identifier: Apache-2.0
// Rule R2: the newest version of a page wins, whatever channel carried it and however slow that channel is.
#include "tests/engine/move.h"
#include "tests/engine/proxy.h"

#include <gtest/gtest.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr uint32_t kRounds = 6;

// Every page is rewritten after each round, and an odd number of batches makes it travel by the other channel
// next time: what is late on the slow channel meets what is newer on the fast one.
void MoveWithChangingPages(unsigned slow_channel, const char *compress)
{
    constexpr uint64_t kPages = 5 * kMiB / kPage; // five batches of 256 pages for two channels
    Guest from({5 * kMiB}, true), to({5 * kMiB}, false);
    from.on_round = [&](uint32_t round) {
        for (uint64_t page = 0; round < kRounds && page < kPages; page++) {
            from.Write(0, page, round * kPages + page);
        }
    };
    haul_options options = Options();
    options.channels = 2;
    options.compress = compress;
    options.downtime_limit_ms = 0; // go on until nothing is dirty
    Proxy proxy;
    proxy.Delay(Proxy::Channel(slow_channel), 2);
    Move move(from, to, options, "tcp:127.0.0.1:0", [&](const std::string &uri) { return proxy.Open(uri); });
    std::string where;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message << " / " << move.destination_error.message;
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_GE(move.stats.dirty_sync_count, kRounds);
    EXPECT_TRUE(SameMemory(from, to, &where)) << "an older version won: " << where;
}

TEST(Order, FirstChannelIsSlow)
{
    MoveWithChangingPages(0, "none");
}

TEST(Order, SecondChannelIsSlow)
{
    MoveWithChangingPages(1, "none");
}

TEST(Order, SlowAndCompressed)
{
    MoveWithChangingPages(0, "lz4");
}

} // namespace
