/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport/transport.h"

#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

const haul_transport_options kOptions = {{5000, 9000}};

class Transport : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        char path[] = "/tmp/haul_transport_XXXXXX";
        ASSERT_NE(nullptr, mkdtemp(path));
        folder_ = path;
    }
    void TearDown() override
    {
        haul_listener_close(listener_);
        unlink((folder_ + "/s").c_str());
        EXPECT_EQ(0, rmdir(folder_.c_str())) << "something was left in " << folder_;
    }
    std::string unix_uri() const
    {
        return "unix:" + folder_ + "/s";
    }
    void open(const std::string &uri)
    {
        ASSERT_EQ(0, haul_listener_open(uri.c_str(), &kOptions, &listener_, &error_)) << error_.message;
    }
    int connect(const std::string &uri, int *fd, uint32_t timeout_ms = 5000, int cancel_fd = -1)
    {
        haul_transport_options options = {{timeout_ms, 9000}, bind_.empty() ? nullptr : bind_.c_str()};
        haul_connector *connector = nullptr;
        int result = haul_connector_open(uri.c_str(), &options, &connector, &error_);
        if (result == 0)
            result = haul_connector_connect(connector, HAUL_CONTROL_CHANNEL, cancel_fd, fd, &error_);
        haul_connector_close(connector);
        EXPECT_TRUE(result == 0 || error_.code == -result);
        return result;
    }
    bool message_has(const std::string &text) const
    {
        return strstr(error_.message, text.c_str()) != nullptr;
    }
    /* Both ends of a connection to listener_ carry data and the options they must have. */
    void exchange()
    {
        int out = -1, in = -1;
        ASSERT_EQ(0, connect(haul_listener_uri(listener_), &out)) << error_.message;
        ASSERT_EQ(0, haul_listener_accept(listener_, HAUL_CONTROL_CHANNEL, 5000, -1, &in, &error_))
            << error_.message;
        char text[6] = "";
        EXPECT_EQ(6, send(out, "hello", 6, 0));
        EXPECT_EQ(6, recv(in, text, 6, MSG_WAITALL));
        EXPECT_STREQ("hello", text);
        for (int fd : {out, in}) {
            EXPECT_EQ(0, fcntl(fd, F_GETFL) & O_NONBLOCK);
            EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
            timeval silence{};
            socklen_t size = sizeof silence;
            EXPECT_EQ(0, getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &silence, &size));
            EXPECT_EQ(9, silence.tv_sec);
        }
        haul_peer_name(out, peer_, sizeof peer_);
        close(out);
        close(in);
    }

    std::string folder_, bind_;
    haul_listener *listener_ = nullptr;
    haul_error error_{};
    char peer_[128] = "";
};

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

TEST_F(Transport, BadUrisAreRefusedWithTheRightForm)
{
    const std::string long_host(300, 'h'), long_path(108, 'p');
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", "is not an address: use tcp:HOST:PORT[,HOST:PORT...], unix:PATH, exec:COMMAND"},
        {"rdma:host", "is not an rdma address: use rdma:HOST:PORT"},
        {"rdma::7000", "is not an rdma address: use rdma:HOST:PORT"},
        {"rdma:a:1,b:1", "is not an rdma address: use rdma:HOST:PORT"},
        {"localhost:7000", "use tcp:HOST:PORT"},
        {"udp:localhost:7000", "use tcp:HOST:PORT"},
        {"tcp", "use tcp:HOST:PORT"},
        {"tcpx:a:1", "use tcp:HOST:PORT"},
        {"tcp:", "is not a tcp address"},
        {"tcp:host", "is not a tcp address"},
        {"tcp:host:", "is not a tcp address"},
        {"tcp:host:port", "is not a tcp address"},
        {"tcp:host:65536", "with a port from 0 to 65535; up to 16"},
        {"tcp:host:-1", "is not a tcp address"},
        {"tcp:host:1 ", "is not a tcp address"},
        {"tcp:host:123456", "is not a tcp address"},
        {"tcp:::1:7000", "is not a tcp address"},
        {"tcp:[::1:7000", "is not a tcp address"},
        {"tcp:[::1]7000", "is not a tcp address"},
        {"tcp:[]:7000", "is not a tcp address"},
        {"tcp:[:7000", "is not a tcp address"},
        {"tcp:[a]]:7000", "is not a tcp address"},
        {"tcp:" + long_host + ":1", "is not a tcp address"},
        {"tcp:a:1,", "is not a tcp address"},
        {"tcp:,a:1", "is not a tcp address"},
        {"tcp:a:1,b", "is not a tcp address"},
        {"tcp:1:1,2:1,3:1,4:1,5:1,6:1,7:1,8:1,9:1,10:1,11:1,12:1,13:1,14:1,15:1,16:1,17:1", "up to 16"},
        {"unix:", "use unix:PATH with a path of 1 to 107 bytes"},
        {"unix:" + long_path, "use unix:PATH with a path of 1 to 107 bytes"},
    };
    for (const auto &[uri, text] : cases) {
        int fd = -1;
        EXPECT_EQ(-EINVAL, haul_uri_check(uri.c_str(), HAUL_URI_LISTEN, &error_)) << uri;
        EXPECT_TRUE(message_has(text)) << error_.message;
        EXPECT_EQ(-EINVAL, connect(uri, &fd)) << uri;
        EXPECT_EQ(-EINVAL, haul_listener_open(uri.c_str(), &kOptions, &listener_, &error_)) << uri;
    }
    for (const char *uri : {"tcp:h:0", "tcp:10.0.0.1:65535", "tcp:[fe80::1%eth0]:7000", "unix:x"})
        EXPECT_EQ(0, haul_uri_check(uri, HAUL_URI_LISTEN, &error_)) << error_.message;
}

TEST_F(Transport, RefusedConnectionSaysWhoAndWhatToDo)
{
    open("tcp:127.0.0.1:0");
    std::string uri = haul_listener_uri(listener_);
    haul_listener_close(listener_);
    listener_ = nullptr;
    int fd;
    EXPECT_EQ(-ECONNREFUSED, connect(uri, &fd));
    EXPECT_TRUE(
        message_has("connecting to " + uri + ": connection refused; start `haul receive` there first"))
        << error_.message;
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

TEST_F(Transport, SourceAddressesAreChecked)
{
    const std::string form = "are no source addresses: give IPv4 or IPv6 addresses of this host, up to 16";
    open("tcp:127.0.0.1:0");
    std::string uri = haul_listener_uri(listener_);
    int fd;
    for (const char *bind : {"127.0.0.1,", ",", "localhost", "127.0.0.1:7", "[127.0.0.1", "eth0"}) {
        bind_ = bind;
        EXPECT_EQ(-EINVAL, connect(uri, &fd)) << bind;
        EXPECT_TRUE(message_has("\"" + bind_ + "\" " + form)) << error_.message;
    }
    bind_ = "192.0.2.1";
    EXPECT_EQ(-EADDRNOTAVAIL, connect(uri, &fd));
    EXPECT_TRUE(message_has("this host does not have the source address 192.0.2.1")) << error_.message;
    bind_ = "[::1]";
    EXPECT_EQ(-EAFNOSUPPORT, connect(uri, &fd));
    EXPECT_TRUE(message_has("no address of the same family as the source address ::1")) << error_.message;
    bind_ = "127.0.0.1";
    EXPECT_EQ(-EINVAL, connect(unix_uri(), &fd));
    EXPECT_TRUE(message_has("a source address to bind to is for tcp: only")) << error_.message;
}

TEST_F(Transport, OneBadPlaceOfAListKeepsTheListenerFromOpening)
{
    EXPECT_EQ(-EADDRNOTAVAIL,
              haul_listener_open("tcp:127.0.0.1:0,192.0.2.1:0", &kOptions, &listener_, &error_));
    EXPECT_TRUE(message_has("listening on tcp:192.0.2.1:0: this host does not have that address"))
        << error_.message;
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

/* The kernel's own limit is two seconds. */
TEST_F(Transport, VsockWaitsForAsLongAsItIsTold)
{
    int fd = -1;
    auto begun = std::chrono::steady_clock::now();
    int result = connect("vsock:1:1", &fd, 2600);
    if (result != -ETIMEDOUT)
        GTEST_SKIP() << "nothing on this machine's vsock is silent: " << error_.message;
    EXPECT_GE(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(2600));
    EXPECT_TRUE(message_has("no answer within 2600 ms")) << error_.message;
}

/* The kernel of a test machine seldom has a way for vsock: what can be said without one. */
TEST_F(Transport, VsockSaysWhatIsMissing)
{
    int fd;
    for (const char *uri : {"vsock:", "vsock:1", "vsock:1:", "vsock::1", "vsock:1:2:3", "vsock:-1:2",
                            "vsock:a:2", "vsock:4294967296:2", "vsock:1:4294967296", "vsock:4294967295:1"}) {
        EXPECT_EQ(-EINVAL, connect(uri, &fd)) << uri;
        EXPECT_TRUE(message_has("use vsock:CID:PORT with numbers")) << error_.message;
    }
    EXPECT_EQ(0, haul_uri_check("vsock:4294967295:1", HAUL_URI_LISTEN, &error_)) << error_.message;
    EXPECT_LT(connect("vsock:77:7000", &fd, 500), 0);
    EXPECT_TRUE(message_has("connecting to vsock:77:7000: ")) << error_.message;
    EXPECT_LT(haul_listener_open("vsock:77:7000", &kOptions, &listener_, &error_), 0);
    EXPECT_TRUE(message_has("this side does not have the CID 77; 4294967295 takes any") ||
                message_has("this kernel has no vsock"))
        << error_.message;
}

/* vsock_loopback lets a machine speak with itself by CID 1. */
TEST_F(Transport, VsockConnects)
{
    if (haul_listener_open("vsock:1:7399", &kOptions, &listener_, &error_) < 0)
        GTEST_SKIP() << "this kernel has no vsock_loopback: " << error_.message;
    exchange();
    EXPECT_EQ(std::string("vsock:1:7399"), peer_);
}

TEST_F(Transport, UnknownHostIsNamed)
{
    int fd;
    EXPECT_EQ(-EHOSTUNREACH, connect("tcp:no-such-host.invalid:7000", &fd));
    EXPECT_TRUE(message_has("the host \"no-such-host.invalid\" is not known")) << error_.message;
}

TEST_F(Transport, MissingPathSaysSo)
{
    int fd;
    EXPECT_EQ(-ENOENT, connect(unix_uri(), &fd));
    EXPECT_TRUE(message_has("connecting to " + unix_uri() + ": no such path; start `haul receive`"))
        << error_.message;
    EXPECT_EQ(-ENOENT, haul_listener_open((unix_uri() + "/x/y").c_str(), &kOptions, &listener_, &error_));
    EXPECT_TRUE(message_has("the folder does not exist")) << error_.message;
}

TEST_F(Transport, TcpPortInUseIsRefused)
{
    open("tcp:127.0.0.1:0");
    haul_listener *second = nullptr;
    EXPECT_EQ(-EADDRINUSE, haul_listener_open(haul_listener_uri(listener_), &kOptions, &second, &error_));
    EXPECT_TRUE(message_has("the port is in use; choose another")) << error_.message;
}

TEST_F(Transport, ForeignAddressIsRefused)
{
    EXPECT_EQ(-EADDRNOTAVAIL, haul_listener_open("tcp:192.0.2.1:0", &kOptions, &listener_, &error_));
    EXPECT_TRUE(message_has("this host does not have that address")) << error_.message;
}

TEST_F(Transport, LiveUnixListenerIsNotReplaced)
{
    open(unix_uri());
    haul_listener *second = nullptr;
    EXPECT_EQ(-EADDRINUSE, haul_listener_open(unix_uri().c_str(), &kOptions, &second, &error_));
    EXPECT_TRUE(message_has("somebody else listens there")) << error_.message;
    EXPECT_EQ(0, access((folder_ + "/s").c_str(), F_OK));
}

TEST_F(Transport, FileThatIsNoSocketIsNotReplaced)
{
    close(creat((folder_ + "/s").c_str(), 0600));
    EXPECT_EQ(-EADDRINUSE, haul_listener_open(unix_uri().c_str(), &kOptions, &listener_, &error_));
    EXPECT_TRUE(message_has("the path exists and is not a socket; remove it")) << error_.message;
    EXPECT_EQ(0, access((folder_ + "/s").c_str(), F_OK));
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

/* A listener whose queue is full: tcp drops the packets, unix refuses to queue; both must end in time. */
class FullQueue : public Transport
{
  protected:
    void fill_tcp()
    {
        server_ = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        ASSERT_EQ(0, bind(server_, reinterpret_cast<sockaddr *>(&address), size));
        ASSERT_EQ(0, listen(server_, 0));
        ASSERT_EQ(0, getsockname(server_, reinterpret_cast<sockaddr *>(&address), &size));
        uri_ = "tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port));
        fill(reinterpret_cast<sockaddr *>(&address), size);
    }
    void fill_unix()
    {
        server_ = socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        strcpy(address.sun_path, (folder_ + "/s").c_str());
        ASSERT_EQ(0, bind(server_, reinterpret_cast<sockaddr *>(&address), sizeof address));
        ASSERT_EQ(0, listen(server_, 0));
        uri_ = unix_uri();
        fill(reinterpret_cast<sockaddr *>(&address), sizeof address);
    }
    void TearDown() override
    {
        for (int fd : clients_)
            close(fd);
        close(server_);
        Transport::TearDown();
    }
    void expect_timeout()
    {
        int fd;
        auto start = std::chrono::steady_clock::now();
        EXPECT_EQ(-ETIMEDOUT, connect(uri_, &fd, 100));
        auto took = std::chrono::steady_clock::now() - start;
        EXPECT_GE(took, std::chrono::milliseconds(100));
        EXPECT_LT(took, std::chrono::seconds(3));
        EXPECT_TRUE(message_has("connecting to " + uri_ + ": no answer within 100 ms; check"))
            << error_.message;
    }
    void expect_cancel()
    {
        int fd, cancel = eventfd(0, EFD_CLOEXEC);
        std::thread canceller([cancel] {
            std::this_thread::sleep_for(std::chrono::milliseconds(30));
            eventfd_write(cancel, 1);
        });
        auto start = std::chrono::steady_clock::now();
        EXPECT_EQ(-ECANCELED, connect(uri_, &fd, 20000, cancel));
        EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
        EXPECT_TRUE(message_has("connecting to " + uri_ + ": cancelled")) << error_.message;
        canceller.join();
        close(cancel);
    }

    std::string uri_;

  private:
    void fill(const sockaddr *address, socklen_t size)
    {
        for (int i = 0; i < 4; i++) {
            clients_.push_back(socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0));
            ::connect(clients_.back(), address, size);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }

    int server_ = -1;
    std::vector<int> clients_;
};

TEST_F(FullQueue, TcpConnectTimesOut)
{
    fill_tcp();
    expect_timeout();
}

TEST_F(FullQueue, TcpConnectCanBeCancelled)
{
    fill_tcp();
    expect_cancel();
}

TEST_F(FullQueue, UnixConnectTimesOut)
{
    fill_unix();
    expect_timeout();
}

TEST_F(FullQueue, UnixConnectCanBeCancelled)
{
    fill_unix();
    expect_cancel();
}

TEST_F(Transport, AcceptTimesOut)
{
    open("tcp:127.0.0.1:0");
    int fd;
    EXPECT_EQ(-ETIMEDOUT, haul_listener_accept(listener_, HAUL_CONTROL_CHANNEL, 30, -1, &fd, &error_));
    EXPECT_TRUE(message_has(std::string("waiting at ") + haul_listener_uri(listener_) +
                            ": nobody connected within 30 ms"))
        << error_.message;
}

TEST_F(Transport, AcceptCanBeCancelled)
{
    open(unix_uri());
    int fd, cancel = eventfd(1, EFD_CLOEXEC);
    EXPECT_EQ(-ECANCELED, haul_listener_accept(listener_, HAUL_CONTROL_CHANNEL, -1, cancel, &fd, &error_));
    EXPECT_TRUE(message_has("cancelled")) << error_.message;
    close(cancel);
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
