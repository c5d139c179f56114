// SPDX-License-Identifier: Apache-2.0

// The reference guest's disk: what its self-check finds when a block is not what it must be, and moves of it.
#include "tests/engine/disk/disk.h"
#include "tests/tools/machine_move.h"
#include "tools/machines/guest/disk.h"
#include "tools/machines/guest/disk_layout.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>

using namespace haul_test;

namespace
{

constexpr uint64_t kBlock = HAUL_GUEST_DISK_BLOCK;
constexpr uint64_t kDiskBytes = 8 << 20;
constexpr uint64_t kBlocks = kDiskBytes / kBlock;
constexpr uint64_t kHot = kBlocks / 4;

haul_guest_options options_for(const std::string &path, uint64_t bytes, uint64_t rate = 20000000)
{
    haul_guest_options options;
    haul_guest_options_default(&options);
    options.memory_bytes = 4 << 20;
    options.vcpu = "thread";
    options.tracker = "bitmap";
    options.dirty_bytes_per_s = 1000000;
    options.disk = path.c_str();
    options.disk_bytes = bytes;
    options.disk_bytes_per_s = rate;
    return options;
}

Machine make_machine(const haul_guest_options &options, bool source)
{
    haul_machine *machine = nullptr;
    haul_error error = {};
    int rc = source ? haul_guest_source_new(&options, &machine, &error)
                    : haul_guest_destination_new(&options, &machine, &error);
    EXPECT_EQ(rc, 0) << error.message;
    return Machine(machine);
}

// "" when the machine proves itself, after running for up to `seconds`.
std::string check(const Machine &machine, unsigned seconds, std::string *report = nullptr)
{
    char text[256];
    haul_error error = {};
    int result = machine->ops->self_check(machine.get(), seconds, text, sizeof text, &error);
    EXPECT_TRUE(result == 0 || result == -EIO) << error.message;
    if (report && result == 0) {
        *report = text;
    }
    return result ? error.message : "";
}

// Writes into the image past the guest, which holds no lock on its bytes.
void put(const std::string &path, uint64_t block, const std::string &bytes)
{
    int fd = open(path.c_str(), O_WRONLY);
    ASSERT_EQ(pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(block * kBlock)),
              static_cast<ssize_t>(bytes.size()));
    close(fd);
}

std::string block_of(const std::string &image, uint64_t block)
{
    return image.substr(block * kBlock, kBlock);
}

// ---- what the check finds ----

class DiskCheck : public testing::Test
{
  protected:
    // Not written: what is put there stays.
    DiskCheck() : path(directory / "disk"), machine(make_machine(options_for(path, kDiskBytes, 0), true))
    {
        image = ReadImage(path);
    }
    void expect_found(const std::string &what)
    {
        EXPECT_EQ(check(machine, 0),
                  "self-check failed: 1 of 2048 blocks of the disk are wrong; block 100 is " + what);
    }
    Directory directory;
    std::string path;
    Machine machine;
    std::string image;
};

TEST_F(DiskCheck, WholeDiskPasses)
{
    std::string report;
    EXPECT_EQ(check(machine, 0, &report), "");
    EXPECT_NE(report.find("2048 blocks of its disk (8 MiB)"), std::string::npos) << report;
    EXPECT_LT(AllocatedBytes(path), kDiskBytes * 3 / 4) << "it has holes";
}

TEST_F(DiskCheck, NamesALostBlock)
{
    put(path, 100, std::string(kBlock, 0));
    expect_found("lost: it holds zeros");
}

TEST_F(DiskCheck, NamesATornBlock)
{
    put(path, 100, block_of(image, 101).substr(0, 512));
    expect_found("torn: its checksum is wrong");
}

TEST_F(DiskCheck, NamesAMisplacedBlock)
{
    put(path, 100, block_of(image, 101));
    expect_found("misplaced: it holds block 101");
}

TEST_F(DiskCheck, NamesABlockOfAnotherVersion)
{
    std::string newer(kBlock, 0);
    haul_guest_disk_block_build(1, 100, 7, reinterpret_cast<unsigned char *>(newer.data()));
    put(path, 100, newer);
    expect_found("corrupt: it holds version 7 where 0 is due");
}

TEST_F(DiskCheck, NamesWhatIsInAHole)
{
    uint64_t hole = kHot + 1;
    while (hole / 16 % 3 == 0) {
        hole++;
    }
    put(path, hole, "x");
    EXPECT_NE(check(machine, 0).find("block " + std::to_string(hole) + " is corrupt: it is a hole"),
              std::string::npos);
}

// The writer looks at a block before it overwrites it.
TEST(GuestDisk, WriterItselfFindsAStaleBlock)
{
    Directory directory;
    std::string path = directory / "disk";
    haul_guest_options options = options_for(path, 64 << 10); // four hot blocks: rewritten at once
    haul_guest_disk *disk = nullptr;
    haul_error error = {};
    ASSERT_EQ(haul_guest_disk_new(&options, HAUL_GUEST_SOURCE, &disk, &error), 0) << error.message;
    std::string before = block_of(ReadImage(path), 2);
    // It stands still meanwhile: else it could read half of the one and half of the other.
    for (int i = 0; i < 1000 && haul_guest_disk_pause(disk, &error) == 0; i++) {
        put(path, 2, before);
        haul_guest_disk_resume(disk);
        usleep(5000);
    }
    haul_guest_disk_free(disk);
    EXPECT_NE(std::string(error.message).find("the guest found that block 2 is stale"), std::string::npos)
        << error.message;
}

TEST(GuestDisk, VersionsFollowThePosition)
{
    haul_guest_disk_layout layout;
    for (uint64_t blocks : {16, 17, 100, 2048}) {
        haul_guest_disk_layout_init(&layout, blocks, 1);
        std::vector<uint32_t> held(blocks, 0);
        haul_guest_disk_position position = {.version = 1, .index = 0};
        for (uint64_t i = 0; i < 3 * layout.hot + 1; i++) {
            for (uint64_t block = 0; block < blocks; block++) {
                ASSERT_EQ(haul_guest_disk_version(&layout, block, position), held[block]) << block;
            }
            uint64_t next = haul_guest_disk_next(&layout, position);
            ASSERT_EQ(haul_guest_disk_kind(&layout, next), HAUL_GUEST_DISK_HOT);
            ASSERT_EQ(held[next] + 1, position.version) << "every block once in a cycle";
            held[next] = position.version;
            haul_guest_disk_advance(&layout, &position);
        }
    }
}

// How often the blocks of a disk of kDiskBytes were written since it was filled.
uint64_t writes_to(const std::string &image)
{
    uint64_t writes = 0;
    for (uint64_t block = 1; block <= kHot; block++) {
        std::string held = block_of(image, block);
        writes += haul_guest_disk_header(reinterpret_cast<const unsigned char *>(held.data())).version;
    }
    return writes;
}

// One that writes as fast as it can does so in bursts of 256 blocks, and a pause comes in the middle of one.
TEST(GuestDisk, PauseEndsABurst)
{
    Directory directory;
    std::string path = directory / "disk";
    haul_guest_options options = options_for(path, kDiskBytes, UINT64_C(1) << 50);
    haul_guest_disk *disk = nullptr;
    haul_error error = {};
    ASSERT_EQ(haul_guest_disk_new(&options, HAUL_GUEST_SOURCE, &disk, &error), 0) << error.message;
    bool within_burst = false;
    for (int i = 0; i < 200 && !within_burst; i++) {
        usleep(5000);
        ASSERT_EQ(haul_guest_disk_pause(disk, &error), 0) << error.message;
        within_burst = writes_to(ReadImage(path)) % 256 != 0;
        haul_guest_disk_resume(disk);
    }
    haul_guest_disk_free(disk);
    EXPECT_TRUE(within_burst) << "every pause came after a whole burst";
}

// An image that such a guest left is used again, where it stopped.
TEST(GuestDisk, GoesOnWithItsImage)
{
    Directory directory;
    std::string path = directory / "disk";
    for (uint64_t bytes : {kDiskBytes, uint64_t{0}, uint64_t{0}}) {
        Machine machine = make_machine(options_for(path, bytes), true);
        usleep(30000);
        EXPECT_EQ(check(machine, 1), "");
    }
}

TEST(GuestDisk, RefusesWhatIsNoSuchDisk)
{
    Directory directory;
    std::string path = directory / "disk";
    auto refused = [&](uint64_t bytes, bool source, int code, const std::string &why) {
        haul_machine *machine = nullptr;
        haul_error error = {};
        haul_guest_options options = options_for(path, bytes);
        int rc = source ? haul_guest_source_new(&options, &machine, &error)
                        : haul_guest_destination_new(&options, &machine, &error);
        EXPECT_EQ(rc, -code) << error.message;
        EXPECT_NE(std::string(error.message).find(why), std::string::npos) << error.message;
    };
    refused(0, true, ENOENT, "opening it for reading and writing: No such file");
    refused(12345, true, EINVAL, "it must be a multiple of 4096, 64 KiB or more");
    refused(4096, true, EINVAL, "it must be a multiple of 4096, 64 KiB or more");
    EXPECT_TRUE(directory.Names().empty()) << "nothing is left of an attempt";
    MakeImage(path, 1 << 20, [](uint64_t) { return true; });
    refused(0, true, EINVAL, "not of a reference guest's disk");
    refused(1 << 20, true, EEXIST, "leave size= out to use it");
    refused(1 << 20, false, EEXIST, "is there already: move it away");
    int fd = open(path.c_str(), O_RDWR);
    ASSERT_EQ(flock(fd, LOCK_EX), 0);
    refused(0, false, EBUSY, "in use by another process, or by the other side");
    close(fd);
}

// ---- moves ----

// A machine with a disk at either side.
struct Pair {
    explicit Pair(uint64_t rate = 20000000)
        : from(make_machine(options_for(from_path = directory / "from", kDiskBytes, rate), true)),
          to(make_machine(options_for(to_path = directory / "to", kDiskBytes), false))
    {
    }
    Directory directory;
    std::string from_path, to_path;
    Machine from, to;
};

TEST(GuestDiskMove, PassesItsCheck)
{
    Pair pair;
    haul_options options = move_options();
    options.verify = true;
    MachineMove move(pair.from, pair.to, options);
    ASSERT_EQ(move.wait(), "");
    std::string report;
    EXPECT_EQ(check(pair.to, 2, &report), "");
    EXPECT_NE(report.find("2048 blocks of its disk"), std::string::npos) << report;
    EXPECT_EQ(pair.directory.Names(), (std::vector<std::string>{"from", "to"}));
    EXPECT_EQ(move.stats.disk.total, kDiskBytes);
}

// From there it moves on: the destination's image is a source's.
TEST(GuestDiskMove, TwiceInARow)
{
    Directory directory;
    std::string a = directory / "a", b = directory / "b", c = directory / "c";
    {
        Machine from = make_machine(options_for(a, kDiskBytes), true);
        Machine to = make_machine(options_for(b, kDiskBytes), false);
        MachineMove move(from, to);
        ASSERT_EQ(move.wait(), "");
        ASSERT_EQ(check(to, 1), "");
    }
    Machine from = make_machine(options_for(b, 0), true);
    Machine to = make_machine(options_for(c, kDiskBytes), false);
    MachineMove move(from, to);
    ASSERT_EQ(move.wait(), "");
    EXPECT_EQ(check(to, 1), "");
}

TEST(GuestDiskMove, FailedMoveLeavesNoImage)
{
    Pair pair;
    haul_options options = move_options();
    options.max_bandwidth_bytes_per_s = 1 << 20;
    {
        MachineMove move(pair.from, pair.to, options);
        ASSERT_TRUE(move.comes_to(HAUL_STATE_ACTIVE));
        EXPECT_EQ(haul_cancel(move.source()), 0);
        EXPECT_NE(move.wait(), "");
        EXPECT_EQ(move.code, -ECANCELED);
    }
    EXPECT_EQ(pair.directory.Names(), (std::vector<std::string>{"from"}));
    EXPECT_EQ(check(pair.from, 1), "") << "it goes on at the source";
}

} // namespace
