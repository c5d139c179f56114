// SPDX-License-Identifier: Apache-2.0
// Whole moves inside one process: what arrives, what is counted, who owns the guest.
#include "tests/engine/move.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

using namespace haul_test;

static constexpr size_t kMiB = 1 << 20;

static void ExpectMoved(Move &move)
{
    std::string where;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message << " / " << move.destination_error.message;
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_TRUE(SameMemory(move.from, move.to, &where)) << where;
    EXPECT_EQ(move.from.writes, move.to.restored);
    EXPECT_EQ(move.to.starts, 1u);
    EXPECT_EQ(move.from.handed_over, 1u);
    EXPECT_FALSE(move.from.running());
    EXPECT_EQ(move.stats.state, HAUL_STATE_COMPLETED);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_DESTINATION);
}

struct Case {
    const char *name;
    unsigned channels;
    const char *compress;
    const char *listen;
    bool verify;
};

class Moves : public testing::TestWithParam<Case>
{
};

TEST_P(Moves, WithAWritingGuest)
{
    Guest from({8 * kMiB, 3 * kMiB}, true);
    Guest to({8 * kMiB, 3 * kMiB}, false);
    from.Run(20, 1000);
    haul_options options = Options();
    options.channels = GetParam().channels;
    options.compress = GetParam().compress;
    options.verify = GetParam().verify;
    Move move(from, to, options, GetParam().listen);
    ExpectMoved(move);
    EXPECT_GE(move.stats.normal, 11 * kMiB / kPage);
    EXPECT_GT(move.stats.actual.total_ns, 0u);
    EXPECT_GT(move.stats.transferred, 11 * kMiB);
}

INSTANTIATE_TEST_SUITE_P(All, Moves,
                         testing::Values(Case{"OneUnix", 1, "none", "", false},
                                         Case{"FourTcp", 4, "none", "tcp:127.0.0.1:0", false},
                                         Case{"TwoLz4Verify", 2, "lz4", "tcp:127.0.0.1:0", true},
                                         Case{"EightAuto", 8, "auto", "", false},
                                         Case{"Most", 128, "none", "", true}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(Migration, StatesComeInOrder)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Move move(from, to, Options());
    ExpectMoved(move);
    EXPECT_EQ(from.states,
              (std::vector<enum haul_state>{HAUL_STATE_SETUP, HAUL_STATE_ACTIVE, HAUL_STATE_PRE_SWITCHOVER,
                                            HAUL_STATE_DEVICE, HAUL_STATE_COMPLETED}));
    EXPECT_EQ(to.states, (std::vector<enum haul_state>{HAUL_STATE_SETUP, HAUL_STATE_ACTIVE, HAUL_STATE_DEVICE,
                                                       HAUL_STATE_COMPLETED}));
    EXPECT_EQ(from.steps, (std::vector<enum haul_step>{HAUL_STEP_HANDOVER_SENDING, HAUL_STEP_RUNNING}));
    EXPECT_EQ(to.steps, (std::vector<enum haul_step>{HAUL_STEP_HANDOVER_RECEIVED, HAUL_STEP_RUNNING}));
}

TEST(Migration, UntouchedMemoryStaysUntouched)
{
    Guest from({64 * kMiB}, false), to({64 * kMiB}, false);
    from.Write(0, 5, 42); // the first and the last bytes of one page
    haul_options options = Options();
    options.populate = false;
    Move move(from, to, options);
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_LE(from.blocks[0]->allocated_bytes(), 2 * kPage);
    EXPECT_LE(to.blocks[0]->allocated_bytes(), 2 * kPage);
    EXPECT_EQ(move.stats.holes, 64 * kMiB / kPage - 1);
    EXPECT_LT(move.stats.transferred, kMiB);
}

// Trap T5: what was at the destination before must not shine through.
TEST(Migration, OldContentsAtTheDestinationAreZeroed)
{
    Guest from({4 * kMiB}, false), to({4 * kMiB}, true);
    from.Write(0, 5, 42);
    Move move(from, to, Options());
    ExpectMoved(move);
}

// Trap T9: saving the device state may write guest memory.
TEST(Migration, WhatSavingTheStateWritesIsSent)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.on_save = [](Guest &guest) { guest.Write(0, 77, 4711); };
    Move move(from, to, Options());
    ExpectMoved(move);
}

TEST(Migration, TwoMovesInOneProcess)
{
    Guest a({4 * kMiB}, true), b({4 * kMiB}, false), c({4 * kMiB}, true), d({4 * kMiB}, false);
    a.Run(5, 1000);
    c.Run(5, 1000);
    Move first(a, b, Options()), second(c, d, Options());
    ExpectMoved(first);
    ExpectMoved(second);
}

TEST(Migration, MaxBandwidthIsKept)
{
    Guest from({8 * kMiB}, true), to({8 * kMiB}, false);
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = 16 * kMiB;
    Move move(from, to, options);
    ExpectMoved(move);
    EXPECT_GT(move.stats.total_time_ns, 400000000u); // half a second, less the burst
}

// ---- failures: the guest goes on at the source ----

static void ExpectStaysAtSource(Move &move, int code, const char *text)
{
    EXPECT_EQ(move.Wait(), -code) << move.source_error.message;
    EXPECT_NE(std::string(move.source_error.message).find(text), std::string::npos)
        << move.source_error.message;
    EXPECT_LT(move.destination_result, 0);
    EXPECT_EQ(move.to.starts, 0u);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_TRUE(move.from.running());
}

TEST(MigrationFailure, BlockOfAnotherSize)
{
    Guest from({4 * kMiB}, true), to({2 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Options());
    ExpectStaysAtSource(move, EINVAL, "same memory size");
}

TEST(MigrationFailure, MissingBlock)
{
    Guest from({4 * kMiB, 4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Options());
    ExpectStaysAtSource(move, EINVAL, "the source has 2 RAM blocks, the destination 1");
}

TEST(MigrationFailure, GuestDoesNotStop)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    from.fail_stop = true;
    Move move(from, to, Options());
    ExpectStaysAtSource(move, EIO, "stopping the guest: the guest refuses to stop");
}

TEST(MigrationFailure, StateCannotBeSaved)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    from.fail_save = true;
    Move move(from, to, Options());
    ExpectStaysAtSource(move, EIO, "state handler counter: the state cannot be saved");
    EXPECT_GE(from.resumes, 1u);
}

TEST(MigrationFailure, GuestDoesNotRunAgain)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    from.fail_save = true;
    from.fail_resume = 1;
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EIO);
    EXPECT_STREQ(move.source_error.message,
                 "the guest does not run at the source: the guest refuses to run; before that: "
                 "state handler counter: the state cannot be saved");
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_EQ(move.stats.resume_error, -EBUSY);
    EXPECT_EQ(from.runs, (std::vector<bool>{false}));
    EXPECT_EQ(from.steps, std::vector<haul_step>{});
    EXPECT_EQ(to.starts, 0u);
}

TEST(MigrationFailure, ProcessOfARunningGuestEnds)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_migration *source = nullptr;
    from.on_attach = [&](haul_migration *migration) { source = migration; };
    from.on_state = [&](haul_state state) {
        if (state == HAUL_STATE_ACTIVE) {
            haul_cancel(source);
        }
    };
    from.fail_resume = 1; // the hook is asked although nothing was stopped
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -ECANCELED);
    EXPECT_EQ(from.stops, 0u);
    EXPECT_EQ(move.stats.resume_error, -EBUSY);
    EXPECT_EQ(from.steps, std::vector<haul_step>{});
}

TEST(MigrationFailure, StateCannotBeLoaded)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    to.fail_load = true;
    Move move(from, to, Options());
    ExpectStaysAtSource(move, EIO, "the state cannot be loaded");
}

TEST(MigrationFailure, SourceRecordCannotBeWritten)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    from.refuse_steps = {HAUL_STEP_HANDOVER_SENDING};
    Move move(from, to, Options());
    ExpectStaysAtSource(move, ENOSPC, "the record cannot be written");
}

// Rule R1: after HANDOVER only the operator may decide.
TEST(MigrationFailure, StartFailsAfterHandover)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    to.fail_start = true;
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EIO) << move.source_error.message;
    EXPECT_NE(std::string(move.source_error.message).find("stays paused here"), std::string::npos);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(from.running());
    EXPECT_EQ(from.resumes, 0u);
}

// A record that could not be written at the handover is one that cannot be written now.
TEST(MigrationFailure, TheTrialOfARecordFails)
{
    for (bool at_source : {true, false}) {
        Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
        from.Run(5, 1000);
        (at_source ? from : to).refuse_steps = {HAUL_STEP_TRIAL};
        Move move(from, to, Options());
        EXPECT_EQ(move.Wait(), -ENOSPC) << move.source_error.message;
        EXPECT_EQ(from.stops, 0u) << "before the guest stands still for it";
        EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_TRUE(from.running());
    }
}

// Where the destination is certain, the guest goes on at the source.
TEST(MigrationFailure, DestinationRecordCannotBeWritten)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    to.refuse_steps = {HAUL_STEP_HANDOVER_RECEIVED};
    Move move(from, to, Options());
    ExpectStaysAtSource(move, ENOSPC, "reports: the record cannot be written");
    EXPECT_EQ(to.steps, (std::vector<enum haul_step>{HAUL_STEP_HANDOVER_RECEIVED, HAUL_STEP_NOT_STARTED}));
    haul_stats stats{};
    haul_get_stats(move.destination, &stats);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
}

TEST(MigrationFailure, DestinationRecordCanNeitherBeWrittenNorWithdrawn)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    to.refuse_steps = {HAUL_STEP_HANDOVER_RECEIVED, HAUL_STEP_NOT_STARTED};
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -ENOSPC) << move.source_error.message;
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(from.running());
    EXPECT_EQ(to.starts, 0u);
    haul_stats stats{};
    haul_get_stats(move.destination, &stats);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_UNCERTAIN);
}

TEST(MigrationFailure, StartFailsWithoutHavingStarted)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    to.fail_start = true;
    to.never_ran = true;
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EIO) << move.source_error.message;
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE) << move.source_error.message;
    EXPECT_TRUE(from.running());
    EXPECT_EQ(to.asked_never_ran, 1u);
}

// Memory that both sides share may have been written from the start hook on.
TEST(MigrationFailure, StartFailsOnMemoryThatWasHandedOver)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    to.fail_start = true;
    to.never_ran = true;
    haul_options options = Options();
    options.mode = "cpr-transfer";
    Move move(from, to, options);
    EXPECT_EQ(move.Wait(), -EIO) << move.source_error.message;
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(from.running());
}

TEST(MigrationFailure, NobodyListens)
{
    Guest from({kMiB}, true);
    from.Run(5, 1000);
    haul_options options = Options();
    haul_migration *source = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    ASSERT_EQ(haul_start(source, "unix:/nonexistent/haul.sock", &error), 0);
    EXPECT_EQ(haul_wait(source, &error), -ENOENT) << error.message;
    EXPECT_NE(std::string(error.message).find("/nonexistent/haul.sock"), std::string::npos) << error.message;
    EXPECT_EQ(haul_get_state(source), HAUL_STATE_FAILED);
    EXPECT_TRUE(from.running());
    haul_free(source);
}

TEST(MigrationFailure, DoesNotConverge)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.Run(500, 100);
    from.on_round = [&from](uint32_t round) { // whatever the scheduler does, every scan finds 1000 pages
        for (uint64_t page = 0; page < 1000; page++) {
            from.Write(0, page, round);
        }
    };
    haul_options options = Options();
    options.switchover_bandwidth_bytes_per_s = kMiB; // a pessimist
    options.downtime_limit_ms = 1;
    options.max_rounds = 8;
    Move move(from, to, options);
    ExpectStaysAtSource(move, ETIME, "not converged after 8 rounds");
    std::string said;
    for (const auto &message : from.messages) {
        said += message;
    }
    EXPECT_NE(said.find("does not converge"), std::string::npos) << said;
}

TEST(Migration, AutoConvergeThrottles)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.Run(200, 500);
    haul_options options = Options();
    options.switchover_bandwidth_bytes_per_s = 10 * kMiB;
    options.downtime_limit_ms = 300;
    options.auto_converge = true;
    Move move(from, to, options);
    ExpectMoved(move);
}

TEST(Migration, AGuestWithAClockOfItsOwnHasNoEndlessDowntime)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.clock_ahead_ns = 3600u * UINT64_C(1000000000);
    Move move(from, to, Options());
    ExpectMoved(move);
    EXPECT_EQ(move.stats.actual.stop_ns, 0u);
    EXPECT_LT(move.stats.actual.total_ns, from.clock_ahead_ns);
}

// ---- RAM blocks ----

TEST(Ram, APrivateMappingOfItsFileIsRefused)
{
    Memory memory(16 * kPage);
    void *at = mmap(nullptr, memory.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE, memory.fd(), 0);
    ASSERT_NE(at, MAP_FAILED);
    haul_options options = Options();
    haul_migration *migration = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &migration, &error), 0) << error.message;
    haul_ram_block block = {"ram", at, memory.size(), kPage, memory.fd(), 0};
    ASSERT_EQ(haul_add_ram(migration, &block, &error), 0) << error.message;
    EXPECT_EQ(haul_start(migration, UnixUri().c_str(), &error), -EINVAL);
    EXPECT_STREQ(error.message,
                 "RAM block ram: its file is mapped privately (MAP_PRIVATE), so the file lacks "
                 "what was written: map it shared, or give -1 for the file");
    haul_free(migration);
    munmap(at, memory.size());
}

// ---- options ----

TEST(Options, OutOfRangeIsNamed)
{
    haul_migration *migration = nullptr;
    haul_error error{};
    haul_options options = Options();
    options.channels = 129;
    EXPECT_EQ(haul_source_new(&options, &migration, &error), -EINVAL);
    EXPECT_STREQ(error.message, "channels is 129; it must be 1 to 128");
    options = Options();
    options.compress = "zip";
    EXPECT_EQ(haul_source_new(&options, &migration, &error), -EINVAL);
    EXPECT_STREQ(error.message, "compress is \"zip\"; it must be one of none|lz4|auto");
    options = Options();
    options.timeout_s = 0;
    EXPECT_EQ(haul_destination_new(&options, &migration, &error), -EINVAL);
    EXPECT_STREQ(error.message, "timeout_s is 0; it must be 1 to 3600");
    options = Options();
    options.placement = "4095";
    EXPECT_EQ(haul_source_new(&options, &migration, &error), -EINVAL);
    EXPECT_NE(strstr(error.message, "CPU 4095 is not usable here"), nullptr) << error.message;
    EXPECT_EQ(haul_destination_new(&options, &migration, &error), -EINVAL);
    EXPECT_NE(strstr(error.message, "CPU 4095 is not usable here"), nullptr) << error.message;
    options.size = 0;
    EXPECT_EQ(haul_destination_new(&options, &migration, &error), -EINVAL);
    EXPECT_EQ(migration, nullptr);
}

TEST(Options, DescriptorsAreTakenByName)
{
    haul_options options = Options();
    haul_migration *migration = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_source_new(&options, &migration, &error), 0) << error.message;
    int pipes[2];
    ASSERT_EQ(pipe(pipes), 0);
    EXPECT_EQ(haul_add_fd(migration, "control", pipes[1], &error), 0) << error.message;
    EXPECT_EQ(haul_add_fd(migration, "control", pipes[0], &error), -EEXIST);
    EXPECT_STREQ(error.message, "there is a descriptor with the name control already");
    for (const char *name : {"", "3", "a,b", "a/b"}) {
        EXPECT_EQ(haul_add_fd(migration, name, pipes[0], &error), -EINVAL) << name;
        EXPECT_NE(strstr(error.message, "is not a descriptor's name"), nullptr) << error.message;
    }
    haul_free(migration);
    char byte;
    EXPECT_EQ(read(pipes[0], &byte, 1), 0) << "the migration closes what it was handed";
    close(pipes[0]);
}

TEST(Options, AutoConvergeNeedsAGuestThatCanBeSlowedDown)
{
    Guest from({kMiB}, true);
    haul_options options = Options();
    options.auto_converge = true;
    haul_migration *source = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    const haul_guest_ops unthrottled{};
    ASSERT_EQ(haul_set_guest(source, &unthrottled, nullptr, &error), 0);
    EXPECT_EQ(haul_start(source, "unix:/nonexistent/haul.sock", &error), -ENOTSUP);
    EXPECT_STREQ(error.message, "this kind of guest cannot be slowed down: leave auto-converge out");
    haul_free(source);
}

TEST(Migration, IncompleteTrackersAndGuardsAreRefused)
{
    const haul_options options = Options();
    haul_migration *migration;
    haul_error error;
    ASSERT_EQ(haul_source_new(&options, &migration, &error), 0) << error.message;
    const haul_tracker_ops tracker = {};
    const haul_write_guard_ops guard = {};
    EXPECT_EQ(haul_set_tracker(migration, &tracker, nullptr, &error), -EINVAL);
    EXPECT_STREQ(error.message, "a dirty tracker needs name, start, sync and stop");
    EXPECT_EQ(haul_set_write_guard(migration, &guard, nullptr, &error), -EINVAL);
    EXPECT_STREQ(error.message, "a write guard needs name, protect, release, wait and stop");
    haul_free(migration);
}
