/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the fuzzer's entry point without a fuzzer: over changes to every section of a good file, and over
 * seeded mutations of them. */
#include "tests/fuzz/snapshot_fuzz.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace
{

using Bytes = std::vector<uint8_t>;

void change(Bytes &input, uint32_t offset, const Bytes &bytes)
{
    for (int i = 0; i < 4; i++)
        input.push_back(static_cast<uint8_t>(offset >> (8 * i)));
    input.push_back(static_cast<uint8_t>(bytes.size()));
    input.insert(input.end(), bytes.begin(), bytes.end());
}

/* Something at each place that a reader looks at. */
uint32_t place(std::mt19937_64 &random)
{
    switch (random() % 8) {
    case 0: /* the header's numbers */
        return static_cast<uint32_t>(random() % 104);
    case 1: /* the block table */
        return static_cast<uint32_t>(4096 + random() % 21);
    case 2:
        return static_cast<uint32_t>(HAUL_SNAPSHOT_FUZZ_SUMS_AT + random() % 16);
    case 3: /* entries of pages with content, and beyond the end of the block */
        return static_cast<uint32_t>(HAUL_SNAPSHOT_FUZZ_TABLES_AT + random() % 16 * 8);
    case 4:
        return static_cast<uint32_t>(HAUL_SNAPSHOT_FUZZ_TABLES_AT + random() % 8192);
    case 5:
        return static_cast<uint32_t>(HAUL_SNAPSHOT_FUZZ_MEMORY_AT + random() % 8192);
    case 6:
        return static_cast<uint32_t>(HAUL_SNAPSHOT_FUZZ_STATE_AT + random() % 220);
    default:
        return static_cast<uint32_t>(random());
    }
}

Bytes input(std::mt19937_64 &random)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff};
    Bytes bytes = {static_cast<uint8_t>(random() % 2 ? 31 : random())}; /* most often all is mended */
    for (unsigned changes = 1 + random() % 3; changes > 0; changes--) {
        Bytes written(random() % 12 == 0 ? 0 : 1 + random() % 8);
        for (uint8_t &byte : written)
            byte = random() % 2 ? edges[random() % sizeof edges] : static_cast<uint8_t>(random());
        change(bytes, place(random), written);
    }
    return bytes;
}

int run(const Bytes &bytes)
{
    return LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

TEST(SnapshotFuzz, TheGoodFile)
{
    EXPECT_EQ(0, run({}));
    EXPECT_EQ(0, run({31}));
}

TEST(SnapshotFuzz, OtherBlockTables)
{
    const Bytes tables[] = {
        {1, 0, 0, 0, 3, 0, 'r', 'a', 'm', 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x10, 0, 0}, /* 64 TiB */
        {1, 0, 0, 0, 3, 0, 'r', 'a', 'm', 0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x10, 0, 0},
        {0xff, 0xff, 0xff, 0xff, 3, 0, 'r', 'a', 'm', 0, 0x80, 0x25, 0, 0, 0, 0, 0, 0, 0x10, 0, 0},
        {1, 0, 0, 0, 0xff, 0xff, 'r', 'a', 'm', 0, 0x80, 0x25, 0, 0, 0, 0, 0, 0, 0x10, 0, 0},
        {1, 0, 0, 0, 3, 0, 'r', 'a', 'm', 0, 0x70, 0x25, 0, 0, 0, 0, 0, 0, 0x10, 0, 0}, /* a page less */
    };
    for (const Bytes &table : tables) {
        Bytes bytes = {31};
        change(bytes, 4096, table);
        EXPECT_EQ(0, run(bytes));
    }
}

TEST(SnapshotFuzz, ChangesOfTheGoodFile)
{
    std::mt19937_64 random(20241122);
    for (int i = 0; i < 1500; i++)
        ASSERT_EQ(0, run(input(random)));
}

} // namespace
