// SPDX-License-Identifier: Apache-2.0
// The DISKS frame: what fits, what differs, and what is no disk table at all.
#include "engine/disks.h"
#include "tests/engine/fake_migration.h"

#include <cerrno>
#include <memory>
#include <random>

using haul_test::Bytes;
using haul_test::FakeMigration;

namespace
{

constexpr uint64_t kMiB = 1 << 20;
const char kMalformed[] = "the source's disk table is malformed";

class DiskTable : public testing::Test
{
  protected:
    DiskTable() : disks_(std::make_unique<haul_disks>())
    {
        Add("vda", 8 * kMiB);
        Add("vdb", 513);
        own_.get()->disks = disks_.get();
    }
    void Add(const char *name, uint64_t size)
    {
        haul_own_disk &disk = disks_->disk[disks_->count++];
        snprintf(disk.name, sizeof disk.name, "%s", name);
        disk.size = size;
    }
    int Match(const std::vector<unsigned char> &table)
    {
        error_ = {};
        // A copy of exactly this size, so that a sanitizer sees any read past its end.
        std::vector<unsigned char> exact(table);
        exact.shrink_to_fit();
        return haul_disk_table_match(own_.get(), exact.data(), exact.size(), order_, &error_);
    }
    static Bytes Good()
    {
        return Bytes().u32(2).text("vdb").u64(513).text("vda").u64(8 * kMiB);
    }

    std::unique_ptr<haul_disks> disks_;
    FakeMigration own_;
    uint32_t order_[2] = {9, 9};
    haul_error error_{};
};

TEST_F(DiskTable, SameDisksInAnotherOrder)
{
    ASSERT_EQ(Match(Good().data), 0) << error_.message;
    EXPECT_EQ(order_[0], 1u);
    EXPECT_EQ(order_[1], 0u);
}

TEST_F(DiskTable, TakesItsOwn)
{
    unsigned char payload[256];
    size_t length = haul_disk_table_encode(own_.get(), payload, sizeof payload);
    ASSERT_GT(length, 0u);
    EXPECT_EQ(Match({payload, payload + length}), 0) << error_.message;
    EXPECT_EQ(order_[0], 0u);
    EXPECT_EQ(haul_disk_table_encode(own_.get(), payload, length - 1), 0u);
}

TEST_F(DiskTable, NamesADiskTwice)
{
    EXPECT_EQ(Match(Bytes().u32(2).text("vda").u64(8 * kMiB).text("vda").u64(8 * kMiB).data), -EPROTO);
    EXPECT_STREQ(error_.message, "the source's disk table names vda twice");
}

TEST_F(DiskTable, TooManyTooFewNone)
{
    EXPECT_EQ(Match(Bytes().u32(1).text("vda").u64(8 * kMiB).data), -EINVAL);
    EXPECT_STREQ(error_.message,
                 "the source has 1 disks, the destination 2; start the destination with the same disks");
    EXPECT_EQ(Match(Bytes().u32(0).data), -EINVAL);
    EXPECT_EQ(Match(Good().u64(0).data), -EPROTO);
    EXPECT_STREQ(error_.message, kMalformed);
    EXPECT_EQ(Match(Bytes().u32(0xffffffff).text("vda").u64(8 * kMiB).text("vdb").u64(513).data), -EINVAL);
}

TEST_F(DiskTable, CutAnywhereIsMalformed)
{
    std::vector<unsigned char> whole = Good().data;
    for (size_t length = 0; length < whole.size(); length++) {
        EXPECT_EQ(Match({whole.begin(), whole.begin() + static_cast<ptrdiff_t>(length)}), -EPROTO) << length;
        EXPECT_STREQ(error_.message, kMalformed);
    }
}

TEST_F(DiskTable, AnyBytesAreSurvived)
{
    std::mt19937 random(3);
    for (int i = 0; i < 20000; i++) {
        std::vector<unsigned char> bytes = Good().data;
        bytes.resize(random() % (bytes.size() + 8));
        for (int j = 0; j < 3 && !bytes.empty(); j++) {
            bytes[random() % bytes.size()] = static_cast<unsigned char>(random());
        }
        if (Match(bytes) == 0) {
            EXPECT_TRUE(order_[0] < 2 && order_[1] < 2 && order_[0] != order_[1]);
        }
    }
}

} // namespace
