// SPDX-License-Identifier: Apache-2.0
/* Routes over real interfaces, in two network namespaces of our own joined by two veth pairs. Needs root. */
#include "channels/placement/placement.h"
#include "tests/channels/tcp_pair.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace
{
class RouteNamespace : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (geteuid() != 0) {
            GTEST_SKIP() << "needs root to make network namespaces";
        }
        if (system("ip -V >/dev/null 2>&1") != 0) {
            GTEST_SKIP() << "needs the ip command (Debian package iproute2)";
        }
        home = Current();
        if (unshare(CLONE_NEWNET) != 0) {
            GTEST_SKIP() << "cannot make a network namespace: " << strerror(errno);
        }
        far = Current();
        ASSERT_EQ(unshare(CLONE_NEWNET), 0);
        near = Current();
        std::string far_path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(far);
        for (std::string i : {"0", "1"}) {
            Run("ip link add near" + i + " type veth peer name far" + i + " netns " + far_path);
            Run("ip addr add 10.0." + i + ".1/24 dev near" + i);
            Run("ip addr add fd00:" + i + "::1/64 dev near" + i + " nodad");
            Run("echo 0 >/proc/sys/net/ipv6/conf/near" + i + "/accept_dad");
            Run("ip link set near" + i + " up");
        }
        Run("ip link set lo up");
        Run("ip route add 10.9.0.1/32 via 10.0.0.2");
        ASSERT_EQ(setns(far, CLONE_NEWNET), 0);
        for (std::string i : {"0", "1"}) {
            Run("echo 0 >/proc/sys/net/ipv6/conf/far" + i + "/accept_dad");
            Run("ip addr add 10.0." + i + ".2/24 dev far" + i);
            Run("ip addr add fd00:" + i + "::2/64 dev far" + i + " nodad");
            Run("ip addr add fe80::2/64 dev far" + i + " nodad");
            Run("ip link set far" + i + " up");
        }
        Run("ip link set lo up");
        Run("ip addr add 10.9.0.1/32 dev lo");
        options.listen_namespace = far;
        options.connect_namespace = near;
        // Once the kernel has seen that a link is up, it gives it an address of its own.
        for (std::string i : {"0", "1"}) {
            std::string address = "fe80::2%near" + i;
            EXPECT_TRUE(haul_test::Eventually([&] { return TcpPair("::", address, options).Ok(); }));
        }
    }
    void TearDown() override
    {
        if (home >= 0) {
            EXPECT_EQ(setns(home, CLONE_NEWNET), 0);
        }
        for (int fd : {home, near, far}) {
            if (fd >= 0) {
                close(fd);
            }
        }
    }
    static int Current()
    {
        int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
        EXPECT_GE(fd, 0) << strerror(errno);
        return fd;
    }
    static void Run(const std::string &command)
    {
        ASSERT_EQ(system(command.c_str()), 0) << command;
    }
    static std::string Route(const TcpPair &pair)
    {
        if (!pair.Ok()) {
            return "no connection: " + pair.Why();
        }
        char name[IF_NAMESIZE] = "";
        int status = haul_route_interface(pair.client, name, sizeof name);
        return status == 0 ? name : std::to_string(status);
    }

    TcpPair::Options options;
    int home = -1, near = -1, far = -1;
};

TEST_F(RouteNamespace, V4)
{
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.0.0.2", options)), "near0");
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.0.1.2", options)), "near1");
}

TEST_F(RouteNamespace, V4BehindAGateway)
{
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.9.0.1", options)), "near0");
}

TEST_F(RouteNamespace, V6)
{
    EXPECT_EQ(Route(TcpPair("::", "fd00:0::2", options)), "near0");
    EXPECT_EQ(Route(TcpPair("::", "fd00:1::2", options)), "near1");
}

TEST_F(RouteNamespace, V4PeerOfAV6Socket)
{
    EXPECT_EQ(Route(TcpPair("::", "::ffff:10.0.1.2", options)), "near1");
}

TEST_F(RouteNamespace, LinkLocalFollowsItsScope)
{
    EXPECT_EQ(Route(TcpPair("::", "fe80::2%near0", options)), "near0");
    EXPECT_EQ(Route(TcpPair("::", "fe80::2%near1", options)), "near1");
}

TEST_F(RouteNamespace, OwnAddressIsLoopback)
{
    options.listen_namespace = near;
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.0.1.1", options)), "lo");
}

TEST_F(RouteNamespace, TheLocalAddressDecidesWhereRulesSaySo)
{
    ASSERT_EQ(setns(near, CLONE_NEWNET), 0);
    Run("ip rule add from 10.0.1.1 table 100");
    Run("ip route add 10.9.0.1/32 via 10.0.1.2 table 100");
    options.bind_to = "10.0.1.1";
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.9.0.1", options)), "near1");
    options.bind_to = "10.0.0.1";
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.9.0.1", options)), "near0");
}

TEST_F(RouteNamespace, ABoundInterfaceDecides)
{
    ASSERT_EQ(setns(near, CLONE_NEWNET), 0);
    Run("ip route add 10.9.0.1/32 via 10.0.1.2 metric 500");
    options.bind_device = "near1";
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.9.0.1", options)), "near1");
    options.bind_device = "";
    EXPECT_EQ(Route(TcpPair("0.0.0.0", "10.9.0.1", options)), "near0");
}

TEST_F(RouteNamespace, ALostRouteIsNone)
{
    TcpPair pair("0.0.0.0", "10.9.0.1", options);
    ASSERT_EQ(Route(pair), "near0");
    Run("ip route del 10.9.0.1/32");
    EXPECT_EQ(Route(pair), std::to_string(-ENOENT));
}
} // namespace
