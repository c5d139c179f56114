// SPDX-License-Identifier: Apache-2.0
// Disks that are refused before anything moves: tables of both sides that do not fit, and what cannot be
// registered.
#include "tests/engine/disk/disk.h"

#include <gtest/gtest.h>

#include <cerrno>

using namespace haul_test;

namespace
{

constexpr uint64_t kMiB = 1 << 20;

// ---- tables ----

void ExpectRefused(const std::function<void(DiskMachines &)> &change, int code, const std::string &text)
{
    DiskMachines machines(4 * kMiB);
    machines.Run();
    change(machines);
    Move move(machines.from, machines.to, DiskOptions());
    // A destination that refuses a HELLO goes on waiting for its source.
    haul_wait(move.source, &move.source_error);
    haul_cancel(move.destination);
    machines.ExpectStayed(move, code, text);
    EXPECT_EQ(machines.copy, nullptr) << "it was opened";
    EXPECT_EQ(machines.disk->calls[Disk::kRead], 0u);
}

TEST(DiskTable, AnotherSize)
{
    ExpectRefused([](DiskMachines &machines) { machines.copy->size = 4 * kMiB - 1; }, EINVAL,
                  "disk vda has 4194304 bytes at the source and 4194303 at the destination; give the "
                  "destination a disk of the same size");
}

TEST(DiskTable, AnotherName)
{
    ExpectRefused([](DiskMachines &machines) { machines.copy->name = "vdb"; }, EINVAL,
                  "disk vda of the source is missing at the destination; start the destination with the same "
                  "disks");
}

TEST(DiskTable, NoneAtTheDestination)
{
    ExpectRefused([](DiskMachines &machines) { machines.to.on_attach = nullptr; }, EINVAL,
                  "this destination was started without any");
}

TEST(DiskTable, NoneAtTheSource)
{
    ExpectRefused([](DiskMachines &machines) { machines.from.on_attach = nullptr; }, EINVAL,
                  "this destination waits for disk vda, and the source moves no disks");
}

TEST(DiskTable, OneMoreAtTheSource)
{
    DiskMachines machines(4 * kMiB);
    MakeImage(machines.directory / "more", kMiB, [](uint64_t) { return true; });
    Disk more(machines.directory / "more", true, 0, "vdb");
    more.Plug(machines.from);
    Move move(machines.from, machines.to, DiskOptions());
    EXPECT_EQ(move.Wait(), -EINVAL);
    EXPECT_NE(std::string(move.source_error.message).find("the source has 2 disks, the destination 1"),
              std::string::npos)
        << move.source_error.message;
}

// ---- registration ----

class AddDisk : public testing::Test
{
  protected:
    AddDisk()
    {
        haul_options options = DiskOptions();
        EXPECT_EQ(haul_source_new(&options, &migration, &error), 0);
        ops.read = [](void *, uint64_t, void *, size_t, haul_error *) { return 0; };
        ops.start = [](void *, haul_error *) { return 0; };
        ops.fetch = [](void *, uint64_t *, haul_error *) { return 0; };
        disk = {.name = "vda", .size = kMiB, .granularity = 4096, .ops = &ops, .opaque = nullptr};
    }
    ~AddDisk() override
    {
        haul_free(migration);
    }
    void ExpectRefused(int code, const char *text)
    {
        EXPECT_EQ(haul_add_disk(migration, &disk, &error), -code) << error.message;
        EXPECT_NE(std::string(error.message).find(text), std::string::npos) << error.message;
    }
    haul_migration *migration = nullptr;
    haul_disk_ops ops{};
    haul_disk disk{};
    haul_error error{};
};

TEST_F(AddDisk, RefusesBadNames)
{
    disk.name = "";
    ExpectRefused(EINVAL, "a disk name has 0 bytes");
    std::string name(256, 'x');
    disk.name = name.c_str();
    ExpectRefused(EINVAL, "a disk name has 256 bytes; it must have 1 to 255");
    disk.name = "vda";
    ASSERT_EQ(haul_add_disk(migration, &disk, &error), 0);
    ExpectRefused(EEXIST, "disk vda is there already");
}

TEST_F(AddDisk, RefusesBadNumbers)
{
    disk.size = 0;
    ExpectRefused(EINVAL, "disk vda: size 0");
    disk.size = HAUL_DISK_SIZE_MAX + 1;
    ExpectRefused(EINVAL, "must be 1 byte to 64 TiB");
    disk.size = kMiB;
    for (uint32_t granularity : {0u, 512u, 4097u, 12288u, 2u << 20}) {
        disk.granularity = granularity;
        ExpectRefused(EINVAL, "a power of two from 4096 to 1 MiB");
    }
}

TEST_F(AddDisk, RefusesMissingCallbacks)
{
    ops.fetch = nullptr;
    ExpectRefused(EINVAL, "disk vda lacks callbacks: a source's needs read, start and fetch");
}

TEST_F(AddDisk, RefusesTooMany)
{
    std::vector<std::string> names;
    for (int i = 0; i < HAUL_DISKS_MAX; i++) {
        names.push_back("disk" + std::to_string(i));
        disk.name = names.back().c_str();
        ASSERT_EQ(haul_add_disk(migration, &disk, &error), 0) << error.message;
    }
    disk.name = "more";
    ExpectRefused(ENOSPC, "more than 64 disks");
}

TEST(DiskMode, FileAndHandOverAreRefused)
{
    for (bool source : {true, false}) {
        DiskMachines machines(kMiB);
        Guest &guest = source ? machines.from : machines.to;
        haul_options options = DiskOptions();
        haul_migration *migration = nullptr;
        haul_error error{};
        ASSERT_EQ(source ? haul_source_new(&options, &migration, &error)
                         : haul_destination_new(&options, &migration, &error),
                  0);
        guest.Attach(migration, source);
        EXPECT_EQ(haul_start(migration, "file:/nonexistent/x", &error), -ENOTSUP) << error.message;
        EXPECT_NE(std::string(error.message).find("a snapshot file holds no disks"), std::string::npos);
        haul_free(migration);
        options.mode = "cpr-transfer";
        ASSERT_EQ(source ? haul_source_new(&options, &migration, &error)
                         : haul_destination_new(&options, &migration, &error),
                  0);
        guest.Attach(migration, source);
        EXPECT_EQ(haul_start(migration, UnixUri().c_str(), &error), -ENOTSUP) << error.message;
        EXPECT_NE(std::string(error.message).find("mode cpr-transfer copies nothing"), std::string::npos);
        haul_free(migration);
    }
}

} // namespace
