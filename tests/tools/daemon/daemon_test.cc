// SPDX-License-Identifier: Apache-2.0
// Real daemons that move the reference guest, steered over their control sockets.
#include "tests/engine/disk/disk.h"
#include "tests/engine/wire.h"
#include "tests/tools/daemon/daemon.h"
#include "tests/waiting.h"

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
    // The threads' names, in the daemon's order, each with a mark where there is no such thread (any more).
    Words Threads(const std::string &migration)
    {
        Json threads = from_->Get("query-migrationthreads", Named(migration));
        Words names;
        size_t index;
        json_t *entry;
        json_array_foreach(threads.get(), index, entry)
        {
            std::string task = "/proc/" + std::to_string(from_.program->pid()) + "/task/" +
                               std::to_string(json_integer_value(json_object_get(entry, "thread-id")));
            std::string name = json_string_value(json_object_get(entry, "name"));
            names.push_back(name + (access(task.c_str(), F_OK) == 0 ? "" : " (no thread)"));
        }
        return names;
    }
    // A move that takes many seconds, once it is under way.
    void SendSlowly(const std::string &name, int bytes_per_s = 1048576)
    {
        Set(name, "\"max-bandwidth\": " + std::to_string(bytes_per_s));
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
    // What a raw client is answered, after events and answers to what it said before.
    static std::string Answer(RawClient &client, const std::string &members)
    {
        std::string line = client.ask("{" + members + ", \"id\": \"this\"}");
        while (!line.empty() && !Has(line, "\"this\"")) {
            line = client.line();
        }
        return line;
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
    Set("one", R"("multifd-channels": 3, "max-bandwidth": 262144)");
    Set("two", R"("multifd-compression": "lz4", "max-bandwidth": 262144)");
    Send("one", first);
    Send("two", second);
    ASSERT_TRUE(from_->Reaches("one", "active"));
    ASSERT_TRUE(from_->Reaches("two", "active"));
    EXPECT_EQ(from_->Fails("query-migrate"),
              "Parameter 'name' is missing: there are 2 migrations, see query-migrations");
    EXPECT_EQ(json_array_size(from_->Get("query-migrations").get()), 2u);
    EXPECT_EQ(json_array_size(json_object_get(from_->Get("query-migrate", Named("one")).get(), "channels")),
              3u);
    Set("one", R"("max-bandwidth": 0)");
    Set("two", R"("max-bandwidth": 0)");
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
    SendSlowly("a", 262144);
    Json parameters = from_->Get("query-migrate-parameters", Named("a"));
    EXPECT_EQ(json_integer_value(json_object_get(parameters.get(), "max-bandwidth")), 262144);
    Set("a", R"("downtime-limit": 1234, "cpu-throttle-percentage": 30)");
    EXPECT_EQ(from_->Of("a", "downtime-limit"), "1234");
    EXPECT_TRUE(from_->Until([&] { return from_->Of("a", "cpu-throttle-percentage") == "30"; }));
    EXPECT_EQ(from_->Fails("migrate-set-capabilities",
                           Named("a", R"("capabilities": [{"capability": "verify", "state": true}])")),
              "There's a migration process in progress");
    // Threads enter the list as their first act, which may come after the first byte that one of them sends;
    // the one that maps memory ahead leaves it soon.
    const Words expected = {"move", "migration", "multifdsend_0", "multifdsend_1", "return-path"};
    Words threads;
    from_->Until([&] { return (threads = Threads("a")) == expected; });
    EXPECT_EQ(threads, expected);
    Set("a", R"("max-bandwidth": 0)"); // it would take half a minute more
    ExpectMoved("a");
    EXPECT_LT(std::stol(from_->Of("a", "total-time")), 25000);
}

// From the command to the decision, by what query-migrate shows.
TEST_F(DaemonMove, ParametersActWithin100Ms)
{
    SendSlowly("a");
    Set("a", R"("downtime-limit": 1)");
    auto takes = [&](const std::string &parameter, int64_t value, const std::string &member, int64_t shown) {
        auto set = haul_test::Clock::now();
        Set("a", "\"" + parameter + "\": " + std::to_string(value));
        EXPECT_TRUE(from_->Until([&] { return from_->Of("a", member) == std::to_string(shown); }))
            << from_->Of("a", member);
        return haul_test::MsSince(set);
    };
    using haul_test::BestOfTries;
    using haul_test::kAtOnceMs;
    int64_t bandwidth_ms = BestOfTries(kAtOnceMs, [&](int i) {
        return takes("avail-switchover-bandwidth", (4000 - i) * 1000, "threshold-size", 4000 - i);
    });
    EXPECT_LT(bandwidth_ms, kAtOnceMs);
    Set("a", R"("avail-switchover-bandwidth": 4000000)");
    EXPECT_LT(
        BestOfTries(kAtOnceMs,
                    [&](int i) { return takes("downtime-limit", 2 + i, "threshold-size", 4000 * (2 + i)); }),
        kAtOnceMs);
    EXPECT_LT(BestOfTries(kAtOnceMs,
                          [&](int i) {
                              return takes("cpu-throttle-percentage", 30 + i, "cpu-throttle-percentage",
                                           30 + i);
                          }),
              kAtOnceMs);
    from_->Get("migrate_cancel", Named("a"));
}

// From the command to the wire, of which a proxy is one end.
TEST_F(DaemonMove, MaxBandwidthActsWithin100Ms)
{
    using haul_test::Eventually;
    constexpr uint64_t kKiB = 1024;
    haul_test::Wire wire;
    auto limit = [&](uint64_t kib_per_s) {
        Set("a", "\"max-bandwidth\": " + std::to_string(kib_per_s * kKiB));
    };
    auto passes = [&](uint64_t kib) {
        uint64_t before = wire.bytes();
        limit(32768);
        EXPECT_TRUE(Eventually([&] { return wire.bytes() - before > kib * kKiB; }));
    };
    limit(128);
    Set("a", R"("downtime-limit": 0)");
    Send("a", wire.Open(Listen("a")));
    ASSERT_TRUE(Eventually([&] { return wire.bytes() > 64 * kKiB; }));
    int64_t ms = haul_test::BestOfTries(haul_test::kAtOnceMs, [&](int) {
        limit(128);
        EXPECT_TRUE(Eventually([&] { return wire.BytesIn(100) < 48 * kKiB; }));
        auto set = haul_test::Clock::now();
        passes(512);
        return haul_test::MsSince(set);
    });
    EXPECT_LT(ms, haul_test::kAtOnceMs) << "4 s at the first limit";
    constexpr int64_t kEnough = 128 * kKiB;
    int64_t passed = haul_test::BestOfTries(kEnough, [&](int) {
        passes(1024);
        limit(128);
        usleep(100000);
        return static_cast<int64_t>(wire.BytesIn(500));
    });
    EXPECT_LT(passed, kEnough) << "64 KiB are due, 1 MiB is what the guest writes meanwhile";
    from_->Get("migrate_cancel", Named("a"));
}

// Nothing that a client says or does not say touches a migration, or the other clients.
TEST_F(DaemonMove, HostileClientsChangeNothing)
{
    SendSlowly("a");
    {
        RawClient noise(from_.path), half(from_.path), large(from_.path);
        for (RawClient *client : {&noise, &half, &large}) {
            client->negotiate();
        }
        std::string line = noise.ask("\x01[[{]\"}}");
        while (Has(line, "\"event\"")) {
            line = noise.line();
        }
        EXPECT_TRUE(Has(line, "JSON parse error")) << line;
        noise.send("\xff");
        EXPECT_TRUE(Has(Answer(noise, R"("execute": "migrate-now")"), "CommandNotFound"));
        std::string wrong = Answer(noise, R"("execute": "migrate_cancel", "arguments": {"name": 1})");
        EXPECT_TRUE(Has(wrong, "'name', expected: string")) << wrong;
        large.send("{\"execute\": \"" + std::string(1 << 20, 'x') + "\"}\n");
        std::string last;
        for (std::string line; !(line = large.line()).empty();) {
            last = line;
        }
        EXPECT_TRUE(Has(last, "a message may have 1048576 bytes at most")) << last;
        EXPECT_TRUE(large.at_end());
        half.send(R"({"execute": "migrate_cancel", "argum)");
    }
    EXPECT_EQ(from_->Of("a", "status"), "active");
    Set("a", R"("max-bandwidth": 0)");
    ExpectMoved("a");
}

// A sanitizer sees to it that who asks and who begins a move do not meet in the same memory.
TEST_F(DaemonMove, ParametersMayBeSetWhileAMoveBegins)
{
    Send("a", "tcp:127.0.0.1:1");
    for (int i = 0; i < 8; i++) {
        for (int limit = 0; limit < 20; limit++) {
            Set("a", "\"downtime-limit\": " + std::to_string(limit));
        }
        ASSERT_TRUE(from_->Reaches("a", "failed"));
        ASSERT_TRUE(from_->Until(
            [&] { return from_->Fails("migrate", Named("a", R"("uri": "tcp:127.0.0.1:1")")) == ""; }));
    }
    EXPECT_TRUE(from_->Reaches("a", "failed"));
    from_->Get("quit");
    EXPECT_EQ(from_.program->Wait(), 0) << from_.program->Err();
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
    EXPECT_EQ(from_.program->Wait(), 0) << from_.program->Err();
    EXPECT_NE(access(from_.path.c_str(), F_OK), 0) << "the socket is removed";
    ASSERT_TRUE(to_->Reaches("a", "cancelled"));
    EXPECT_EQ(to_->Guest("a"), "prelaunch");
}

TEST_F(DaemonMove, ASignalDoesWhatQuitDoes)
{
    SendSlowly("a");
    from_.program->Signal(SIGTERM);
    ExpectToldOfTheEnd("a", "host-signal");
    EXPECT_EQ(from_.program->Wait(), 0) << from_.program->Err();
    EXPECT_TRUE(to_->Reaches("a", "cancelled"));
}

// QEMU 8.2's form of an address.
TEST_F(DaemonMove, ChannelsSayWhereInPlaceOfAUri)
{
    to_->Get(
        "migrate-incoming",
        Named("a", R"("channels": [{"channel-type": "main", "addr": {"transport": "socket", "type": "inet",)"
                   R"( "host": "127.0.0.1", "port": "0"}}], )" +
                       std::string(kGuest)));
    Json answer;
    ASSERT_TRUE(to_->Until([&] {
        answer = to_->Get("query-migrate", Named("a"));
        return json_object_get(answer.get(), "socket-address") != nullptr;
    }));
    const json_t *address = json_array_get(json_object_get(answer.get(), "socket-address"), 0);
    std::string port = json_string_value(json_object_get(address, "port"));
    from_->Get(
        "migrate",
        Named("a", R"("channels": [{"channel-type": "main", "addr": {"transport": "socket", "type": "inet",)"
                   R"( "host": "127.0.0.1", "port": ")" +
                       port + "\"}}], " + kSourceGuest));
    ExpectMoved("a");
}

} // namespace
