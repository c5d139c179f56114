// SPDX-License-Identifier: Apache-2.0
// Whatever dies before the handover, and whenever it is cancelled, the guest goes on at the source, as it was
// found, and can be moved again. One machine is booted, and serves as the source of every case.
#include "tests/machines/last_word.h"
#include "tests/machines/move.h"
#include "tests/waiting.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

class QemuFailure : public ::testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        if (missing().empty() && !source) {
            folder = std::make_unique<Folder>();
            source = std::make_unique<Machine>(*folder, "from", MachineOptions());
            source->wait_for("sweep 1 ok", kBootSeconds);
        }
    }
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
        ASSERT_EQ("running", source->status()) << source->last_words() << source->errors();
        settings = source->settings();
    }
    // One that no source reached waits on for the next.
    static void expect_failed(Move &move, const std::string &state)
    {
        if (state == "setup") {
            move.destination->kill(SIGKILL);
            move.destination->wait();
        } else {
            EXPECT_EQ(1, move.destination->wait()) << move.log();
        }
    }
    static std::unique_ptr<Machine> destination(MachineOptions options = {})
    {
        static int number;
        options.incoming = true;
        return std::make_unique<Machine>(*folder, "to" + std::to_string(number++), options);
    }
    // An operator who has made sure that it does not run at the destination resumes it.
    static void expect_paused_until_resumed(Move &move)
    {
        EXPECT_NE(std::string::npos, move.source->output().find("stays paused here")) << move.log();
        EXPECT_NE("running", source->status()) << move.log();
        EXPECT_EQ("", say_last_word(source->qmp(), LastWord::kResume));
    }
    // The guest runs at the source and QEMU is as it was; the destination runs nothing.
    void expect_back(Move &move, Machine &to)
    {
        EXPECT_TRUE(source->counts()) << source->status() << "\n" << move.log() << source->errors();
        Eventually([&] { return source->settings() == settings; }); // the guardian may still be at it
        EXPECT_EQ("running", source->status());
        EXPECT_EQ(settings, source->settings());
        EXPECT_FALSE(source->says_bad()) << source->last_words();
        EXPECT_FALSE(to.alive() && to.status() == "running") << move.log();
    }
    static std::unique_ptr<Folder> folder;
    static std::unique_ptr<Machine> source; // of all suites
    std::string settings;
};

std::unique_ptr<Folder> QemuFailure::folder;
std::unique_ptr<Machine> QemuFailure::source;

std::string letters(std::string text)
{
    for (char &letter : text) {
        letter = letter == '-' ? '_' : letter;
    }
    return text;
}

// A copy; where memory is handed over: qemu_transport_state_test.
class InState : public QemuFailure, public ::testing::WithParamInterface<std::string>
{
  protected:
    static const std::string &state()
    {
        return GetParam();
    }
};

TEST_P(InState, SourcesHaulDies)
{
    auto to = destination();
    Move move(*source, *to, {{"die=" + state(), "channels=2"}, {"timeout=5"}});
    EXPECT_EQ(-SIGKILL, move.source->wait()) << move.log();
    expect_failed(move, state());
    expect_back(move, *to);
}

TEST_P(InState, DestinationsHaulDies)
{
    auto to = destination();
    Move move(*source, *to, {{"hold=" + state(), "timeout=5"}, {}});
    move.source->expect("STATE " + state());
    move.destination->kill(SIGKILL);
    move.destination->wait();
    move.source->tell("go");
    int code = move.source->wait();
    if (code == 3 && state() == "handover") { // the system may take HANDOVER and lose it
        expect_paused_until_resumed(move);
    } else {
        EXPECT_EQ(1, code) << move.log();
    }
    expect_back(move, *to);
}

TEST_P(InState, Cancelled)
{
    auto to = destination();
    Move move(*source, *to, {{"hold=" + state()}, {}});
    move.source->expect("STATE " + state());
    move.source->tell("cancel");
    move.source->tell("go");
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.source->output().find("END -125 ")) << move.log();
    expect_failed(move, state());
    expect_back(move, *to);
}

TEST_P(InState, CancelledAtTheDestination)
{
    auto to = destination();
    Move move(*source, *to, {{"hold=" + state(), "timeout=5"}, {}});
    move.source->expect("STATE " + state());
    move.destination->tell("cancel");
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.destination->output().find("END -125 ")) << move.log();
    move.source->tell("go");
    EXPECT_EQ(1, move.source->wait()) << move.log();
    const char *end = state() == "setup" ? "connection refused; start `haul receive`" : "END -125 ";
    EXPECT_NE(std::string::npos, move.source->output().find(end)) << move.log();
    expect_back(move, *to);
}

// At the last moment see DestinationsQemuDiesAtTheHandover. The second: memory is handed over.
class BeforeTheLast : public QemuFailure, public ::testing::WithParamInterface<std::tuple<std::string, bool>>
{
};

TEST_P(BeforeTheLast, DestinationsQemuDies)
{
    const auto &[state, cpr] = GetParam();
    auto to = destination();
    Move move(*source, *to, {{"hold=" + state, "timeout=5"}, {"timeout=5"}, false, cpr});
    move.source->expect("STATE " + state);
    to->kill();
    move.source->tell("go");
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.destination->output().find("QEMU closed its monitor")) << move.log();
    expect_back(move, *to);
}

class Connection : public InState
{
};

TEST_P(Connection, Breaks)
{
    auto to = destination();
    Move move(*source, *to, {{"hold=" + state(), "timeout=5"}, {"timeout=5"}, true});
    move.source->expect("STATE " + state());
    move.proxy->cut();
    move.source->tell("go");
    EXPECT_EQ(1, move.source->wait()) << move.log();
    expect_failed(move, state());
    expect_back(move, *to);
}

const auto kUpToTheLast = ::testing::Values("setup", "active", "pre-switchover", "device");

std::string as_name(const ::testing::TestParamInfo<std::string> &info)
{
    return letters(info.param);
}

INSTANTIATE_TEST_SUITE_P(Before, InState, kUpToTheLast, as_name);
INSTANTIATE_TEST_SUITE_P(At, InState, ::testing::Values("handover"), as_name);
INSTANTIATE_TEST_SUITE_P(Before, BeforeTheLast, ::testing::Combine(kUpToTheLast, ::testing::Bool()),
                         [](const auto &info) {
                             return letters(std::get<0>(info.param)) +
                                    (std::get<1>(info.param) ? "_cpr" : "");
                         });
INSTANTIATE_TEST_SUITE_P(Before, Connection, kUpToTheLast, as_name);

TEST_F(QemuFailure, DestinationsHaulDiesWithTheHandover)
{
    auto to = destination();
    Move move(*source, *to, {{}, {"die=handover-received"}});
    EXPECT_EQ(-SIGKILL, move.destination->wait()) << move.log();
    EXPECT_EQ(3, move.source->wait()) << move.log();
    EXPECT_TRUE(Eventually([&] { return !to->alive(); })) << "it never got the whole machine";
    expect_paused_until_resumed(move);
    expect_back(move, *to);
}

TEST_F(QemuFailure, AnotherMachineTypeIsRefused)
{
    MachineOptions options;
    options.type = "pc";
    auto to = destination(options);
    Move move(*source, *to, {});
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    EXPECT_NE(std::string::npos,
              move.destination->output().find("start the destination with the source's -machine"))
        << move.log();
    expect_back(move, *to);
}

// Same machine type and memory, one device more: QEMU itself refuses the state, and ends.
class Refused : public QemuFailure, public ::testing::WithParamInterface<bool>
{
};

TEST_P(Refused, ADeviceStateThatQemuRefuses)
{
    MachineOptions options;
    options.extra = {"-vga", "none"};
    auto to = destination(options);
    Move move(*source, *to, {{}, {}, false, GetParam()});
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.log().find("refused the device state")) << move.log();
    expect_back(move, *to);
}

INSTANTIATE_TEST_SUITE_P(Modes, Refused, ::testing::Bool(),
                         [](const auto &info) { return info.param ? "cpr" : "copy"; });

TEST_F(QemuFailure, ADestinationThatDoesNotWait)
{
    MachineOptions options;
    options.boot = false;
    Machine to(*folder, "idle", options);
    Mover mover({"receive", to.qmp(), "tcp:127.0.0.1:0"});
    EXPECT_EQ(1, mover.wait());
    EXPECT_NE(std::string::npos, mover.output().find("-incoming defer")) << mover.output();
}

TEST_F(QemuFailure, AMachineThatQemuCannotMove)
{
    MachineOptions options;
    options.boot = false;
    options.extra = {"-object", "memory-backend-memfd,id=iv,size=1M,share=on", "-device",
                     "ivshmem-plain,memdev=iv"};
    Machine peer(*folder, "peer", options);
    Mover mover({"send", peer.qmp(), "tcp:127.0.0.1:1"});
    EXPECT_EQ(1, mover.wait());
    EXPECT_NE(std::string::npos, mover.output().find("QEMU cannot move this machine: Migration is disabled"))
        << mover.output();
}

TEST_F(QemuFailure, AnotherMigrationIsUnderWay)
{
    source->command("migrate-set-parameters", "{\"max-bandwidth\":1000}");
    source->command("migrate", "{\"uri\":\"exec:cat>/dev/null\"}");
    Mover mover({"send", source->qmp(), "tcp:127.0.0.1:1"});
    EXPECT_EQ(1, mover.wait());
    EXPECT_NE(std::string::npos, mover.output().find("somebody else migrates")) << mover.output();
    source->command("migrate_cancel");
    source->command("migrate-set-parameters", "{\"max-bandwidth\":134217728}");
    for (int i = 0; i < 600 && source->command("query-migrate").find("\"cancelled\"") == std::string::npos;
         i++) {
        usleep(50000);
    }
}

// Where it began in the middle of the move it goes on, too, and QEMU gets its settings back after it.
TEST_F(QemuFailure, AnotherMigrationBeginsMeanwhile)
{
    const std::string slow =
        "{\"max-bandwidth\":1000}"; // or it would stop the guest, as haul's settings have it
    source->command("migrate-set-parameters", slow);
    settings = source->settings();
    auto to = destination();
    Move move(*source, *to, {{"hold=round1", "timeout=5"}, {"timeout=5"}});
    move.source->expect("STATE round1");
    source->command("migrate-set-parameters", slow);
    source->command("migrate", "{\"uri\":\"exec:cat>/dev/null\"}");
    move.source->tell("go");
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.log().find("somebody else migrates this machine")) << move.log();
    EXPECT_NE(std::string::npos, move.log().find("QEMU keeps settings of haul's")) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    EXPECT_TRUE(source->counts()) << move.log();
    std::string theirs = source->command("query-migrate");
    EXPECT_NE(std::string::npos, theirs.find("\"active\"")) << theirs;
    source->command("migrate_cancel");
    expect_back(move, *to);
    source->command("migrate-set-parameters", "{\"max-bandwidth\":134217728}");
}

// Before haul's own could begin, and after that was cancelled.
class BesideHauls : public QemuFailure, public ::testing::WithParamInterface<std::vector<std::string>>
{
};

// Where haul dies, the guardian leaves it alone.
TEST_P(BesideHauls, AnotherMigrationOutlivesHaul)
{
    const std::string slow = "{\"max-bandwidth\":1000}";
    source->command("migrate-set-parameters", slow);
    settings = source->settings();
    auto to = destination();
    Move move(*source, *to, {GetParam(), {"timeout=5"}});
    move.source->expect("STATE " + GetParam().front().substr(strlen("hold=")));
    source->command("migrate-set-parameters", slow);
    source->command("migrate", "{\"uri\":\"exec:cat>/dev/null\"}");
    auto runs = [](const std::string &theirs) { return theirs.find("\"active\"") != std::string::npos; };
    EXPECT_TRUE(Eventually([&] { return runs(source->command("query-migrate")); })); // after its setup
    move.source->kill(SIGKILL);
    EXPECT_EQ(-SIGKILL, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    for (int i = 0; i < 20; i++) { // it would be at once
        usleep(50000);
        std::string theirs = source->command("query-migrate");
        ASSERT_TRUE(runs(theirs)) << theirs;
    }
    EXPECT_TRUE(source->counts()) << move.log();
    source->command("migrate_cancel");
    expect_back(move, *to);
    source->command("migrate-set-parameters", "{\"max-bandwidth\":134217728}");
}

INSTANTIATE_TEST_SUITE_P(Begun, BesideHauls,
                         ::testing::Values(std::vector<std::string>{"hold=armed"},
                                           std::vector<std::string>{"hold=continuing", "pause=1",
                                                                    "cancel=pre-switchover"}),
                         [](const auto &info) { return info.param.front().substr(strlen("hold=")); });

struct Killed {
    std::string state;
    int code;
    std::string message; // on both sides
};

// The machine is lost with it. One of this test's own, so that the suite's stays.
class SourcesQemuDies : public QemuFailure, public ::testing::WithParamInterface<Killed>
{
};

TEST_P(SourcesQemuDies, BothSidesSaySo)
{
    MachineOptions options;
    options.boot = false;
    options.mib = 64;
    Machine from(*folder, "dying_from", options);
    options.incoming = true;
    Machine to(*folder, "dying_to", options);
    Move move(from, to, {{"hold=" + GetParam().state, "timeout=5"}, {"timeout=5"}});
    move.source->expect("STATE " + GetParam().state);
    from.kill();
    move.source->tell("go");
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    std::string end = "END " + std::to_string(GetParam().code) + " ";
    for (const std::string &output : {move.source->output(), move.destination->output()}) {
        EXPECT_NE(std::string::npos, output.find(end)) << move.log();
        EXPECT_NE(std::string::npos, output.find(GetParam().message)) << move.log();
    }
    EXPECT_FALSE(to.alive() && to.status() == "running") << move.log();
}

const std::string kClosed = "QEMU closed its monitor";

INSTANTIATE_TEST_SUITE_P(In, SourcesQemuDies,
                         ::testing::Values(Killed{"active", -ESRCH, kUntracked},
                                           Killed{"round1", -ESRCH, kUntracked},
                                           Killed{"device", -EPIPE, kClosed}),
                         [](const auto &info) { return info.param.state; });

// Paused by the operator: a failed move leaves it paused.
TEST_F(QemuFailure, APausedGuestStaysPaused)
{
    source->command("stop");
    auto to = destination();
    Move move(*source, *to, {{"die=device"}, {"timeout=5"}});
    EXPECT_EQ(-SIGKILL, move.source->wait()) << move.log();
    Eventually([&] { return source->settings() == settings; });
    EXPECT_EQ(settings, source->settings());
    EXPECT_NE("running", source->status());
    EXPECT_FALSE(source->counts(1));
    source->command("cont");
    EXPECT_TRUE(source->counts());
}

// It ends when the machine is handed over to it, and before it could let it run.
TEST_F(QemuFailure, DestinationsQemuDiesAtTheHandover)
{
    auto to = destination();
    Move move(*source, *to, {{}, {"hold=handover-received"}});
    move.destination->expect("STATE handover-received");
    to->kill();
    move.destination->tell("go");
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    expect_back(move, *to);
}

// A byte later nobody can know.
TEST_F(QemuFailure, DestinationsQemuDiesWithTheWholeMachine)
{
    auto to = destination();
    Move move(*source, *to, {{"timeout=5"}, {"hold=handover-received"}});
    move.destination->expect("STATE handover-received");
    kill(to->pid(), SIGSTOP);
    move.destination->tell("go");
    EXPECT_EQ(3, move.source->wait()) << move.log();
    to->kill();
    EXPECT_EQ(3, move.destination->wait()) << move.log();
    EXPECT_NE("running", source->status()) << move.log();
    source->command("cont");
    EXPECT_TRUE(source->counts());
    Eventually([&] { return source->settings() == settings; });
}

// Somebody else writes the destination's disk: QEMU refuses `cont`, with and without -S, and must not get the
// disk and the machine later either.
class RefusedToContinue : public QemuFailure, public ::testing::WithParamInterface<bool>
{
};

TEST_P(RefusedToContinue, GivesTheMachineBack)
{
    MachineOptions options;
    options.boot = false;
    options.disk = *folder / "from.img";
    make_disk(options.disk, 1);
    Machine from(*folder, "refused_from", options);
    options.incoming = true;
    options.paused = GetParam();
    options.disk = *folder / "to.img";
    make_disk(options.disk, 1);
    Machine to(*folder, "refused_to", options);
    // QEMU's byte 201 of an image: "nobody else may write".
    int fd = open(options.disk.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    struct flock lock = {};
    lock.l_type = F_RDLCK;
    lock.l_start = 201;
    lock.l_len = 1;
    ASSERT_EQ(0, fcntl(fd, F_OFD_SETLK, &lock)) << strerror(errno);

    Move move(from, to, {});
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.destination->output().find("lock")) << move.log();
    EXPECT_NE(std::string::npos, move.destination->output().find("never ran here")) << move.log();
    EXPECT_EQ("running", from.status()) << move.log();
    EXPECT_TRUE(Eventually([&] { return !to.alive(); })) << move.log();
    close(fd);
}

INSTANTIATE_TEST_SUITE_P(Disk, RefusedToContinue, ::testing::Bool(),
                         [](const auto &info) { return info.param ? "paused" : "autostart"; });

// ---- after all that, the same machine moves ----

// Ends the machine that moved, and lets the source's copy go on.
void take_back(Machine &from, Machine &to)
{
    EXPECT_EQ("", say_last_word(to.qmp(), LastWord::kAbandon));
    EXPECT_TRUE(Eventually([&] { return !to.alive(); }));
    EXPECT_EQ("", say_last_word(from.qmp(), LastWord::kResume));
    EXPECT_TRUE(from.counts());
    EXPECT_FALSE(from.says_bad()) << from.last_words();
}

TEST_F(QemuFailure, ThenItMovesAndComesBack)
{
    auto to = destination();
    Move move(*source, *to, {});
    ASSERT_EQ(0, move.source->wait()) << move.log() << to->errors();
    ASSERT_EQ(0, move.destination->wait()) << move.log();
    EXPECT_EQ("running", to->status());
    EXPECT_TRUE(to->counts());
    EXPECT_TRUE(to->wait_for("sweep", 60));
    EXPECT_FALSE(to->says_bad()) << to->last_words();
    EXPECT_EQ(settings, source->settings());

    Mover again({"send", source->qmp(), "tcp:127.0.0.1:1"});
    EXPECT_EQ(1, again.wait());
    EXPECT_NE(std::string::npos, again.output().find("already moved away")) << again.output();
    take_back(*source, *to);
}

TEST_F(QemuFailure, ThenItMovesPaused)
{
    source->command("stop");
    auto to = destination();
    Move move(*source, *to, {});
    ASSERT_EQ(0, move.source->wait()) << move.log() << to->errors();
    ASSERT_EQ(0, move.destination->wait()) << move.log();
    EXPECT_EQ("paused", to->status());
    to->command("cont");
    EXPECT_TRUE(to->counts());
    EXPECT_TRUE(to->wait_for("sweep", 60));
    EXPECT_FALSE(to->says_bad()) << to->last_words();
    take_back(*source, *to);
}

} // namespace
