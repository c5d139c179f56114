// SPDX-License-Identifier: Apache-2.0
// Two hundred moves in a row leave nothing behind: no descriptor, no thread, no byte.
#include "tests/engine/move.h"
#include "tests/engine/resources.h"

#include <gtest/gtest.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr int kMoves = 200;
constexpr int kWarmUp = 20; // after which caches, arenas and pools have their size

void MoveOnce(int number)
{
    static const char *const kCodecs[] = {"none", "lz4", "auto"};
    Guest from({kMiB}, true), to({kMiB}, false);
    from.Run(5, 500);
    haul_options options = Options();
    options.channels = 1 + static_cast<uint32_t>(number) % 4;
    options.compress = kCodecs[number % 3];
    options.verify = number % 5 == 0;
    Move move(from, to, options, number % 2 ? "tcp:127.0.0.1:0" : "");
    std::string where;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message << " / " << move.destination_error.message;
    ASSERT_EQ(move.destination_result, 0) << move.destination_error.message;
    ASSERT_TRUE(SameMemory(from, to, &where)) << where;
    ASSERT_EQ(to.starts, 1u);
}

TEST(Moves, TwoHundredInARow)
{
    Resources before{};
    size_t heap = 0, mapped = 0;
    for (int i = 0; i < kMoves; i++) {
        SCOPED_TRACE("move " + std::to_string(i));
        if (i == kWarmUp) {
            before = Resources::Now();
            heap = HeapBytes();
            mapped = PrivateBytes();
        }
        MoveOnce(i);
        ASSERT_FALSE(HasFatalFailure());
    }
    ExpectNoMoreThan(before);
    // The smallest allocation takes 32 bytes: one that every move leaves behind is too much. What the C
    // library keeps for the threads that it will start next varies by less.
    EXPECT_LE(HeapBytes(), heap + 4096);
    // What was mapped without malloc; what threads' stacks take of it varies by some MiB.
    EXPECT_LE(PrivateBytes(), mapped + 16 * kMiB);
}

} // namespace
