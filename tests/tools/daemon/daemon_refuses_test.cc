// SPDX-License-Identifier: Apache-2.0
// What a daemon refuses, and how; and the settings that it takes.
#include "tests/tools/daemon/daemon.h"

#include <sys/socket.h>
#include <sys/un.h>

namespace
{

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
    EXPECT_EQ(json_array_size(daemon_->Get("query-migrations").get()), 0u) << "a typo begins nothing";
}

TEST_F(DaemonRefuses, ChannelsThatItCannotDo)
{
    auto says = [&](const std::string &address, const std::string &more = "") {
        return daemon_->Fails("migrate", R"({"channels": [{"channel-type": "main", "addr": )" + address +
                                             "}]" + more + ", " + kGuest + "}");
    };
    const std::string local = R"({"transport": "socket", "type": "unix", "path": "/tmp/x"})";
    EXPECT_EQ(says(local, R"(, "uri": "tcp:a:1")"), "'uri' and 'channels' exclude each other");
    EXPECT_EQ(says(R"({"transport": "pigeon"})"),
              "Parameter 'addr' has a transport 'pigeon' of type '', which haul does not know");
    EXPECT_EQ(says(R"({"transport": "socket", "type": "inet", "host": "a"})"), "Parameter 'port' is missing");
    EXPECT_EQ(says(R"({"transport": "rdma", "host": "a", "port": "1", "ipv6": true})"),
              "Parameter 'ipv6' is unexpected");
    EXPECT_EQ(says(R"({"transport": "file", "filename": "/x", "offset": 4096})"),
              "Parameter 'offset' is not supported by haul");
    EXPECT_EQ(says(R"({"transport": "exec", "args": ["a", 1]})"),
              "Parameter 'args' expects an array of strings");
    EXPECT_EQ(says(R"({"transport": "exec", "args": [")" + std::string(5000, 'x') + R"("]})"),
              "an address may have 4095 bytes");
    EXPECT_EQ(daemon_->Fails("migrate", R"({"channels": [], "guest": {}})"),
              "Channel list has 0 entries and must have one");
    EXPECT_EQ(
        daemon_->Fails("migrate", R"({"channels": [{"channel-type": "cpr", "addr": {}}], "guest": {}})"),
        "Parameter 'channel-type' does not accept value 'cpr'");
}

// What each form of address becomes is seen in the failure that names it.
TEST_F(DaemonRefuses, ChannelsAreTakenAsUris)
{
    const std::pair<const char *, const char *> cases[] = {
        {R"({"transport": "socket", "type": "unix", "path": "/nonexistent/x"})", "unix:/nonexistent/x"},
        {R"({"transport": "socket", "type": "inet", "host": "::1", "port": "1"})", "tcp:[::1]:1"},
        {R"({"transport": "socket", "type": "vsock", "cid": "1", "port": "1"})", "vsock:1:1"},
        {R"({"transport": "rdma", "host": "127.0.0.1", "port": "1"})", "rdma:127.0.0.1:1"},
        {R"({"transport": "exec", "args": ["sh", "-c", "echo it's >&2"]})",
         R"(exec:'sh' '-c' 'echo it'\''s >&2')"},
        {R"({"transport": "file", "filename": "/nonexistent/x", "offset": 0})", "file:/nonexistent/x"},
    };
    int number = 0;
    for (const auto &[address, uri] : cases) {
        std::string name = "m" + std::to_string(number++);
        daemon_->Get("migrate-set-parameters", Named(name, R"("timeout": 1)"));
        daemon_->Get("migrate", Named(name, R"("channels": [{"channel-type": "main", "addr": )" +
                                                std::string(address) + "}], " + kSourceGuest));
        EXPECT_TRUE(daemon_->Reaches(name, "failed")) << address;
        EXPECT_EQ(daemon_->Of(name, "uri"), uri);
    }
    EXPECT_EQ(
        daemon_->Fails("migrate", Named("f", R"("channels": [{"channel-type": "main", "addr": )"
                                             R"({"transport": "socket", "type": "fd", "str": "none"}}], )" +
                                                 std::string(kSourceGuest))),
        "File descriptor named 'none' has not been found");
}

TEST_F(DaemonRefuses, AMachineThatIsNotThereFailsTheMove)
{
    daemon_->Get("migrate", R"({"uri": "tcp:127.0.0.1:1", "qemu": "/nonexistent/qmp"})");
    ASSERT_TRUE(daemon_->Until([&] { return daemon_->Of("default", "status") == "failed"; }));
    EXPECT_TRUE(Has(daemon_->Of("default", "error-desc"), "/nonexistent/qmp"));
    ASSERT_TRUE(daemon_->Saw("default", "MIGRATION failed")); // the state shows before the event is raised
    EXPECT_EQ(daemon_->Events("default"), (Words{"MIGRATION setup", "MIGRATION failed"}));
}

// A throttle that was set while a move began is not left over when it fails.
TEST_F(DaemonRefuses, AThrottleOfAMoveThatNeverBegan)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = daemon_.path + ".qmp";
    path.copy(address.sun_path, path.size());
    int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(bind(listening, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    ASSERT_EQ(listen(listening, 1), 0);
    daemon_->Get("migrate", Named("a", R"("uri": "tcp:127.0.0.1:1", "qemu": ")" + path + "\""));
    int machine = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC); // and it says nothing
    ASSERT_GE(machine, 0);
    EXPECT_EQ(daemon_->Fails("migrate-set-parameters", Named("a", R"("cpu-throttle-percentage": 30)")), "");
    close(machine);
    close(listening);
    unlink(path.c_str());
    ASSERT_TRUE(daemon_->Reaches("a", "failed"));
    std::string answer;
    daemon_->Until([&] {
        answer = daemon_->Fails("migrate-set-capabilities",
                                Named("a", R"("capabilities": [{"capability": "verify", "state": true}])"));
        return answer != "There's a migration process in progress";
    });
    EXPECT_EQ(answer, "");
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
              "Capability 'xbzrle' is not supported by haul");
    EXPECT_EQ(daemon_->Fails("migrate-set-capabilities",
                             R"({"capabilities": [{"capability": "xbzrle", "state": false}]})"),
              "");
    EXPECT_EQ(daemon_->Fails("migrate-set-capabilities",
                             R"({"capabilities": [{"capability": "xyz", "state": false}]})"),
              "Parameter 'capability' does not accept value 'xyz'");
    EXPECT_EQ(daemon_->Fails("migrate-set-parameters", R"({"tls-creds": "tls0"})"),
              "Parameter 'tls-creds' is not supported by haul");
    EXPECT_EQ(daemon_->Fails("migrate-set-parameters", R"({"tls-creds": "", "tls-hostname": ""})"), "");
    EXPECT_EQ(daemon_->Fails("migrate-set-capabilities", R"({"capabilities": [
                  {"capability": "verify", "state": true}, {"capability": "xbzrle", "state": true}]})"),
              "Capability 'xbzrle' is not supported by haul");
    EXPECT_EQ(daemon_->Fails("migrate-set-capabilities", R"({"capabilities": [
                  {"capability": "multifd", "state": false}, {"capability": "return-path", "state": false}]})"),
              "");
    Json capabilities = daemon_->Get("query-migrate-capabilities");
    size_t index;
    json_t *entry;
    json_array_foreach(capabilities.get(), index, entry)
    {
        std::string name = json_string_value(json_object_get(entry, "capability"));
        if (name == "verify" || name == "multifd") { // not set beside xbzrle; always on
            EXPECT_EQ(json_is_true(json_object_get(entry, "state")), name == "multifd");
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
