// SPDX-License-Identifier: Apache-2.0
// Background snapshots through the whole engine: the file has memory as it was at the moment of the stop,
// whatever is written at whatever time, and the guest goes on whatever happens.
#include "tests/engine/file/file.h"
#include "tests/engine/resources.h"
#include "tests/waiting.h"

#include <cerrno>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;

haul_options SnapshotOptions()
{
    haul_options options = Options();
    options.mode = "background-snapshot";
    return options;
}

// The real write guard, with hooks before its calls. A hook that returns less than 0 is the call's result.
class Guard
{
  public:
    explicit Guard(const Guest &guest)
    {
        std::vector<haul_tracked_range> ranges;
        for (uint32_t i = 0; i < guest.blocks.size(); i++) {
            haul_tracked_range range{};
            range.address = reinterpret_cast<uintptr_t>(guest.blocks[i]->data());
            range.length = guest.blocks[i]->size();
            range.memory_fd = guest.blocks[i]->fd();
            range.block = i;
            ranges.push_back(range);
        }
        haul_error error{};
        result = haul_write_guard_uffd_new(0, ranges.data(), static_cast<unsigned>(ranges.size()), &guard_,
                                           &error);
        message = error.message;
    }
    ~Guard()
    {
        haul_write_guard_free(guard_);
    }
    Guard(const Guard &) = delete;
    void Attach(haul_migration *migration)
    {
        static const haul_write_guard_ops ops = {"test", Protect, Release, Wait, Stop};
        haul_error error{};
        ASSERT_EQ(haul_set_write_guard(migration, &ops, this, &error), 0) << error.message;
    }

    int result;
    std::string message;
    std::atomic<unsigned> protects{0}, stops{0};
    std::function<int(uint32_t, uint64_t, uint64_t)> on_protect, on_release;

  private:
    const haul_write_guard_ops *real() const
    {
        return haul_write_guard_get_ops(guard_);
    }
    static int Protect(void *opaque, uint32_t block, uint64_t first, uint64_t count, haul_error *error)
    {
        auto *own = static_cast<Guard *>(opaque);
        own->protects++;
        int result = own->on_protect ? own->on_protect(block, first, count) : 0;
        return result < 0 ? haul_error_set(error, -result, "no protection")
                          : own->real()->protect(haul_write_guard_get_opaque(own->guard_), block, first,
                                                 count, error);
    }
    static int Release(void *opaque, uint32_t block, uint64_t first, uint64_t count, haul_error *error)
    {
        auto *own = static_cast<Guard *>(opaque);
        int result = own->on_release ? own->on_release(block, first, count) : 0;
        return result < 0 ? haul_error_set(error, -result, "no release")
                          : own->real()->release(haul_write_guard_get_opaque(own->guard_), block, first,
                                                 count, error);
    }
    static int Wait(void *opaque, int fd, haul_waiting_write *writes, unsigned capacity, haul_error *error)
    {
        auto *own = static_cast<Guard *>(opaque);
        return own->real()->wait(haul_write_guard_get_opaque(own->guard_), fd, writes, capacity, error);
    }
    static void Stop(void *opaque)
    {
        auto *own = static_cast<Guard *>(opaque);
        own->stops++;
        own->real()->stop(haul_write_guard_get_opaque(own->guard_));
    }
    haul_write_guard *guard_ = nullptr;
};

// A guest, its guard, one snapshot of it, and what memory was at its moment.
class Snapshot : public testing::Test
{
  protected:
    void Make(std::vector<size_t> sizes, bool fill, haul_options options = SnapshotOptions())
    {
        sizes_ = sizes;
        guest = std::make_unique<Guest>(sizes, fill);
        guard = std::make_unique<Guard>(*guest);
        if (guard->result == -EPERM || guard->result == -ENOSYS) {
            GTEST_SKIP() << guard->message;
        }
        ASSERT_EQ(guard->result, 0) << guard->message;
        end = std::make_unique<FileEnd>(*guest, true, options);
        guard->Attach(end->migration);
        guest->on_save = [this](Guest &own) {
            if (on_save) {
                on_save();
            }
            moment.clear();
            for (const Memory *block : own.blocks) {
                /* By its descriptor: that leaves holes as they are. */
                std::vector<unsigned char> bytes(block->size());
                EXPECT_EQ(pread(block->fd(), bytes.data(), bytes.size(), 0),
                          static_cast<ssize_t>(bytes.size()));
                moment.push_back(std::move(bytes));
            }
            moment_writes = own.writes;
        };
    }
    // Writes all pages, from the last to the first, without asking anybody: a second vCPU.
    void WriteEverything()
    {
        for (const Memory *block : guest->blocks) {
            for (size_t at = block->size(); at >= kPage; at -= kPage) {
                memset(block->data() + at - kPage, 0xee, kPage);
            }
        }
    }
    void ExpectRestoresTheMoment(const std::string &path)
    {
        Guest to(sizes_, true);
        FileEnd restore(to, false, Options());
        ASSERT_EQ(restore.Run(path), 0) << restore.message();
        EXPECT_EQ(to.restored, moment_writes);
        for (size_t i = 0; i < moment.size(); i++) {
            const unsigned char *now = to.blocks[i]->data();
            for (size_t at = 0; at < moment[i].size(); at += kPage) {
                ASSERT_EQ(memcmp(now + at, moment[i].data() + at, kPage), 0)
                    << "block " << i << " page " << at / kPage << " is not as it was";
            }
        }
    }
    // The guest can write all of its memory, and the directory holds nothing but `names`.
    void ExpectGoesOn(const std::vector<std::string> &names)
    {
        EXPECT_EQ(end->stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_EQ(guest->handed_over, 0u);
        EXPECT_EQ(guard->stops, 1u);
        WriteEverything();
        EXPECT_EQ(directory.Names(), names);
    }
    void ExpectFails(int code, const std::string &message, const std::vector<std::string> &names = {})
    {
        EXPECT_EQ(end->Run(directory / "a"), -code);
        EXPECT_NE(end->message().find(message), std::string::npos) << end->message();
        EXPECT_EQ(end->stats.state, HAUL_STATE_FAILED);
        ExpectGoesOn(names);
    }

    Directory directory;
    std::unique_ptr<Guest> guest;
    std::unique_ptr<Guard> guard;
    std::unique_ptr<FileEnd> end; // before the guard goes
    std::function<void()> on_save;
    std::vector<std::vector<unsigned char>> moment;
    uint64_t moment_writes = 0;

  private:
    std::vector<size_t> sizes_;
};

// ---- what the file holds ----

TEST_F(Snapshot, HoldsTheMomentWhileTheGuestWritesOn)
{
    haul_options options = SnapshotOptions();
    options.channels = 4;
    Make({32 * kMiB, 3 * kMiB + kPage}, true, options);
    guest->Run(200, 200);
    ASSERT_EQ(end->Run(directory / "a"), 0) << end->message();
    EXPECT_TRUE(guest->running()) << "the guest goes on";
    EXPECT_TRUE(Eventually([this, before = guest->writes.load()] { return guest->writes > before; }));
    guest->Pause();
    EXPECT_EQ(end->stats.state, HAUL_STATE_COMPLETED);
    EXPECT_EQ(guest->states, (std::vector<haul_state>{HAUL_STATE_SETUP, HAUL_STATE_DEVICE, HAUL_STATE_ACTIVE,
                                                      HAUL_STATE_COMPLETED}));
    EXPECT_EQ(guest->runs, (std::vector<bool>{false, true}));
    EXPECT_EQ(guest->steps, std::vector<haul_step>{}) << "nothing was handed over";
    EXPECT_EQ(end->stats.normal + end->stats.duplicate, (35 * kMiB + kPage) / kPage) << "each page once";
    EXPECT_EQ(end->stats.remaining, 0u);
    EXPECT_GT(end->stats.actual.total_ns, 0u);
    ExpectGoesOn({"a"});
    ExpectRestoresTheMoment(directory / "a");
}

TEST_F(Snapshot, HoldsTheMomentWhenEverythingIsWrittenAtOnce)
{
    Make({48 * kMiB}, true);
    std::thread vcpu;
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            vcpu = std::thread([this] { WriteEverything(); });
        }
    };
    ASSERT_EQ(end->Run(directory / "a"), 0) << end->message();
    vcpu.join();
    ExpectGoesOn({"a"});
    ExpectRestoresTheMoment(directory / "a");
}

// With next to no bandwidth for what nobody waits for, writes alone save all memory, and more of it than fits
// between the fault thread and the writers.
TEST_F(Snapshot, SavesEverythingThatIsWrittenHoweverLittleMayBeStreamed)
{
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = 1;
    Make({24 * kMiB}, true, options);
    std::thread vcpu;
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            vcpu = std::thread([this] {
                WriteEverything();
                haul_set_max_bandwidth(end->migration, 0);
            });
        }
    };
    ASSERT_EQ(end->Run(directory / "a"), 0) << end->message();
    vcpu.join();
    /* A chunk for each writer may be streamed before the limit holds. */
    EXPECT_GE(end->stats.write_faults, (24 - 2) * kMiB / (16 * kPage));
    EXPECT_LE(end->stats.write_faults, 24 * kMiB / (16 * kPage));
    EXPECT_GT(end->stats.write_fault_p50_ns, 0u);
    EXPECT_LE(end->stats.write_fault_p50_ns, end->stats.write_fault_p99_ns);
    EXPECT_LE(end->stats.write_fault_p99_ns, end->stats.write_fault_longest_ns);
    ExpectRestoresTheMoment(directory / "a");
}

TEST_F(Snapshot, HoldsWhatWasWrittenBetweenProtectingAndTheStop)
{
    Make({8 * kMiB}, true);
    guest->on_stop = [this] {
        guest->Fill(0, 3, 0x33);
        guest->Fill(0, 1500, 0x44);
    };
    ASSERT_EQ(end->Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(guard->protects, 3u) << "all of it, and two clusters once more";
    EXPECT_EQ(moment[0][3 * kPage], 0x33);
    ExpectRestoresTheMoment(directory / "a");
}

TEST_F(Snapshot, HoldsWhatSavingTheStateWrote)
{
    Make({8 * kMiB}, true);
    on_save = [this] { memset(guest->blocks[0]->data() + 77 * kPage, 0x5a, kPage); };
    guest->on_state = [this](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            std::thread([this] { memset(guest->blocks[0]->data() + 77 * kPage, 0x66, kPage); }).join();
        }
    };
    ASSERT_EQ(end->Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(moment[0][77 * kPage], 0x5a);
    EXPECT_EQ(guest->blocks[0]->data()[77 * kPage], 0x66);
    ExpectRestoresTheMoment(directory / "a");
}

TEST_F(Snapshot, LeavesUntouchedMemoryUntouched)
{
    Make({64 * kMiB}, false);
    memset(guest->blocks[0]->data() + 5000 * kPage, 1, kPage);
    guest->on_state = [this](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) { // was never touched until the moment, and is zero in the file
            std::thread([this] { memset(guest->blocks[0]->data() + 9000 * kPage, 2, kPage); }).join();
        }
    };
    ASSERT_EQ(end->Run(directory / "a"), 0) << end->message();
    struct stat status;
    ASSERT_EQ(stat((directory / "a").c_str(), &status), 0);
    EXPECT_LT(status.st_blocks * 512, 128 * 1024);
    EXPECT_LE(guest->blocks[0]->allocated_bytes(), 2 * kPage);
    ExpectRestoresTheMoment(directory / "a");
}

// Clusters that are half there, of which the other half is written in the last moment.
TEST_F(Snapshot, HoldsHolesThatWereFilledBetweenProtectingAndTheStop)
{
    Make({16 * kMiB}, false);
    for (size_t page : {1u, 6u, 1000u, 1001u, 1003u, 3000u}) {
        memset(guest->blocks[0]->data() + page * kPage, 1, kPage);
    }
    guest->on_stop = [this] {
        for (size_t page : {3u, 1002u, 1007u, 2500u, 4095u}) {
            memset(guest->blocks[0]->data() + page * kPage, 2, kPage);
        }
    };
    ASSERT_EQ(end->Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(moment[0][1007 * kPage], 2);
    EXPECT_LE(guest->blocks[0]->allocated_bytes(), 11 * kPage) << "holes were filled";
    ExpectRestoresTheMoment(directory / "a");
}

TEST_F(Snapshot, CanBeTakenAgainAndAgain)
{
    Make({8 * kMiB}, true);
    guest->Run(50, 200);
    Resources before = Resources::Now();
    for (int i = 0; i < 5; i++) {
        std::string path = directory / std::to_string(i);
        if (i > 0) {
            end.reset();
            guard = std::make_unique<Guard>(*guest);
            ASSERT_EQ(guard->result, 0) << guard->message;
            end = std::make_unique<FileEnd>(*guest, true, SnapshotOptions());
            guard->Attach(end->migration);
        }
        ASSERT_EQ(end->Run(path), 0) << end->message();
        ExpectRestoresTheMoment(path);
    }
    end.reset();
    guard.reset();
    ExpectNoMoreThan(before);
    EXPECT_TRUE(guest->running());
}

// ---- who runs first ----

class SnapshotPriority : public Snapshot
{
  protected:
    void SetUp() override
    {
        int nice = getpriority(PRIO_PROCESS, 0);
        if (setpriority(PRIO_PROCESS, 0, nice - 1) < 0) {
            GTEST_SKIP() << "needs CAP_SYS_NICE, without which priorities stay as they are";
        }
        setpriority(PRIO_PROCESS, 0, nice);
    }
    // The policy of a thread of the migration; -1: there is none of that name.
    int PolicyOf(const std::string &name)
    {
        haul_thread threads[16];
        unsigned count = std::min(16u, haul_threads(end->migration, threads, 16));
        for (unsigned i = 0; i < count; i++) {
            if (threads[i].name == name) {
                return sched_getscheduler(threads[i].tid);
            }
        }
        return -1;
    }
    bool WaitForPolicy(const std::string &name, int policy)
    {
        return Eventually([&] { return PolicyOf(name) == policy; });
    }
};

TEST_F(SnapshotPriority, WritersComeLastAndTheFaultThreadFirst)
{
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = 1;
    Make({16 * kMiB}, true, options);
    ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
    EXPECT_TRUE(WaitForPolicy("bg-save_0", SCHED_IDLE));
    // SCHED_FIFO, where this process may.
    EXPECT_TRUE(WaitForPolicy("bg-faults", SCHED_FIFO) || PolicyOf("bg-faults") == SCHED_OTHER);
    EXPECT_EQ(PolicyOf("bg-migration"), SCHED_OTHER);
    haul_set_max_bandwidth(end->migration, 0);
    ASSERT_EQ(end->Wait(), 0) << end->message();
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
}

// On one CPU that somebody else wants all the time, writers that come last would get next to nothing.
TEST_F(SnapshotPriority, WritersThatStarveComeLastNoLonger)
{
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = 1; // nothing to do at first
    Make({256 * kMiB}, true, options);
    ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
    EXPECT_TRUE(WaitForPolicy("bg-save_0", SCHED_IDLE));
    std::atomic<bool> done{false};
    std::thread busy([&] {
        while (!done) {
        }
    });
    haul_set_max_bandwidth(end->migration, 0);
    EXPECT_TRUE(WaitForPolicy("bg-save_0", SCHED_OTHER)) << "it waits for ever";
    done = true;
    busy.join();
    sched_setaffinity(0, sizeof all, &all);
    ASSERT_EQ(end->Wait(), 0) << end->message();
}

// ---- what fails ----

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

TEST_F(Snapshot, LetsTheGuestGoOnWhenTheDiskIsFull)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
        GTEST_SKIP() << "needs root and a mount namespace for a small file system";
    }
    ASSERT_EQ(mount("none", directory.path.c_str(), "tmpfs", 0, "size=4m"), 0);
    Make({32 * kMiB}, true);
    guest->Run(500, 100);
    ExpectFails(ENOSPC, "No space left on device");
    EXPECT_TRUE(guest->running());
    umount2(directory.path.c_str(), MNT_DETACH);
}

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
    EXPECT_EQ(end->Run(directory / "a"), -ECANCELED) << end->message();
    EXPECT_EQ(end->stats.state, HAUL_STATE_CANCELLED);
    EXPECT_TRUE(guest->running());
    guest->Pause();
    ExpectGoesOn({});
    end.reset();
    ExpectNoMoreThan(before);
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
