// SPDX-License-Identifier: Apache-2.0
// One end of a move is a process of its own, killed in each state. Before HANDOVER the guest goes on at the
// source and can be moved again; between HANDOVER and RUNNING the source stays paused and says so (rule R1).
#include "engine/state.h"
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
// Where the killed end is when it dies.
enum class Moment {
    kSetup,
    kActive,
    kPreSwitchover,
    kDevice,
    kStateHook,      // inside save or load
    kBeforeHandover, // source: HANDOVER is about to be sent
    kAfterHandover,  // destination: HANDOVER was received, the guest is not started
    kStarting,       // destination: the guest is being started
    kNotStarted,     // destination: it will not be started, and the source was not told yet
};

const char *Name(Moment moment)
{
    const char *names[] = {"Setup",          "Active",        "PreSwitchover", "Device",    "StateHook",
                           "BeforeHandover", "AfterHandover", "Starting",      "NotStarted"};
    return names[static_cast<int>(moment)];
}

// A process that runs one end and stops for good at `moment`, having said so through a pipe. Forked before
// this process has threads of its own.
class Victim
{
  public:
    Victim(Guest &guest, bool source, Moment moment, const std::string &uri, const haul_options &options)
    {
        EXPECT_EQ(pipe2(said_, O_CLOEXEC), 0);
        EXPECT_EQ(pipe2(go_, O_CLOEXEC), 0);
        pid_ = fork();
        if (pid_ == 0) {
            Play(guest, source, moment, uri, options);
            _exit(0);
        }
        close(said_[1]);
        close(go_[0]);
    }
    ~Victim()
    {
        Kill();
        close(said_[0]);
        close(go_[1]);
    }

    void Go()
    {
        EXPECT_EQ(write(go_[1], "g", 1), 1);
    }
    // False when the process ended without reaching the moment.
    bool AtTheMoment()
    {
        char byte;
        return read(said_[0], &byte, 1) == 1;
    }
    void Kill()
    {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
        pid_ = -1;
    }

  private:
    void StopHere()
    {
        (void)!write(said_[1], "!", 1);
        for (;;) {
            pause();
        }
    }

    void Play(Guest &guest, bool source, Moment moment, const std::string &uri, const haul_options &options)
    {
        char byte;
        if (read(go_[0], &byte, 1) != 1) {
            return;
        }
        guest.on_state = [=](haul_state state) {
            if ((moment == Moment::kSetup && state == HAUL_STATE_SETUP) ||
                (moment == Moment::kActive && state == HAUL_STATE_ACTIVE) ||
                (moment == Moment::kPreSwitchover && state == HAUL_STATE_PRE_SWITCHOVER) ||
                (moment == Moment::kDevice && state == HAUL_STATE_DEVICE)) {
                StopHere();
            }
        };
        guest.on_step = [=](haul_step step) {
            if ((moment == Moment::kBeforeHandover && step == HAUL_STEP_HANDOVER_SENDING) ||
                (moment == Moment::kAfterHandover && step == HAUL_STEP_HANDOVER_RECEIVED) ||
                (moment == Moment::kNotStarted && step == HAUL_STEP_NOT_STARTED)) {
                StopHere();
            }
        };
        if (moment == Moment::kNotStarted) {
            guest.refuse_steps = {HAUL_STEP_HANDOVER_RECEIVED};
        }
        guest.on_save = [=](Guest &) {
            if (moment == Moment::kStateHook) {
                StopHere();
            }
        };
        guest.on_load = [=] {
            if (moment == Moment::kStateHook) {
                StopHere();
            }
        };
        guest.on_start = [=] {
            if (moment == Moment::kStarting) {
                StopHere();
            }
        };
        haul_migration *migration = nullptr;
        haul_error error{};
        if ((source ? haul_source_new(&options, &migration, &error)
                    : haul_destination_new(&options, &migration, &error)) < 0) {
            return;
        }
        guest.Attach(migration, source);
        if (haul_start(migration, uri.c_str(), &error) == 0) {
            if (!source) {
                (void)!write(said_[1], "l", 1); // it listens
            }
            haul_wait(migration, &error);
        }
    }

    int said_[2], go_[2];
    pid_t pid_;
};

haul_migration *StartSource(Guest &from, const haul_options &options, const std::string &uri)
{
    haul_migration *source = nullptr;
    haul_error error{};
    EXPECT_EQ(haul_source_new(&options, &source, &error), 0) << error.message;
    from.Attach(source, true);
    EXPECT_EQ(haul_start(source, uri.c_str(), &error), 0) << error.message;
    return source;
}

void ExpectMovesAgain(Guest &from)
{
    Guest to({4 * kMiB}, false);
    Move again(from, to, Options());
    std::string where;
    EXPECT_EQ(again.Wait(), 0) << again.source_error.message;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
    EXPECT_EQ(to.starts, 1u);
    EXPECT_EQ(from.handed_over, 1u);
}

// ---- the destination dies ----

struct Case {
    Moment moment;
    const char *mode;
};

std::string CaseName(const testing::TestParamInfo<Case> &info)
{
    return std::string(Name(info.param.moment)) + (strcmp(info.param.mode, "normal") == 0 ? "" : "Cpr");
}

haul_options OptionsOf(const Case &that)
{
    haul_options options = Options();
    options.mode = that.mode;
    return options;
}

// Each of the moments, for copied memory and for memory that is handed over.
std::vector<Case> BothModes(const std::vector<Moment> &moments)
{
    std::vector<Case> cases;
    for (const char *mode : {"normal", "cpr-transfer"}) {
        for (Moment moment : moments) {
            cases.push_back({moment, mode});
        }
    }
    return cases;
}

class DestinationDies : public testing::TestWithParam<Case>
{
};

TEST_P(DestinationDies, TheGuestGoesOnAtTheSourceAndMovesAgain)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_options options = OptionsOf(GetParam());
    std::string uri = UnixUri();
    Victim victim(to, false, GetParam().moment, uri, options);
    victim.Go();
    ASSERT_TRUE(victim.AtTheMoment()); // or listening
    if (GetParam().moment == Moment::kSetup) {
        ASSERT_TRUE(victim.AtTheMoment());
        victim.Kill(); // a listener that is gone when the source comes
    }
    from.Run(5, 1000);
    haul_migration *source = StartSource(from, options, uri);
    if (GetParam().moment != Moment::kSetup) {
        ASSERT_TRUE(victim.AtTheMoment());
    }
    auto begun = Clock::now();
    victim.Kill();
    haul_error error{};
    EXPECT_LT(haul_wait(source, &error), 0);
    EXPECT_LT(MsSince(begun), 5000) << "noticed by the broken connection, not by a timeout";
    EXPECT_NE(error.code, 0);
    EXPECT_STRNE(error.message, "");
    haul_stats stats{};
    haul_get_stats(source, &stats);
    EXPECT_EQ(stats.state, HAUL_STATE_FAILED);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE) << error.message;
    EXPECT_TRUE(from.running()) << error.message;
    haul_free(source);
    unlink(uri.substr(5).c_str());
    ExpectMovesAgain(from);
}

INSTANTIATE_TEST_SUITE_P(BeforeHandover, DestinationDies,
                         testing::ValuesIn(BothModes({Moment::kSetup, Moment::kActive, Moment::kDevice,
                                                      Moment::kStateHook})),
                         CaseName);

class DestinationDiesTooLate : public testing::TestWithParam<Case>
{
};

TEST_P(DestinationDiesTooLate, TheSourceStaysPausedAndSaysSo)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_options options = OptionsOf(GetParam());
    std::string uri = UnixUri();
    Victim victim(to, false, GetParam().moment, uri, options);
    victim.Go();
    ASSERT_TRUE(victim.AtTheMoment()); // listening
    from.Run(5, 1000);
    haul_migration *source = StartSource(from, options, uri);
    ASSERT_TRUE(victim.AtTheMoment());
    auto begun = Clock::now();
    victim.Kill();
    haul_error error{};
    EXPECT_LT(haul_wait(source, &error), 0);
    EXPECT_LT(MsSince(begun), 5000);
    EXPECT_NE(std::string(error.message).find("the guest stays paused here"), std::string::npos)
        << error.message;
    EXPECT_NE(std::string(error.message).find("resume or abandon"), std::string::npos) << error.message;
    haul_stats stats{};
    haul_get_stats(source, &stats);
    EXPECT_EQ(stats.state, HAUL_STATE_FAILED);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(from.running());
    EXPECT_EQ(from.resumes, 0u);
    EXPECT_EQ(haul_cancel(source), -EALREADY) << "only the operator decides";
    haul_free(source);
    unlink(uri.substr(5).c_str());
    EXPECT_FALSE(from.running());
}

INSTANTIATE_TEST_SUITE_P(
    AfterHandover, DestinationDiesTooLate,
    testing::ValuesIn(BothModes({Moment::kAfterHandover, Moment::kStarting, Moment::kNotStarted})), CaseName);

// Killed when the source is about to send HANDOVER, and has not: the guest is still the source's.
TEST(DestinationDiesAtTheLastMoment, TheGuestGoesOnAtTheSource)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    std::string uri = UnixUri();
    Victim victim(to, false, Moment::kAfterHandover, uri, Options());
    victim.Go();
    ASSERT_TRUE(victim.AtTheMoment()); // listening
    from.on_step = [&](haul_step step) {
        if (step == HAUL_STEP_HANDOVER_SENDING) {
            victim.Kill(); // its return path may not have been told yet
        }
    };
    from.Run(5, 1000);
    haul_migration *source = StartSource(from, Options(), uri);
    haul_error error{};
    EXPECT_LT(haul_wait(source, &error), 0);
    haul_stats stats{};
    haul_get_stats(source, &stats);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE) << error.message;
    EXPECT_TRUE(from.running());
    haul_free(source);
    unlink(uri.substr(5).c_str());
    from.on_step = nullptr;
    ExpectMovesAgain(from);
}

// ---- the source dies ----

class SourceDies : public testing::TestWithParam<Case>
{
};

TEST_P(SourceDies, TheDestinationDoesNotStartTheGuest)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_options options = OptionsOf(GetParam());
    std::string uri = UnixUri();
    Victim victim(from, true, GetParam().moment, uri, options);
    haul_migration *destination = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0) << error.message;
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, uri.c_str(), &error), 0) << error.message;
    victim.Go();
    ASSERT_TRUE(victim.AtTheMoment());
    auto begun = Clock::now();
    victim.Kill();
    if (GetParam().moment == Moment::kSetup) {
        // It had not connected: whoever comes next is served.
        Guest other({4 * kMiB}, true);
        haul_migration *source = StartSource(other, options, uri);
        EXPECT_EQ(haul_wait(source, &error), 0) << error.message;
        EXPECT_EQ(haul_wait(destination, &error), 0) << error.message;
        std::string where;
        EXPECT_TRUE(SameMemory(other, to, &where)) << where;
        haul_free(source);
    } else {
        EXPECT_LT(haul_wait(destination, &error), 0);
        EXPECT_LT(MsSince(begun), 5000);
        EXPECT_STRNE(error.message, "");
        EXPECT_EQ(to.starts, 0u) << "nobody handed the guest over";
        haul_stats stats{};
        haul_get_stats(destination, &stats);
        EXPECT_EQ(stats.state, HAUL_STATE_FAILED);
        EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
    }
    haul_free(destination);
    // The guest of the dead process is still in its memory: another process can move it to the same
    // destination.
    to.starts = 0;
    Move again(from, to, options);
    std::string where;
    EXPECT_EQ(again.Wait(), 0) << again.source_error.message;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
}

INSTANTIATE_TEST_SUITE_P(BeforeHandover, SourceDies,
                         testing::ValuesIn(BothModes({Moment::kSetup, Moment::kActive, Moment::kPreSwitchover,
                                                      Moment::kDevice, Moment::kStateHook,
                                                      Moment::kBeforeHandover})),
                         CaseName);

// After HANDOVER the guest is the destination's, whatever happens to the source.
TEST(SourceDiesTooLate, TheDestinationRunsTheGuest)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_options options = Options();
    std::string uri = UnixUri();
    Victim victim(from, true, Moment::kStarting, uri, options); // never reached by a source
    to.on_start = [&] {
        victim.Kill();
        usleep(100000); // the closed connections are seen while the guest starts
    };
    haul_migration *destination = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0) << error.message;
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, uri.c_str(), &error), 0) << error.message;
    victim.Go();
    EXPECT_EQ(haul_wait(destination, &error), 0) << error.message;
    EXPECT_EQ(to.starts, 1u);
    haul_stats stats{};
    haul_get_stats(destination, &stats);
    EXPECT_EQ(stats.state, HAUL_STATE_COMPLETED);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_DESTINATION);
    haul_free(destination);
    std::string where;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
}

// Killed at once after HANDOVER left: the destination starts the guest although every connection is closed
// already.
TEST(SourceDiesTooLate, AlsoWhenAllConnectionsCloseWithTheHandover)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_options options = Options();
    std::string uri = UnixUri();
    Victim victim(from, true, Moment::kStarting, uri, options);
    to.on_step = [&](haul_step step) {
        if (step == HAUL_STEP_HANDOVER_RECEIVED) {
            victim.Kill();
            usleep(100000);
        }
    };
    haul_migration *destination = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0) << error.message;
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, uri.c_str(), &error), 0) << error.message;
    victim.Go();
    EXPECT_EQ(haul_wait(destination, &error), 0) << error.message;
    EXPECT_EQ(to.starts, 1u);
    haul_free(destination);
}

} // namespace
