// SPDX-License-Identifier: Apache-2.0
// Clients that a QMP server must outlive. After each, another client still gets its answer at once.
#include "tests/tools/qmp/test_server.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <fcntl.h>
#include <memory>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

using Clock = std::chrono::steady_clock;

const char NOTHING[] = "{\"execute\": \"nothing\"}\n";

void small(haul_qmp_server_options &options)
{
    options.clients = 3;
    options.message_bytes = 4096;
    options.backlog_bytes = 65536;
    options.queued_events = 16;
}

void expect_alive(const TestServer &server)
{
    RawClient client(server.path());
    client.negotiate();
    EXPECT_EQ("{\"return\": {}}", client.ask("{\"execute\": \"nothing\"}"));
}

TEST(HostileQmpClient, SendsALineOfAMebibyte)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    // Just below the limit it is a message like others.
    std::string name((1 << 20) - 100, 'x');
    EXPECT_NE(std::string::npos, client.ask("{\"execute\": \"" + name + "\"}").find("CommandNotFound"));
    client.send("{\"execute\": \"" + std::string(1 << 20, 'x') + "\"}\n");
    EXPECT_EQ(
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"a message may have 1048576 bytes at most; "
        "the connection is closed\"}}",
        client.line());
    EXPECT_TRUE(client.at_end());
    expect_alive(server);
}

TEST(HostileQmpClient, NestsDeeply)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    EXPECT_EQ("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, nested too deeply\"}}",
              client.ask(std::string(500000, '[')));
    std::string deep = std::string(1000, '[') + std::string(1000, ']');
    EXPECT_EQ("{\"return\": {}, \"id\": " + deep + "}",
              client.ask("{\"execute\": \"nothing\", \"id\": " + deep + "}"));
}

TEST(HostileQmpClient, SendsNoise)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    std::string noise;
    unsigned state = 1;
    for (int i = 0; i < 20000; i++) {
        state = state * 1103515245 + 12345;
        noise += static_cast<char>(state >> 16);
    }
    std::thread sender([&] { client.send(noise + "\n\xff{\"execute\": \"nothing\", \"id\": \"end\"}\n"); });
    std::string line;
    do
        line = client.line();
    while (!line.empty() && line.find("\"end\"") == std::string::npos);
    sender.join();
    EXPECT_EQ("{\"return\": {}, \"id\": \"end\"}", line);
    expect_alive(server);
}

TEST(HostileQmpClient, GoesAwayInTheMiddle)
{
    TestServer server;
    for (const char *last : {"", "{\"execute\"", "{\"execute\": \"qmp_capabilities\"}\n{\"exec", NOTHING}) {
        RawClient client(server.path());
        client.send(last);
    }
    for (int i = 0; i < 20; i++) {
        RawClient client(server.path());
        client.negotiate();
        // It leaves with answers under way.
        client.send("{\"execute\": \"big\"}{\"execute\": \"big\"}{\"execute\": \"big\"}");
    }
    expect_alive(server);
}

TEST(HostileQmpClient, NeverReadsItsAnswers)
{
    TestServer server(small);
    RawClient client(server.path());
    client.negotiate();
    ASSERT_EQ(0, fcntl(client.fd(), F_SETFL, O_NONBLOCK));
    // It is not read from any longer, and so cannot make the server keep answers without end.
    int accepted = 0;
    {
        RawClient other(server.path());
        other.negotiate();
        // Full for a moment is not full for good: the server may only be slower. Before it answers another
        // client, it reads from all that it still wants to read from.
        for (int full = 0; accepted < 100000 && full < 10;) {
            if (send(client.fd(), NOTHING, sizeof NOTHING - 1, MSG_NOSIGNAL) > 0) {
                accepted++;
                full = 0;
                continue;
            }
            ASSERT_EQ(EAGAIN, errno);
            full++;
            ASSERT_NE("", other.ask("{\"execute\": \"query-version\"}"));
        }
    }
    EXPECT_LT(accepted, 100000);
    EXPECT_GT(accepted, 100);
    EXPECT_LT(server.calls, accepted);
    expect_alive(server);
    // It is no worse off than that: when it reads, it gets every answer.
    ASSERT_EQ(0, fcntl(client.fd(), F_SETFL, 0));
    client.finish();
    int answers = 0;
    while (client.line() == "{\"return\": {}}")
        answers++;
    EXPECT_GE(answers, accepted - 1); // the last may have been cut
}

TEST(HostileQmpClient, NeverReadsItsEvents)
{
    TestServer server(small);
    RawClient deaf(server.path());
    RawClient good(server.path());
    deaf.negotiate();
    good.negotiate();
    std::string text(1000, 'e');
    auto longest = Clock::duration::zero();
    for (int i = 0; i < 1000; i++) {
        auto start = Clock::now();
        haul_qmp_server_event(server.server(), "MIGRATION", json_pack("{s:s}", "text", text.c_str()));
        longest = std::max(longest, Clock::now() - start);
        ASSERT_NE(std::string::npos, good.line().find("MIGRATION")) << i;
    }
    EXPECT_LT(longest, std::chrono::seconds(10));
    EXPECT_TRUE(deaf.at_end());
    expect_alive(server);
}

TEST(HostileQmpClient, AnAnswerBeyondTheBacklogClosesOneClient)
{
    TestServer server(small);
    RawClient client(server.path());
    client.negotiate();
    client.send("{\"execute\": \"big\"}\n");
    EXPECT_TRUE(client.at_end());
    expect_alive(server);
}

TEST(HostileQmpClient, OneTooManyIsTold)
{
    TestServer server(small);
    std::vector<std::unique_ptr<RawClient>> clients;
    for (int i = 0; i < 3; i++) {
        clients.push_back(std::make_unique<RawClient>(server.path()));
        clients.back()->negotiate();
    }
    RawClient fourth(server.path());
    EXPECT_EQ(
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"3 clients are connected, and no more are "
        "served\"}}",
        fourth.line());
    EXPECT_TRUE(fourth.at_end());
    clients.pop_back();
    clients.front()->ask(NOTHING); // the server has seen the hang-up before it answers this, or soon after
    EXPECT_TRUE(haul_test::Eventually([&] {
        RawClient next(server.path());
        return next.line().find("QMP") != std::string::npos;
    })) << "the place of a client that left is not given away";
}

TEST(HostileQmpClient, SendsDescriptorsWithoutEnd)
{
    TestServer server;
    RawClient client(server.path());
    client.negotiate();
    int ends[2];
    ASSERT_EQ(0, pipe(ends));
    for (int i = 0; i < 100; i++) {
        client.send_with_fd(NOTHING, ends[1]);
        client.line();
    }
    close(ends[1]);
    // Whatever the server kept it closes with the client: then the pipe ends.

    shutdown(client.fd(), SHUT_RDWR);
    char byte;
    EXPECT_EQ(0, read(ends[0], &byte, 1));
    close(ends[0]);
    expect_alive(server);
}

TEST(HostileQmpClient, EventsFasterThanTheServerDropTheOldest)
{
    // Before it is started the server sends nothing, and so the queue fills up.
    char folder[] = "/tmp/haul-qmp-XXXXXX";
    std::string path = std::string(mkdtemp(folder)) + "/qmp";
    haul_qmp_server_options options;
    haul_qmp_server_defaults(&options);
    small(options);
    options.address = path.c_str();
    options.package = "haul test";
    haul_qmp_server *server = nullptr;
    haul_error error{};
    ASSERT_EQ(0, haul_qmp_server_new(&options, &server, &error)) << error.message;
    for (unsigned i = 0; i < 16; i++)
        EXPECT_EQ(0, haul_qmp_server_event(server, "MIGRATION_PASS", nullptr));
    EXPECT_EQ(-ENOBUFS, haul_qmp_server_event(server, "MIGRATION", nullptr));
    haul_qmp_server_free(server);
    rmdir(folder);
}

TEST(HostileQmpClient, TheProcessRunsOutOfDescriptors)
{
    TestServer server;
    struct rlimit before;
    ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &before));
    RawClient early(server.path());
    early.negotiate();
    RawClient late(server.path());
    late.line();
    int highest = dup(0);
    struct rlimit none = {static_cast<rlim_t>(highest + 1), before.rlim_max};
    // One descriptor for the client, none for the server to accept it with.
    ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
    close(highest);
    RawClient waiting(server.path());
    bool connected = waiting.connected();
    EXPECT_EQ("{\"return\": {}}", early.ask("{\"execute\": \"nothing\"}"));
    clock_t cpu = clock();
    EXPECT_EQ("", waiting.line(300));
    EXPECT_LT(clock() - cpu, CLOCKS_PER_SEC / 10) << "it tries again and again";
    ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &before));
    ASSERT_TRUE(connected);
    waiting.negotiate();
}

} // namespace
