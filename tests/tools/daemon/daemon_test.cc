// SPDX-License-Identifier: Apache-2.0
// Real daemons that move the reference guest, steered over their control sockets.
#include "tests/engine/disk/disk.h"
#include "tests/tools/daemon/daemon.h"

#include <csignal>
#include <sys/stat.h>

namespace
{

class DaemonMove : public ::testing::Test
{
  protected:
    // Listens under `name` and returns the address.
    std::string Listen(const std::string &name)
    {
        to_->Get("migrate-incoming", Named(name, std::string(R"("uri": "tcp:127.0.0.1:0", )") + kGuest));
        std::string uri;
        EXPECT_TRUE(to_->Until([&] {
            uri = to_->Of(name, "socket-address").empty() ? "" : to_->Of(name, "uri");
            return !uri.empty();
        }));
        return uri;
    }
    void Send(const std::string &name, const std::string &uri)
    {
        from_->Get("migrate", Named(name, "\"uri\": \"" + uri + "\", " + kSourceGuest));
    }
    void Set(const std::string &name, const std::string &parameters)
    {
        from_->Get("migrate-set-parameters", Named(name, parameters));
    }
    // The live threads' names, in the daemon's order.
    Words Threads(const std::string &name)
    {
        Json threads = from_->Get("query-migrationthreads", Named(name));
        Words names;
        size_t index;
        json_t *entry;
        json_array_foreach(threads.get(), index, entry)
        {
            names.emplace_back(json_string_value(json_object_get(entry, "name")));
            std::string task = "/proc/" + std::to_string(from_.program->pid()) + "/task/" +
                               std::to_string(json_integer_value(json_object_get(entry, "thread-id")));
            EXPECT_EQ(access(task.c_str(), F_OK), 0) << task;
        }
        return names;
    }
    // A move that takes many seconds, once it is under way.
    void SendSlowly(const std::string &name)
    {
        Set(name, R"("max-bandwidth": 1048576)");
        Send(name, Listen(name));
        ASSERT_TRUE(from_->Reaches(name, "active"));
        ASSERT_TRUE(from_->Until([&] { return from_->Number(name, "ram", "transferred") > 100000; }));
    }
    void ExpectMoved(const std::string &name)
    {
        EXPECT_TRUE(from_->Reaches(name, "completed")) << from_.program->Err();
        EXPECT_TRUE(to_->Reaches(name, "completed")) << to_.program->Err();
        EXPECT_EQ(from_->Guest(name), "postmigrate");
        EXPECT_EQ(to_->Guest(name), "running");
    }
    // Clients hear how each move ends before the socket goes away.
    void ExpectToldOfTheEnd(const std::string &name, const std::string &reason)
    {
        EXPECT_TRUE(from_->Gone());
        std::vector<std::string> events = from_->EventsSoFar(name);
        ASSERT_FALSE(events.empty());
        EXPECT_EQ(events.back(), "MIGRATION cancelled");
        EXPECT_EQ(from_->EventsSoFar(""), (Words{"SHUTDOWN " + reason}));
    }
    Daemon from_, to_;
};

TEST_F(DaemonMove, MovesAGuestAndTellsOfEveryStep)
{
    Send("a", Listen("a"));
    ExpectMoved("a");
    EXPECT_EQ(from_->Of("a", "ownership"), "destination");
    EXPECT_EQ(from_->Of("a", "machine"), "guest");
    EXPECT_GE(from_->Number("a", "ram", "transferred"), 8 << 20);
    EXPECT_EQ(from_->Number("a", "ram", "remaining"), 0);
    ASSERT_TRUE(from_->Saw("a", "MIGRATION completed"));
    std::vector<std::string> events = from_->Events("a"), states;
    std::string rest;
    for (const std::string &event : events) {
        if (event.rfind("MIGRATION ", 0) == 0) {
            states.push_back(event.substr(10));
        } else {
            rest += event + ",";
        }
    }
    EXPECT_EQ(states, (Words{"setup", "active", "pre-switchover", "device", "completed"}));
    EXPECT_EQ(rest.rfind("MIGRATION_PASS 1,", 0), 0u) << rest;
    EXPECT_TRUE(Has(rest, "STOP,")) << rest;
    EXPECT_FALSE(Has(rest, "RESUME")) << rest;
    EXPECT_TRUE(to_->Saw("a", "RESUME"));
    struct stat status;
    ASSERT_EQ(stat(from_.path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(DaemonMove, TwoMovesAtOnceDoNotMix)
{
    std::string first = Listen("one"), second = Listen("two");
    Set("one", R"("multifd-channels": 3, "max-bandwidth": 8388608)");
    Set("two", R"("multifd-compression": "lz4", "max-bandwidth": 8388608)");
    Send("one", first);
    Send("two", second);
    ASSERT_TRUE(from_->Reaches("one", "active"));
    ASSERT_TRUE(from_->Reaches("two", "active"));
    EXPECT_EQ(from_->Fails("query-migrate"),
              "Parameter 'name' is missing: there are 2 migrations, see query-migrations");
    EXPECT_EQ(json_array_size(from_->Get("query-migrations").get()), 2u);
    EXPECT_EQ(json_array_size(json_object_get(from_->Get("query-migrate", Named("one")).get(), "channels")),
              3u);
    ExpectMoved("one");
    ExpectMoved("two");
}

TEST_F(DaemonMove, MovesToAHaulReceive)
{
    Program receive(to_.options, {"receive", "--listen", "tcp:127.0.0.1:0", "--guest", "--guest-memory",
                                  "16M", "--guest-vcpu", "thread", "--run-for", "1"});
    Send("a", receive.Address());
    EXPECT_TRUE(from_->Reaches("a", "completed"));
    EXPECT_EQ(receive.Wait(), 0) << receive.Err();
    EXPECT_TRUE(Has(receive.Out(), "self-check passed")) << receive.Out();
}

TEST_F(DaemonMove, ACancelledGuestGoesOnAndMovesLater)
{
    SendSlowly("a");
    EXPECT_EQ(from_->Fails("migrate", Named("a", R"("uri": "tcp:127.0.0.1:1")")),
              "There's a migration process in progress");
    from_->Get("migrate_cancel", Named("a"));
    ASSERT_TRUE(from_->Reaches("a", "cancelled"));
    EXPECT_TRUE(from_->Saw("a", "MIGRATION cancelled"));
    EXPECT_EQ(from_->Guest("a"), "running");
    ASSERT_TRUE(to_->Reaches("a", "cancelled"));
    EXPECT_EQ(to_->Guest("a"), "prelaunch");
    EXPECT_TRUE(
        Has(from_->Fails("migrate", Named("a", std::string(R"("uri": "tcp:127.0.0.1:1", )") + kSourceGuest)),
            "keeps a reference guest"));
    Set("a", R"("max-bandwidth": 0)");
    from_->Get("migrate", Named("a", "\"uri\": \"" + Listen("a") + "\""));
    ExpectMoved("a");
}

// A disk comes along, also on the second try: its guest and its image stay with the daemon meanwhile.
TEST_F(DaemonMove, MovesAGuestWithItsDisk)
{
    haul_test::Directory directory;
    auto guest = [&](const std::string &name, const std::string &more) {
        return R"("guest": {"memory": 16777216, "vcpu": "thread", "disk": {"path": ")" + directory / name +
               R"(", "size": 8388608)" + more;
    };
    auto listen = [&] {
        to_->Get("migrate-incoming", Named("a", R"("uri": "tcp:127.0.0.1:0", )" + guest("to", "}}")));
        std::string uri;
        EXPECT_TRUE(to_->Until([&] {
            uri = to_->Of("a", "socket-address").empty() ? "" : to_->Of("a", "uri");
            return !uri.empty();
        }));
        return "\"uri\": \"" + uri + "\"";
    };
    Set("a", R"("max-bandwidth": 1048576)");
    from_->Get("migrate",
               Named("a", listen() + ", " +
                              guest("from", R"(, "rate": 1000000}, "dirty-rate": 0, "tracker": "bitmap"})")));
    ASSERT_TRUE(from_->Reaches("a", "active"));
    EXPECT_EQ(from_->Number("a", "disk", "total"), 8 << 20);
    EXPECT_TRUE(to_->Until([&] { return to_->Number("a", "disk", "transferred") > 0; }));
    EXPECT_EQ(directory.Names(), (Words{"from", "to.incomplete"}));
    from_->Get("migrate_cancel", Named("a"));
    ASSERT_TRUE(from_->Reaches("a", "cancelled"));
    ASSERT_TRUE(to_->Reaches("a", "cancelled"));
    to_->Get("migrate-forget", Named("a"));
    EXPECT_EQ(directory.Names(), Words{"from"});
    Set("a", R"("max-bandwidth": 0)");
    from_->Get("migrate", Named("a", listen()));
    ExpectMoved("a");
    EXPECT_EQ(from_->Number("a", "disk", "remaining"), 0);
    EXPECT_EQ(directory.Names(), (Words{"from", "to"}));
}

TEST_F(DaemonMove, RefusesADiskThatIsNone)
{
    EXPECT_EQ(from_->Fails("migrate", R"({"uri": "tcp:127.0.0.1:1", "guest": {"disk": {"size": 4096}}})"),
              "Parameter 'guest.disk.path' is missing");
    from_->Get("migrate",
               Named("a", R"("uri": "tcp:127.0.0.1:1", "guest": {"disk": {"path": "/nonexistent/x"}})"));
    ASSERT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(from_->Of("a", "error-desc"),
                    "/nonexistent/x: opening it for reading and writing: No such file or directory"));
}

TEST_F(DaemonMove, IsHeldInPreSwitchoverUntilContinue)
{
    from_->Get("migrate-set-capabilities",
               Named("a", R"("capabilities": [{"capability": "pause-before-switchover", "state": true}])"));
    Send("a", Listen("a"));
    ASSERT_TRUE(from_->Reaches("a", "pre-switchover"));
    EXPECT_EQ(from_->Guest("a"), "finish-migrate");
    EXPECT_EQ(from_->Fails("migrate-continue", Named("a", R"("state": "device")")),
              "Migration not in expected state: pre-switchover");
    EXPECT_EQ(from_->Of("a", "status"), "pre-switchover");
    from_->Get("migrate-continue", Named("a", R"("state": "pre-switchover")"));
    ExpectMoved("a");
    EXPECT_EQ(from_->Fails("migrate-continue", Named("a", R"("state": "pre-switchover")")),
              "Migration not in expected state: completed");
}

TEST_F(DaemonMove, CancelWhileHeldRunsTheGuestAgain)
{
    from_->Get("migrate-set-capabilities",
               Named("a", R"("capabilities": [{"capability": "pause-before-switchover", "state": true}])"));
    Send("a", Listen("a"));
    ASSERT_TRUE(from_->Reaches("a", "pre-switchover"));
    from_->Get("migrate_cancel", Named("a"));
    ASSERT_TRUE(from_->Reaches("a", "cancelled"));
    EXPECT_EQ(from_->Guest("a"), "running");
    EXPECT_TRUE(from_->Saw("a", "RESUME"));
}

TEST_F(DaemonMove, ParametersActOnARunningMove)
{
    SendSlowly("a");
    Json parameters = from_->Get("query-migrate-parameters", Named("a"));
    EXPECT_EQ(json_integer_value(json_object_get(parameters.get(), "max-bandwidth")), 1048576);
    Set("a", R"("downtime-limit": 1234, "cpu-throttle-percentage": 30)");
    EXPECT_EQ(from_->Of("a", "downtime-limit"), "1234");
    EXPECT_TRUE(from_->Until([&] { return from_->Of("a", "cpu-throttle-percentage") == "30"; }, 5));
    EXPECT_EQ(from_->Fails("migrate-set-capabilities",
                           Named("a", R"("capabilities": [{"capability": "verify", "state": true}])")),
              "There's a migration process in progress");
    // Threads enter the list as their first act, which may come after the first byte that one of them sends.
    EXPECT_TRUE(from_->Until([&] { return Threads("a").size() == 4; }));
    EXPECT_EQ(Threads("a"), (Words{"migration", "multifdsend_0", "multifdsend_1", "return-path"}));
    Set("a", R"("max-bandwidth": 0)"); // it would take 12 s more
    ExpectMoved("a");
    EXPECT_LT(std::stol(from_->Of("a", "total-time")), 8000);
}

TEST_F(DaemonMove, AClientThatGoesAwayChangesNothing)
{
    std::string uri = Listen("a");
    {
        RawClient client(from_.path);
        client.negotiate();
        client.ask(R"({"execute": "migrate", "arguments": )" +
                   Named("a", "\"uri\": \"" + uri + "\", " + kSourceGuest) + "}");
        client.send(R"({"execute": "query-mig)");
    }
    ExpectMoved("a");
}

TEST_F(DaemonMove, QuitCancelsWhatMoves)
{
    SendSlowly("a");
    from_->Get("quit");
    ExpectToldOfTheEnd("a", "host-qmp-quit");
    EXPECT_EQ(from_.program->Wait(10), 0) << from_.program->Err();
    EXPECT_NE(access(from_.path.c_str(), F_OK), 0) << "the socket is removed";
    ASSERT_TRUE(to_->Reaches("a", "cancelled"));
    EXPECT_EQ(to_->Guest("a"), "prelaunch");
}

TEST_F(DaemonMove, ASignalDoesWhatQuitDoes)
{
    SendSlowly("a");
    from_.program->Signal(SIGTERM);
    ExpectToldOfTheEnd("a", "host-signal");
    EXPECT_EQ(from_.program->Wait(10), 0) << from_.program->Err();
    EXPECT_TRUE(to_->Reaches("a", "cancelled"));
}

// ---- what is refused, and how ----

class DaemonRefuses : public ::testing::Test
{
  protected:
    Daemon daemon_;
};

TEST_F(DaemonRefuses, WhatCannotBeMoved)
{
    EXPECT_EQ(daemon_->Fails("migrate", "{}"), "Parameter 'uri' is missing");
    EXPECT_TRUE(Has(daemon_->Fails("migrate", R"({"uri": "bogus:x", "guest": {}})"), "bogus:x"));
    EXPECT_EQ(daemon_->Fails("migrate", R"({"uri": "tcp:127.0.0.1:1"})"),
              "say what to move: 'qemu', 'memory' or 'guest'");
    EXPECT_EQ(daemon_->Fails("migrate", R"({"uri": "tcp:127.0.0.1:1", "guest": {}, "qemu": "/x"})"),
              "'qemu', 'memory' and 'guest' exclude each other");
    EXPECT_EQ(daemon_->Fails("migrate", R"({"uri": "tcp:127.0.0.1:1", "guest": {}, "blk": true})"),
              "Parameter 'blk' is not supported by haul");
    EXPECT_TRUE(Has(daemon_->Fails("migrate", R"({"uri": "tcp:127.0.0.1:1", "guest": {}, "name": "a b"})"),
                    "Parameter 'name' expects 1 to 64 letters"));
}

TEST_F(DaemonRefuses, AMachineThatIsNotThereFailsTheMove)
{
    daemon_->Get("migrate", R"({"uri": "tcp:127.0.0.1:1", "qemu": "/nonexistent/qmp"})");
    ASSERT_TRUE(daemon_->Until([&] { return daemon_->Of("default", "status") == "failed"; }));
    EXPECT_TRUE(Has(daemon_->Of("default", "error-desc"), "/nonexistent/qmp"));
    EXPECT_EQ(daemon_->Events("default"), (Words{"MIGRATION setup", "MIGRATION failed"}));
}

TEST_F(DaemonRefuses, APeerThatIsNotThereLeavesTheGuestHere)
{
    daemon_->Get("migrate", std::string(R"({"uri": "unix:/nonexistent/peer", )") + kSourceGuest + "}");
    ASSERT_TRUE(daemon_->Reaches("default", "failed"));
    EXPECT_EQ(daemon_->Guest("default"), "running");
    EXPECT_TRUE(Has(daemon_->Of("default", "error-desc"), "/nonexistent/peer"));
    daemon_->Get("migrate-forget", Named("default"));
    EXPECT_EQ(json_array_size(daemon_->Get("query-migrations").get()), 0u);
}

TEST_F(DaemonRefuses, NamesThatDoNotExist)
{
    EXPECT_EQ(daemon_->Fails("query-migrate", Named("x")), "There is no migration 'x'");
    EXPECT_EQ(daemon_->Fails("migrate_cancel", Named("x")), "There is no migration 'x'");
    EXPECT_EQ(daemon_->Fails("migrate-forget", Named("x")), "There is no migration 'x'");
    EXPECT_EQ(daemon_->Fails("migrate_cancel"), "") << "QEMU cancels nothing without an error too";
}

TEST_F(DaemonRefuses, WrongSettingsChangeNothing)
{
    struct {
        const char *arguments;
        const char *error;
    } cases[] = {
        {R"({"downtime-limit": 2000001})",
         "Parameter 'downtime-limit' expects an integer in the range of 0 to 2000000"},
        {R"({"multifd-channels": 0})",
         "Parameter 'multifd-channels' expects an integer in the range of 1 to 128"},
        {R"({"multifd-compression": "zip"})", "Parameter 'multifd-compression' does not accept value 'zip'"},
        {R"({"downtime-limit": 7, "nope": 1})", "Parameter 'nope' is unexpected"},
        {R"({"downtime-limit": 7, "cpu-throttle-percentage": 100})",
         "Parameter 'cpu-throttle-percentage' expects an integer in the range of 0 to 99"},
        {R"({"downtime-limit": 7, "cpu-throttle-percentage": 10})",
         "cpu-throttle-percentage is for a migration that runs"},
        {R"({"cpu-throttle-initial": 0})",
         "Parameter 'cpu-throttle-initial' expects an integer in the range of 1 to 99"},
        {R"({"cpu-throttle-increment": 100})",
         "Parameter 'cpu-throttle-increment' expects an integer in the range of 1 to 99"},
        {R"({"downtime-limit": 7, "max-cpu-throttle": 19})",
         "Parameter 'max-cpu-throttle' expects an integer in the range of cpu-throttle-initial to 99"},
        {R"({"cpu-throttle-tailslow": 1})",
         "Invalid parameter type for 'cpu-throttle-tailslow', expected: boolean"},
        {R"({"throttle-trigger-threshold": 50})", "Parameter 'throttle-trigger-threshold' is unexpected"},
    };
    for (const auto &one : cases) {
        EXPECT_EQ(daemon_->Fails("migrate-set-parameters", one.arguments), one.error);
    }
    Json parameters = daemon_->Get("query-migrate-parameters");
    EXPECT_EQ(json_integer_value(json_object_get(parameters.get(), "downtime-limit")), 300);
    EXPECT_EQ(daemon_->Fails("migrate-set-capabilities",
                             R"({"capabilities": [{"capability": "xbzrle", "state": true}]})"),
              "Parameter 'capability' does not accept value 'xbzrle'");
    EXPECT_EQ(daemon_->Fails("migrate-set-capabilities", R"({"capabilities": [
                  {"capability": "verify", "state": true}, {"capability": "multifd", "state": false}]})"),
              "Capability 'multifd' is always on in haul");
    Json capabilities = daemon_->Get("query-migrate-capabilities");
    size_t index;
    json_t *entry;
    json_array_foreach(capabilities.get(), index, entry)
    {
        if (std::string(json_string_value(json_object_get(entry, "capability"))) == "verify") {
            EXPECT_FALSE(json_is_true(json_object_get(entry, "state")));
        }
    }
}

TEST(Daemon, SettingsAreTakenAndShown)
{
    Daemon daemon;
    const char *all = R"({"cpu-throttle-initial": 5, "cpu-throttle-increment": 3, "max-cpu-throttle": 10,
                          "cpu-throttle-tailslow": true, "direct-io": true,
                          "max-bandwidth": 18446744073709551615})";
    daemon->Get("migrate-set-parameters", all);
    daemon->Get("migrate-set-parameters", R"({"max-cpu-throttle": 7})");
    Json shown = daemon->Get("query-migrate-parameters");
    int initial = 0, increment = 0, most = 0, tailslow = 0, direct = 0;
    json_int_t bandwidth = 0;
    EXPECT_EQ(json_unpack(shown.get(), "{s:i s:i s:i s:b s:b s:I}", "cpu-throttle-initial", &initial,
                          "cpu-throttle-increment", &increment, "max-cpu-throttle", &most,
                          "cpu-throttle-tailslow", &tailslow, "direct-io", &direct, "max-bandwidth",
                          &bandwidth),
              0);
    EXPECT_EQ(initial, 5);
    EXPECT_EQ(increment, 3);
    EXPECT_EQ(most, 7);
    EXPECT_TRUE(tailslow);
    EXPECT_TRUE(direct);
    EXPECT_EQ(bandwidth, INT64_MAX) << "the largest that is kept";
}

TEST_F(DaemonRefuses, MoreMigrationsThanItKeeps)
{
    for (int i = 0; i < 128; i++) {
        daemon_->Get("migrate-set-parameters", Named("m" + std::to_string(i), R"("downtime-limit": 5)"));
    }
    EXPECT_TRUE(Has(daemon_->Fails("migrate-set-parameters", Named("more")), "There are 128 migrations"));
    daemon_->Get("migrate-forget", Named("m5"));
    daemon_->Get("migrate-set-parameters", Named("more"));
}

TEST(Daemon, ASecondOneOnTheSameSocketIsRefused)
{
    Daemon first;
    Program second(first.options, {"daemon", "--qmp", first.path});
    EXPECT_EQ(second.Wait(), 1);
    EXPECT_TRUE(Has(second.Err(), first.path)) << second.Err();
    EXPECT_EQ(first->Fails("query-status"), "");
}

} // namespace
