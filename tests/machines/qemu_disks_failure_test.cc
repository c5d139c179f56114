// SPDX-License-Identifier: Apache-2.0
// Moves with drives that end early, in each state and by each cause: the machine goes on at the source with
// its own drives, what was made for the move is gone from every QEMU that is left, and the machine can be
// moved again. One machine is booted, and serves as the source of every case.
#include "tests/machines/disks.h"
#include "tests/machines/last_word.h"
#include "tests/waiting.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <gtest/gtest.h>
#include <signal.h>
#include <tuple>
#include <unistd.h>

namespace
{

using namespace haul_test;

enum Cause {
    NOTHING, // after all the others: it moves, with what its drives have by then
    LAG,     // the guest writes faster than the link is, until its operator has enough
    CANCEL,
    SOURCES_HAUL,
    DESTINATIONS_HAUL,
    DESTINATIONS_QEMU,
    CONNECTION,
    FREEZE, // the destination answers no more, and nothing closes
};

const char *const kCauses[] = {"Moves",
                               "GuestWritesFaster",
                               "Cancelled",
                               "SourcesHaulDies",
                               "DestinationsHaulDies",
                               "DestinationsQemuDies",
                               "ConnectionBreaks",
                               "DestinationFreezes"};

// In the order in which a move comes to them.
const char *const kStates[] = {"setup",  "active",         "mirroring", "mirrored", "pass1",
                               "round1", "pre-switchover", "device",    "handover"};

std::string letters(std::string text)
{
    std::replace(text.begin(), text.end(), '-', '_');
    return text;
}

class QemuDisksFailure : public ::testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        if (missing_for_disks().empty()) {
            drives = new Drives;
            from = drives->source().release();
        }
    }
    static void TearDownTestSuite()
    {
        delete from;
        delete drives;
        from = nullptr;
        drives = nullptr;
    }
    void SetUp() override
    {
        if (!missing_for_disks().empty()) {
            GTEST_SKIP() << missing_for_disks();
        }
        ASSERT_EQ("running", from->status()) << from->last_words() << from->errors();
    }
    static std::unique_ptr<Machine> destination()
    {
        static int number;
        return drives->destination("to" + std::to_string(number++));
    }
    static void expect_goes_on(const std::string &log)
    {
        size_t before = written(*from);
        EXPECT_TRUE(from->counts(60)) << from->status() << log;
        EXPECT_EQ("running", from->status()) << log;
        for (int i = 0; i < 400 && written(*from) == before; i++) {
            usleep(50000);
        }
        EXPECT_GT(written(*from), before) << log;
        EXPECT_FALSE(from->says_bad()) << from->last_words();
        expect_clean(*from);
    }
    static Drives *drives;
    static Machine *from;
};

Drives *QemuDisksFailure::drives;
Machine *QemuDisksFailure::from;

// ---- after the handover was sent ----

class HandedOver : public QemuDisksFailure, public ::testing::WithParamInterface<Cause>
{
};

// Nobody knows whether it runs there. The operator makes sure that it does not, and lets it go on here.
TEST_P(HandedOver, IsResumedWithWholeDrives)
{
    std::string name = std::string("over") + kCauses[GetParam()];
    auto to = drives->destination(name);
    bool dies = GetParam() == DESTINATIONS_HAUL;
    Move move(*from, *to,
              {with_disks({dies ? "timeout=10" : "timeout=5", "downtime=1000",
                           dies ? "channels=2" : "hold=handover"}),
               with_disks({dies ? "die=handover-received" : "channels=2"})});
    if (!dies) {
        move.source->expect("STATE handover");
        move.destination->kill(SIGSTOP);
        kill(to->pid(), SIGSTOP);
        move.source->tell("go");
    }
    EXPECT_EQ(3, move.source->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.source->output().find("stays paused here")) << move.log();
    EXPECT_NE("running", from->status()) << move.log();
    expect_clean(*from);
    if (!dies) {
        move.destination->kill(SIGKILL);
        to->kill();
    }
    EXPECT_EQ(-SIGKILL, move.destination->wait()) << move.log();
    EXPECT_TRUE(Eventually([&] { return !to->alive(); })) << "it has no whole machine";
    EXPECT_TRUE(drives->same_images("from", name)) << move.log();
    EXPECT_EQ("", say_last_word(from->qmp(), LastWord::kResume));
    expect_goes_on(move.log());
}

INSTANTIATE_TEST_SUITE_P(Disks, HandedOver, ::testing::Values(DESTINATIONS_HAUL, FREEZE),
                         [](const auto &info) { return kCauses[info.param]; });

// ---- the machine itself is lost ----

// With machines of their own, which boot nothing.
class SourcesQemuDies : public ::testing::TestWithParam<const char *>
{
  protected:
    void SetUp() override
    {
        if (!missing_for_disks().empty()) {
            GTEST_SKIP() << missing_for_disks();
        }
    }
    std::unique_ptr<Machine> machine(const std::string &name, bool incoming) const
    {
        drives.make_images(name);
        MachineOptions options = drives.options(name);
        options.boot = options.load_disks = false;
        options.mib = 64;
        options.incoming = incoming;
        return std::make_unique<Machine>(drives.folder, name, options);
    }
    // What the next one finds is as good as new.
    void expect_takes_another(Machine &to) const
    {
        auto another = machine("another", false);
        Move move(*another, to, {with_disks(), with_disks()});
        EXPECT_EQ(0, move.source->wait()) << move.log();
        EXPECT_EQ(0, move.destination->wait()) << move.log();
        EXPECT_EQ("running", to.status()) << move.log();
    }
    Drives drives;
};

TEST_P(SourcesQemuDies, BothSidesSaySoAndTheDestinationIsLeftUsable)
{
    const std::string state = GetParam();
    auto from = machine("from", false), to = machine("to", true);
    Move move(*from, *to,
              {with_disks({"hold=" + state, "timeout=5", "channels=2"}), with_disks({"timeout=5"})});
    move.source->expect("STATE " + state);
    const std::string message = "the guest does not run at the source: QEMU, process " +
                                std::to_string(from->pid()) + ", has ended; before that: ";
    from->kill();
    move.source->tell("go");
    if (state == "handover") { // the destination has all of it
        EXPECT_EQ(0, move.source->wait()) << move.log();
        EXPECT_EQ(0, move.destination->wait()) << move.log();
        EXPECT_EQ("running", to->status()) << move.log();
        expect_clean(*to);
        return;
    }
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.source->output().find(message)) << move.log();
    if (state == "setup") {
        EXPECT_NE(std::string::npos, move.source->output().find(kUntracked)) << move.log();
        move.destination->kill(SIGKILL); // one that no source reached waits on for the next
        move.destination->wait();
    } else {
        EXPECT_EQ(1, move.destination->wait()) << move.log();
        EXPECT_NE(std::string::npos, move.destination->output().find(message)) << move.log();
    }
    ASSERT_TRUE(to->alive()) << move.log();
    EXPECT_EQ("inmigrate", to->status()) << move.log();
    expect_clean(*to);
    expect_takes_another(*to);
}

INSTANTIATE_TEST_SUITE_P(In, SourcesQemuDies, ::testing::ValuesIn(kStates),
                         [](const auto &info) { return letters(info.param); });

// ---- each cause in each state ----

using Case = std::tuple<Cause, const char *>;

std::vector<Case> cases()
{
    std::vector<Case> list;
    for (int cause = CANCEL; cause <= FREEZE; cause++) {
        for (const char *state : kStates) {
            // What goes out to one that is silent is not known to be lost: see HandedOver.
            if (cause != FREEZE || strcmp(state, "handover") != 0) {
                list.push_back({static_cast<Cause>(cause), state});
            }
        }
    }
    list.push_back({LAG, "mirroring"});
    list.push_back({NOTHING, "in_the_end"});
    return list;
}

std::string as_name(const ::testing::TestParamInfo<Case> &info)
{
    return letters(std::string(kCauses[std::get<0>(info.param)]) + "_" + std::get<1>(info.param));
}

class InState : public QemuDisksFailure, public ::testing::WithParamInterface<Case>
{
  protected:
    static std::vector<std::string> source_settings(Cause cause, const std::string &state)
    {
        const char *how = cause == CANCEL ? "cancel=" : cause == SOURCES_HAUL ? "die=" : "hold=";
        std::vector<std::string> settings = {how + state, "downtime=1000", "channels=2"};
        settings.push_back(cause == FREEZE ? "timeout=2" : "timeout=10");
        if (state == "mirroring") {
            settings.push_back("bandwidth=4000000"); // it takes its time
        }
        return with_disks(settings);
    }
    // The source stands still meanwhile, in that state.
    static void strike(Cause cause, Move &move, Machine &to)
    {
        switch (cause) {
        case DESTINATIONS_HAUL:
            move.destination->kill(SIGKILL);
            move.destination->wait();
            break;
        case DESTINATIONS_QEMU:
            to.kill();
            break;
        case CONNECTION:
            move.proxy->cut();
            break;
        case FREEZE:
            move.destination->kill(SIGSTOP);
            kill(to.pid(), SIGSTOP);
            break;
        default:
            return;
        }
        move.source->tell("go");
    }
    static void expect_advice()
    {
        auto to = destination();
        Move move(*from, *to, {with_disks({"bandwidth=500000"}), with_disks()});
        std::string said = move.source->expect("MESSAGE drive ");
        EXPECT_NE(std::string::npos, said.find("does not get ready: the guest writes")) << move.log();
        move.source->tell("cancel");
        EXPECT_EQ(1, move.source->wait()) << move.log();
        EXPECT_NE(std::string::npos, move.source->output().find("SUMMARY drive ")) << move.log();
        move.destination->wait();
        expect_goes_on(move.log());
    }
    static void expect_moves()
    {
        auto to = drives->destination("last");
        Move move(*from, *to, {with_disks({"hold=handover", "downtime=1000"}), with_disks()});
        move.source->expect("STATE handover");
        EXPECT_TRUE(drives->same_images("from", "last")) << move.log();
        move.source->tell("go");
        ASSERT_EQ(0, move.source->wait()) << move.log() << to->errors();
        ASSERT_EQ(0, move.destination->wait()) << move.log() << to->errors();
        expect_clean(*from);
        from->kill();
        expect_healthy(*to);
    }
};

TEST_P(InState, EndsEarly)
{
    auto [cause, state] = GetParam();
    if (cause == LAG) {
        expect_advice();
        return;
    }
    if (cause == NOTHING) {
        expect_moves();
        return;
    }
    auto to = destination();
    MoveOptions options = {source_settings(cause, state), with_disks({"timeout=10"})};
    options.proxy = cause == CONNECTION;
    Move move(*from, *to, options);
    move.source->expect(std::string("STATE ") + state);
    strike(cause, move, *to);
    auto begun = std::chrono::steady_clock::now();
    EXPECT_EQ(cause == SOURCES_HAUL ? -SIGKILL : 1, move.source->wait()) << move.log();
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(25)) << move.log();
    expect_goes_on(move.log());
    if (cause == FREEZE) {
        kill(to->pid(), SIGCONT);
        move.destination->kill(SIGCONT);
    }
    if (strcmp(state, "setup") == 0) {
        move.destination->kill(SIGKILL); // one that no source reached waits on for the next
    }
    EXPECT_NE(0, move.destination->wait()) << move.log();
    if (to->alive()) { // else it had the device state without its end
        EXPECT_NE("running", to->status()) << move.log();
        expect_clean(*to);
    }
}

INSTANTIATE_TEST_SUITE_P(Disks, InState, ::testing::ValuesIn(cases()), as_name);

} // namespace
