// SPDX-License-Identifier: Apache-2.0
// Background snapshots that fail, are cancelled or refused: the guest goes on unprotected whatever happens,
// and there is no file.
#include "tests/engine/background/background.h"
#include "tests/engine/resources.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

using namespace haul_test;

namespace
{

TEST_F(Snapshot, FailsWhereTheGuestCannotBeStopped)
{
    Make({4 * kMiB}, true);
    guest->fail_stop = true;
    ExpectFails(EIO, "stopping the guest: ");
}

TEST_F(Snapshot, FailsWhereTheStateCannotBeSaved)
{
    Make({4 * kMiB}, true);
    guest->Run(10, 500);
    guest->fail_save = true;
    ExpectFails(EIO, "state handler ");
    EXPECT_TRUE(guest->running());
}

TEST_F(Snapshot, FailsWhereMemoryCannotBeProtected)
{
    Make({4 * kMiB}, true);
    guard->on_protect = [](uint32_t, uint64_t, uint64_t) { return -EINVAL; };
    ExpectFails(EINVAL, "no protection");
    EXPECT_EQ(guest->stops, 0u);
}

TEST_F(Snapshot, FailsWhereMemoryCannotBeProtectedAgain)
{
    Make({4 * kMiB}, true);
    guest->Run(10, 500);
    guest->on_stop = [this] {
        guest->Fill(0, 3, 0x33);
        guard->on_protect = [](uint32_t, uint64_t, uint64_t) { return -ESRCH; };
    };
    ExpectFails(ESRCH, "no protection");
    EXPECT_TRUE(guest->running());
}

TEST_F(Snapshot, AGuestThatDoesNotRunAgainIsTriedOnceMore)
{
    Make({4 * kMiB}, true);
    guest->Run(10, 500);
    guest->fail_resume = 1;
    ExpectFails(EBUSY, "the guest does not run at the source: the guest refuses to run");
    EXPECT_EQ(guest->resumes, 2u);
    EXPECT_EQ(guest->runs, (std::vector<bool>{false, true}));
    EXPECT_EQ(end->stats.resume_error, 0);
}

TEST_F(Snapshot, AGuestThatDoesNotRunAtAllIsNotSaidTo)
{
    Make({4 * kMiB}, true);
    guest->Run(10, 500);
    guest->fail_resume = 2;
    EXPECT_EQ(Run(directory / "a"), -EBUSY);
    EXPECT_EQ(end->message(), "the guest does not run at the source: the guest refuses to run");
    EXPECT_EQ(guest->runs, std::vector<bool>{false});
    EXPECT_EQ(guest->steps, std::vector<haul_step>{});
    EXPECT_EQ(end->stats.resume_error, -EBUSY);
}

TEST_F(Snapshot, FailsWhereMemoryCannotBeReleased)
{
    Make({32 * kMiB}, true);
    std::atomic<unsigned> calls{0};
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            calls = 1;
        }
    };
    guard->on_release = [&](uint32_t, uint64_t, uint64_t) { return calls > 0 && calls++ == 5 ? -ESRCH : 0; };
    ExpectFails(ESRCH, "no release");
}

// Trap T8: what a balloon takes away before it was saved cannot be saved any more.
TEST_F(Snapshot, FailsWherePagesLoseTheirContent)
{
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = 1;
    Make({16 * kMiB}, true, options);
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            EXPECT_EQ(fallocate(guest->blocks[0]->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 12 * kMiB,
                                kPage),
                      0);
            haul_set_max_bandwidth(end->migration, 0);
        }
    };
    ExpectFails(ENODATA, "lost the content of page 3072 before it was saved");
}

// The same where a write to a page nearby comes first.
TEST_F(Snapshot, FailsWherePagesLoseTheirContentNextToAWrite)
{
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = 1;
    Make({16 * kMiB}, true, options);
    HeldWrite write(guest->blocks[0]->data() + 12 * kMiB + kPage);
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            EXPECT_EQ(fallocate(guest->blocks[0]->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 12 * kMiB,
                                kPage),
                      0);
            EXPECT_TRUE(write.Ends()) << "a write waits for a snapshot that failed";
            haul_set_max_bandwidth(end->migration, 0);
        }
    };
    ExpectFails(ENODATA, "lost the content of page 3072 before it was saved");
}

TEST_F(Snapshot, FailsWhereTheGuestDoesNotTrustWhatWasSaved)
{
    Make({4 * kMiB}, true);
    guest->Run(10, 500);
    guest->on_saved = [this](haul_error *error) {
        EXPECT_EQ(haul_get_state(end->migration), HAUL_STATE_ACTIVE);
        EXPECT_EQ(guard->stops, 1u) << "nothing waits for this";
        return haul_error_set(error, EAGAIN, "the balloon grew");
    };
    ExpectFails(EAGAIN, "the balloon grew");
    EXPECT_TRUE(guest->running());
}

TEST_F(Snapshot, OverwritesNoFile)
{
    Make({4 * kMiB}, true);
    std::ofstream(directory / "a") << "mine";
    ExpectFails(EEXIST, "/a", {"a"});
}

// The disk is full from some moment on.
class SnapshotFullDisk : public Snapshot, public testing::WithParamInterface<const char *>
{
  protected:
    void FillUpIn(const std::string &when)
    {
        if (when == GetParam()) {
            std::ofstream filler(directory / "filler", std::ios::binary);
            std::string page(kPage, 'x');
            while (filler.write(page.data(), static_cast<std::streamsize>(page.size())).flush()) {
            }
        }
    }
};

TEST_P(SnapshotFullDisk, LetsTheGuestGoOn)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
        GTEST_SKIP() << "needs root and a mount namespace for a small file system";
    }
    ASSERT_EQ(mount("none", directory.path().c_str(), "tmpfs", 0, "size=64m"), 0);
    Make({32 * kMiB}, true);
    guest->Run(500, 100);
    FillUpIn("setup");
    on_save = [this] { FillUpIn("device"); };
    guest->on_state = [this](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            FillUpIn("active");
        }
    };
    guest->on_saved = [this](haul_error *) {
        FillUpIn("completion");
        return 0;
    };
    Signal written;
    std::thread vcpu;
    guest->on_resume = [&] {
        FillUpIn("resume");
        if (GetParam() == std::string("resume") && !vcpu.joinable()) {
            vcpu = std::thread([&] {
                WriteEverything();
                written.Set();
            });
            EXPECT_TRUE(written.Wait()) << "writes wait for a disk that takes no more";
        }
    };
    ExpectFails(ENOSPC, "No space left on device", {"filler"});
    if (vcpu.joinable()) {
        vcpu.join();
    }
    EXPECT_TRUE(guest->running());
    umount2(directory.path().c_str(), MNT_DETACH);
}

INSTANTIATE_TEST_SUITE_P(In, SnapshotFullDisk,
                         testing::Values("setup", "device", "resume", "active", "completion"),
                         [](const auto &info) { return std::string(info.param); });

TEST_F(Snapshot, RefusesWhatMeansNothingForIt)
{
    haul_options options = SnapshotOptions();
    options.verify = true;
    Make({4 * kMiB}, true, options);
    EXPECT_EQ(end->Start(directory / "a"), -ENOTSUP);
    EXPECT_NE(end->message().find("leave verify out"), std::string::npos) << end->message();
    EXPECT_EQ(directory.Names(), std::vector<std::string>{});
}

class SnapshotCancel : public Snapshot, public testing::WithParamInterface<haul_state>
{
};

TEST_P(SnapshotCancel, LeavesTheGuestRunningAndNothingBehind)
{
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = kMiB; // streaming takes many seconds
    Make({16 * kMiB}, true, options);
    Resources before = Resources::Now();
    guest->Run(50, 200);
    guest->on_state = [this](haul_state to) {
        if (to == GetParam()) {
            haul_cancel(end->migration);
        }
    };
    EXPECT_EQ(Run(directory / "a"), -ECANCELED) << end->message();
    EXPECT_EQ(end->stats.state, HAUL_STATE_CANCELLED);
    EXPECT_TRUE(guest->running());
    guest->Pause();
    ExpectGoesOn({});
    end.reset();
    ExpectNoMoreThan(before);
}

// All memory is saved and nothing waits any more, but the file has no name yet.
TEST_F(Snapshot, CanBeCancelledUntilTheFileHasItsName)
{
    Make({16 * kMiB}, true);
    guest->Run(50, 200);
    guest->on_saved = [this](haul_error *) {
        haul_cancel(end->migration);
        return 0;
    };
    EXPECT_EQ(Run(directory / "a"), -ECANCELED) << end->message();
    EXPECT_EQ(end->stats.state, HAUL_STATE_CANCELLED);
    EXPECT_TRUE(guest->running());
    guest->Pause();
    ExpectGoesOn({});
}

INSTANTIATE_TEST_SUITE_P(EveryState, SnapshotCancel,
                         testing::Values(HAUL_STATE_SETUP, HAUL_STATE_DEVICE, HAUL_STATE_ACTIVE),
                         [](const auto &info) { return std::string(haul_state_name(info.param)); });

TEST(SnapshotRefusal, NeedsAFileAndAGuard)
{
    Guest guest({kMiB}, true);
    haul_error error{};
    haul_migration *migration = nullptr;
    haul_options options = SnapshotOptions();
    ASSERT_EQ(haul_source_new(&options, &migration, &error), 0) << error.message;
    guest.Attach(migration, true);
    EXPECT_EQ(haul_start(migration, "unix:/tmp/none", &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("is written to file:PATH"), std::string::npos) << error.message;
    EXPECT_EQ(haul_start(migration, "file:/tmp/none", &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("haul_set_write_guard"), std::string::npos) << error.message;
    haul_free(migration);
    EXPECT_EQ(haul_destination_new(&options, &migration, &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("background-snapshot"), std::string::npos) << error.message;
}

} // namespace
