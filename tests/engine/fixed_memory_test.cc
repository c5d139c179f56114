// SPDX-License-Identifier: Apache-2.0
// Rule R6: the engine's own memory is fixed after setup. Of both ends, which are in this process, over many
// rounds of a guest that writes.
#include "tests/engine/move.h"
#include "tests/engine/resources.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr uint32_t kChannels = 4;
constexpr uint32_t kPasses = 200;
constexpr size_t kHeapSlack = 2048;         // frames on their way, and what the test notes of the move
constexpr size_t kMappedSlack = 256 * 1024; // malloc's heap grows in steps of 132 KiB

struct Held {
    size_t heap;
    size_t mapped;
    static Held Now()
    {
        return {HeapBytes(), PrivateBytes()};
    }
};

TEST(FixedMemory, IsTheSameInTheLastRoundAsInTheFirst)
{
    if (!kCountsHeap) {
        GTEST_SKIP() << "this sanitizer's malloc does not count what it gives out";
    }
    Guest from({16 * kMiB, 4 * kMiB}, true), to({16 * kMiB, 4 * kMiB}, false);
    from.passes.reserve(100 * kPasses);
    std::vector<Held> held(kPasses + 1);
    std::atomic<uint32_t> passes{0};
    haul_migration *destination = nullptr;
    to.on_attach = [&](haul_migration *migration) { destination = migration; };
    from.on_pass = [&](uint32_t pass) {
        if (pass == 1) { // the destination's setup may take a moment longer: control, loader, receivers
            EXPECT_TRUE(Eventually([&] { return haul_threads(destination, nullptr, 0) == 2 + kChannels; }));
        }
        if (pass <= kPasses) {
            held[pass] = Held::Now();
            passes = pass;
        }
    };
    from.Run(50, 500);
    // So that no scan finds nothing, which would end the move.
    from.on_round = [&](uint32_t round) { from.Fill(0, 10, static_cast<unsigned char>(round)); };
    Held last{};
    to.on_start = [&] { last = Held::Now(); };
    haul_options options = Options();
    options.channels = kChannels;
    options.populate = false;
    options.compress = "auto";
    options.downtime_limit_ms = 0;
    Move move(from, to, options, "tcp:127.0.0.1:0");
    ASSERT_TRUE(Eventually([&] { return passes == kPasses; }));
    haul_error error{};
    ASSERT_EQ(haul_set_downtime_limit(move.source, 10000, &error), 0) << error.message;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    const Held first = held[1];
    EXPECT_GT(first.heap, 0u);
    held.push_back(last);
    for (size_t i = 2; i < held.size(); i++) {
        ASSERT_LE(held[i].heap, first.heap + kHeapSlack) << "pass " << i;
        ASSERT_LE(held[i].mapped, first.mapped + kMappedSlack) << "pass " << i;
    }
    RecordProperty("heap_bytes", std::to_string(last.heap));
    RecordProperty("mapped_bytes", std::to_string(last.mapped));
}

} // namespace
