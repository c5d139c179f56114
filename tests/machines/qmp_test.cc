// SPDX-License-Identifier: Apache-2.0
// The QMP client against a scripted monitor.
#include "tests/machines/fake_monitor.h"

#include <errno.h>
#include <poll.h>

namespace
{

using namespace haul_test;

TEST(Qmp, ReturnsTheReplyAndSkipsEventsAndOldAnswers)
{
    FakeMonitor monitor([](int fd) {
        greet(fd);
        std::string id = hear(fd);
        say(fd, "{\"event\": \"RESUME\", \"timestamp\": {}}\r\n{\"return\": 1, \"id\": 999}\r\n");
        say(fd, "{\"return\": {\"status\": \"running\"}, \"id\": " + id + "}\r\n");
        wait_end(fd);
    });
    Client client;
    ASSERT_EQ(0, client.open((std::string("unix:") + monitor.path()).c_str())) << client.error.message;
    EXPECT_EQ(getpid(), haul_qmp_peer(client.qmp));
    json_t *reply = nullptr;
    ASSERT_EQ(0, haul_qmp_execute(client.qmp, "query-status", nullptr, &reply, &client.error));
    EXPECT_STREQ("running", json_string_value(json_object_get(reply, "status")));
    json_decref(reply);
    bool seen = false;
    EXPECT_EQ(0, haul_qmp_wait_event(client.qmp, "RESUME", 0, &seen, &client.error));
    EXPECT_TRUE(seen);
    EXPECT_EQ(0, haul_qmp_wait_event(client.qmp, "RESUME", 10, &seen, &client.error));
    EXPECT_FALSE(seen);
    haul_qmp_close(client.qmp);
    client.qmp = nullptr;
}

TEST(Qmp, CountsChangesOfTheMachinesMemory)
{
    FakeMonitor monitor([](int fd) {
        greet(fd);
        std::string id = hear(fd);
        for (const char *name : {"BALLOON_CHANGE", "MEMORY_DEVICE_SIZE_CHANGE", "RESET", "BALLOON_CHANGE"}) {
            say(fd, std::string("{\"event\": \"") + name + "\", \"timestamp\": {}}\r\n");
        }
        say(fd, "{\"return\": {}, \"id\": " + id + "}\r\n");
        wait_end(fd);
    });
    Client client;
    ASSERT_EQ(0, client.open((std::string("unix:") + monitor.path()).c_str())) << client.error.message;
    EXPECT_EQ(0u, haul_qmp_memory_changes(client.qmp));
    ASSERT_EQ(0, haul_qmp_execute(client.qmp, "query-status", nullptr, nullptr, &client.error));
    EXPECT_EQ(3u, haul_qmp_memory_changes(client.qmp));
    haul_qmp_close(client.qmp);
    client.qmp = nullptr;
}

TEST(Qmp, CountsUnpluggedDevices)
{
    FakeMonitor monitor([](int fd) {
        greet(fd);
        std::string id = hear(fd);
        for (const char *name : {"DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR", "DEVICE_DELETED"}) {
            say(fd, std::string("{\"event\": \"") + name + "\", \"timestamp\": {}}\r\n");
        }
        say(fd, "{\"return\": {}, \"id\": " + id + "}\r\n");
        wait_end(fd);
    });
    Client client;
    ASSERT_EQ(0, client.open(monitor.path())) << client.error.message;
    EXPECT_EQ(0u, haul_qmp_unplugs(client.qmp));
    ASSERT_EQ(0, haul_qmp_execute(client.qmp, "query-status", nullptr, nullptr, &client.error));
    EXPECT_EQ(2u, haul_qmp_unplugs(client.qmp));
    haul_qmp_close(client.qmp);
    client.qmp = nullptr;
}

TEST(Qmp, RefusalCarriesTheDescription)
{
    FakeMonitor monitor([](int fd) {
        greet(fd);
        std::string id = hear(fd);
        say(fd, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}, \"id\": " + id +
                    "}\r\n");
        wait_end(fd);
    });
    Client client;
    ASSERT_EQ(0, client.open(monitor.path()));
    EXPECT_EQ(-EREMOTEIO, haul_qmp_execute(client.qmp, "device_del", nullptr, nullptr, &client.error));
    EXPECT_STREQ("QEMU refused `device_del`: no such device", client.error.message);
    haul_qmp_close(client.qmp);
    client.qmp = nullptr;
}

TEST(Qmp, NoGreetingMeansAnotherClient)
{
    FakeMonitor monitor([](int fd) { wait_end(fd); });
    Client client;
    EXPECT_EQ(-EBUSY, client.open(monitor.path(), 100));
    EXPECT_NE(nullptr, strstr(client.error.message, "another client may hold this monitor"))
        << client.error.message;
}

TEST(Qmp, ClosedMonitor)
{
    FakeMonitor monitor([](int fd) {
        greet(fd);
        hear(fd);
    });
    Client client;
    ASSERT_EQ(0, client.open(monitor.path()));
    EXPECT_EQ(-EPIPE, haul_qmp_execute(client.qmp, "quit", nullptr, nullptr, &client.error));
    EXPECT_NE(nullptr, strstr(client.error.message, "it has exited")) << client.error.message;
}

TEST(Qmp, SilentMonitorTimesOut)
{
    FakeMonitor monitor([](int fd) {
        greet(fd);
        wait_end(fd);
    });
    Client client;
    ASSERT_EQ(0, client.open(monitor.path()));
    haul_qmp_set_timeout(client.qmp, 100);
    EXPECT_EQ(-ETIMEDOUT, haul_qmp_execute(client.qmp, "stop", nullptr, nullptr, &client.error));
    EXPECT_NE(nullptr, strstr(client.error.message, "did not answer `stop`")) << client.error.message;
    haul_qmp_close(client.qmp);
    client.qmp = nullptr;
}

TEST(Qmp, EndlessReplyIsCutOff)
{
    FakeMonitor monitor([](int fd) {
        greet(fd);
        hear(fd);
        std::string junk(1 << 20, 'x');
        for (int i = 0; i < 16; i++) {
            say(fd, junk);
        }
    });
    Client client;
    ASSERT_EQ(0, client.open(monitor.path()));
    EXPECT_EQ(-EMSGSIZE, haul_qmp_execute(client.qmp, "query-status", nullptr, nullptr, &client.error));
    EXPECT_NE(nullptr, strstr(client.error.message, "more than 8 MiB")) << client.error.message;
    haul_qmp_close(client.qmp);
    client.qmp = nullptr;
}

TEST(Qmp, SomethingElseListens)
{
    FakeMonitor monitor([](int fd) {
        say(fd, "SSH-2.0-OpenSSH\r\n");
        wait_end(fd);
    });
    Client client;
    EXPECT_EQ(-EPROTO, client.open(monitor.path()));
    EXPECT_NE(nullptr, strstr(client.error.message, "is not a QMP monitor")) << client.error.message;
}

TEST(Qmp, JsonThatIsNoGreeting)
{
    FakeMonitor monitor([](int fd) {
        say(fd, "{\"hello\": 1}\n");
        wait_end(fd);
    });
    Client client;
    EXPECT_EQ(-EPROTO, client.open(monitor.path()));
    EXPECT_NE(nullptr, strstr(client.error.message, "no QMP greeting")) << client.error.message;
}

TEST(Qmp, NoSocket)
{
    Client client;
    EXPECT_EQ(-ENOENT, client.open("/nonexistent/qmp"));
    EXPECT_NE(nullptr, strstr(client.error.message, "start QEMU with -qmp unix:PATH"))
        << client.error.message;
}

TEST(Qmp, PathTooLong)
{
    Client client;
    EXPECT_EQ(-EINVAL, client.open(std::string(200, 'x').c_str()));
    EXPECT_EQ(-EINVAL, client.open("unix:"));
}

} // namespace
