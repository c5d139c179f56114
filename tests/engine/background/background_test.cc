// SPDX-License-Identifier: Apache-2.0
// Background snapshots through the whole engine: the file has memory as it was at the moment of the stop,
// whatever is written at whatever time.
#include "tests/engine/background/background.h"
#include "tests/engine/resources.h"
#include "tests/waiting.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>

using namespace haul_test;

namespace
{

// ---- what the file holds ----

TEST_F(Snapshot, HoldsTheMomentWhileTheGuestWritesOn)
{
    haul_options options = SnapshotOptions();
    options.channels = 4;
    Make({32 * kMiB, 3 * kMiB + kPage}, true, options);
    bool guarded = false;
    guest->on_state = [&](haul_state to) {
        guarded = guarded || (to == HAUL_STATE_ACTIVE && Guard::Guarded());
    };
    guest->Run(200, 200);
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    EXPECT_TRUE(guest->running()) << "the guest goes on";
    EXPECT_TRUE(Eventually([this, before = guest->writes.load()] { return guest->writes > before; }));
    guest->Pause();
    EXPECT_TRUE(guarded) << "nobody could tell";
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
    EXPECT_EQ(Run(directory / "a"), 0) << end->message();
    if (vcpu.joinable()) {
        vcpu.join();
    }
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
    Signal written;
    std::thread vcpu;
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            vcpu = std::thread([&] {
                WriteEverything();
                written.Set();
            });
        }
    };
    ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
    EXPECT_TRUE(written.Wait()) << "writes wait for what is streamed";
    haul_set_max_bandwidth(end->migration, 0);
    EXPECT_EQ(Wait(), 0) << end->message();
    if (vcpu.joinable()) {
        vcpu.join();
    }
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
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
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
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
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
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
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
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
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
        ASSERT_EQ(Run(path), 0) << end->message();
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
        Snapshot::SetUp();
        int nice = getpriority(PRIO_PROCESS, 0);
        if (setpriority(PRIO_PROCESS, 0, nice - 1) < 0) {
            GTEST_SKIP() << "needs CAP_SYS_NICE, without which priorities stay as they are";
        }
        setpriority(PRIO_PROCESS, 0, nice);
    }
    // A real-time policy takes more than CAP_SYS_NICE in some containers.
    static bool MayBeFifo()
    {
        bool may = false;
        std::thread([&may] {
            const sched_param lowest = {1};
            may = sched_setscheduler(0, SCHED_FIFO, &lowest) == 0;
        }).join();
        return may;
    }
    int PolicyOf(const std::string &name)
    {
        int tid = ThreadOf(end->migration, name);
        return tid < 0 ? -1 : sched_getscheduler(tid);
    }
    int NiceOf(const std::string &name)
    {
        return getpriority(PRIO_PROCESS, static_cast<id_t>(ThreadOf(end->migration, name)));
    }
    bool WaitForPolicy(const std::string &name, int policy)
    {
        return Eventually([&] { return PolicyOf(name) == policy; });
    }
};

// From before there is anything to write: no vCPU that runs on after the moment waits for their time slices.
TEST_F(SnapshotPriority, WritersComeLastFromTheBeginning)
{
    Make({4 * kMiB}, true);
    guest->on_stop = [this] { EXPECT_TRUE(WaitForPolicy("bg-save_0", SCHED_IDLE)); };
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(guest->stops, 1u);
}

// Nobody else would notice for a tenth of a second, which a write would wait.
TEST_F(SnapshotPriority, WritersHurryWhenThereIsNoRoomForWrites)
{
    haul_options options = SnapshotOptions();
    options.channels = 1;
    Make({4 * kMiB}, true, options);
    const size_t slots = 4 * kMiB / 4 / kCluster, many = slots - slots / 8;
    Signal stuck, go_on;
    guard->on_release = [&](uint32_t, uint64_t, uint64_t count) {
        if (count > kClusterPages) { // the writer
            stuck.Set();
            EXPECT_TRUE(go_on.Wait());
        }
        return 0;
    };
    std::atomic<size_t> served{0};
    std::atomic<int> policy{-1};
    guard->after_release = [&](uint64_t, uint64_t count) { served += count == kClusterPages; };
    guard->on_wait = [&] {
        if (served == many) {
            policy = PolicyOf("bg-save_0");
        }
    };
    ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
    EXPECT_TRUE(stuck.Wait());
    for (size_t i = 1; i <= many; i++) {
        memset(guest->blocks[0]->data() + guest->blocks[0]->size() - i * kCluster, 0xee, kPage);
    }
    EXPECT_TRUE(Eventually([&] { return policy >= 0; }));
    EXPECT_EQ(policy, SCHED_OTHER);
    std::this_thread::sleep_for(std::chrono::milliseconds(300)); // some looks of the coordinator later
    EXPECT_EQ(PolicyOf("bg-save_0"), SCHED_OTHER) << "there still is no room";
    go_on.Set();
    ASSERT_EQ(Wait(), 0) << end->message();
}

TEST_F(SnapshotPriority, WritersComeLastAndTheFaultThreadFirst)
{
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = 1;
    Make({16 * kMiB}, true, options);
    ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
    EXPECT_TRUE(WaitForPolicy("bg-save_0", SCHED_IDLE));
    if (MayBeFifo()) {
        EXPECT_TRUE(WaitForPolicy("bg-faults", SCHED_FIFO));
    } else {
        EXPECT_TRUE(Eventually([this] { return NiceOf("bg-faults") == -20; }));
    }
    EXPECT_EQ(PolicyOf("bg-migration"), SCHED_OTHER);
    haul_set_max_bandwidth(end->migration, 0);
    ASSERT_EQ(Wait(), 0) << end->message();
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
}

// On one CPU that somebody else wants all the time, writers that come last would get next to nothing. In the
// end they come last no longer in any case, so this one comes to no end before.
TEST_F(SnapshotPriority, WritersThatStarveComeLastNoLonger)
{
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    haul_options options = SnapshotOptions();
    options.channels = 1;
    Make({4 * kMiB}, true, options);
    Signal begun;
    std::atomic<bool> done{false};
    guest->on_stop = [this] { EXPECT_TRUE(WaitForPolicy("bg-save_0", SCHED_IDLE)); };
    guard->on_release = [&](uint32_t, uint64_t, uint64_t) { // by the writer: nobody writes
        begun.Set();
        while (!done) {
        }
        return 0;
    };
    ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
    EXPECT_TRUE(begun.Wait());
    std::thread busy([&] {
        while (!done) {
        }
    });
    EXPECT_TRUE(WaitForPolicy("bg-save_0", SCHED_OTHER)) << "it waits for ever";
    done = true;
    busy.join();
    sched_setaffinity(0, sizeof all, &all);
    ASSERT_EQ(Wait(), 0) << end->message();
}

} // namespace
