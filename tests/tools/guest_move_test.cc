// SPDX-License-Identifier: Apache-2.0

// The reference guest moved through the engine, on the kind of vCPU that GUEST_MOVE_VCPU names.
#include "tests/tools/machine_move.h"

#include <cerrno>

using namespace haul_test;

namespace
{

const std::string kVcpu = GUEST_MOVE_VCPU;

class GuestMoves : public testing::Test
{
  protected:
    GuestMoves()
    {
        haul_guest_options_default(&options);
        options.memory_bytes = 16 << 20;
        options.dirty_bytes_per_s = 20 << 20;
        options.untouched_percent = 10;
        options.vcpu = kVcpu.c_str();
    }
    void SetUp() override
    {
        haul_machine *machine = nullptr;
        haul_error error = {};
        if (haul_guest_source_new(&options, &machine, &error)) {
            GTEST_SKIP() << "no " << kVcpu << " guest can run here: " << error.message;
        }
        machine->ops->free(machine);
    }

    Machine source() const
    {
        haul_machine *machine = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_guest_source_new(&options, &machine, &error), 0) << error.message;
        return Machine(machine);
    }
    Machine destination() const
    {
        haul_guest_options theirs;
        haul_guest_options_default(&theirs);
        theirs.memory_bytes = options.memory_bytes;
        theirs.vcpu = options.vcpu;
        haul_machine *machine = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_guest_destination_new(&theirs, &machine, &error), 0) << error.message;
        return Machine(machine);
    }
    static void expect_proves_itself(const Machine &machine)
    {
        char report[256] = "";
        haul_error error = {};
        EXPECT_EQ(machine->ops->self_check(machine.get(), 10, report, sizeof report, &error), 0)
            << error.message;
        EXPECT_EQ(std::string(report).rfind("self-check passed: 4096 pages (16 MiB), ", 0), 0u) << report;
    }
    static std::string summary_of(const Machine &machine)
    {
        char text[256] = "";
        machine->ops->summary(machine.get(), text, sizeof text);
        return text;
    }
    void expect_arrives(const char *tracker, const haul_options &how)
    {
        Machine from = source(), to = destination();
        MachineMove move(from, to, how);
        ASSERT_EQ(move.wait(), "");
        expect_proves_itself(to);
        EXPECT_NE(summary_of(from).find(std::string("tracked by ") + tracker), std::string::npos)
            << summary_of(from);
        haul_error error = {};
        EXPECT_EQ(from->ops->resume(from.get(), &error), -EPERM); // rule R1: never again
    }
    // Moves with the tracker of that name, or skips where this kernel lacks it.
    void expect_arrives_with(const char *tracker)
    {
        options.tracker = tracker;
        Machine probe = source();
        haul_options how = move_options();
        haul_migration *migration = nullptr;
        haul_error error = {};
        ASSERT_EQ(haul_source_new(&how, &migration, &error), 0) << error.message;
        int result = probe->ops->attach(probe.get(), migration, &error);
        haul_free(migration);
        if (result == -ENOSYS || result == -EPERM) {
            GTEST_SKIP() << "no tracker " << tracker << " here: " << error.message;
        }
        ASSERT_EQ(result, 0) << error.message;
        expect_arrives(tracker, how);
    }

    haul_guest_options options;
};

TEST_F(GuestMoves, RandomContentArrivesOverOneChannel)
{
    haul_options how = move_options();
    how.channels = 1;
    expect_arrives(kVcpu == "kvm" ? "kvm-log" : "", how);
}

TEST_F(GuestMoves, TextArrivesCompressedOverFourChannels)
{
    options.content = "text";
    haul_options how = move_options();
    how.channels = 4;
    how.compress = "lz4";
    how.verify = true;
    expect_arrives("", how);
}

TEST_F(GuestMoves, UserfaultTrackerServes)
{
    expect_arrives_with("uffd");
}

TEST_F(GuestMoves, SoftDirtyTrackerServes)
{
    expect_arrives_with("soft-dirty");
}

TEST_F(GuestMoves, TrackersOfItsOwnServe)
{
    if (kVcpu == "kvm") {
        expect_arrives_with("kvm-log");
        expect_arrives_with("kvm-ring");
    } else {
        expect_arrives_with("bitmap");
    }
}

// Its vCPU, KVM's or a thread, sees the source's memory in the place of its own, from its first write on.
TEST_F(GuestMoves, HandedOverMemoryServes)
{
    Machine from = source(), to = destination();
    haul_options how = move_options();
    how.mode = "cpr-transfer";
    MachineMove move(from, to, how);
    ASSERT_EQ(move.wait(), "");
    EXPECT_EQ(move.stats.transferred, 0u);
    EXPECT_EQ(move.stats.mode, HAUL_MODE_CPR_TRANSFER);
    haul_error error = {};
    EXPECT_EQ(from->ops->resume(from.get(), &error), -EPERM);
    from.reset();
    expect_proves_itself(to);
}

// What it adopted it gives back: the source's guest goes on, and the destination can be used again.
TEST_F(GuestMoves, CancelledHandOverLeavesTheGuestRunning)
{
    Machine from = source(), to = destination();
    haul_options how = move_options();
    how.mode = "cpr-transfer";
    haul_migration *halves[2] = {};
    haul_error error = {};
    haul_events events = {};
    events.state = [](void *opaque, haul_state, haul_state state) {
        if (state == HAUL_STATE_ACTIVE) {
            haul_cancel(static_cast<haul_migration *>(opaque));
        }
    };
    std::string uri = "unix:/tmp/haul-machine-cancel-" + kVcpu + std::to_string(getpid());
    ASSERT_EQ(haul_destination_new(&how, &halves[0], &error), 0) << error.message;
    ASSERT_EQ(haul_source_new(&how, &halves[1], &error), 0) << error.message;
    ASSERT_EQ(to->ops->attach(to.get(), halves[0], &error), 0) << error.message;
    ASSERT_EQ(from->ops->attach(from.get(), halves[1], &error), 0) << error.message;
    ASSERT_EQ(haul_set_events(halves[1], &events, halves[1], &error), 0);
    ASSERT_EQ(haul_start(halves[0], uri.c_str(), &error), 0) << error.message;
    ASSERT_EQ(haul_start(halves[1], uri.c_str(), &error), 0) << error.message;
    EXPECT_EQ(haul_wait(halves[1], &error), -ECANCELED) << error.message;
    EXPECT_EQ(haul_wait(halves[0], &error), -ECANCELED) << error.message;
    haul_free(halves[0]);
    haul_free(halves[1]);
    expect_proves_itself(from);
    MachineMove again(from, to);
    EXPECT_EQ(again.wait(), "");
    expect_proves_itself(to);
}

TEST_F(GuestMoves, FailedMoveLeavesTheGuestRunningAndCanBeTriedAgain)
{
    Machine from = source();
    {
        haul_guest_options larger = options;
        larger.memory_bytes *= 2;
        haul_machine *machine = nullptr;
        haul_error error = {};
        ASSERT_EQ(haul_guest_destination_new(&larger, &machine, &error), 0) << error.message;
        Machine wrong(machine);
        MachineMove move(from, wrong);
        EXPECT_NE(move.wait(), "");
    }
    expect_proves_itself(from);
    Machine to = destination();
    MachineMove move(from, to);
    EXPECT_EQ(move.wait(), "");
    expect_proves_itself(to);
}

TEST_F(GuestMoves, CancelledMoveLeavesTheGuestRunning)
{
    Machine from = source(), to = destination();
    haul_options how = move_options();
    how.max_bandwidth_bytes_per_s = 1 << 20;
    MachineMove move(from, to, how);
    ASSERT_TRUE(move.comes_to(HAUL_STATE_ACTIVE));
    EXPECT_EQ(haul_cancel(move.source()), 0);
    EXPECT_NE(move.wait(), "");
    EXPECT_EQ(move.code, -ECANCELED);
    expect_proves_itself(from);
    // The destination has no guest to prove.
    char report[256];
    haul_error error = {};
    EXPECT_EQ(to->ops->self_check(to.get(), 1, report, sizeof report, &error), -EINVAL);
}

TEST_F(GuestMoves, AbandonedGuestNeverRunsAgain)
{
    Machine from = source();
    haul_error error = {};
    EXPECT_EQ(from->ops->abandon(from.get(), &error), 0);
    EXPECT_EQ(from->ops->resume(from.get(), &error), -EPERM);
}

} // namespace
