// SPDX-License-Identifier: Apache-2.0
// What connects by each URI, the options of its sockets, and what is left when it ends.
#include "tests/channels/transport/support.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <utility>

namespace
{

using haul_test::kOptions;
using haul_test::Transport;

int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    getsockopt(fd, level, name, &value, &size);
    return value;
}

TEST_F(Transport, TcpConnectsAndSaysWhere)
{
    open("tcp:127.0.0.1:0");
    std::string uri = haul_listener_uri(listener_);
    EXPECT_EQ(0u, uri.find("tcp:127.0.0.1:"));
    EXPECT_NE("tcp:127.0.0.1:0", uri);
    exchange();
    EXPECT_EQ(uri.substr(4), peer_);
}

TEST_F(Transport, TcpNameIsLookedUp)
{
    open("tcp:127.0.0.1:0");
    std::string uri = haul_listener_uri(listener_);
    int fd = -1;
    /* Several addresses: tests/tools/cli_names_test.cc. */
    ASSERT_EQ(0, connect("tcp:localhost:" + uri.substr(uri.rfind(':') + 1), &fd)) << error_.message;
    close(fd);
}

TEST_F(Transport, TcpV6Connects)
{
    if (haul_listener_open("tcp:[::1]:0", &kOptions, &listener_, &error_) < 0)
        GTEST_SKIP() << "this machine has no IPv6 loopback: " << error_.message;
    EXPECT_EQ(0u, std::string(haul_listener_uri(listener_)).find("tcp:[::1]:"));
    exchange();
    EXPECT_EQ(0u, std::string(peer_).find("[::1]:"));
}

// As QEMU has it: without a host, all of this one's addresses, v4 and v6.
TEST_F(Transport, TcpWithoutAHostListensEverywhere)
{
    open("tcp::0");
    std::string uri = haul_listener_uri(listener_), port = uri.substr(uri.rfind(':') + 1);
    EXPECT_TRUE(uri == "tcp:[::]:" + port || uri == "tcp:0.0.0.0:" + port) << uri;
    exchange();
    int fd = -1;
    ASSERT_EQ(0, connect("tcp:127.0.0.1:" + port, &fd)) << error_.message;
    close(fd);
    haul_listener *second = nullptr;
    EXPECT_EQ(-EADDRINUSE, haul_listener_open(("tcp::" + port).c_str(), &kOptions, &second, &error_));
    EXPECT_TRUE(message_has("the port is in use")) << error_.message;
    ASSERT_EQ(-EINVAL, connect("tcp::" + port, &fd)) << "where to is not said";
    EXPECT_TRUE(message_has("is not a tcp address")) << error_.message;
}

TEST_F(Transport, TcpSocketsHaveTheirOptions)
{
    open("tcp:127.0.0.1:0");
    int fd;
    ASSERT_EQ(0, connect(haul_listener_uri(listener_), &fd)) << error_.message;
    EXPECT_NE(0, option(fd, IPPROTO_TCP, TCP_NODELAY));
    EXPECT_EQ(9000, option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
    EXPECT_NE(0, option(fd, SOL_SOCKET, SO_KEEPALIVE));
    EXPECT_EQ(3, option(fd, IPPROTO_TCP, TCP_KEEPIDLE));
    EXPECT_EQ(3, option(fd, IPPROTO_TCP, TCP_KEEPINTVL));
    EXPECT_EQ(3, option(fd, IPPROTO_TCP, TCP_KEEPCNT));
    close(fd);
}

std::string congestion_control(int fd)
{
    char name[16] = "";
    socklen_t size = sizeof name - 1;
    getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size);
    return name;
}

// Within a host nothing is congested; what leaves it is the host's to control. An address of its own for
// either end stands for two hosts.
TEST_F(Transport, TcpWithinAHostIsNotPaced)
{
    open("tcp:127.0.0.1:0");
    int local, remote, untouched = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_EQ(0, connect(haul_listener_uri(listener_), &local)) << error_.message;
    bind_ = "127.0.0.2";
    ASSERT_EQ(0, connect(haul_listener_uri(listener_), &remote)) << error_.message;
    EXPECT_EQ("reno", congestion_control(local));
    EXPECT_EQ(congestion_control(untouched), congestion_control(remote));
    EXPECT_NE(option(local, SOL_SOCKET, SO_SNDBUF), option(remote, SOL_SOCKET, SO_SNDBUF));
    for (int fd : {local, remote, untouched})
        close(fd);
}

TEST_F(Transport, UnixConnectsAndRemovesItsPath)
{
    open(unix_uri());
    EXPECT_EQ(unix_uri(), haul_listener_uri(listener_));
    struct stat status;
    ASSERT_EQ(0, stat((folder_ + "/s").c_str(), &status));
    EXPECT_EQ(0600u, status.st_mode & 0777); /* for this user alone */
    exchange();
    EXPECT_EQ(unix_uri(), peer_);
    haul_listener_close(listener_);
    listener_ = nullptr;
    EXPECT_NE(0, access((folder_ + "/s").c_str(), F_OK));
}

/* Channels take the places of the list in turn; the control connection takes the first that answers. */
TEST_F(Transport, TcpListSpreadsItsChannels)
{
    open("tcp:127.0.0.1:0,127.0.0.2:0");
    std::string uri = haul_listener_uri(listener_);
    size_t comma = uri.find(',');
    ASSERT_NE(std::string::npos, comma) << uri;
    std::string first = uri.substr(4, comma - 4), second = uri.substr(comma + 1);
    EXPECT_EQ(0u, first.find("127.0.0.1:")) << uri;
    EXPECT_EQ(0u, second.find("127.0.0.2:")) << uri;
    EXPECT_NE('0', second[10]) << uri;
    haul_transport_options options = {{5000, 9000}, "127.0.0.3,127.0.0.4"};
    haul_connector *connector = nullptr;
    ASSERT_EQ(0, haul_connector_open(uri.c_str(), &options, &connector, &error_)) << error_.message;
    const std::pair<unsigned, std::string> channels[] = {
        {HAUL_CONTROL_CHANNEL, first}, {0, first}, {1, second}, {2, first}, {3, second}};
    for (const auto &[channel, peer] : channels) {
        int out = -1, in = -1;
        ASSERT_EQ(0, haul_connector_connect(connector, static_cast<uint16_t>(channel), -1, &out, &error_))
            << error_.message;
        ASSERT_EQ(0, haul_listener_accept(listener_, HAUL_CONTROL_CHANNEL, 5000, -1, &in, &error_))
            << error_.message;
        haul_peer_name(out, peer_, sizeof peer_);
        EXPECT_EQ(peer, peer_) << channel;
        haul_peer_name(in, peer_, sizeof peer_);
        EXPECT_EQ(0u, std::string(peer_).find(peer == first ? "127.0.0.3:" : "127.0.0.4:")) << peer_;
        close(out);
        close(in);
    }
    haul_connector_close(connector);
}

TEST_F(Transport, ControlConnectionTriesEachPlaceAndAChannelOnlyItsOwn)
{
    open("tcp:127.0.0.1:0");
    std::string live = std::string(haul_listener_uri(listener_)).substr(4);
    std::string dead = "127.0.0.2" + live.substr(live.find(':'));
    haul_connector *connector = nullptr;
    ASSERT_EQ(0, haul_connector_open(("tcp:" + dead + "," + live).c_str(), &kOptions, &connector, &error_));
    int fd = -1;
    ASSERT_EQ(0, haul_connector_connect(connector, HAUL_CONTROL_CHANNEL, -1, &fd, &error_)) << error_.message;
    close(fd);
    EXPECT_EQ(-ECONNREFUSED, haul_connector_connect(connector, 0, -1, &fd, &error_));
    EXPECT_TRUE(message_has("connecting to tcp:" + dead + ": connection refused")) << error_.message;
    ASSERT_EQ(0, haul_connector_connect(connector, 1, -1, &fd, &error_)) << error_.message;
    close(fd);
    haul_connector_close(connector);
}

/* As a daemon gets them by SCM_RIGHTS: by name, each once. */
TEST_F(Transport, NamedDescriptorsConnect)
{
    int control[2], channel[2];
    ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, control));
    ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, channel));
    haul_named_fd fds[] = {{"one", channel[0]}, {"control", control[0]}};
    haul_transport_options options = {{5000, 9000}};
    options.fds = fds;
    options.fd_count = 2;
    haul_connector *connector = nullptr;
    ASSERT_EQ(0, haul_connector_open("fd:control,one", &options, &connector, &error_)) << error_.message;
    EXPECT_EQ(-1, fds[0].fd);
    EXPECT_EQ(-1, fds[1].fd);
    for (auto [number, far] : {std::pair<unsigned, int>(HAUL_CONTROL_CHANNEL, control[1]), {0, channel[1]}}) {
        int fd = -1;
        char byte = 0;
        ASSERT_EQ(0, haul_connector_connect(connector, static_cast<uint16_t>(number), -1, &fd, &error_));
        EXPECT_EQ(1, send(fd, "x", 1, 0));
        EXPECT_EQ(1, recv(far, &byte, 1, 0));
        EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
        close(fd);
        close(far);
    }
    haul_connector_close(connector);
    EXPECT_EQ(-ENOENT, haul_connector_open("fd:control,one", &options, &connector, &error_));
    EXPECT_TRUE(message_has("no descriptor was handed over with the name control")) << error_.message;
}

/* vsock_loopback lets a machine speak with itself by CID 1. */
TEST_F(Transport, VsockConnects)
{
    if (haul_listener_open("vsock:1:7399", &kOptions, &listener_, &error_) < 0)
        GTEST_SKIP() << "this kernel has no vsock_loopback: " << error_.message;
    exchange();
    EXPECT_EQ(std::string("vsock:1:7399"), peer_);
}

TEST_F(Transport, StaleUnixSocketIsReplaced)
{
    int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, (folder_ + "/s").c_str());
    ASSERT_EQ(0, bind(dead, reinterpret_cast<sockaddr *>(&address), sizeof address));
    close(dead);
    int fd;
    EXPECT_EQ(-ECONNREFUSED, connect(unix_uri(), &fd));
    open(unix_uri());
    exchange();
}

/* The path belongs to somebody else by now: closing must leave it alone. */
TEST_F(Transport, CloseRemovesOnlyItsOwnPath)
{
    open(unix_uri());
    unlink((folder_ + "/s").c_str());
    close(creat((folder_ + "/s").c_str(), 0600));
    haul_listener_close(listener_);
    listener_ = nullptr;
    EXPECT_EQ(0, access((folder_ + "/s").c_str(), F_OK));
}

TEST_F(Transport, UnacknowledgedBytesAreThoseNotRead)
{
    open(unix_uri());
    int out, in;
    ASSERT_EQ(0, connect(unix_uri(), &out));
    ASSERT_EQ(0, haul_listener_accept(listener_, HAUL_CONTROL_CHANNEL, 5000, -1, &in, &error_));
    EXPECT_EQ(0u, haul_unacknowledged_bytes(out));
    char bytes[1000] = {};
    EXPECT_EQ(1000, send(out, bytes, sizeof bytes, 0));
    EXPECT_GE(haul_unacknowledged_bytes(out), 1000u);
    EXPECT_EQ(1000, recv(in, bytes, sizeof bytes, MSG_WAITALL));
    EXPECT_EQ(0u, haul_unacknowledged_bytes(out));
    EXPECT_EQ(0u, haul_unacknowledged_bytes(-1));
    close(out);
    close(in);
}

TEST_F(Transport, PeerNameOfALostSocket)
{
    char name[32];
    haul_peer_name(-1, name, sizeof name);
    EXPECT_STREQ("a lost peer", name);
}

} // namespace
