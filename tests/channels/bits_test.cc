// SPDX-License-Identifier: Apache-2.0
// Words of bitmaps against one bit at a time.
#include "channels/bits.h"

#include <gtest/gtest.h>

#include <random>

namespace
{

uint64_t Naive(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t mask = 0;
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t at = word * 64 + bit;
        mask |= uint64_t{at >= first && at < end} << bit;
    }
    return mask;
}

TEST(Bits, MaskIsWhatLiesInTheWord)
{
    const uint64_t places[] = {0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 200};
    for (uint64_t first : places) {
        for (uint64_t end : places) {
            for (uint64_t word = 0; word < 4; word++) {
                EXPECT_EQ(haul_bits_mask(word, first, end), Naive(word, first, end))
                    << word << " " << first << " " << end;
            }
        }
    }
}

TEST(Bits, RunsTakenOutOfAWordAreTheWord)
{
    std::mt19937_64 random(5);
    for (int i = 0; i < 1000; i++) {
        uint64_t word = i == 0 ? UINT64_MAX : random() & random() >> i % 64;
        for (unsigned most : {1u, 3u, 32u, 64u}) {
            uint64_t left = word, seen = 0, end = 0;
            while (left) {
                unsigned first, count;
                left = haul_bits_take_run(left, most, &first, &count);
                ASSERT_TRUE(count > 0 && count <= most && first >= end && first + count <= 64);
                ASSERT_TRUE(count == most || first + count == 64 || !(word >> (first + count) & 1))
                    << "it ends too soon";
                end = first + count;
                seen |= Naive(0, first, end);
            }
            ASSERT_EQ(seen, word);
        }
    }
}

} // namespace
