// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/ways.h"

#include "tests/machines/folder.h"
#include "tests/tools/descriptors.h"
#include "tests/tools/ssh_server.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

namespace haul_test
{

namespace
{

// Ends every connection that a child process of this one has in `domain`, with unix: that to `path`; how
// many.
int shut_sockets(pid_t child, int domain, const std::string &path = "")
{
    int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    int count = 0;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/" + std::to_string(child) + "/fd")) {
        int copy = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(entry.path().filename().c_str()), 0);
        sockaddr_storage peer = {};
        socklen_t length = sizeof peer;
        // Fails for what is not connected, or is no socket.
        bool meant = getpeername(copy, (sockaddr *)&peer, &length) == 0 && peer.ss_family == domain;
        if (meant && (domain != AF_UNIX || path == ((sockaddr_un *)&peer)->sun_path)) {
            count += shutdown(copy, SHUT_RDWR) == 0;
        }
        close(copy);
    }
    close(pidfd);
    return count;
}

class Tcp : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        send(ends, receive(ends, "tcp:127.0.0.1:0"), std::move(settings));
        return "";
    }
    void cut() override
    {
        EXPECT_GT(shut_sockets(source->pid(), AF_INET), 0);
    }
};

class Unix : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        send(ends, receive(ends, "unix:" + folder_ / "s"), std::move(settings));
        return "";
    }
    void cut() override
    {
        EXPECT_GT(shut_sockets(source->pid(), AF_UNIX, folder_ / "s"), 0);
    }

  private:
    Folder folder_;
};

// A port of this machine's own CID that nobody has.
sockaddr_vm free_vsock()
{
    sockaddr_vm address = {};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_LOCAL;
    address.svm_port = VMADDR_PORT_ANY;
    socklen_t length = sizeof address;
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool bound =
        bind(fd, (sockaddr *)&address, length) == 0 && getsockname(fd, (sockaddr *)&address, &length) == 0;
    close(fd);
    address.svm_port = bound ? address.svm_port : VMADDR_PORT_ANY;
    return address;
}

class Vsock : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        send(ends, receive(ends, "vsock:1:" + std::to_string(free_vsock().svm_port)), std::move(settings));
        return "";
    }
    void cut() override
    {
        EXPECT_GT(shut_sockets(source->pid(), AF_VSOCK), 0);
    }
};

class Exec : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        receive(ends, "unix:" + folder_ / "s");
        send(ends, "exec:" + Mover::program() + " relay unix:" + folder_ / "s", std::move(settings));
        return "";
    }
    void cut() override
    {
        for (pid_t child : Children(source->pid())) {
            kill(-child, SIGKILL);
        }
    }

  protected:
    Folder folder_;
};

// A command on both sides, joined by named pipes: a pair for each connection.
class ExecBoth : public Exec
{
  public:
    ~ExecBoth() override
    {
        if (adopts_) {
            destination->wait();
            for (pid_t group : orphans_) {
                end_adopted(group);
            }
            prctl(PR_SET_CHILD_SUBREAPER, 0);
        }
    }
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        for (const char *channel : {"control", "0", "1"}) {
            for (const char *direction : {"there", "back"}) {
                mkfifo((folder_ / (std::string(channel) + "." + direction)).c_str(), 0600);
            }
        }
        // A named pipe opens when both ends are there, so each side opens them in the same order.
        const std::string path = folder_ / "$HAUL_CHANNEL";
        // Until one direction ends: then "kill 0" ends the whole command.
        const std::string carry = "; { cat <&3; kill 0; } 4>&- & cat >&4 3<&-; kill 0";
        receive(ends, "exec:exec 3<" + path + ".there 4>" + path + ".back" + carry);
        send(ends, "exec:exec 4>" + path + ".there 3<" + path + ".back" + carry, std::move(settings));
        return "";
    }
    // A command that waits for the other end of its pipe would do so for ever. What the destination leaves
    // becomes this process's to reap, so that nobody else can get its ids before.
    void kill_destination() override
    {
        adopts_ = prctl(PR_SET_CHILD_SUBREAPER, 1) == 0;
        EXPECT_TRUE(adopts_);
        orphans_ = Children(destination->pid());
        Exec::kill_destination();
    }

  private:
    // One that the destination had reaped has no child of this process in it.
    static void end_adopted(pid_t group)
    {
        siginfo_t info;
        if (waitid(P_PGID, (id_t)group, &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
            kill(-group, SIGKILL);
            while (waitpid(-group, nullptr, 0) > 0) {
            }
        }
    }
    std::vector<pid_t> orphans_; // process groups
    bool adopts_ = false;
};

template <Descriptors::Kind kind> class Inherited : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        receive(ends, between_.DestinationUri(), between_.Destination());
        send(ends, between_.SourceUri(), std::move(settings), between_.Source());
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

// The memory goes by its descriptors over the unix socket that is the control connection: no channels.
class HandedOver : public Inherited<Descriptors::kSockets>
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        const std::string mode = "mode=cpr-transfer";
        there.push_back(mode);
        settings.push_back(mode);
        return Inherited::start(ends, std::move(settings));
    }
};

// The destination is a process that sshd started.
class Ssh : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        static SshServer server;
        server_ = &server;
        std::string words = ends.to + " timeout=10 pid=" + folder_ / "pid";
        for (const std::string &word : there) {
            words += " " + word;
        }
        settings.insert(settings.end(), {"ssh=" + server.Client(), "remote=" + Mover::program(),
                                         "there=" + words, "channels=1"});
        if (server.Missing().empty()) {
            send(ends, server.Uri(), std::move(settings));
        }
        return server.Missing();
    }
    void cut() override
    {
        server_->Cut();
    }
    void kill_destination() override
    {
        std::string words;
        int remote = open_remote(&words);
        ASSERT_GE(remote, 0);
        EXPECT_EQ(syscall(SYS_pidfd_send_signal, remote, SIGKILL, nullptr, 0), 0);
        close(remote);
        // Where it waits for channels; while it still does, nobody but it would remove that.
        size_t at = words.find("stdio:");
        ASSERT_NE(at, std::string::npos);
        unlink(words.c_str() + at + strlen("stdio:"));
    }
    void expect_destination_failed(bool) override
    {
        for (int i = 0; i < 1000 && (server_->Connections() > 0 || is_remote_there()); i++) {
            usleep(20000);
        }
        EXPECT_EQ(server_->Connections(), 0);
        EXPECT_FALSE(is_remote_there()) << "the destination's haul is left behind";
    }

  private:
    // A descriptor of the destination's haul and its command line, each word ended by a zero byte; -1 when it
    // is gone, whoever has its id now.
    int open_remote(std::string *words)
    {
        const std::string where = folder_ / "pid";
        pid_t pid = 0;
        std::ifstream(where) >> pid;
        int remote = (int)syscall(SYS_pidfd_open, pid, 0);
        std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline", std::ios::binary);
        words->assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        if (remote >= 0 && words->find("pid=" + where) == std::string::npos) {
            close(remote);
            return -1;
        }
        return remote;
    }
    bool is_remote_there()
    {
        std::string words;
        int remote = open_remote(&words);
        close(remote);
        return remote >= 0;
    }
    Folder folder_;
    SshServer *server_ = nullptr;
};

// Sockets of TCP on both sides: those of haul, and with this provider libfabric's too.
class Rdma : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        const std::string provider = "provider=tcp;ofi_rxm";
        settings.push_back(provider);
        send(ends, receive(ends, "rdma:127.0.0.1:0", {}, {provider}), std::move(settings));
        return "";
    }
    void cut() override
    {
        EXPECT_GT(shut_sockets(source->pid(), AF_INET), 0);
    }
};

// No other side: what a save that failed must not leave is a file.
class File : public Transport
{
  public:
    std::string start(const Ends &ends, std::vector<std::string> settings) override
    {
        send(ends, "file:" + folder_ / "snapshot", std::move(settings));
        return "";
    }
    void expect_destination_failed(bool) override
    {
        EXPECT_TRUE(std::filesystem::is_empty(folder_ / "")) << log();
    }

  private:
    Folder folder_;
};

template <typename T> std::unique_ptr<Transport> make()
{
    return std::make_unique<T>();
}

} // namespace

std::vector<Way> ways_of_processes()
{
    return {{"Exec", make<Exec>},
            {"ExecBoth", make<ExecBoth>},
            {"Sockets", make<Inherited<Descriptors::kSockets>>},
            {"HandedOver", make<HandedOver>, Memory::kHandedOver},
            {"Pipes", make<Inherited<Descriptors::kRelayedPipes>>},
            {"Ssh", make<Ssh>},
            {"Rdma", make<Rdma>}};
}

bool has_vsock()
{
    return free_vsock().svm_port != VMADDR_PORT_ANY;
}

std::vector<Way> ways_of_sockets()
{
    std::vector<Way> ways = {{"Unix", make<Unix>}};
    if (has_vsock()) {
        ways.push_back({"Vsock", make<Vsock>});
    }
    return ways;
}

Way way_tcp()
{
    return {"Tcp", make<Tcp>};
}

Way way_file()
{
    return {"File", make<File>, Memory::kSaved};
}

// ---- what ends a move ----

static std::vector<Moment> moments_of(const Way &way)
{
    // The first round of a copy takes seconds. Where there is none, the state is over at once.
    Moment active = way.memory == Memory::kHandedOver
                        ? Moment{"Active", "active", {"hold=active"}, true}
                        : Moment{"Active", "active", {"bandwidth=2000000"}, false};
    return {{"Setup", "handshake", {"hold=handshake"}, true}, // channels, or memory, are still to come
            active,
            {"PreSwitchover", "pre-switchover", {"pause=1"}, false}, // until somebody says to continue
            {"Device", "device", {"hold=device"}, true},
            {"BeforeHandover", "handover", {"hold=handover"}, true}};
}

static std::vector<Fault> faults_of(const Way &way)
{
    if (way.memory == Memory::kSaved) {
        return {Fault::kCancel, Fault::kSourceDies};
    }
    return {Fault::kCancel, Fault::kSourceDies, Fault::kDestinationDies, Fault::kCut};
}

std::vector<Ending> every_ending(const std::vector<Way> &ways)
{
    std::vector<Ending> endings;
    for (const Way &way : ways) {
        for (const Moment &moment : moments_of(way)) {
            for (Fault fault : faults_of(way)) {
                endings.push_back({way, moment, fault});
            }
        }
    }
    return endings;
}

std::string Ending::name() const
{
    static const char *const faults[] = {"Cancel", "SourceDies", "DestinationDies", "Cut"};
    return std::string(way.name) + moment.name + faults[static_cast<int>(fault)];
}

std::ostream &operator<<(std::ostream &out, const Ending &ending)
{
    return out << ending.name();
}

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

int end_early(Transport &transport, const Ending &ending)
{
    const auto &[way, moment, fault] = ending;
    std::string line = std::string("STATE ") + moment.state;
    transport.source->expect(line);
    if (transport.source->output().find(line) == std::string::npos) {
        ADD_FAILURE() << "never came to " << moment.state << ":\n" << transport.log();
        return transport.source->wait();
    }
    strike(transport, fault);
    if (moment.held && fault != Fault::kSourceDies) {
        transport.source->tell("go");
    }
    return transport.source->wait();
}

int end_uncertain(Transport &transport)
{
    transport.source->expect("STATE handover");
    transport.expect_destination_failed(true);
    return transport.source->wait();
}

} // namespace haul_test
