// SPDX-License-Identifier: Apache-2.0
// Saving into a snapshot file and starting from it, through the whole engine.
#include "tests/engine/file/file.h"
#include "tests/waiting.h"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;

void ExpectSaved(FileEnd &save, const std::string &path)
{
    ASSERT_EQ(save.Run(path), 0) << save.message();
    EXPECT_EQ(save.stats.ownership, HAUL_OWNER_DESTINATION);
    EXPECT_EQ(save.stats.state, HAUL_STATE_COMPLETED);
}

// Starts a fresh guest of the same shape from `path` and compares all of its memory.
void ExpectRestores(const Guest &from, const std::string &path, haul_options options = Options())
{
    std::vector<size_t> sizes;
    for (const Memory *block : from.blocks) {
        sizes.push_back(block->size());
    }
    Guest to(sizes, false);
    FileEnd restore(to, false, options);
    ASSERT_EQ(restore.Run(path), 0) << restore.message();
    EXPECT_EQ(restore.stats.ownership, HAUL_OWNER_DESTINATION);
    EXPECT_EQ(to.starts, 1u);
    EXPECT_EQ(to.restored, from.writes);
    std::string where;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
}

// The guest goes on at the source, and the directory holds nothing but `names`.
void ExpectNotSaved(const FileEnd &save, const Guest &guest, const Directory &directory,
                    const std::vector<std::string> &names = {})
{
    EXPECT_EQ(save.stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_EQ(guest.handed_over, 0u);
    EXPECT_FALSE(guest.stopped);
    EXPECT_GE(guest.resumes, guest.stops);
    EXPECT_LE(guest.resumes, guest.stops + 1); // asked once more in the end, also where nothing was stopped
    EXPECT_EQ(directory.Names(), names);
}

TEST(File, HoldsAGuestAtRest)
{
    Directory directory;
    Guest guest({8 * kMiB, 3 * kMiB + kPage}, true);
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    EXPECT_EQ(directory.Names(), std::vector<std::string>{"a"});
    EXPECT_EQ(guest.handed_over, 1u);
    EXPECT_EQ(guest.steps, (std::vector<haul_step>{HAUL_STEP_HANDOVER_SENDING, HAUL_STEP_RUNNING}));
    struct stat status;
    ASSERT_EQ(stat((directory / "a").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    ExpectRestores(guest, directory / "a");
    ExpectRestores(guest, directory / "a"); // as often as one likes
}

TEST(File, HoldsAGuestThatWroteAllTheTime)
{
    Directory directory;
    Guest guest({32 * kMiB, 8 * kMiB}, true);
    haul_options options = Options();
    options.channels = 4;
    options.verify = true;
    options.downtime_limit_ms = 5000; // it writes faster than a loaded machine saves
    guest.on_round = [&](uint32_t round) { guest.Write(0, 5, round); }; // should the writer have no turn
    guest.Run(64, 500);
    FileEnd save(guest, true, options);
    ExpectSaved(save, directory / "a");
    EXPECT_GT(save.stats.normal + save.stats.duplicate, 40 * kMiB / 4096) << "pages written meanwhile, again";
    EXPECT_FALSE(guest.running());
    options.channels = 3;
    ExpectRestores(guest, directory / "a", options);
}

TEST(File, TakesTheNewestOfAPageThatChangesEveryRound)
{
    Directory directory;
    Guest guest({4 * kMiB}, true);
    haul_options options = Options();
    options.downtime_limit_ms = 1;
    unsigned round = 0;
    guest.on_round = [&](uint32_t) {
        if (++round < 5) {
            guest.Fill(0, 10, static_cast<unsigned char>(round));
            guest.Fill(0, 11, round % 2 ? 0 : 7); // ends zero, after having been written
            guest.Fill(0, 12, round % 2 ? 7 : 0); // ends with content
            for (unsigned page = 100; page < 300; page++) {
                guest.Fill(0, page, 0);
            }
        }
    };
    FileEnd save(guest, true, options);
    ExpectSaved(save, directory / "a");
    ExpectRestores(guest, directory / "a");
}

TEST(File, TakesWhatSavingTheStateWrote)
{
    Directory directory;
    Guest guest({2 * kMiB}, true);
    guest.on_save = [](Guest &own) { own.Fill(0, 77, 0x5a); };
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    ExpectRestores(guest, directory / "a");
}

TEST(File, TakesNoRoomForMemoryThatIsZero)
{
    Directory directory;
    Guest guest({256 * kMiB}, false);
    guest.Fill(0, 5000, 1);
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    struct stat status;
    ASSERT_EQ(stat((directory / "a").c_str(), &status), 0);
    EXPECT_GT(status.st_size, static_cast<off_t>(256 * kMiB));
    EXPECT_LT(status.st_blocks * 512, 256 * 1024);
    ExpectRestores(guest, directory / "a");
}

TEST(File, ClearsWhatTheMemoryOfTheNewGuestHeld)
{
    Directory directory;
    Guest guest({4 * kMiB}, false);
    guest.Fill(0, 3, 1);
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    Guest to({4 * kMiB}, true);
    FileEnd restore(to, false, Options());
    ASSERT_EQ(restore.Run(directory / "a"), 0) << restore.message();
    std::string where;
    EXPECT_TRUE(SameMemory(guest, to, &where)) << where;
}

TEST(File, BypassesThePageCache)
{
    Directory directory;
    Guest guest({8 * kMiB + kPage}, true);
    haul_options options = Options();
    options.direct_io = true;
    options.channels = 3;
    guest.Run(20, 1000);
    FileEnd save(guest, true, options);
    ExpectSaved(save, directory / "a");
    ExpectRestores(guest, directory / "a", options);
    ExpectRestores(guest, directory / "a"); // whoever reads it
}

TEST(File, CountsWhatItWrote)
{
    Directory directory;
    Guest guest({16 * kMiB}, false);
    for (unsigned page = 0; page < 1000; page++) {
        guest.Fill(0, page, 3);
    }
    haul_options options = Options();
    options.channels = 2;
    FileEnd save(guest, true, options);
    ExpectSaved(save, directory / "a");
    EXPECT_EQ(save.stats.transferred, 1000 * kPage);
    EXPECT_EQ(save.stats.normal, 1000u);
    EXPECT_EQ(save.stats.duplicate, 16 * kMiB / kPage - 1000);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < 2; i++) {
        haul_channel_stats channel{};
        ASSERT_EQ(haul_get_channel_stats(save.migration, i, &channel), 0);
        bytes += channel.bytes;
    }
    EXPECT_EQ(bytes, 1000 * kPage);
    Guest to({16 * kMiB}, false);
    FileEnd restore(to, false, options);
    ASSERT_EQ(restore.Run(directory / "a"), 0) << restore.message();
    EXPECT_EQ(restore.stats.transferred, 1000 * kPage);
    EXPECT_EQ(restore.stats.normal, 1000u);
    EXPECT_EQ(restore.stats.duplicate, 16 * kMiB / kPage - 1000);
    EXPECT_EQ(restore.stats.channels, 2u);
}

// A piece of 1 MiB at once would be what it may write in 16 s.
TEST(File, IsWrittenInSmallPiecesUnderALimit)
{
    Directory directory;
    Guest guest({4 * kMiB}, true);
    haul_options options = Options();
    options.channels = 1;
    options.max_bandwidth_bytes_per_s = kMiB / 16;
    FileEnd save(guest, true, options);
    ASSERT_EQ(save.Start(directory / "a"), 0) << save.message();
    auto written = [&] {
        haul_channel_stats channel{};
        haul_get_channel_stats(save.migration, 0, &channel); // there is none at first
        return channel.bytes;
    };
    EXPECT_TRUE(Eventually([&] { return written() > 0; }));
    EXPECT_LT(written(), kMiB / 2);
    haul_set_max_bandwidth(save.migration, 0);
    ASSERT_EQ(save.Wait(), 0) << save.message();
    ExpectRestores(guest, directory / "a");
}

// ---- what is refused, and what fails ----

TEST(File, NeverReplacesAFile)
{
    Directory directory;
    std::ofstream(directory / "a") << "mine";
    Guest guest({kMiB}, true);
    FileEnd save(guest, true, Options());
    EXPECT_EQ(save.Run(directory / "a"), -EEXIST);
    EXPECT_NE(save.message().find("a exists already, and a snapshot never replaces a file"),
              std::string::npos)
        << save.message();
    ExpectNotSaved(save, guest, directory, {"a"});
    EXPECT_EQ(std::filesystem::file_size(directory / "a"), 4u);
}

TEST(File, NeverReplacesAFileThatCameMeanwhile)
{
    Directory directory;
    Guest guest({kMiB}, true);
    guest.on_stop = [&] { std::ofstream(directory / "a") << "mine"; };
    FileEnd save(guest, true, Options());
    EXPECT_EQ(save.Run(directory / "a"), -EEXIST);
    ExpectNotSaved(save, guest, directory, {"a"});
    EXPECT_EQ(guest.resumes, 1u);
    EXPECT_EQ(guest.steps, (std::vector<haul_step>{HAUL_STEP_HANDOVER_SENDING, HAUL_STEP_RESUMED}));
    EXPECT_EQ(std::filesystem::file_size(directory / "a"), 4u);
}

TEST(File, SaysThatItDoesNotCompress)
{
    Directory directory;
    Guest guest({kMiB}, true);
    haul_options options = Options();
    options.compress = "lz4";
    FileEnd save(guest, true, options);
    EXPECT_EQ(save.Start(directory / "a"), -ENOTSUP);
    EXPECT_NE(save.message().find("it cannot be compressed: leave --compress lz4 out"), std::string::npos)
        << save.message();
}

TEST(File, NeedsAPath)
{
    Guest guest({kMiB}, true);
    FileEnd save(guest, true, Options());
    EXPECT_EQ(save.Start(""), -EINVAL);
    EXPECT_EQ(save.message(), "'file:' has no path: a file is file:PATH");
}

TEST(File, SaysThatTheDirectoryIsMissing)
{
    Directory directory;
    Guest guest({kMiB}, true);
    FileEnd save(guest, true, Options());
    EXPECT_EQ(save.Run(directory / "none/a"), -ENOENT);
    EXPECT_EQ(save.message(), (directory / "none/a") + ": opening its directory: No such file or directory");
    ExpectNotSaved(save, guest, directory);
}

TEST(File, GoesOnWhenTheStateCannotBeSaved)
{
    Directory directory;
    Guest guest({kMiB}, true);
    guest.fail_save = true;
    FileEnd save(guest, true, Options());
    EXPECT_LT(save.Run(directory / "a"), 0);
    EXPECT_EQ(guest.resumes, 1u);
    ExpectNotSaved(save, guest, directory);
}

TEST(File, GoesOnWhenTheStepIsRefused)
{
    Directory directory;
    Guest guest({kMiB}, true);
    guest.refuse_steps = {HAUL_STEP_HANDOVER_SENDING};
    FileEnd save(guest, true, Options());
    EXPECT_LT(save.Run(directory / "a"), 0);
    EXPECT_EQ(guest.resumes, 1u);
    ExpectNotSaved(save, guest, directory);
}

TEST(File, VerifyFindsAPageThatTheTrackerMissed)
{
    Directory directory;
    Guest guest({4 * kMiB}, true);
    haul_options options = Options();
    options.verify = true;
    guest.on_stop = [&] { guest.blocks[0]->data()[700 * kPage + 9] ^= 1; }; // and says nothing
    FileEnd save(guest, true, options);
    EXPECT_EQ(save.Run(directory / "a"), -EBADMSG);
    EXPECT_NE(save.message().find("page 700 of RAM block block0 is not as in memory"), std::string::npos)
        << save.message();
    EXPECT_EQ(guest.resumes, 1u);
    ExpectNotSaved(save, guest, directory);
}

TEST(File, GoesOnWhenTheDiskIsFull)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
        GTEST_SKIP() << "needs root and a mount namespace for a small file system";
    }
    Directory directory;
    ASSERT_EQ(mount("none", directory.path().c_str(), "tmpfs", 0, "size=4m"), 0);
    {
        Guest guest({16 * kMiB}, true);
        guest.Run(20, 1000);
        FileEnd save(guest, true, Options());
        EXPECT_EQ(save.Run(directory / "a"), -ENOSPC);
        EXPECT_NE(save.message().find("No space left on device; free some or choose another place"),
                  std::string::npos)
            << save.message();
        EXPECT_TRUE(guest.running());
        guest.Pause();
        ExpectNotSaved(save, guest, directory);
    }
    umount2(directory.path().c_str(), MNT_DETACH);
}

TEST(File, SaysThatFilesMayNotBeSoLarge)
{
    Directory directory;
    Guest guest({16 * kMiB}, true);
    rlimit before;
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    rlimit small = {kMiB, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    FileEnd save(guest, true, Options());
    int result = save.Run(directory / "a");
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(result, -EFBIG);
    EXPECT_NE(save.message().find("(ulimit -f)"), std::string::npos) << save.message();
    ExpectNotSaved(save, guest, directory);
}

// ---- cancelling ----

class FileCancel : public testing::TestWithParam<haul_state>
{
};

TEST_P(FileCancel, LeavesTheGuestRunningAndNothingBehind)
{
    Directory directory;
    Guest guest({8 * kMiB}, true);
    guest.Run(20, 1000);
    haul_options options = Options();
    if (GetParam() == HAUL_STATE_ACTIVE) {
        options.max_bandwidth_bytes_per_s = kMiB; // round 1 takes many seconds
    }
    FileEnd save(guest, true, options);
    guest.on_state = [&](haul_state to) {
        if (to == GetParam()) {
            EXPECT_EQ(haul_cancel(save.migration), 0);
        }
    };
    EXPECT_EQ(save.Run(directory / "a"), -ECANCELED) << save.message();
    EXPECT_EQ(save.stats.state, HAUL_STATE_CANCELLED);
    EXPECT_TRUE(guest.running());
    guest.Pause();
    ExpectNotSaved(save, guest, directory);
}

INSTANTIATE_TEST_SUITE_P(States, FileCancel,
                         testing::Values(HAUL_STATE_SETUP, HAUL_STATE_ACTIVE, HAUL_STATE_PRE_SWITCHOVER,
                                         HAUL_STATE_DEVICE));

class RestoreCancel : public testing::TestWithParam<haul_state>
{
};

TEST_P(RestoreCancel, NeverStartsTheGuest)
{
    Directory directory;
    Guest guest({8 * kMiB}, true);
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    Guest to({8 * kMiB}, false);
    FileEnd restore(to, false, Options());
    to.on_state = [&](haul_state now) {
        if (now == GetParam()) {
            EXPECT_EQ(haul_cancel(restore.migration), 0);
        }
    };
    EXPECT_EQ(restore.Run(directory / "a"), -ECANCELED) << restore.message();
    EXPECT_EQ(to.starts, 0u);
    EXPECT_EQ(restore.stats.ownership, HAUL_OWNER_SOURCE);
    ExpectRestores(guest, directory / "a"); // it is as it was
}

INSTANTIATE_TEST_SUITE_P(States, RestoreCancel,
                         testing::Values(HAUL_STATE_SETUP, HAUL_STATE_ACTIVE, HAUL_STATE_DEVICE));

// ---- restoring ----

TEST(Restore, RefusesAnotherMemorySize)
{
    Directory directory;
    Guest guest({2 * kMiB}, true);
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    Guest to({4 * kMiB}, false);
    FileEnd restore(to, false, Options());
    EXPECT_EQ(restore.Start(directory / "a"), -EINVAL);
    EXPECT_NE(restore.message().find("RAM block block0 has 2097152 bytes at the source and 4194304"),
              std::string::npos)
        << restore.message();
}

TEST(Restore, SaysThatThereIsNoFile)
{
    Directory directory;
    Guest to({kMiB}, false);
    FileEnd restore(to, false, Options());
    EXPECT_EQ(restore.Start(directory / "a"), -ENOENT);
    EXPECT_EQ(restore.message(), (directory / "a") + ": opening it: No such file or directory");
}

TEST(Restore, RefusesADamagedPageBeforeTheGuestRuns)
{
    Directory directory;
    Guest guest({4 * kMiB}, true);
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    std::fstream file(directory / "a", std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(2 * kMiB + 300 * kPage + 17); // memory begins at 2 MiB
    int byte = file.get();
    file.seekp(2 * kMiB + 300 * kPage + 17);
    file.put(static_cast<char>(byte ^ 1));
    file.close();
    Guest to({4 * kMiB}, false);
    FileEnd restore(to, false, Options());
    EXPECT_EQ(restore.Run(directory / "a"), -EPROTO);
    EXPECT_NE(restore.message().find("RAM block block0, page at 0x12c000: its content does not match its "
                                     "checksum (offset 3325952 of the file)"),
              std::string::npos)
        << restore.message();
    EXPECT_EQ(to.starts, 0u);
    EXPECT_EQ(to.restored, 0u); // nor was any state loaded
}

TEST(Restore, SaysWhichStateItDoesNotKnow)
{
    Directory directory;
    Guest guest({kMiB}, true);
    FileEnd save(guest, true, Options());
    ExpectSaved(save, directory / "a");
    Guest to({kMiB}, false);
    to.fail_load = true;
    FileEnd restore(to, false, Options());
    EXPECT_LT(restore.Run(directory / "a"), 0);
    EXPECT_EQ(to.starts, 0u);
}

} // namespace
