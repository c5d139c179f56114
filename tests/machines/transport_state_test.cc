// SPDX-License-Identifier: Apache-2.0
// The reference guest over each transport whose connections are made of processes or descriptors, and over
// rdma; and into a file. In each state up to HANDOVER: the move is cancelled, the source's haul dies, the
// destination's does, or all connections break. At no time may both sides run the guest (rule R1), and
// nothing may be left behind. (tests/engine has the same for the transports that are sockets of the kernel.)
#include "tests/machines/folder.h"
#include "tests/machines/mover_process.h"
#include "tests/tools/descriptors.h"
#include "tests/tools/ssh_server.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

// Ends every connection by TCP that a child process of this one has; how many.
int shut_tcp_sockets(pid_t child)
{
    int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    int count = 0;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/" + std::to_string(child) + "/fd")) {
        int copy = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(entry.path().filename().c_str()), 0);
        int domain = 0;
        socklen_t length = sizeof domain;
        // Fails for what listens, or is no socket.
        if (getsockopt(copy, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_INET) {
            count += shutdown(copy, SHUT_RDWR) == 0;
        }
        close(copy);
    }
    close(pidfd);
    return count;
}

// A destination that waits, and how a source gets there.
class Transport
{
  public:
    virtual ~Transport() = default;
    // Starts both ends, with these NAME=VALUE for the source; "" or why it cannot be.
    virtual std::string start(std::vector<std::string> settings) = 0;
    virtual void cut() = 0;
    virtual void kill_destination()
    {
        destination->kill(SIGKILL);
    }
    // The destination has ended, and did not run the guest.
    virtual void expect_destination_failed(bool killed)
    {
        EXPECT_EQ(destination->wait(), killed ? -SIGKILL : 1) << log();
        EXPECT_EQ(destination->output().find("CHECK"), std::string::npos) << log();
    }
    std::string log() const
    {
        return "source:\n" + (source ? source->output() : "-") + "destination:\n" +
               (destination ? destination->output() : "-");
    }
    std::unique_ptr<Mover> source, destination;

  protected:
    // Where it listens.
    std::string receive(const std::string &uri, const std::vector<int> &keep = {},
                        std::vector<std::string> settings = {})
    {
        settings.insert(settings.begin(), {"receive", "guest", uri, "timeout=5"});
        destination = std::make_unique<Mover>(settings, keep);
        std::string where = destination->expect("LISTEN ");
        EXPECT_NE(where, "") << destination->output();
        return where;
    }
    void send(const std::string &uri, std::vector<std::string> settings, const std::vector<int> &keep = {})
    {
        settings.insert(settings.begin(), {"send", "guest", uri, "timeout=5"});
        source = std::make_unique<Mover>(settings, keep);
    }
};

class Exec : public Transport
{
  public:
    std::string start(std::vector<std::string> settings) override
    {
        receive("unix:" + folder_ / "s");
        send("exec:" + Mover::program() + " relay unix:" + folder_ / "s", std::move(settings));
        return "";
    }
    void cut() override
    {
        for (pid_t child : Children(source->pid())) {
            kill(-child, SIGKILL);
        }
    }

  private:
    Folder folder_;
};

template <Descriptors::Kind kind> class Inherited : public Transport
{
  public:
    std::string start(std::vector<std::string> settings) override
    {
        receive(between_.DestinationUri(), between_.Destination());
        send(between_.SourceUri(), std::move(settings), between_.Source());
        if (kind != Descriptors::kSockets) {
            between_.CloseOwn();
        }
        return "";
    }
    void cut() override
    {
        between_.Cut();
    }
    void kill_destination() override
    {
        between_.CloseOwn();
        Transport::kill_destination();
    }
    void expect_destination_failed(bool killed) override
    {
        between_.CloseOwn();
        Transport::expect_destination_failed(killed);
    }

  private:
    Descriptors between_{kind, 3};
};

// The destination is a process that sshd started.
class Ssh : public Transport
{
  public:
    std::string start(std::vector<std::string> settings) override
    {
        static SshServer server;
        server_ = &server;
        std::string there = "guest timeout=5 pid=" + folder_ / "pid";
        settings.insert(settings.end(), {"ssh=" + server.Client(), "remote=" + Mover::program(),
                                         "there=" + there, "channels=1"});
        if (server.Missing().empty()) {
            send(server.Uri(), std::move(settings));
        }
        return server.Missing();
    }
    void cut() override
    {
        server_->Cut();
    }
    void kill_destination() override
    {
        pid_t pid = remote();
        ASSERT_GT(pid, 0);
        std::string words = read_words(pid);
        kill(pid, SIGKILL);
        // Where it waits for channels; while it still does, nobody but it would remove that.
        size_t at = words.find("stdio:");
        ASSERT_NE(at, std::string::npos);
        unlink(words.c_str() + at + strlen("stdio:"));
    }
    void expect_destination_failed(bool) override
    {
        pid_t pid = remote();
        for (int i = 0; i < 1000 && (server_->Connections() > 0 || kill(pid, 0) == 0); i++) {
            usleep(20000);
        }
        EXPECT_EQ(server_->Connections(), 0);
        EXPECT_LT(kill(pid, 0), 0) << "the destination's haul is left behind";
    }

  private:
    // The command line, each word ended by a zero byte.
    static std::string read_words(pid_t pid)
    {
        std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline", std::ios::binary);
        return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    }
    pid_t remote()
    {
        pid_t pid = 0;
        std::ifstream(folder_ / "pid") >> pid;
        return pid;
    }
    Folder folder_;
    SshServer *server_ = nullptr;
};

// Sockets of TCP on both sides: those of haul, and with this provider libfabric's too.
class Rdma : public Transport
{
  public:
    std::string start(std::vector<std::string> settings) override
    {
        const std::string provider = "provider=tcp;ofi_rxm";
        settings.push_back(provider);
        send(receive("rdma:127.0.0.1:0", {}, {provider}), std::move(settings));
        return "";
    }
    void cut() override
    {
        EXPECT_GT(shut_tcp_sockets(source->pid()), 0);
    }
};

// No other side: what a save that failed must not leave is a file.
class File : public Transport
{
  public:
    std::string start(std::vector<std::string> settings) override
    {
        send("file:" + folder_ / "snapshot", std::move(settings));
        return "";
    }
    void cut() override
    {
        FAIL() << "there is nothing to cut";
    }
    void expect_destination_failed(bool) override
    {
        EXPECT_TRUE(std::filesystem::is_empty(folder_ / "")) << log();
    }

  private:
    Folder folder_;
};

struct Way {
    const char *name;
    std::unique_ptr<Transport> (*make)();
};

template <typename T> std::unique_ptr<Transport> make()
{
    return std::make_unique<T>();
}

constexpr Way kWays[] = {
    {"Exec", make<Exec>},
    {"Sockets", make<Inherited<Descriptors::kSockets>>},
    {"Pipes", make<Inherited<Descriptors::kRelayedPipes>>},
    {"Ssh", make<Ssh>},
    {"Rdma", make<Rdma>},
};

// Where it happens, what brings the source there, and whether the source stands still in it.
struct Moment {
    const char *name;
    const char *state;
    std::vector<std::string> settings;
    bool held;
};

const Moment kMoments[] = {
    {"Setup", "handshake", {"hold=handshake"}, true},        // channels are still to come
    {"Active", "active", {"bandwidth=2000000"}, false},      // the first round takes seconds
    {"PreSwitchover", "pre-switchover", {"pause=1"}, false}, // until somebody says to continue
    {"Device", "device", {"hold=device"}, true},
    {"BeforeHandover", "handover", {"hold=handover"}, true},
};

enum class Fault { kCancel, kSourceDies, kDestinationDies, kCut };
constexpr const char *kFaults[] = {"Cancel", "SourceDies", "DestinationDies", "Cut"};

class EveryState : public ::testing::TestWithParam<std::tuple<Way, Moment, Fault>>
{
  protected:
    static void strike(Transport &transport, Fault fault)
    {
        switch (fault) {
        case Fault::kCancel:
            transport.source->tell("cancel");
            break;
        case Fault::kSourceDies:
            transport.source->kill(SIGKILL);
            break;
        case Fault::kDestinationDies:
            transport.kill_destination();
            break;
        case Fault::kCut:
            transport.cut();
            break;
        }
    }
    // The guest runs here, whole; or, where HANDOVER may be on its way, it stands still and that is said.
    static void expect_source_failed(Transport &transport, Fault fault, bool before_handover)
    {
        int code = transport.source->wait();
        const std::string &output = transport.source->output();
        if (before_handover && fault != Fault::kCancel && code == 3) {
            EXPECT_NE(output.find("stays paused here"), std::string::npos) << transport.log();
            EXPECT_EQ(output.find("CHECK"), std::string::npos) << transport.log();
            return;
        }
        EXPECT_EQ(code, 1) << transport.log();
        EXPECT_NE(output.find("CHECK self-check passed"), std::string::npos) << transport.log();
        if (fault == Fault::kCancel) {
            EXPECT_NE(output.find("END -125 "), std::string::npos) << transport.log();
        }
    }
};

TEST_P(EveryState, EndsWithOneOwner)
{
    const auto &[way, moment, fault] = GetParam();
    std::unique_ptr<Transport> transport = way.make();
    std::string missing = transport->start(moment.settings);
    if (!missing.empty()) {
        GTEST_SKIP() << missing;
    }
    std::string line = std::string("STATE ") + moment.state;
    transport->source->expect(line);
    ASSERT_NE(transport->source->output().find(line), std::string::npos) << transport->log();
    strike(*transport, fault);
    if (moment.held && fault != Fault::kSourceDies) {
        transport->source->tell("go");
    }
    if (fault == Fault::kSourceDies) {
        EXPECT_EQ(transport->source->wait(), -SIGKILL) << transport->log();
    } else {
        expect_source_failed(*transport, fault, moment.state == std::string("handover"));
    }
    transport->expect_destination_failed(fault == Fault::kDestinationDies);
}

std::string case_name(const ::testing::TestParamInfo<EveryState::ParamType> &info)
{
    return std::string(std::get<0>(info.param).name) + std::get<1>(info.param).name +
           kFaults[static_cast<int>(std::get<2>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(All, EveryState,
                         ::testing::Combine(::testing::ValuesIn(kWays), ::testing::ValuesIn(kMoments),
                                            ::testing::Values(Fault::kCancel, Fault::kSourceDies,
                                                              Fault::kDestinationDies, Fault::kCut)),
                         case_name);

INSTANTIATE_TEST_SUITE_P(Alone, EveryState,
                         ::testing::Combine(::testing::Values(Way{"File", make<File>}),
                                            ::testing::ValuesIn(kMoments),
                                            ::testing::Values(Fault::kCancel, Fault::kSourceDies)),
                         case_name);

} // namespace
