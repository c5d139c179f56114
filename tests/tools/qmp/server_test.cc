// SPDX-License-Identifier: Apache-2.0
// The QMP server as a well-behaved client sees it. The expected lines are those of QEMU 7.2.
#include "tests/tools/qmp/test_server.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

TEST(QmpServer, GreetsInQemusShape)
{
    TestServer server;
    RawClient client(server.path());
    EXPECT_EQ("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 8}, \"package\": "
              "\"haul test\"}, \"capabilities\": []}}",
              client.line());
}

TEST(QmpServer, WantsNegotiationFirst)
{
    TestServer server;
    RawClient client(server.path());
    client.line();
    EXPECT_EQ("{\"id\": 1, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities "
              "negotiation with 'qmp_capabilities'\"}}",
              client.ask("{\"execute\": \"nothing\", \"id\": 1}"));
    EXPECT_EQ("{\"id\": \"a\", \"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'x' is "
              "unexpected\"}}",
              client.ask("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"x\":1},\"id\":\"a\"}"));
    EXPECT_EQ("{\"error\": {\"class\": \"GenericError\", \"desc\": \"Capability oob not available\"}}",
              client.ask("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}"));
    EXPECT_EQ("{\"return\": {}, \"id\": 2}", client.ask("{\"execute\":\"qmp_capabilities\",\"id\":2}"));
    EXPECT_EQ("{\"id\": {\"a\": [1]}, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities "
              "negotiation is already complete, command ignored\"}}",
              client.ask("{\"execute\":\"qmp_capabilities\",\"id\":{\"a\":[1]}}"));
    EXPECT_EQ(0, server.calls);
}

TEST(QmpServer, AnswersWithTheId)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    EXPECT_EQ("{\"return\": {\"uri\": \"tcp:a:1\"}, \"id\": [1, \"b\"]}",
              client.ask("{\"execute\":\"echo\",\"arguments\":{\"uri\":\"tcp:a:1\"},\"id\":[1,\"b\"]}"));
    EXPECT_EQ("{\"return\": {}}", client.ask("{\"execute\": \"nothing\"}"));
    EXPECT_EQ(
        "{\"id\": null, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nope has not "
        "been found\"}}",
        client.ask("{\"execute\": \"nope\", \"id\": null}"));
    EXPECT_EQ(
        "{\"id\": 7, \"error\": {\"class\": \"GenericError\", \"desc\": \"There's a migration process in "
        "progress\"}}",
        client.ask("{\"execute\": \"refuse\", \"id\": 7}"));
    EXPECT_EQ("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no file called caf\\\\xe9\"}}",
              client.ask("{\"execute\": \"latin\"}"));
}

TEST(QmpServer, ListsItsCommandsAndVersion)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    std::string commands = client.ask("{\"execute\": \"query-commands\"}");
    for (const char *name : {"qmp_capabilities", "query-commands", "query-version", "echo", "getfd"})
        EXPECT_NE(std::string::npos, commands.find("{\"name\": \"" + std::string(name) + "\"}")) << commands;
    EXPECT_EQ(
        "{\"return\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 8}, \"package\": \"haul test\"}}",
        client.ask("{\"execute\": \"query-version\"}"));
}

TEST(QmpServer, EventsReachEveryNegotiatedClientInOrder)
{
    TestServer server;
    RawClient first(server.path());
    RawClient second(server.path());
    RawClient silent(server.path());
    first.negotiate();
    second.negotiate();
    silent.line();
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(0, haul_qmp_server_event(server.server(), "MIGRATION_PASS", json_pack("{s:i}", "pass", i)));
    for (RawClient *client : {&first, &second}) {
        for (int i = 0; i < 3; i++) {
            Json event = client->object();
            EXPECT_STREQ("MIGRATION_PASS", json_string_value(json_object_get(event.get(), "event")));
            json_t *stamp = json_object_get(event.get(), "timestamp");
            EXPECT_NEAR(time(nullptr), json_integer_value(json_object_get(stamp, "seconds")), 5);
            EXPECT_LT(json_integer_value(json_object_get(stamp, "microseconds")), 1000000);
            EXPECT_EQ(i, json_integer_value(json_object_get(json_object_get(event.get(), "data"), "pass")));
        }
    }
    EXPECT_EQ("", silent.line(100));
}

TEST(QmpServer, AnEventOfACommandComesBeforeItsAnswer)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    client.send("{\"execute\": \"raise\", \"id\": 1}\n");
    EXPECT_NE(std::string::npos, client.line().find("\"event\": \"STOP\"}"));
    EXPECT_EQ("{\"return\": {}, \"id\": 1}", client.line());
}

TEST(QmpServer, EventsOfManyThreadsAllArrive)
{
    const int threads = 4;
    const int each = 200;
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    std::vector<std::thread> raisers;
    for (int t = 0; t < threads; t++)
        raisers.emplace_back([&server] {
            for (int i = 0; i < each; i++)
                haul_qmp_server_event(server.server(), "MIGRATION", json_pack("{s:s}", "status", "active"));
        });
    for (int i = 0; i < threads * each; i++)
        ASSERT_NE(std::string::npos, client.line().find("MIGRATION")) << i;
    for (auto &raiser : raisers)
        raiser.join();
}

TEST(QmpServer, TakesADescriptor)
{
    int ends[2];
    ASSERT_EQ(0, pipe(ends));
    ASSERT_EQ(5, write(ends[1], "hello", 5));
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    client.send_with_fd("{\"execute\": \"getfd\"}\n", ends[0]);
    EXPECT_EQ("{\"return\": \"hello\"}", client.line());
    EXPECT_EQ("{\"error\": {\"class\": \"GenericError\", \"desc\": \"No file descriptor supplied via "
              "SCM_RIGHTS\"}}",
              client.ask("{\"execute\": \"getfd\"}"));
    close(ends[0]);
    close(ends[1]);
}

/* The descriptor of a command that was refused is not the next one's. */
TEST(QmpServer, TakesTheDescriptorOfTheLatestMessage)
{
    int first[2], second[2];
    ASSERT_EQ(0, pipe(first));
    ASSERT_EQ(0, pipe(second));
    ASSERT_EQ(6, write(second[1], "second", 6));
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    client.send_with_fd("{\"execute\": \"getfd\", \"arguments\": {\"typo\": 1}}\n", first[0]);
    EXPECT_NE(std::string::npos, client.line().find("error"));
    client.send_with_fd("{\"execute\": \"getfd\"}\n", second[0]);
    EXPECT_EQ("{\"return\": \"second\"}", client.line());
    close(first[0]);
    pollfd writer{first[1], POLLOUT, 0};
    EXPECT_EQ(1, poll(&writer, 1, 0));
    EXPECT_TRUE(writer.revents & POLLERR) << "the server has not closed its copy";
    for (int fd : {first[1], second[0], second[1]})
        close(fd);
}

TEST(QmpServer, AnswersAllOfAScriptThatDoesNotWait)
{
    TestServer server;
    RawClient client(server.path());
    std::string script = "{'execute': 'qmp_capabilities'}";
    for (int i = 0; i < 2000; i++)
        script += "{'execute': 'nothing', 'id': " + std::to_string(i) + "}";
    client.send(script);
    client.finish();
    client.line();
    EXPECT_EQ("{\"return\": {}}", client.line());
    for (int i = 0; i < 2000; i++)
        ASSERT_EQ("{\"return\": {}, \"id\": " + std::to_string(i) + "}", client.line());
    EXPECT_TRUE(client.at_end());
}

TEST(QmpServer, SaysWhatItHasToSayBeforeItEnds)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    haul_qmp_server_event(server.server(), "SHUTDOWN", nullptr);
    server.stop();
    EXPECT_NE(std::string::npos, client.line().find("SHUTDOWN"));
    EXPECT_TRUE(client.at_end());
    EXPECT_EQ(-1, access(server.path().c_str(), F_OK));
}

// ---- the socket ----

int open_at(const std::string &path, haul_qmp_server **server, haul_error *error)
{
    haul_qmp_server_options options;
    haul_qmp_server_defaults(&options);
    options.address = path.c_str();
    options.package = "haul test";
    return haul_qmp_server_new(&options, server, error);
}

TEST(QmpSocket, IsItsOwnersAlone)
{
    mode_t mask = umask(0);
    TestServer server;
    umask(mask);
    struct stat status;
    ASSERT_EQ(0, lstat(server.path().c_str(), &status));
    EXPECT_EQ(0600U, status.st_mode & 07777);
    EXPECT_STREQ(server.path().c_str(), haul_qmp_server_path(server.server()));
}

TEST(QmpSocket, ASecondServerIsRefused)
{
    TestServer server;
    haul_qmp_server *second = nullptr;
    haul_error error{};
    EXPECT_EQ(-EADDRINUSE, open_at(server.path(), &second, &error));
    EXPECT_STREQ(
        ("another server listens on the control socket " + server.path() + "; end it, or choose another path")
            .c_str(),
        error.message);
    RawClient client(server.path());
    client.negotiate();
}

TEST(QmpSocket, AStaleOneIsReplaced)
{
    char folder[] = "/tmp/haul-qmp-XXXXXX";
    std::string path = std::string(mkdtemp(folder)) + "/qmp";
    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path.c_str());
    ASSERT_EQ(0, bind(stale, reinterpret_cast<sockaddr *>(&address), sizeof address));
    close(stale);
    haul_qmp_server *server = nullptr;
    haul_error error{};
    EXPECT_EQ(0, open_at(path, &server, &error)) << error.message;
    haul_qmp_server_free(server);
    EXPECT_EQ(0, rmdir(folder)) << "the socket is left";
}

TEST(QmpSocket, AFileIsLeftAlone)
{
    char file[] = "/tmp/haul-qmp-XXXXXX";
    int fd = mkstemp(file);
    haul_qmp_server *server = nullptr;
    haul_error error{};
    EXPECT_EQ(-EEXIST, open_at(file, &server, &error));
    EXPECT_EQ(std::string("cannot make the control socket ") + file +
                  ": something that is no socket is there",
              error.message);
    EXPECT_EQ(0, access(file, F_OK));
    close(fd);
    unlink(file);
}

TEST(QmpSocket, ANewerOneIsNotRemoved)
{
    TestServer server;
    unlink(server.path().c_str());
    haul_qmp_server *newer = nullptr;
    haul_error error{};
    ASSERT_EQ(0, open_at(server.path(), &newer, &error)) << error.message;
    server.stop();
    EXPECT_EQ(0, access(server.path().c_str(), F_OK));
    haul_qmp_server_free(newer);
}

TEST(QmpSocket, BadPathsAndOptions)
{
    haul_qmp_server *server = nullptr;
    haul_error error{};
    EXPECT_EQ(-EINVAL, open_at("unix:", &server, &error));
    EXPECT_STREQ("\"\" is not a QMP socket path of 1 to 107 characters", error.message);
    EXPECT_EQ(-EINVAL, open_at("tcp:127.0.0.1:7000", &server, &error));
    EXPECT_STREQ("\"tcp:127.0.0.1:7000\" is not the path of a QMP socket: use unix:PATH", error.message);
    EXPECT_EQ(-ENOENT, open_at("/nowhere/at/all", &server, &error));
    EXPECT_STREQ("cannot open the folder of the control socket /nowhere/at/all: No such file or directory",
                 error.message);
    haul_qmp_server_options options;
    haul_qmp_server_defaults(&options);
    EXPECT_EQ(-EINVAL, haul_qmp_server_new(&options, &server, &error));
    EXPECT_STREQ("a QMP server needs an address, a package and its commands", error.message);
    options.address = "/tmp/never-made";
    options.package = "haul";
    options.clients = 0;
    EXPECT_EQ(-EINVAL, haul_qmp_server_new(&options, &server, &error));
    EXPECT_STREQ("a limit of the QMP server is out of its range", error.message);
}

} // namespace
