// SPDX-License-Identifier: Apache-2.0
// Finding holes without filling them, and the hashes that prove a move.
#include "engine/bitmap.h"
#include "engine/holes.h"
#include "engine/verify.h"
#include "tests/engine/fake_migration.h"
#include "tests/engine/frame_peer.h"
#include "tests/waiting.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <linux/falloc.h>
#include <set>
#include <sys/syscall.h>
#include <unistd.h>

using haul_test::FakeMigration;
using haul_test::Mapping;

namespace
{
int refused = -1; // asking this file for its data fails
}

extern "C" off_t lseek(int fd, off_t offset, int whence) noexcept
{
    if (fd == refused && whence == SEEK_DATA) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_lseek, fd, offset, whence);
}

namespace
{

constexpr size_t kMiB = 1 << 20;

std::set<uint64_t> Present(const haul_block &block)
{
    std::vector<uint64_t> bitmap(haul_bits_words(block.length / 4096));
    haul_holes_present(&block, bitmap.data());
    std::set<uint64_t> pages;
    for (uint64_t p = 0; p < block.length / 4096; p++) {
        if (bitmap[p / 64] >> (p % 64) & 1) {
            pages.insert(p);
        }
    }
    return pages;
}

TEST(Holes, OnlyTouchedPagesArePresent)
{
    Mapping memory(4 * kMiB);
    FakeMigration fake;
    fake.Add("a", memory);
    EXPECT_TRUE(Present(fake.get()->blocks[0]).empty());
    for (uint64_t page : {0, 7, 8, 9, 500, 1023}) {
        memory.data[page * 4096] = 1;
    }
    EXPECT_EQ(Present(fake.get()->blocks[0]), (std::set<uint64_t>{0, 7, 8, 9, 500, 1023}));
    // A hole that appears (balloon, discard) is found as one.
    ASSERT_EQ(fallocate(memory.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 * 4096, 4096), 0);
    EXPECT_EQ(Present(fake.get()->blocks[0]), (std::set<uint64_t>{0, 7, 9, 500, 1023}));
    EXPECT_EQ(memory.Resident(), 5u) << "looking fills no hole";
}

TEST(Holes, ABlockInTheMiddleOfItsFile)
{
    Mapping memory(1 * kMiB);
    FakeMigration fake;
    fake.Add("part", memory.data + 16 * 4096, 32 * 4096, memory.fd, 4096, 16 * 4096);
    for (uint64_t page : {3, 15, 16, 30, 47, 48}) {
        memory.data[page * 4096] = 1;
    }
    EXPECT_EQ(Present(fake.get()->blocks[0]), (std::set<uint64_t>{0, 14, 31}));
}

TEST(Holes, WithoutAFileEverythingMayBePresent)
{
    Mapping memory(64 * 4096, false);
    FakeMigration fake;
    fake.Add("a", memory);
    EXPECT_EQ(Present(fake.get()->blocks[0]).size(), 64u);
}

TEST(Holes, AFileThatDoesNotTellCountsAsPresent)
{
    Mapping memory(64 * 4096);
    FakeMigration fake;
    int ends[2];
    ASSERT_EQ(pipe(ends), 0); // no seeking at all
    fake.Add("pipe", memory.data, memory.size, ends[0]);
    EXPECT_EQ(Present(fake.get()->blocks[0]).size(), 64u);
    fake.Add("short", memory.data, memory.size, memory.fd, 4096,
             32 * 4096); // reaches past the end of its file
    memory.data[63 * 4096] = 1;
    EXPECT_EQ(Present(fake.get()->blocks[1]).size(), 64u);
    close(ends[0]);
    close(ends[1]);
}

TEST(Holes, ADeviceThatAnswersEverySeekTheSameCountsAsPresent)
{
    Mapping memory(64 * 4096, false);
    FakeMigration fake;
    int device = open("/dev/zero", O_RDWR | O_CLOEXEC);
    ASSERT_GE(device, 0);
    fake.Add("device", memory.data, memory.size, device);
    EXPECT_EQ(Present(fake.get()->blocks[0]).size(), 64u);
    close(device);
}

TEST(Holes, AnErrorIsNoHole)
{
    Mapping memory(64 * 4096); // as long as the block: its length says nothing
    FakeMigration fake;
    fake.Add("a", memory);
    memory.data[5 * 4096] = memory.data[40 * 4096] = 1;
    refused = memory.fd;
    EXPECT_EQ(Present(fake.get()->blocks[0]).size(), 64u);
    refused = -1;
    EXPECT_EQ(Present(fake.get()->blocks[0]).size(), 2u);
}

class Verify : public testing::Test
{
  protected:
    static std::vector<unsigned char> Hash(const FakeMigration &fake, unsigned threads = 3)
    {
        std::vector<unsigned char> hashes(fake.get()->block_count * HAUL_HASH_SIZE);
        haul_error error{};
        EXPECT_EQ(haul_verify_hash(fake.get(), threads, hashes.data(), &error), 0) << error.message;
        return hashes;
    }
};

TEST_F(Verify, SameContentsHaveTheSameHashWhateverTheThreadsAndTheBacking)
{
    Mapping a(9 * kMiB + 4096), b(9 * kMiB + 4096, false);
    for (size_t at = 0; at < 5 * kMiB; at += 4096) {
        memset(a.data + at, static_cast<int>(at >> 12), 4096);
    }
    memcpy(b.data, a.data, a.size);
    FakeMigration x, y;
    x.Add("a", a);
    y.Add("b", b);
    EXPECT_EQ(Hash(x, 1), Hash(y, 5));
    EXPECT_EQ(Hash(x, 0), Hash(y, 1)) << "the calling thread alone is enough";
}

TEST_F(Verify, AnyChangedByteChangesTheHashOfItsBlockOnly)
{
    Mapping a(5 * kMiB), b(kMiB);
    a.data[0] = 1;
    FakeMigration fake;
    fake.Add("a", a);
    fake.Add("b", b);
    std::vector<unsigned char> before = Hash(fake);
    for (size_t at : {size_t(0), 2 * kMiB - 1, 2 * kMiB, 4 * kMiB + 77, 5 * kMiB - 1}) {
        a.data[at] ^= 0x80;
        std::vector<unsigned char> after = Hash(fake);
        EXPECT_NE(memcmp(before.data(), after.data(), HAUL_HASH_SIZE), 0) << at;
        EXPECT_EQ(memcmp(before.data() + HAUL_HASH_SIZE, after.data() + HAUL_HASH_SIZE, HAUL_HASH_SIZE), 0)
            << at;
        a.data[at] ^= 0x80;
    }
    EXPECT_EQ(Hash(fake), before);
}

TEST_F(Verify, AHoleCountsAsZeroAndStaysAHole)
{
    Mapping hole(6 * kMiB), zero(6 * kMiB);
    memset(zero.data, 0, zero.size); // touched
    FakeMigration x, y;
    x.Add("hole", hole);
    y.Add("zero", zero);
    EXPECT_EQ(Hash(x), Hash(y));
    EXPECT_EQ(hole.Resident(), 0u);
}

TEST_F(Verify, SwappedChunksAreSeen)
{
    Mapping a(4 * kMiB), b(4 * kMiB);
    memset(a.data, 1, 2 * kMiB);
    memset(b.data + 2 * kMiB, 1, 2 * kMiB);
    FakeMigration x, y;
    x.Add("a", a);
    y.Add("b", b);
    EXPECT_NE(Hash(x), Hash(y));
}

// A destination that hashes for long, with a control connection to this test.
class LongHash : public testing::Test
{
  protected:
    void SetUp() override
    {
        memset(memory_.data, 7, memory_.size);
        fake_.Add("a", memory_);
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_), 0);
        haul_control_options options{};
        options.fd = ends_[0];
        options.thread_name = "control";
        options.silence_timeout_ms = 2000; // a WORKING after half a second
        options.notify = [](void *) {};
        ASSERT_EQ(haul_control_new(&options, &fake_.get()->control, &error_), 0) << error_.message;
        fake_.get()->destination = reinterpret_cast<haul_destination *>(&fake_); // only whether it is one
    }
    void TearDown() override
    {
        haul_control_free(fake_.get()->control);
        fake_.get()->control = nullptr;
        fake_.get()->destination = nullptr;
        fake_.get()->source = nullptr;
        close(ends_[1]);
    }
    int Hash()
    {
        unsigned char hash[HAUL_HASH_SIZE];
        return haul_verify_hash(fake_.get(), 2, hash, &error_);
    }

    Mapping memory_{8 * kMiB};
    FakeMigration fake_;
    haul_error error_{};
    int ends_[2] = {-1, -1};
};

TEST_F(LongHash, TellsThePeerThatItGoesOn)
{
    haul_test::FramePeer peer(dup(ends_[1]));
    auto begun = haul_test::Clock::now();
    while (haul_test::MsSince(begun) < 1200) {
        ASSERT_EQ(Hash(), 0) << error_.message;
    }
    const auto most = static_cast<unsigned>(haul_test::MsSince(begun) / 400);
    unsigned working = 0;
    haul_test::Frame frame;
    while (peer.Receive(&frame, 0) == 0) {
        working += frame.type == HAUL_FRAME_WORKING;
    }
    EXPECT_GE(working, 1u);
    EXPECT_LE(working, most) << "now and then, not for each step";
}

TEST_F(LongHash, EndsWithTheConnectionAtASource)
{
    fake_.get()->destination = nullptr;
    fake_.get()->source = reinterpret_cast<haul_source *>(&fake_);
    shutdown(ends_[1], SHUT_RDWR);
    int rc = 0;
    for (int i = 0; i < 10000 && rc == 0; i++) {
        rc = Hash(); // until the reader has noticed
    }
    EXPECT_EQ(rc, -ECONNRESET) << error_.message;
}

TEST_F(LongHash, EndsWithACancel)
{
    fake_.get()->gate = HAUL_GATE_CANCELLED;
    EXPECT_EQ(Hash(), -ECANCELED);
    EXPECT_STREQ(error_.message, "cancelled");
}

} // namespace
