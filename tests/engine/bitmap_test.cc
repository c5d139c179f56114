// SPDX-License-Identifier: Apache-2.0
// Dirty bitmaps against a model that holds one bool per page.
#include "engine/bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace
{

struct Model {
    explicit Model(uint64_t bits) : naive(bits), words(haul_bits_words(bits) + 1)
    {
        words.back() = kCanary;
    }

    void Set(uint64_t first, uint64_t count, bool value)
    {
        std::fill_n(naive.begin() + static_cast<ptrdiff_t>(first), count, value);
        value ? haul_bitmap_set(words.data(), first, count) : haul_bitmap_clear(words.data(), first, count);
    }

    void Check() const
    {
        uint64_t set = 0;
        for (uint64_t i = 0; i < naive.size(); i++) {
            ASSERT_EQ(static_cast<bool>(words[i / 64] >> (i % 64) & 1), naive[i]) << "bit " << i;
            set += naive[i];
        }
        EXPECT_EQ(haul_bitmap_count(words.data(), naive.size()), set);
        EXPECT_EQ(words.back(), kCanary) << "a word past the end was written";
    }

    // First bit at or after `from` with `value`, or the end.
    uint64_t Find(uint64_t from, bool value) const
    {
        while (from < naive.size() && naive[from] != value) {
            from++;
        }
        return std::min<uint64_t>(from, naive.size());
    }

    void CheckSearch(uint64_t from, uint64_t most) const
    {
        uint64_t first = 0, count = 0;
        uint64_t start = Find(from, true);
        bool found = haul_bitmap_next_run(words.data(), naive.size(), from, most, &first, &count);
        ASSERT_EQ(found, start < naive.size()) << "run from " << from;
        if (found) {
            EXPECT_EQ(first, start);
            EXPECT_EQ(count, std::min(most, Find(start, false) - start));
        }
        start = Find(from, false);
        found = haul_bitmap_next_gap(words.data(), naive.size(), from, &first, &count);
        ASSERT_EQ(found, start < naive.size()) << "gap from " << from;
        if (found) {
            EXPECT_EQ(first, start);
            EXPECT_EQ(count, Find(start, true) - start);
        }
    }

    static constexpr uint64_t kCanary = 0x5a5a5a5a5a5a5a5a;
    std::vector<bool> naive;
    std::vector<uint64_t> words;
};

class Bitmap : public testing::TestWithParam<uint64_t>
{
};

TEST_P(Bitmap, BehavesLikeTheModel)
{
    uint64_t bits = GetParam();
    Model model(bits);
    std::mt19937_64 random(bits);
    for (int step = 0; step < 300; step++) {
        uint64_t first = random() % bits;
        uint64_t count = random() % std::min<uint64_t>(bits - first + 1, step % 3 ? 9 : 200);
        model.Set(first, count, step % 2 == 0 || random() % 4 == 0);
        model.Check();
        model.CheckSearch(random() % (bits + 2), 1 + random() % 300);
    }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Bitmap, testing::Values(1, 2, 63, 64, 65, 127, 128, 129, 1000, 4096));

TEST(BitmapEdges, FullAndEmpty)
{
    for (uint64_t bits : {1, 64, 65, 640}) {
        Model model(bits);
        model.CheckSearch(0, UINT64_MAX);
        model.Set(0, bits, true);
        model.Check();
        model.CheckSearch(0, UINT64_MAX); // a limit that would overflow start + most
        model.CheckSearch(bits - 1, 1);
        model.CheckSearch(bits, 1);
        model.Set(0, bits, false);
        model.Check();
    }
}

TEST(BitmapEdges, NothingToDo)
{
    Model model(64);
    model.Set(63, 0, true);
    model.Check();
    EXPECT_EQ(haul_bits_words(0), 0u);
    EXPECT_EQ(haul_bits_words(1), 1u);
    EXPECT_EQ(haul_bits_words(64), 1u);
    EXPECT_EQ(haul_bits_words(65), 2u);
    EXPECT_EQ(haul_bitmap_count(nullptr, 0), 0u);
}

} // namespace
