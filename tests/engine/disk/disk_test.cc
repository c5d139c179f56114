// SPDX-License-Identifier: Apache-2.0
// Disks that move with their guest: what arrives, in which order, and what is counted.
#include "tests/engine/disk/disk.h"

#include <gtest/gtest.h>

#include <cerrno>

using namespace haul_test;

namespace
{

constexpr uint64_t kMiB = 1 << 20;

std::string Said(const Guest &guest)
{
    std::string said;
    for (const std::string &message : guest.messages) {
        said += message + "\n";
    }
    return said;
}

struct Case {
    const char *name;
    uint64_t bytes;
    uint32_t granularity, copy_granularity;
    unsigned channels;
    const char *compress;
    bool verify;
};

class DiskMoves : public testing::TestWithParam<Case>
{
};

TEST_P(DiskMoves, UnderLoad)
{
    const Case &one = GetParam();
    DiskMachines machines(one.bytes, [](uint64_t block) { return block / 16 % 3 != 1; });
    machines.disk->granularity = one.granularity;
    machines.copy->granularity = one.copy_granularity;
    machines.from.Run(5, 1000);
    machines.disk->Run(5, 1000);
    haul_options options = DiskOptions();
    options.channels = one.channels;
    options.compress = one.compress;
    options.verify = one.verify;
    Move move(machines.from, machines.to, options);
    machines.ExpectMoved(move);
    const haul_disk_stats &stats = move.stats.disk;
    EXPECT_EQ(stats.count, 1u);
    EXPECT_EQ(stats.total, one.bytes);
    EXPECT_EQ(stats.remaining, 0u);
    EXPECT_GT(stats.normal, one.bytes / kPage / 2);
    EXPECT_GT(stats.duplicate, 0u) << "a third, but for what was written before";
    EXPECT_GE(move.stats.normal, 2 * kMiB / kPage) << "RAM is counted on its own";
    EXPECT_LT(move.stats.normal, 2 * kMiB / kPage + 2000);
    EXPECT_GT(move.stats.transferred, stats.transferred);
    EXPECT_GT(stats.transferred, 0u);
    EXPECT_GT(stats.flush_ns, 0u);
}

INSTANTIATE_TEST_SUITE_P(All, DiskMoves,
                         testing::Values(Case{"One", 8 * kMiB, 4096, 4096, 1, "none", false},
                                         Case{"FourLz4Verify", 8 * kMiB, 4096, 4096, 4, "lz4", true},
                                         Case{"OddSize", 8 * kMiB + 513, 65536, 4096, 2, "none", true},
                                         Case{"OddSizeLz4", 4 * kMiB + 4095, 4096, 65536, 3, "lz4", true},
                                         Case{"CoarseBitmaps", 8 * kMiB, 1 << 20, 65536, 2, "auto", false}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(Disk, SparseImageStaysSparse)
{
    DiskMachines machines(64 * kMiB, [](uint64_t block) { return block == 7 || block == 16383; });
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectMoved(move);
    EXPECT_LE(AllocatedBytes(machines.directory / "to"), 4 * kPage);
    EXPECT_LE(machines.disk->calls[Disk::kRead], 4u) << "holes are not read";
    EXPECT_EQ(machines.copy->calls[Disk::kZero], 0u) << "what is a hole there needs no zeros";
    EXPECT_EQ(move.stats.disk.normal, 2u);
    EXPECT_EQ(move.stats.holes, 0u) << "of RAM";
}

// Blocks of zeros that the source has allocated need no room at the destination either.
TEST(Disk, WrittenZerosBecomeAHole)
{
    DiskMachines machines(4 * kMiB);
    for (uint64_t block = 100; block < 900; block++) {
        machines.disk->Write(block, 0);
    }
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectMoved(move);
    EXPECT_LE(AllocatedBytes(machines.directory / "to"), 4 * kMiB - 700 * kPage);
    EXPECT_EQ(move.stats.disk.duplicate, 800u);
}

// A block that was sent with content and is zeroed later must not shine through (trap T5).
TEST(Disk, BlocksZeroedDuringTheMoveAreZeroed)
{
    DiskMachines machines(4 * kMiB);
    machines.from.on_round = [&](uint32_t round) {
        for (uint64_t block = 0; round == 1 && block < 64; block++) {
            machines.disk->Write(block * 3, 0);
        }
    };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectMoved(move);
    EXPECT_EQ(machines.copy->Content()[3 * kPage], 0);
    EXPECT_GE(machines.copy->calls[Disk::kZero], 64u);
}

TEST(Disk, LastWriteBeforeTheStopArrives)
{
    DiskMachines machines(4 * kMiB);
    machines.from.on_stop = [&] { machines.disk->Write(5, 0x5a); };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectMoved(move);
    EXPECT_EQ(machines.copy->Content()[5 * kPage], 0x5a);
}

// As trap T9 has it for memory: a device that writes its cache out when its state is saved.
TEST(Disk, WhatSavingTheStateWritesArrives)
{
    DiskMachines machines(4 * kMiB);
    machines.from.on_save = [&](Guest &) { machines.disk->Write(6, 0xa5); };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectMoved(move);
    EXPECT_EQ(static_cast<unsigned char>(machines.copy->Content()[6 * kPage]), 0xa5);
}

// An image that is there already: overwritten, zeroed where the source has holes, nameless meanwhile.
TEST(Disk, ExistingImageIsOverwritten)
{
    Directory directory;
    MakeImage(directory / "from", 4 * kMiB, [](uint64_t block) { return block % 4 == 0; });
    MakeImage(directory / "to", 4 * kMiB, [](uint64_t block) { return block % 3 == 0; });
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    Disk disk(directory / "from", true), copy(directory / "to", false);
    disk.Plug(from);
    copy.Plug(to);
    std::vector<std::string> during;
    from.on_round = [&](uint32_t) { during = directory.Names(); };
    Move move(from, to, DiskOptions());
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(during, (std::vector<std::string>{"from", "to.incomplete"}));
    EXPECT_EQ(directory.Names(), (std::vector<std::string>{"from", "to"}));
    EXPECT_TRUE(disk.Content() == ReadImage(directory / "to"));
}

TEST(Disk, HasItsNameOnlyWhenItIsWhole)
{
    DiskMachines machines(2 * kMiB);
    std::vector<std::string> at_start;
    bool early = false, flushed = false;
    machines.from.on_step = [&](haul_step step) {
        if (step == HAUL_STEP_HANDOVER_SENDING) {
            flushed = !machines.copy->unflushed && machines.copy->calls[Disk::kFlush] > 0;
            early = machines.directory.Names() != std::vector<std::string>{"from", "to.incomplete"};
        }
    };
    machines.to.on_start = [&] { at_start = machines.directory.Names(); };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectMoved(move);
    EXPECT_TRUE(flushed) << "the disk is durable before HANDOVER is sent";
    EXPECT_FALSE(early);
    EXPECT_EQ(at_start, (std::vector<std::string>{"from", "to"}));
}

TEST(Disk, SeveralInAnyOrder)
{
    Directory directory;
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    std::vector<std::unique_ptr<Disk>> disks, copies;
    for (int i = 0; i < 5; i++) {
        std::string name = "disk" + std::to_string(i);
        uint64_t bytes = (i + 1) * kMiB / 2;
        MakeImage(directory / ("from" + name), bytes, [i](uint64_t block) { return block % (i + 2) == 0; });
        disks.push_back(std::make_unique<Disk>(directory / ("from" + name), true, 0, name));
        disks.back()->Plug(from);
        copies.insert(copies.begin(), std::make_unique<Disk>(directory / ("to" + name), false, bytes, name));
    }
    for (auto &copy : copies) {
        copy->Plug(to);
    }
    haul_options options = DiskOptions();
    options.verify = true;
    Move move(from, to, options);
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    for (int i = 0; i < 5; i++) {
        EXPECT_TRUE(disks[i]->Content() == copies[4 - i]->Content()) << i;
    }
    EXPECT_EQ(move.stats.disk.count, 5u);
}

// The disk's own time counts: a flush that takes long is in the prediction, and the limit holds.
TEST(Disk, FlushIsPredicted)
{
    DiskMachines machines(2 * kMiB);
    machines.copy->on_call = [](Disk::Call call, unsigned) { usleep(call == Disk::kFlush ? 30000 : 0); };
    machines.from.on_round = [&](uint32_t) { machines.disk->Write(9, 0x77); }; // something is left to flush
    haul_options options = DiskOptions();
    options.downtime_limit_ms = 5000;
    Move move(machines.from, machines.to, options);
    machines.ExpectMoved(move);
    EXPECT_GE(move.stats.disk.flush_ns, 30000000u);
    EXPECT_GE(move.stats.expected.last_pass_ns, 30000000u);
    EXPECT_LE(move.stats.expected.total_ns, 5000000000u);
}

// And what the destination does between HANDOVER and the guest's start.
TEST(Disk, CompletionIsPredicted)
{
    DiskMachines machines(2 * kMiB);
    machines.copy->complete_ns = 70000000;
    haul_options options = DiskOptions();
    options.downtime_limit_ms = 5000;
    Move move(machines.from, machines.to, options);
    machines.ExpectMoved(move);
    EXPECT_GE(move.stats.expected.start_ns, 70000000u);
    EXPECT_LE(move.stats.expected.total_ns, 5000000000u);
}

// Longer than the silence timeout: the source hears that it goes on.
TEST(Disk, LongFlushIsWaitedFor)
{
    DiskMachines machines(2 * kMiB);
    machines.copy->flush_pieces = 9;
    machines.copy->on_call = [&](Disk::Call call, unsigned) {
        usleep(call == Disk::kFlush && machines.copy->flush_pieces > 0 ? 300000 : 0);
    };
    haul_options options = DiskOptions();
    options.timeout_s = 2;
    Move move(machines.from, machines.to, options);
    machines.ExpectMoved(move);
    EXPECT_GE(move.stats.total_time_ns, 2700000000u);
}

// As long as that takes for all of them, each being quick enough.
void MoveManyDisks(Disk::Call slow)
{
    constexpr int kDisks = 5;
    DiskMachines machines(kMiB);
    Directory others;
    std::vector<std::unique_ptr<Disk>> disks, copies;
    for (int i = 1; i < kDisks; i++) {
        std::string name = std::to_string(i);
        MakeImage(others / ("from" + name), kMiB, [](uint64_t block) { return block < 10; });
        disks.push_back(std::make_unique<Disk>(others / ("from" + name), true, 0, "vd" + name));
        copies.push_back(std::make_unique<Disk>(others / ("to" + name), false, kMiB, "vd" + name));
        disks.back()->Plug(machines.from);
        copies.back()->Plug(machines.to);
    }
    auto delay = [&](Disk::Call call, unsigned) { usleep(call == slow ? 500000 : 0); };
    machines.copy->on_call = delay;
    for (auto &copy : copies) {
        copy->on_call = delay;
    }
    haul_options options = DiskOptions();
    options.timeout_s = 2;
    Move move(machines.from, machines.to, options);
    machines.ExpectMoved(move);
    EXPECT_GE(move.stats.total_time_ns, kDisks * UINT64_C(500000000));
}

TEST(Disk, ManyFlushesAreWaitedFor)
{
    MoveManyDisks(Disk::kFlush);
}

TEST(Disk, ManyCompletionsAreWaitedFor)
{
    MoveManyDisks(Disk::kComplete);
}

// The image that a link leads to is received, and has its name again; the link stays what it is.
TEST(Disk, ALinkToAnImage)
{
    Directory directory;
    MakeImage(directory / "from", 4 * kMiB, [](uint64_t) { return true; });
    MakeImage(directory / "image", 4 * kMiB, [](uint64_t) { return false; });
    ASSERT_EQ(symlink("image", (directory / "to").c_str()), 0);
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    {
        Disk disk(directory / "from", true), copy(directory / "to", false);
        disk.Plug(from);
        copy.Plug(to);
        Move move(from, to, DiskOptions());
        EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    }
    EXPECT_EQ(directory.Names(), (std::vector<std::string>{"from", "image", "to"}));
    EXPECT_TRUE(ReadImage(directory / "image") == ReadImage(directory / "from"));
    struct stat status = {};
    EXPECT_EQ(lstat((directory / "to").c_str(), &status), 0);
    EXPECT_TRUE(S_ISLNK(status.st_mode));
}

// One device model serves both sides: at the destination it marks what nobody tracks.
TEST(Disk, AReceivedImageIsNotTracked)
{
    DiskMachines machines(2 * kMiB);
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectMoved(move);
    machines.copy->Write(3, 0x5a);
    EXPECT_EQ(machines.copy->Content()[3 * kPage], 0x5a);
}

// What is left of a disk keeps the guest running: with a limit that its blocks alone would break.
TEST(Disk, BlocksLeftCountInTheDecision)
{
    DiskMachines machines(4 * kMiB);
    machines.from.on_round = [&](uint32_t round) { // whatever the scheduler does, every scan finds them
        for (uint64_t block = 0; block < 100; block++) {
            machines.disk->Write(block, static_cast<unsigned char>(round));
        }
    };
    haul_options options = DiskOptions();
    options.downtime_limit_ms = 40;
    options.switchover_bandwidth_bytes_per_s = 1000000; // ten blocks in the limit
    options.max_rounds = 4;
    Move move(machines.from, machines.to, options);
    EXPECT_EQ(move.Wait(), -ETIME) << move.source_error.message;
    EXPECT_EQ(machines.from.stops, 0u);
    EXPECT_GT(move.stats.disk.remaining, 10 * kPage);
    EXPECT_GT(move.stats.disk.dirty_pages_rate, 0u);
    EXPECT_EQ(move.stats.remaining, 0u) << "memory stands still";
    EXPECT_NE(Said(machines.from).find("does not converge: the guest dirties its disks at"),
              std::string::npos)
        << Said(machines.from);
}

// A disk that takes longer to flush than the limit allows is named.
TEST(Disk, FlushThatDoesNotConverge)
{
    DiskMachines machines(2 * kMiB);
    machines.copy->on_call = [](Disk::Call call, unsigned) { usleep(call == Disk::kFlush ? 300000 : 0); };
    machines.from.on_round = [&](uint32_t) { machines.disk->Write(9, 0x77); };
    haul_options options = DiskOptions();
    options.downtime_limit_ms = 100;
    options.max_rounds = 3;
    Move move(machines.from, machines.to, options);
    EXPECT_EQ(move.Wait(), -ETIME) << move.source_error.message;
    EXPECT_EQ(machines.from.stops, 0u);
    for (const char *text :
         {"ms of it to flush the destination's disks (limit 100 ms)", "a faster disk there"}) {
        EXPECT_NE(Said(machines.from).find(text), std::string::npos) << Said(machines.from);
    }
}

TEST(Disk, SharesTheBandwidthLimitWithMemory)
{
    DiskMachines machines(4 * kMiB);
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = 12 * kMiB; // six MiB in all
    Move move(machines.from, machines.to, options);
    machines.ExpectMoved(move);
    EXPECT_GT(move.stats.total_time_ns, 400000000u); // half a second, less the burst
}

} // namespace
