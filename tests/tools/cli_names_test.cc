/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names in tcp: URIs, with an /etc/hosts and a resolv.conf of our own: a mount namespace, and a network
 * namespace in which a name server takes questions and never answers. Needs root.
 */
#include "tests/tools/loopback.h"
#include "tests/waiting.h"

#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sstream>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

namespace
{

class Names : public Move
{
  protected:
    void SetUp() override
    {
        Move::SetUp();
        if (geteuid() != 0 || unshare(CLONE_NEWNS | CLONE_NEWNET) != 0) {
            GTEST_SKIP() << "needs root to make namespaces: " << strerror(errno);
        }
        ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0) << strerror(errno);
        BringUpLoopback();
        folder_ = MakeDirectory();
    }
    void TearDown() override
    {
        for (int fd : sockets_) {
            close(fd);
        }
    }
    static void BringUpLoopback()
    {
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        ifreq request = {};
        strcpy(request.ifr_name, "lo");
        request.ifr_flags = IFF_UP;
        EXPECT_EQ(ioctl(fd, SIOCSIFFLAGS, &request), 0) << strerror(errno);
        close(fd);
    }
    /* In place of the file below /etc, for this process and its children. */
    void Replace(const std::string &name, const std::string &text)
    {
        std::ofstream(folder_ + "/" + name) << text;
        std::string target = "/etc/" + name;
        char *real = realpath(target.c_str(), nullptr); /* resolv.conf is often a link */
        ASSERT_NE(real, nullptr) << target;
        EXPECT_EQ(mount((folder_ + "/" + name).c_str(), real, nullptr, MS_BIND, nullptr), 0)
            << target << ": " << strerror(errno);
        free(real);
    }
    int Listen(int type, const char *address, int port)
    {
        int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), on = 1;
        sockaddr_in place = {};
        place.sin_family = AF_INET;
        place.sin_port = htons(static_cast<uint16_t>(port));
        inet_pton(AF_INET, address, &place.sin_addr);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr *>(&place), sizeof place), 0) << strerror(errno);
        sockets_.push_back(fd);
        return fd;
    }
    /* From now on no name is found, nor found to be missing. */
    void SilenceNameServer()
    {
        name_server_ = Listen(SOCK_DGRAM, "127.0.0.1", 53);
        Replace("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:2\n");
        Replace("nsswitch.conf", "hosts: files dns\n");
    }
    /* Waits until the resolver has asked. */
    void ExpectQuestion()
    {
        char question[512];
        timeval limit = {30, 0};
        setsockopt(name_server_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        EXPECT_GT(recv(name_server_, question, sizeof question, 0), 0) << strerror(errno);
    }
    /* Of this network namespace: connections that were asked for and never came to be. */
    static long RefusedConnections()
    {
        std::ifstream file("/proc/thread-self/net/snmp");
        std::string word;
        while (file >> word && word != "Tcp:") {
        }
        std::string names, values;
        std::getline(file, names);
        file >> word;
        std::getline(file, values);
        std::istringstream name(names), value(values);
        long number = -1;
        while (name >> word && value >> number && word != "AttemptFails") {
        }
        return word == "AttemptFails" ? number : -1;
    }
    std::unique_ptr<Program> SendTo(const std::string &uri, const Words &more)
    {
        address_ = uri;
        return SendGuest(more);
    }
    std::unique_ptr<Program> ListenAt(const std::string &uri, const Words &more)
    {
        Words words = {"receive", "--listen", uri};
        Words machine = Guest(more);
        words.insert(words.end(), machine.begin(), machine.end());
        return std::make_unique<Program>(destination_, words);
    }
    std::string folder_;
    int name_server_ = -1;
    std::vector<int> sockets_;
};

TEST_F(Names, ALookUpEndsWithTheTimeout)
{
    SilenceNameServer();
    auto send = SendTo("tcp:silent.example:7000", {"--timeout", "1"});
    EXPECT_EQ(send->Wait(), 1) << send->Err();
    EXPECT_TRUE(Has(send->Err(),
                    "tcp:silent.example:7000: no name server told within 1000 ms what the address "
                    "of \"silent.example\" is"))
        << send->Err();
    EXPECT_TRUE(Has(send->Out(), "the guest goes on here")) << send->Out();
    auto receive = ListenAt("tcp:silent.example:7000", {"--timeout", "1"});
    EXPECT_EQ(receive->Wait(), 1) << receive->Err();
    EXPECT_TRUE(Has(receive->Err(), "no name server told within 1000 ms")) << receive->Err();
}

TEST_F(Names, ALookUpIsCancelled)
{
    SilenceNameServer();
    auto send = SendTo("tcp:silent.example:7000", {"--timeout", "60"});
    ExpectQuestion();
    send->Signal(SIGINT);
    EXPECT_EQ(send->Wait(), 1) << send->Err();
    EXPECT_TRUE(Has(send->Out(), "Not moved (cancelled): the guest goes on here")) << send->Out();
}

TEST_F(Names, ALookUpToListenIsCancelled)
{
    SilenceNameServer();
    auto receive = ListenAt("tcp:silent.example:7000", {"--timeout", "60"});
    ExpectQuestion();
    receive->Signal(SIGINT);
    EXPECT_EQ(receive->Wait(), 1) << receive->Err();
    EXPECT_TRUE(Has(receive->Err(), "looking up \"silent.example\": cancelled")) << receive->Err();
}

/* The first address refuses, the second is taken: by the control connection after one refusal, and by every
 * channel at once. */
TEST_F(Names, TheAddressThatListensIsFoundOnce)
{
    Replace("hosts", "127.0.0.2 two.example\n127.0.0.3 two.example\n");
    auto receive = ListenAt("tcp:127.0.0.3:7000", {"--timeout", "10"});
    ASSERT_TRUE(receive->WaitFor("listening on tcp:127.0.0.3:7000")) << receive->Err();
    long before = RefusedConnections();
    auto send = SendTo("tcp:two.example:7000", {"--channels", "4"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_EQ(RefusedConnections() - before, 1);
}

/* The first address answers nothing: it gets its share of the time, not all of it. */
TEST_F(Names, AnAddressThatIsSilentLeavesTimeForTheOthers)
{
    Replace("hosts", "127.0.0.2 two.example\n127.0.0.3 two.example\n");
    int full = Listen(SOCK_STREAM, "127.0.0.2", 7000);
    ASSERT_EQ(listen(full, 0), 0);
    for (int i = 0; i < 3; i++) { /* no room for more: their first packets are dropped */
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        sockaddr_in place = {};
        socklen_t length = sizeof place;
        getsockname(full, reinterpret_cast<sockaddr *>(&place), &length);
        connect(fd, reinterpret_cast<sockaddr *>(&place), length);
        sockets_.push_back(fd);
    }
    auto receive = ListenAt("tcp:127.0.0.3:7000", {"--timeout", "10"});
    ASSERT_TRUE(receive->WaitFor("listening on tcp:127.0.0.3:7000")) << receive->Err();
    auto send = SendTo("tcp:two.example:7000", {"--timeout", "4"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
}

} // namespace
