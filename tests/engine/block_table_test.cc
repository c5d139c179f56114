// SPDX-License-Identifier: Apache-2.0
// The BLOCKS frame: what fits, what differs, and what is no block table at all.
#include "engine/block_table.h"
#include "tests/engine/fake_migration.h"

#include <cerrno>
#include <random>

using haul_test::Bytes;
using haul_test::FakeMigration;

namespace
{

constexpr uint64_t kMiB = 1 << 20;
const char kMalformed[] = "the source's block table is malformed";

class BlockTable : public testing::Test
{
  protected:
    BlockTable()
    {
        own_.Add("ram", nullptr, 8 * kMiB);
        own_.Add("rom", nullptr, 1 * kMiB);
        own_.Add("huge", nullptr, 4 * kMiB, -1, 2 * kMiB);
    }

    int Match(const Bytes &table)
    {
        error_ = {};
        // A copy of exactly this size, so that a sanitizer sees any read past its end.
        std::vector<unsigned char> exact(table.data);
        exact.shrink_to_fit();
        return haul_block_table_match(own_.get(), exact.data(), exact.size(), order_, &error_);
    }

    static Bytes Good()
    {
        return Bytes()
            .u32(3)
            .text("huge")
            .u64(4 * kMiB)
            .u32(2 * kMiB)
            .text("ram")
            .u64(8 * kMiB)
            .u32(4096)
            .text("rom")
            .u64(kMiB)
            .u32(4096);
    }

    FakeMigration own_;
    uint32_t order_[3] = {9, 9, 9};
    haul_error error_{};
};

TEST_F(BlockTable, SameBlocksInAnotherOrder)
{
    ASSERT_EQ(Match(Good()), 0) << error_.message;
    EXPECT_EQ(order_[0], 2u);
    EXPECT_EQ(order_[1], 0u);
    EXPECT_EQ(order_[2], 1u);
}

TEST_F(BlockTable, WhatEncodeWritesMatches)
{
    Bytes table;
    table.data.resize(4096);
    size_t length = haul_block_table_encode(own_.get(), table.data.data(), table.data.size());
    ASSERT_EQ(length, 4 + 3 * (2 + 8 + 4) + 3 + 3 + 4u);
    table.data.resize(length);
    EXPECT_EQ(Match(table), 0) << error_.message;
    EXPECT_EQ(order_[2], 2u);
    EXPECT_EQ(haul_block_table_encode(own_.get(), table.data.data(), length - 1), 0u) << "one byte too small";
}

TEST_F(BlockTable, TheLargestTableFitsAFrame)
{
    FakeMigration most;
    for (unsigned i = 0; i < HAUL_BLOCKS_MAX; i++) {
        std::string name = std::to_string(i);
        most.Add(name + std::string(HAUL_NAME_MAX - name.size(), 'x'), nullptr, kMiB);
    }
    std::vector<unsigned char> payload(HAUL_FRAME_MAX);
    size_t length = haul_block_table_encode(most.get(), payload.data(), payload.size());
    ASSERT_GT(length, 0u);
    std::vector<uint32_t> order(HAUL_BLOCKS_MAX);
    EXPECT_EQ(haul_block_table_match(most.get(), payload.data(), length, order.data(), &error_), 0)
        << error_.message;
}

TEST_F(BlockTable, AnotherLength)
{
    EXPECT_EQ(Match(Bytes().u32(3).text("ram").u64(16 * kMiB).u32(4096)), -EINVAL);
    EXPECT_STREQ(error_.message,
                 "RAM block ram has 16777216 bytes at the source and 8388608 at the destination; start "
                 "the destination with the same memory size");
}

TEST_F(BlockTable, AnotherPageSize)
{
    EXPECT_EQ(Match(Bytes().u32(3).text("huge").u64(4 * kMiB).u32(4096)), -EINVAL);
    EXPECT_STREQ(error_.message,
                 "RAM block huge has pages of 4096 bytes at the source and 2097152 at the destination; "
                 "use the same huge page size on both sides");
}

TEST_F(BlockTable, UnknownBlock)
{
    EXPECT_EQ(Match(Bytes().u32(3).text("dimm0").u64(kMiB).u32(4096)), -EINVAL);
    EXPECT_STREQ(error_.message,
                 "RAM block dimm0 of the source is missing at the destination; start the destination "
                 "with the same memory devices");
}

TEST_F(BlockTable, FewerBlocks)
{
    EXPECT_EQ(Match(Bytes().u32(1).text("ram").u64(8 * kMiB).u32(4096)), -EINVAL);
    EXPECT_STREQ(error_.message,
                 "the source has 1 RAM blocks, the destination 3; start the destination with the same "
                 "memory devices");
    EXPECT_EQ(Match(Bytes().u32(0)), -EINVAL);
}

TEST_F(BlockTable, MoreBlocks)
{
    Bytes table = Good();
    table.data[0] = 4;
    table.text("dimm0").u64(kMiB).u32(4096);
    EXPECT_EQ(Match(table), -EINVAL);
    EXPECT_STREQ(error_.message,
                 "the source has 4 RAM blocks, the destination 3; start the destination with the same "
                 "memory devices");
}

TEST_F(BlockTable, TwiceTheSameBlock)
{
    EXPECT_EQ(Match(Bytes()
                        .u32(3)
                        .text("ram")
                        .u64(8 * kMiB)
                        .u32(4096)
                        .text("ram")
                        .u64(8 * kMiB)
                        .u32(4096)
                        .text("rom")
                        .u64(kMiB)
                        .u32(4096)),
              -EPROTO);
    EXPECT_STREQ(error_.message, "the source's block table names ram twice");
}

TEST_F(BlockTable, CountThatLies)
{
    for (uint32_t count : {4u, 1024u, 0x7fffffffu, 0xffffffffu}) {
        Bytes table = Good();
        for (int i = 0; i < 4; i++) {
            table.data[static_cast<size_t>(i)] = static_cast<unsigned char>(count >> (8 * i));
        }
        EXPECT_EQ(Match(table), -EINVAL) << count;
    }
}

TEST_F(BlockTable, BytesLeftOver)
{
    EXPECT_EQ(Match(Good().raw(1, 0)), -EPROTO);
    EXPECT_STREQ(error_.message, kMalformed);
}

TEST_F(BlockTable, EveryTruncation)
{
    Bytes good = Good();
    for (size_t length = 0; length < good.data.size(); length++) {
        Bytes cut = good;
        cut.data.resize(length);
        EXPECT_EQ(Match(cut), -EPROTO) << length;
        EXPECT_STREQ(error_.message, kMalformed) << length;
    }
}

TEST_F(BlockTable, NamesThatAreNone)
{
    // Longer than any name may be, longer than the table, and with a NUL inside.
    EXPECT_EQ(Match(Bytes().u32(3).text(std::string(256, 'a')).u64(kMiB).u32(4096)), -EPROTO);
    EXPECT_EQ(Match(Bytes().u32(3).u16(0xffff).raw(20, 'a')), -EPROTO);
    EXPECT_EQ(Match(Bytes().u32(3).text(std::string("ram\0x", 5)).u64(8 * kMiB).u32(4096)), -EPROTO);
    EXPECT_STREQ(error_.message, kMalformed);
}

TEST_F(BlockTable, RandomChangesAreRefusedOrHarmless)
{
    std::mt19937 random(1);
    for (int i = 0; i < 20000; i++) {
        Bytes table = Good();
        for (unsigned changes = 1 + random() % 4; changes > 0; changes--) {
            table.data[random() % table.data.size()] = static_cast<unsigned char>(random());
        }
        int rc = Match(table);
        EXPECT_TRUE(rc == 0 || rc == -EPROTO || rc == -EINVAL) << rc;
        if (rc == 0) {
            EXPECT_EQ(order_[0] + order_[1] + order_[2], 3u);
        }
    }
}

} // namespace
