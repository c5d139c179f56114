// SPDX-License-Identifier: Apache-2.0
// Moves with disks that fail: every callback, every state. The guest goes on
// at the source, and what is left at the destination does not look like a whole image.
#include "tests/engine/disk/disk.h"
#include "tests/engine/proxy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <sys/stat.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr uint64_t kMiB = 1 << 20;

// ---- callbacks ----

struct CallCase {
    Disk::Call call;
    bool source;
    int code;
    const char *text;
};

class DiskCallFails : public testing::TestWithParam<CallCase>
{
};

// The same when the guest is stopped already, and is let run again.
class DiskCallFailsLate : public testing::TestWithParam<CallCase>
{
};

TEST_P(DiskCallFailsLate, AndTheGuestGoesOn)
{
    const CallCase &one = GetParam();
    DiskMachines machines(4 * kMiB);
    machines.Run();
    machines.WhenStopped([&] {
        machines.disk->Write(7, 0x77); // there is something to do
        (one.source ? machines.disk : machines.copy)->fail[one.call] = one.code;
    });
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, one.code, one.text);
    EXPECT_GE(machines.from.stops, 1u);
}

TEST_P(DiskCallFails, AndTheGuestGoesOn)
{
    const CallCase &one = GetParam();
    DiskMachines machines(4 * kMiB);
    machines.Run();
    (one.source ? machines.disk : machines.copy)->fail[one.call] = one.code;
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, one.code, one.text);
}

std::string NameOfCall(const testing::TestParamInfo<CallCase> &info)
{
    static const char *const names[] = {"Read", "Flush", "Start", "Fetch",    "Stop",
                                        "Open", "Write", "Zero",  "Complete", "Discard"};
    return std::string(info.param.source ? "Source" : "Destination") + names[info.param.call];
}

INSTANTIATE_TEST_SUITE_P(
    All, DiskCallFails,
    testing::Values(CallCase{Disk::kStart, true, EIO, "disk vda: tracking its writes: told to fail with 5"},
                    CallCase{Disk::kRead, true, EIO, "disk vda: reading at byte "},
                    CallCase{Disk::kFetch, true, EIO, "disk vda: asking what was written: told to fail"},
                    CallCase{Disk::kOpen, false, EROFS, "disk vda: told to fail with 30"},
                    CallCase{Disk::kWrite, false, ENOSPC, "disk vda: writing at byte "},
                    CallCase{Disk::kFlush, false, EIO, "disk vda: making it durable: told to fail"}),
    NameOfCall);

INSTANTIATE_TEST_SUITE_P(
    All, DiskCallFailsLate,
    testing::Values(CallCase{Disk::kRead, true, EIO, "disk vda: reading at byte "},
                    CallCase{Disk::kFetch, true, EIO, "disk vda: asking what was written: told to fail"},
                    CallCase{Disk::kWrite, false, ENOSPC, "disk vda: writing at byte "},
                    CallCase{Disk::kFlush, false, EIO, "disk vda: making it durable: told to fail"}),
    NameOfCall);

TEST(DiskFailure, ImageOfTheSourceHasBecomeShorter)
{
    DiskMachines machines(4 * kMiB);
    machines.Run();
    machines.WhenStopped([&] {
        machines.disk->Write(1023, 0x77);
        EXPECT_EQ(truncate((machines.directory / "from").c_str(), kMiB), 0);
    });
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, EIO, "from has become shorter");
    EXPECT_GE(machines.from.stops, 1u);
}

TEST(DiskFailure, ZeroingFails)
{
    DiskMachines machines(4 * kMiB);
    machines.Run();
    machines.copy->fail[Disk::kZero] = EIO;
    machines.from.on_round = [&](uint32_t) { machines.disk->Write(3, 0); };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, EIO, "disk vda: zeroing at byte ");
}

// ---- HANDOVER came, and the guest did not run at the destination ----

TEST(DiskFailure, CompletingFails)
{
    DiskMachines machines(4 * kMiB);
    machines.Run();
    machines.copy->fail[Disk::kComplete] = EIO;
    machines.copy->on_call = [&](Disk::Call call, unsigned) {
        if (call == Disk::kDiscard) {
            EXPECT_EQ(machines.from.resumes, 0u) << "discarded before the source goes on";
        }
    };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, EIO, "disk vda: told to fail with 5");
    EXPECT_EQ(machines.copy->calls[Disk::kComplete], 1u);
    EXPECT_EQ(machines.to.steps.back(), HAUL_STEP_NOT_STARTED) << "no record of HANDOVER stays";
    EXPECT_EQ(move.destination_result, -EIO);
}

// Something has taken the image's name meanwhile.
TEST(DiskFailure, TheNameIsTaken)
{
    DiskMachines machines(4 * kMiB);
    machines.Run();
    std::string path = machines.directory / "to";
    machines.WhenStopped([&] { mkdir(path.c_str(), 0700); });
    Move move(machines.from, machines.to, DiskOptions());
    EXPECT_EQ(move.Wait(), -EEXIST) << move.source_error.message;
    EXPECT_EQ(rmdir(path.c_str()), 0) << "what was there was not touched";
    machines.ExpectStayed(move, EEXIST,
                          "disk vda: " + path + ".incomplete is whole, but cannot be called " + path +
                              ": File exists");
}

// Two disks: the first has its name already when the second cannot have its own.
TEST(DiskFailure, CompletingTheSecondFails)
{
    DiskMachines machines(4 * kMiB);
    MakeImage(machines.directory / "from2", kMiB, [](uint64_t) { return true; });
    MakeImage(machines.directory / "to2", kMiB, [](uint64_t) { return true; });
    Disk more(machines.directory / "from2", true, 0, "vdb");
    Disk more_copy(machines.directory / "to2", false, 0, "vdb");
    more.Plug(machines.from);
    more_copy.Plug(machines.to);
    std::vector<std::string> then;
    more_copy.on_call = [&](Disk::Call call, unsigned) {
        if (call == Disk::kComplete) {
            then = machines.directory.Names();
        }
    };
    more_copy.fail[Disk::kComplete] = EIO;
    Move move(machines.from, machines.to, DiskOptions());
    EXPECT_EQ(move.Wait(), -EIO) << move.source_error.message;
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_EQ(machines.to.starts, 0u);
    EXPECT_EQ(then, (std::vector<std::string>{"from", "from2", "to", "to2.incomplete"}));
    EXPECT_EQ(machines.directory.Names(), (std::vector<std::string>{"from", "from2", "to2.incomplete"}))
        << "what was there before is overwritten and has no name, what was created is gone";
}

// As long as a record says that HANDOVER came, the operator decides, and the image may be the guest's only
// one.
TEST(DiskFailure, CompletingFailsAndTheRecordStays)
{
    DiskMachines machines(4 * kMiB);
    std::string path = machines.directory / "to";
    mkdir(path.c_str(), 0700);
    machines.to.refuse_steps = {HAUL_STEP_NOT_STARTED};
    Move move(machines.from, machines.to, DiskOptions());
    EXPECT_LT(move.Wait(), 0);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_EQ(machines.to.starts, 0u);
    EXPECT_EQ(machines.copy->calls[Disk::kDiscard], 0u);
    EXPECT_TRUE(machines.disk->Content() == machines.copy->Content());
    machines.copy.reset();
    EXPECT_EQ(rmdir(path.c_str()), 0);
    EXPECT_EQ(machines.directory.Names(), (std::vector<std::string>{"from", "to.incomplete"}));
}

TEST(DiskFailure, GuestCertainlyDidNotStart)
{
    DiskMachines machines(4 * kMiB);
    machines.Run();
    machines.to.fail_start = true;
    machines.to.never_ran = true;
    std::vector<std::string> then;
    machines.to.on_start = [&] { then = machines.directory.Names(); };
    Move move(machines.from, machines.to, DiskOptions());
    int result = move.Wait();
    EXPECT_LT(result, 0);
    EXPECT_EQ(then, (std::vector<std::string>{"from", "to"}));
    machines.to.starts = 0; // it ran nothing
    machines.ExpectStayed(move, -result, "starting the guest");
}

// It may have run for a moment: its image is whole, has its name, and stays.
TEST(DiskFailure, GuestMayHaveStarted)
{
    DiskMachines machines(4 * kMiB);
    machines.to.fail_start = true;
    Move move(machines.from, machines.to, DiskOptions());
    EXPECT_LT(move.Wait(), 0);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_TRUE(machines.disk->Content() == machines.copy->Content());
    machines.copy.reset();
    EXPECT_EQ(machines.directory.Names(), (std::vector<std::string>{"from", "to"}));
}

// ---- a flush that gets nowhere ----

TEST(DiskFailure, StuckFlushIsGivenUp)
{
    DiskMachines machines(2 * kMiB);
    machines.Run();
    machines.copy->on_call = [](Disk::Call call, unsigned) { usleep(call == Disk::kFlush ? 5000000 : 0); };
    haul_options options = DiskOptions();
    options.timeout_s = 2;
    Move move(machines.from, machines.to, options);
    machines.ExpectStayed(move, ETIMEDOUT, "the destination answers but has not confirmed the round");
}

TEST(DiskFailure, CancelEndsALongFlush)
{
    DiskMachines machines(2 * kMiB);
    machines.Run();
    machines.copy->flush_pieces = 1000000;
    machines.copy->on_call = [&](Disk::Call call, unsigned nth) {
        if (call == Disk::kFlush && nth == 3) {
            haul_cancel(machines.destination);
        }
    };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, ECANCELED, "cancelled");
    EXPECT_LT(machines.copy->calls[Disk::kFlush], 1000u);
}

// The other side's end, too: nobody wants what is being flushed.
TEST(DiskFailure, CancelAtTheSourceEndsALongFlush)
{
    constexpr unsigned kPieces = 20000; // of a millisecond at least
    DiskMachines machines(2 * kMiB);
    machines.from.Run(5, 1000);
    machines.disk->Run(5, 1000);
    haul_migration *source = nullptr;
    machines.from.on_attach = [&, before = machines.from.on_attach](haul_migration *migration) {
        before(migration);
        source = migration;
    };
    machines.copy->flush_pieces = kPieces;
    machines.copy->on_call = [&](Disk::Call call, unsigned nth) {
        if (call == Disk::kFlush && nth == 3) {
            haul_cancel(source);
        }
        usleep(call == Disk::kFlush ? 1000 : 0);
    };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, ECANCELED, "cancelled");
    EXPECT_LT(machines.copy->calls[Disk::kFlush], kPieces);
}

// ---- the end ----

// A program may close its image in `stop`.
TEST(DiskFailure, NothingIsReadAfterStop)
{
    DiskMachines machines(16 * kMiB);
    machines.Run();
    std::atomic<bool> stopped{false};
    machines.disk->on_call = [&](Disk::Call call, unsigned nth) {
        if (call == Disk::kStop) {
            stopped = true;
        }
        if (call == Disk::kRead) {
            if (nth == 3) {
                haul_cancel(machines.source);
            }
            usleep(50000);
            EXPECT_FALSE(stopped);
        }
    };
    Move move(machines.from, machines.to, DiskOptions());
    machines.ExpectStayed(move, ECANCELED, "cancelled");
    EXPECT_TRUE(stopped);
}

// ---- verify ----

TEST(DiskFailure, VerifyFindsALostWrite)
{
    DiskMachines machines(4 * kMiB);
    machines.from.Run(5, 1000);
    machines.disk->Run(1, 1000);
    haul_options options = DiskOptions();
    options.verify = true;
    machines.WhenStopped([&] {
        machines.disk->Write(9, 0x77); // of the last pass: nothing heals it
        EXPECT_EQ(pwrite(machines.disk->fd(), "lost", 4, 9 * kPage), 4) << "what no writer writes";
        machines.copy->lose_block = 9;
    });
    Move move(machines.from, machines.to, options);
    machines.ExpectStayed(move, EBADMSG, "verify: disk vda differs at the destination");
}

TEST(DiskFailure, VerifyCannotRead)
{
    DiskMachines machines(4 * kMiB);
    machines.from.Run(5, 1000);
    machines.disk->Run(1, 1000);
    haul_options options = DiskOptions();
    options.verify = true;
    machines.copy->fail[Disk::kRead] = EIO;
    Move move(machines.from, machines.to, options);
    machines.ExpectStayed(move, EIO, "disk vda: reading at byte ");
}

// An image that was there before is partly overwritten: it must not have its name back.
TEST(DiskFailure, OverwrittenImageStaysNameless)
{
    Directory directory;
    MakeImage(directory / "from", 4 * kMiB, [](uint64_t) { return true; });
    MakeImage(directory / "to", 4 * kMiB, [](uint64_t) { return true; });
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    {
        Disk disk(directory / "from", true), copy(directory / "to", false);
        disk.Plug(from);
        copy.Plug(to);
        from.on_round = [&](uint32_t) {
            copy.fail[Disk::kWrite] = EIO;
            disk.Write(3, 0x77); // there is something to write, however seldom the writer has its turn
        };
        disk.Run(5, 100);
        haul_options options = DiskOptions();
        options.downtime_limit_ms = 0;
        Move move(from, to, options);
        EXPECT_EQ(move.Wait(), -EIO) << move.source_error.message;
        disk.Pause();
        std::string path = directory / "to";
        EXPECT_EQ(to.messages.back(), "disk vda: what was in " + path +
                                          " is overwritten in part, and it is called " + path +
                                          ".incomplete now: it is worth nothing");
    }
    EXPECT_EQ(directory.Names(), (std::vector<std::string>{"from", "to.incomplete"}));
}

// Nothing was written to it yet: it is what it was.
TEST(DiskFailure, UntouchedImageHasItsNameBack)
{
    Directory directory;
    MakeImage(directory / "from", 4 * kMiB, [](uint64_t) { return true; });
    MakeImage(directory / "to", 4 * kMiB, [](uint64_t) { return true; });
    std::string before = ReadImage(directory / "to");
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    Disk disk(directory / "from", true), copy(directory / "to", false);
    disk.Plug(from);
    copy.Plug(to);
    disk.fail[Disk::kStart] = EIO;
    Move move(from, to, DiskOptions());
    EXPECT_EQ(move.Wait(), -EIO) << move.source_error.message;
    EXPECT_EQ(copy.calls[Disk::kOpen], 1u);
    EXPECT_EQ(directory.Names(), (std::vector<std::string>{"from", "to"}));
    EXPECT_TRUE(ReadImage(directory / "to") == before);
}

// ---- cancel, death and silence in each state ----

enum class End { kCancelSource, kCancelDestination, kCut, kSilence };

// In setup the two may have greeted each other already, or not.
struct EndCase {
    haul_state state;
    End end;
    bool met = true;
};

class DiskEnds : public testing::TestWithParam<EndCase>
{
};

TEST_P(DiskEnds, LeaveTheGuestAtTheSource)
{
    const EndCase &one = GetParam();
    DiskMachines machines(4 * kMiB);
    Proxy proxy;
    auto strike = [&] {
        if (one.end == End::kCut) {
            proxy.CutAll();
        } else if (one.end == End::kSilence) {
            proxy.StallAll();
        } else {
            haul_cancel(one.end == End::kCancelSource ? machines.source : machines.destination);
        }
    };
    if (one.state == HAUL_STATE_SETUP && one.met) {
        machines.from.on_setup = strike;
    } else {
        machines.from.on_state = [&](haul_state state) {
            if (state == one.state) {
                strike();
            }
        };
    }
    machines.Run();
    haul_options options = DiskOptions();
    options.timeout_s = one.end == End::kSilence ? 2 : options.timeout_s;
    Move move(machines.from, machines.to, options, "tcp:127.0.0.1:0",
              [&](const std::string &uri) { return proxy.Open(uri); });
    if (!one.met) { // the destination waits on for whoever comes next
        move.source_result = haul_wait(move.source, &move.source_error);
        haul_cancel(move.destination);
    }
    bool told = one.end == End::kCancelSource || (one.end == End::kCancelDestination && one.met);
    machines.ExpectStayed(move, told ? ECANCELED : one.end == End::kSilence ? ETIMEDOUT : 0, "");
    EXPECT_EQ(machines.copy != nullptr, one.met) << "whether it was opened";
}

std::vector<EndCase> EndCases()
{
    std::vector<EndCase> cases;
    for (End end : {End::kCancelSource, End::kCancelDestination, End::kCut, End::kSilence}) {
        cases.push_back({HAUL_STATE_SETUP, end, false});
        for (haul_state state :
             {HAUL_STATE_SETUP, HAUL_STATE_ACTIVE, HAUL_STATE_PRE_SWITCHOVER, HAUL_STATE_DEVICE}) {
            cases.push_back({state, end});
        }
    }
    return cases;
}

std::string NameOfEnd(const testing::TestParamInfo<EndCase> &info)
{
    static const char *const ends[] = {"CancelSource", "CancelDestination", "Cut", "Silence"};
    std::string state = haul_state_name(info.param.state);
    state.erase(std::remove(state.begin(), state.end(), '-'), state.end());
    return state + ends[static_cast<int>(info.param.end)] + (info.param.met ? "" : "Unmet");
}

INSTANTIATE_TEST_SUITE_P(All, DiskEnds, testing::ValuesIn(EndCases()), NameOfEnd);

// Nothing more is said while the disk is sent: on all connections, or on the data connections only, so that
// the other side seems to live.
class DiskSilence : public testing::TestWithParam<bool>
{
};

TEST_P(DiskSilence, WhileTheDiskIsSentLeavesTheGuestAtTheSource)
{
    constexpr unsigned kReads = 3;
    DiskMachines machines(32 * kMiB); // more than sockets hold
    Proxy proxy;
    machines.disk->on_call = [&](Disk::Call call, unsigned nth) {
        if (call == Disk::kRead && nth == kReads) {
            for (unsigned i = GetParam() ? Proxy::kControl : Proxy::Channel(0); i < proxy.connections();
                 i++) {
                proxy.Stall(i);
            }
        }
    };
    machines.Run();
    haul_options options = DiskOptions();
    options.timeout_s = 2;
    Move move(machines.from, machines.to, options, "tcp:127.0.0.1:0",
              [&](const std::string &uri) { return proxy.Open(uri); });
    machines.ExpectStayed(move, ETIMEDOUT, "");
    EXPECT_EQ(machines.from.stops, 0u) << "the disk was all sent";
}

INSTANTIATE_TEST_SUITE_P(All, DiskSilence, testing::Bool(), [](const auto &info) {
    return std::string(info.param ? "OnAllConnections" : "OnTheChannels");
});

} // namespace
