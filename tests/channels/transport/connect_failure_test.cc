// SPDX-License-Identifier: Apache-2.0
// What does not connect or listen, and what is said then; the limits of every wait.
#include "tests/channels/transport/support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

namespace
{

using haul_test::kOptions;
using haul_test::Transport;

/* A tcp port of our own that nobody listens at, and nobody else can meanwhile. */
int take_port(sockaddr_in *address, std::string *uri)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    *address = {};
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof *address;
    EXPECT_EQ(0, bind(fd, reinterpret_cast<sockaddr *>(address), size));
    EXPECT_EQ(0, getsockname(fd, reinterpret_cast<sockaddr *>(address), &size));
    *uri = "tcp:127.0.0.1:" + std::to_string(ntohs(address->sin_port));
    return fd;
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
    std::string uri;
    sockaddr_in address;
    int taken = take_port(&address, &uri);
    int fd;
    EXPECT_EQ(-ECONNREFUSED, connect(uri, &fd));
    close(taken);
    EXPECT_TRUE(
        message_has("connecting to " + uri + ": connection refused; start `haul receive` there first"))
        << error_.message;
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

TEST_F(Transport, UnknownHostIsNamed)
{
    int fd; /* a name that the resolver refuses by itself: a server of names may be slow */
    EXPECT_EQ(-EHOSTUNREACH, connect("tcp:no..such-host:7000", &fd));
    EXPECT_TRUE(message_has("the host \"no..such-host\" is not known")) << error_.message;
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

/* A listener whose queue is full: tcp drops the packets, unix refuses to queue; both must end in time. */
class FullQueue : public Transport
{
  protected:
    void fill_tcp()
    {
        sockaddr_in address;
        server_ = take_port(&address, &uri_);
        ASSERT_EQ(0, listen(server_, 0));
        fill(reinterpret_cast<sockaddr *>(&address), sizeof address);
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
        pollfd queue = {server_, POLLIN, 0}; /* one is all that it holds */
        ASSERT_EQ(1, poll(&queue, 1, 30000));
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

} // namespace
