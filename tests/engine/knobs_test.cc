// SPDX-License-Identifier: Apache-2.0
// What may be set while a migration runs, the hold before the switchover, the list of threads, and the events
// behind them.
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr uint64_t kMs = 1000000;

haul_options Slow()
{
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = kMiB; // round 1 takes as many seconds as there are MiB
    return options;
}

haul_stats Stats(haul_migration *migration)
{
    haul_stats stats{};
    haul_get_stats(migration, &stats);
    return stats;
}

bool Reaches(haul_migration *migration, haul_state state)
{
    return Eventually([&] { return haul_get_state(migration) == state; });
}

void ExpectMoved(Move &move)
{
    std::string where;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message << " / " << move.destination_error.message;
    EXPECT_TRUE(SameMemory(move.from, move.to, &where)) << where;
    EXPECT_EQ(move.from.writes, move.to.restored);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_DESTINATION);
}

// ---- limits ----

TEST(Knobs, LiftingMaxBandwidthEndsASlowRound)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Slow());
    ASSERT_TRUE(Reaches(move.source, HAUL_STATE_ACTIVE));
    haul_set_max_bandwidth(move.source, 0);
    ExpectMoved(move);
    EXPECT_LT(move.stats.total_time_ns, 8000 * kMs) << "16 s at the first limit";
}

TEST(Knobs, LoweringMaxBandwidthActsWithinARound)
{
    Guest from({64 * kMiB}, true), to({64 * kMiB}, false);
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = 32 * kMiB;
    Move move(from, to, options);
    auto sends = [&](uint64_t bytes) {
        uint64_t before = Stats(move.source).transferred;
        EXPECT_TRUE(Eventually([&] { return Stats(move.source).transferred - before > bytes; }));
    };
    sends(4 * kMiB);
    constexpr int64_t kEnough = 2 * kMiB;
    int64_t sent = BestOfTries(kEnough, [&](int) {
        haul_set_max_bandwidth(move.source, 32 * kMiB);
        sends(kMiB);
        haul_set_max_bandwidth(move.source, 1);
        usleep(100000); // what was handed out before still goes
        uint64_t before = Stats(move.source).transferred;
        usleep(300000);
        return static_cast<int64_t>(Stats(move.source).transferred - before);
    });
    EXPECT_LT(sent, kEnough) << "10 MiB at the first limit";
    haul_set_max_bandwidth(move.source, 0);
    ExpectMoved(move);
}

// The round that is under way is cut short, and what it left goes in the last pass.
TEST(Knobs, RaisingTheDowntimeLimitDoesNotWaitForTheRound)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.Run(5, 1000);
    haul_options options = Slow();
    options.downtime_limit_ms = 0;
    Move move(from, to, options);
    ASSERT_TRUE(Eventually([&] { return Stats(move.source).transferred > kMiB / 2; }));
    EXPECT_EQ(Stats(move.source).downtime_limit_ns, 0u);
    haul_error error{};
    ASSERT_EQ(haul_set_downtime_limit(move.source, 60000, &error), 0) << error.message;
    EXPECT_EQ(Stats(move.source).downtime_limit_ns, 60000 * kMs);
    ExpectMoved(move);
    EXPECT_LT(move.stats.total_time_ns, 8000 * kMs);
    EXPECT_EQ(move.stats.downtime_limit_ns, 60000 * kMs);
}

TEST(Knobs, TheThresholdFollowsWithin100Ms)
{
    Guest from({160 * kMiB}, true), to({160 * kMiB}, false);
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = 8 * kMiB; // lifted long before all has gone
    options.downtime_limit_ms = 0;
    options.switchover_bandwidth_bytes_per_s = kMiB; // the scan alone exceeds the limit
    Move move(from, to, options);
    ASSERT_TRUE(Reaches(move.source, HAUL_STATE_ACTIVE));
    haul_error error{};
    ASSERT_EQ(haul_set_downtime_limit(move.source, 1, &error), 0);
    auto follows = [&](uint64_t threshold, Clock::time_point set) {
        EXPECT_TRUE(Eventually([&] { return Stats(move.source).threshold_size == threshold; }))
            << Stats(move.source).threshold_size;
        return MsSince(set);
    };
    int64_t bandwidth_ms = BestOfTries(kAtOnceMs, [&](int i) {
        auto set = Clock::now();
        haul_set_switchover_bandwidth(move.source, (3990 + static_cast<uint64_t>(i)) * 1000);
        return follows(3990 + static_cast<uint64_t>(i), set);
    });
    EXPECT_LT(bandwidth_ms, kAtOnceMs);
    haul_set_switchover_bandwidth(move.source, 4000 * 1000);
    follows(4000, Clock::now());
    EXPECT_TRUE(Eventually([&] { return Stats(move.source).bandwidth_bytes_per_s > 4 * kMiB; }))
        << "as measured, whatever is assumed of the switchover";
    int64_t limit_ms = BestOfTries(kAtOnceMs, [&](int i) {
        auto set = Clock::now();
        EXPECT_EQ(haul_set_downtime_limit(move.source, 2 + static_cast<uint32_t>(i), &error), 0);
        return follows(4000 * (2 + static_cast<uint64_t>(i)), set);
    });
    EXPECT_LT(limit_ms, kAtOnceMs);
    haul_set_switchover_bandwidth(move.source, 0);
    ASSERT_EQ(haul_set_downtime_limit(move.source, 5000, &error), 0);
    haul_set_max_bandwidth(move.source, 0);
    ExpectMoved(move);
}

TEST(Knobs, SwitchoverBandwidthDecides)
{
    Guest from({8 * kMiB}, true), to({8 * kMiB}, false);
    from.on_round = [&](uint32_t round) { from.Fill(0, 10, static_cast<unsigned char>(round)); };
    haul_options options = Options();
    options.downtime_limit_ms = 2000;
    options.switchover_bandwidth_bytes_per_s = 1; // nothing ever fits
    Move move(from, to, options);
    ASSERT_TRUE(Eventually([&] { return Stats(move.source).dirty_sync_count > 5; }));
    EXPECT_EQ(haul_get_state(move.source), HAUL_STATE_ACTIVE);
    haul_set_switchover_bandwidth(move.source, 0);
    ExpectMoved(move);
}

TEST(Knobs, WrongValuesAreRefusedAndNamed)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Move move(from, to, Slow());
    haul_error error{};
    EXPECT_EQ(haul_set_downtime_limit(move.source, 2000001, &error), -EINVAL);
    EXPECT_STREQ(error.message, "downtime_limit_ms is 2000001; it must be 0 to 2000000");
    EXPECT_EQ(haul_set_throttle(move.source, 100, &error), -EINVAL);
    EXPECT_STREQ(error.message, "the throttle is 100 %; it must be 0 to 99");
    EXPECT_EQ(haul_set_throttle(move.destination, 10, &error), -ENOTSUP);
    EXPECT_STREQ(error.message, "a guest is slowed down at its source");
    haul_cancel(move.source);
}

// ---- throttle ----

TEST(Knobs, ThrottleReachesTheGuestAndEndsWithTheMove)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Slow());
    ASSERT_TRUE(Reaches(move.source, HAUL_STATE_ACTIVE));
    haul_error error{};
    int64_t ms = BestOfTries(kAtOnceMs, [&](int i) {
        auto set = Clock::now();
        unsigned percent = 40 + static_cast<unsigned>(i);
        EXPECT_EQ(haul_set_throttle(move.source, percent, &error), 0) << error.message;
        EXPECT_TRUE(Eventually([&] { return from.throttle_ == percent; }));
        EXPECT_TRUE(Eventually([&] { return Stats(move.source).throttle_percent == percent; }));
        return MsSince(set);
    });
    EXPECT_LT(ms, kAtOnceMs);
    ASSERT_EQ(haul_set_throttle(move.source, 0, &error), 0) << error.message;
    EXPECT_TRUE(Eventually([&] { return from.throttle_ == 0u; }));
    ASSERT_EQ(haul_set_throttle(move.source, 70, &error), 0) << error.message;
    EXPECT_TRUE(Eventually([&] { return from.throttle_ == 70u; }));
    haul_cancel(move.source);
    EXPECT_EQ(move.Wait(), -ECANCELED);
    EXPECT_EQ(from.throttle_, 0u) << "the guest goes on at full speed";
}

// A guest whose move never converges, and may be slowed down for it.
haul_options NeverConverges(Guest &from)
{
    from.on_round = [&](uint32_t round) { from.Fill(0, 10, static_cast<unsigned char>(round)); };
    haul_options options = Options();
    options.downtime_limit_ms = 0; // nothing ever fits, little as it writes
    options.auto_converge = true;
    return options;
}

TEST(Throttle, GrowsInStepsToItsEnd)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    haul_options options = NeverConverges(from);
    options.throttle_steps = {30, 25, 70, false};
    Move move(from, to, options);
    ASSERT_TRUE(Eventually([&] { return from.Throttles().size() >= 4; }));
    std::vector<unsigned> throttles = from.Throttles();
    throttles.resize(4);
    EXPECT_EQ(throttles, (std::vector<unsigned>{30, 55, 70, 70}));
    haul_cancel(move.source);
    EXPECT_EQ(move.Wait(), -ECANCELED);
    EXPECT_EQ(from.throttle_, 0u) << "the guest goes on at full speed";
}

TEST(Throttle, ThatFailsIsToldAndTheMoveGoesOn)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.fail_throttle = true;
    Move move(from, to, NeverConverges(from));
    ASSERT_TRUE(Eventually([&] { return from.Throttles().size() >= 2; })) << "tried again";
    EXPECT_EQ(Stats(move.source).throttle_percent, 0u);
    from.fail_throttle = false;
    ASSERT_TRUE(Eventually([&] { return Stats(move.source).throttle_percent > 0; }));
    haul_cancel(move.source);
    EXPECT_EQ(move.Wait(), -ECANCELED) << move.source_error.message;
    std::string said;
    for (const auto &message : from.messages) {
        said += message;
    }
    EXPECT_NE(said.find("the guest could not be slowed down by 20 %: it will not slow down"),
              std::string::npos)
        << said;
}

TEST(Throttle, GrowsNoMoreThanNeededAtItsTail)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    haul_options options = NeverConverges(from);
    options.throttle_steps = {20, 79, 99, true};
    Move move(from, to, options);
    /* A whole step leads from 20 to 99. How soon a smaller one is enough depends on the bandwidth, but it is
     * unless the guest writes eighty times as much as the channels carry. */
    EXPECT_TRUE(Eventually([&] {
        const std::vector<unsigned> throttles = from.Throttles();
        return throttles.size() > 1 && throttles[1] < 99;
    }));
    haul_cancel(move.source);
}

TEST(Throttle, StepsMayBeChangedWhileItRuns)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    haul_options options = NeverConverges(from);
    options.throttle_steps = {80, 1, 80, false};
    Move move(from, to, options);
    ASSERT_TRUE(Eventually([&] { return from.throttle_ == 80u; }));
    haul_error error{};
    const haul_throttle_steps lower = {20, 10, 50, false};
    ASSERT_EQ(haul_set_throttle_steps(move.source, &lower, &error), 0) << error.message;
    EXPECT_TRUE(Eventually([&] { return from.throttle_ == 50u; })) << "a lower end holds for what was done";
    const haul_throttle_steps higher = {20, 10, 60, false};
    ASSERT_EQ(haul_set_throttle_steps(move.source, &higher, &error), 0) << error.message;
    EXPECT_TRUE(Eventually([&] { return from.throttle_ == 60u; }));
    haul_cancel(move.source);
}

TEST(Throttle, WrongStepsAreRefused)
{
    haul_migration *source = nullptr;
    haul_error error{};
    for (haul_throttle_steps steps : {haul_throttle_steps{0, 10, 99, false},
                                      {20, 0, 99, false},
                                      {20, 10, 100, false},
                                      {20, 10, 19, false},
                                      {20, 300, 99, false}}) {
        haul_options options = Options();
        options.throttle_steps = steps;
        EXPECT_EQ(haul_source_new(&options, &source, &error), -EINVAL);
        EXPECT_EQ(std::string(error.message).rfind("the throttle begins with ", 0), 0u) << error.message;
    }
}

TEST(Knobs, AGuestWithoutTheHookIsNotSlowedDown)
{
    Guest from({kMiB}, true);
    haul_options options = Options();
    haul_migration *source = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    const haul_guest_ops none{};
    ASSERT_EQ(haul_set_guest(source, &none, nullptr, &error), 0);
    EXPECT_EQ(haul_set_throttle(source, 10, &error), -ENOTSUP);
    EXPECT_STREQ(error.message, "this kind of guest cannot be slowed down");
    haul_free(source);
}

// ---- the hold before the switchover ----

haul_options Held()
{
    haul_options options = Options();
    options.pause_before_switchover = true;
    return options;
}

TEST(Hold, StaysInPreSwitchoverUntilContinue)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Held());
    ASSERT_TRUE(Reaches(move.source, HAUL_STATE_PRE_SWITCHOVER));
    EXPECT_FALSE(from.running()) << "the guest is stopped before the state says so";
    usleep(150000);
    EXPECT_EQ(haul_get_state(move.source), HAUL_STATE_PRE_SWITCHOVER);
    EXPECT_EQ(to.starts, 0u);
    EXPECT_EQ(haul_continue(move.source), 0);
    EXPECT_EQ(haul_continue(move.source), -EINVAL) << "once";
    ExpectMoved(move);
    EXPECT_GT(move.stats.actual.held_ns, 140 * kMs);
    EXPECT_GE(move.stats.actual.total_ns, move.stats.actual.held_ns);
    EXPECT_LT(move.stats.actual.last_pass_ns, move.stats.actual.total_ns);
}

TEST(Hold, MayBeContinuedByWhoeverSeesTheState)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    std::atomic<haul_migration *> source{nullptr};
    std::atomic<int> answer{1};
    from.on_state = [&](haul_state state) {
        if (state == HAUL_STATE_PRE_SWITCHOVER) {
            while (!source) {
                usleep(1000);
            }
            answer = haul_continue(source);
        }
    };
    Move move(from, to, Held());
    source = move.source;
    ExpectMoved(move);
    EXPECT_EQ(answer, 0);
}

TEST(Hold, ContinueIsRefusedWhenNothingIsHeld)
{
    Guest from({8 * kMiB}, true), to({8 * kMiB}, false);
    Move move(from, to, Slow());
    ASSERT_TRUE(Reaches(move.source, HAUL_STATE_ACTIVE));
    EXPECT_EQ(haul_continue(move.source), -EINVAL);
    EXPECT_EQ(haul_continue(move.destination), -EINVAL);
    haul_set_max_bandwidth(move.source, 0);
    ExpectMoved(move);
    EXPECT_EQ(haul_continue(move.source), -EINVAL);
    EXPECT_EQ(move.stats.actual.held_ns, 0u);
}

TEST(Hold, CancelWhileHeldResumesTheGuest)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Held());
    ASSERT_TRUE(Reaches(move.source, HAUL_STATE_PRE_SWITCHOVER));
    EXPECT_EQ(haul_cancel(move.source), 0);
    EXPECT_EQ(move.Wait(), -ECANCELED) << move.source_error.message;
    EXPECT_TRUE(from.running());
    EXPECT_EQ(to.starts, 0u);
    EXPECT_EQ(haul_continue(move.source), -EINVAL) << "too late";
    EXPECT_EQ(haul_get_state(move.source), HAUL_STATE_CANCELLED);
}

TEST(Hold, ADestinationThatEndsWhileHeldLeavesTheGuestHere)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Held());
    ASSERT_TRUE(Reaches(move.source, HAUL_STATE_PRE_SWITCHOVER));
    haul_free(move.destination);
    move.destination = nullptr;
    haul_error error{};
    EXPECT_LT(haul_wait(move.source, &error), 0);
    EXPECT_NE(std::string(error.message).find("cancelled"), std::string::npos) << error.message;
    EXPECT_EQ(Stats(move.source).ownership, HAUL_OWNER_SOURCE);
    EXPECT_TRUE(from.running());
}

// ---- threads ----

std::vector<std::string> Names(haul_migration *migration)
{
    haul_thread threads[64];
    unsigned count = haul_threads(migration, threads, 64);
    std::vector<std::string> names;
    for (unsigned i = 0; i < count; i++) {
        names.emplace_back(threads[i].name);
        std::string task = "/proc/self/task/" + std::to_string(threads[i].tid);
        EXPECT_EQ(access(task.c_str(), F_OK), 0) << threads[i].name << " is not alive";
    }
    return names;
}

using Tasks = std::map<int, std::string>;

Tasks Listed(std::initializer_list<haul_migration *> migrations)
{
    Tasks tasks;
    for (haul_migration *migration : migrations) {
        haul_thread threads[64];
        unsigned count = haul_threads(migration, threads, 64);
        for (unsigned i = 0; i < count; i++) {
            tasks[threads[i].tid] = threads[i].name;
        }
    }
    return tasks;
}

std::string NameOf(const std::filesystem::path &task)
{
    std::ifstream file(task / "comm");
    std::string name;
    std::getline(file, name);
    return name;
}

// What the kernel knows; threads of the test, and of a sanitizer, have the test's name.
Tasks Living()
{
    Tasks tasks;
    for (const auto &task : std::filesystem::directory_iterator("/proc/self/task")) {
        std::string name = NameOf(task.path());
        if (!name.empty() && name != NameOf("/proc/self")) {
            tasks[std::stoi(task.path().filename())] = name;
        }
    }
    return tasks;
}

TEST(Threads, EveryLiveThreadIsListedByNameAndId)
{
    Guest from({32 * kMiB}, true), to({32 * kMiB}, false);
    haul_options options = Slow();
    options.channels = 3;
    options.populate = false;
    Move move(from, to, options);
    ASSERT_TRUE(Reaches(move.destination, HAUL_STATE_ACTIVE));
    ASSERT_TRUE(Eventually([&] { return haul_threads(move.source, nullptr, 0) == 5; }));
    ASSERT_TRUE(Eventually([&] { return haul_threads(move.destination, nullptr, 0) == 5; }));
    EXPECT_TRUE(Eventually([&] { return Living() == Listed({move.source, move.destination}); }));
    EXPECT_EQ(Names(move.source), (std::vector<std::string>{"migration", "multifdsend_0", "multifdsend_1",
                                                            "multifdsend_2", "return-path"}));
    EXPECT_EQ(Names(move.destination), (std::vector<std::string>{"control", "loader", "multifdrecv_0",
                                                                 "multifdrecv_1", "multifdrecv_2"}));
    haul_thread one;
    EXPECT_EQ(haul_threads(move.source, &one, 1), 5u) << "all are counted, one is written";
    EXPECT_STREQ(one.name, "migration");
    haul_set_max_bandwidth(move.source, 0);
    ExpectMoved(move);
    std::vector<std::string> left = Names(move.source);
    EXPECT_EQ(std::count(left.begin(), left.end(), "migration"), 0);
}

// ---- events ----

TEST(Events, PassesCountUpAndTheGuestEventsFollowItsHooks)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Options());
    ExpectMoved(move);
    ASSERT_GE(from.passes.size(), 3u) << "a round, the last pass, and what saving the state wrote";
    for (size_t i = 0; i < from.passes.size(); i++) {
        EXPECT_EQ(from.passes[i], i + 1);
    }
    EXPECT_EQ(from.runs, std::vector<bool>{false});
    EXPECT_EQ(to.runs, std::vector<bool>{true});
    EXPECT_TRUE(to.passes.empty());
}

TEST(Events, AGuestThatIsResumedIsSaidToRun)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    from.fail_save = true;
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EIO);
    EXPECT_EQ(from.runs, (std::vector<bool>{false, true}));
    EXPECT_TRUE(to.runs.empty());
}

TEST(Events, AGuestThatDidNotStopIsNotSaidToBeStopped)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    from.fail_stop = true;
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EIO);
    EXPECT_TRUE(from.runs.empty());
}

} // namespace
