// SPDX-License-Identifier: Apache-2.0
#include "channels/placement/placement.h"
#include "tests/channels/tcp_pair.h"

#include <gtest/gtest.h>

#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace
{
TEST(RouteInterface, LoopbackV4)
{
    TcpPair pair("127.0.0.1", "127.0.0.1");
    ASSERT_TRUE(pair.Ok()) << pair.Why();
    char name[IF_NAMESIZE] = "";
    EXPECT_EQ(haul_route_interface(pair.client, name, sizeof name), 0);
    EXPECT_STREQ(name, "lo");
    memset(name, 0, sizeof name);
    EXPECT_EQ(haul_route_interface(pair.server, name, sizeof name), 0);
    EXPECT_STREQ(name, "lo");
}

TEST(RouteInterface, LoopbackV6)
{
    TcpPair pair("::1", "::1");
    if (!pair.Ok()) {
        GTEST_SKIP() << "no IPv6 loopback here: " << pair.Why();
    }
    char name[IF_NAMESIZE] = "";
    EXPECT_EQ(haul_route_interface(pair.client, name, sizeof name), 0);
    EXPECT_STREQ(name, "lo");
}

TEST(RouteInterface, V4PeerOfAV6Socket)
{
    TcpPair pair("::", "::ffff:127.0.0.1");
    if (!pair.Ok()) {
        GTEST_SKIP() << "no v4-mapped sockets here: " << pair.Why();
    }
    char name[IF_NAMESIZE] = "";
    EXPECT_EQ(haul_route_interface(pair.client, name, sizeof name), 0);
    EXPECT_STREQ(name, "lo");
    memset(name, 0, sizeof name);
    EXPECT_EQ(haul_route_interface(pair.server, name, sizeof name), 0);
    EXPECT_STREQ(name, "lo");
}

TEST(RouteInterface, AUnixSocketHasNone)
{
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    char name[IF_NAMESIZE];
    EXPECT_EQ(haul_route_interface(fds[0], name, sizeof name), -ENOENT);
    close(fds[0]);
    close(fds[1]);
}

TEST(RouteInterface, RefusesSocketsWithoutAPeer)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char name[IF_NAMESIZE];
    EXPECT_EQ(haul_route_interface(fd, name, sizeof name), -ENOTCONN);
    close(fd);
    EXPECT_EQ(haul_route_interface(-1, name, sizeof name), -EBADF);
}

TEST(RouteInterface, RefusesAShortBuffer)
{
    TcpPair pair("127.0.0.1", "127.0.0.1");
    char name[IF_NAMESIZE];
    EXPECT_EQ(haul_route_interface(pair.client, name, IF_NAMESIZE - 1), -EINVAL);
}

TEST(RouteInterface, LeavesNoDescriptorBehind)
{
    TcpPair pair("127.0.0.1", "127.0.0.1");
    char name[IF_NAMESIZE];
    int before = dup(pair.client);
    close(before);
    for (int i = 0; i < 10; i++) {
        ASSERT_EQ(haul_route_interface(pair.client, name, sizeof name), 0);
    }
    int after = dup(pair.client);
    close(after);
    EXPECT_EQ(before, after);
}
} // namespace
