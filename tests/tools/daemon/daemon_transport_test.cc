// SPDX-License-Identifier: Apache-2.0
// What daemons move besides the guest over tcp: over descriptors that a client hands them, into and out of a
// file, over rdma, and plain memory objects.
#include "tests/directory.h"
#include "tests/tools/daemon/daemon.h"
#include "tests/tools/memory_writer.h"
#include "tests/tools/ssh_server.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

namespace
{

class DaemonTransport : public ::testing::Test
{
  protected:
    void Receive(const std::string &uri, const std::string &more = kGuest)
    {
        to_->Get("migrate-incoming", Named("a", "\"uri\": \"" + uri + "\", " + more));
    }
    void Send(const std::string &uri, const std::string &more = kSourceGuest)
    {
        from_->Get("migrate", Named("a", "\"uri\": \"" + uri + "\", " + more));
    }
    std::string Listening()
    {
        EXPECT_TRUE(to_->Until([&] { return !to_->Of("a", "socket-address").empty(); }))
            << to_.program->Err();
        return to_->Of("a", "uri");
    }
    void ExpectCompleted()
    {
        EXPECT_TRUE(from_->Reaches("a", "completed")) << from_.program->Err();
        EXPECT_TRUE(to_->Reaches("a", "completed")) << to_.program->Err();
    }
    // Hands both ends of a new connection over, under the same name.
    void Connect(const std::string &name)
    {
        int ends[2];
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        EXPECT_EQ(from_->HandOver(name, ends[0]), "");
        EXPECT_EQ(to_->HandOver(name, ends[1]), "");
    }
    using Threads = std::map<json_int_t, std::string>;
    static Threads Listed(const Daemon &daemon)
    {
        Threads threads;
        size_t index;
        json_t *entry;
        Json list = daemon->Get("query-migrationthreads", Named("a"));
        json_array_foreach(list.get(), index, entry)
        {
            threads[json_integer_value(json_object_get(entry, "thread-id"))] =
                json_string_value(json_object_get(entry, "name"));
        }
        return threads;
    }
    // What the kernel knows, without the daemon's own and the guest's; a sanitizer's are named as the
    // program.
    static Threads Living(const Daemon &daemon)
    {
        Threads threads;
        for (const auto &task : std::filesystem::directory_iterator(
                 "/proc/" + std::to_string(daemon.program->pid()) + "/task")) {
            std::ifstream file(task.path() / "comm");
            std::string name;
            if (std::getline(file, name) && name != "haul" && name != "haul-qmp" && name != "guest") {
                threads[std::stol(task.path().filename())] = name;
            }
        }
        return threads;
    }
    Daemon from_, to_;
};

// ---- descriptors ----

TEST_F(DaemonTransport, DescriptorsThatClientsHandOver)
{
    for (const char *name : {"control", "first", "second"}) {
        Connect(name);
    }
    Receive("fd:control,first,second");
    Send("fd:control,first,second");
    ExpectCompleted();
    EXPECT_EQ(from_->Guest("a"), "postmigrate");
    EXPECT_EQ(to_->Guest("a"), "running");
    EXPECT_EQ(from_->Fails("closefd", R"({"fdname": "first"})"), "File descriptor named 'first' not found")
        << "a move takes what it names";
}

// True when everybody who had the other end has closed it.
bool IsAlone(int end)
{
    char byte;
    return recv(end, &byte, 1, MSG_DONTWAIT) == 0;
}

TEST_F(DaemonTransport, DescriptorsAreClosedWhenNobodyWantsThem)
{
    int first[2], second[2], third[2];
    for (int *ends : {first, second, third}) {
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    }
    EXPECT_EQ(from_->HandOver("x", first[1]), "");
    EXPECT_EQ(from_->HandOver("x", second[1]), "") << "takes the first one's place";
    EXPECT_TRUE(from_->Until([&] { return IsAlone(first[0]); }));
    EXPECT_FALSE(IsAlone(second[0]));
    EXPECT_EQ(from_->Fails("closefd", R"({"fdname": "x"})"), "");
    EXPECT_TRUE(IsAlone(second[0]));
    EXPECT_EQ(from_->Fails("closefd", R"({"fdname": "x"})"), "File descriptor named 'x' not found");
    // A move that fails before it comes to them closes them too.
    EXPECT_EQ(from_->HandOver("x", third[1]), "");
    Send("fd:x", R"("qemu": "/nonexistent/qmp")");
    EXPECT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(from_->Until([&] { return IsAlone(third[0]); }));
    for (int *ends : {first, second, third}) {
        close(ends[0]);
    }
}

TEST_F(DaemonTransport, DescriptorsThatAreRefused)
{
    EXPECT_EQ(from_->Fails("getfd", R"({"fdname": "x"})"), "No file descriptor supplied via SCM_RIGHTS");
    for (const char *name : {"", "1st", "a,b", "a/b"}) {
        int ends[2];
        ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
        EXPECT_TRUE(Has(from_->HandOver(name, ends[1]), "expects a name of 1 to 63 bytes")) << name;
        char byte;
        EXPECT_EQ(read(ends[0], &byte, 1), 0) << "it is closed";
        close(ends[0]);
    }
    EXPECT_EQ(from_->Fails("migrate", Named("a", std::string(R"("uri": "fd:none", )") + kSourceGuest)),
              "File descriptor named 'none' has not been found");
    EXPECT_TRUE(Has(from_->Fails("migrate", Named("a", std::string(R"("uri": "fd:0,1", )") + kSourceGuest)),
                    "a daemon takes descriptors by name"));
}

// The threads of the daemon, but for its own two, are those of its move and of the guest; those of the move
// are in the list, also those that bridge pipes.
TEST_F(DaemonTransport, EveryThreadOfAMoveIsListed)
{
    for (const std::string name : {"control", "first", "second"}) {
        for (const std::string way : {"There", "Back"}) {
            int ends[2];
            ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
            bool there = way == "There";
            EXPECT_EQ(from_->HandOver(name + way, ends[there]), "");
            EXPECT_EQ(to_->HandOver(name + way, ends[!there]), "");
        }
    }
    from_->Get("migrate-set-parameters", Named("a", R"("max-bandwidth": 262144)"));
    Receive("fd:controlThere/controlBack,firstThere/firstBack,secondThere/secondBack");
    Send("fd:controlBack/controlThere,firstBack/firstThere,secondBack/secondThere");
    ASSERT_TRUE(from_->Reaches("a", "active")) << from_.program->Err();
    const std::vector<std::string> expected[] = {
        {"migration", "move", "multifdsend_0", "multifdsend_1", "pump", "pump", "pump", "return-path"},
        {"control", "loader", "move", "multifdrecv_0", "multifdrecv_1", "pump", "pump", "pump"},
    };
    Daemon *daemons[] = {&from_, &to_};
    for (int side = 0; side < 2; side++) {
        std::vector<std::string> names;
        // Threads enter the list as their first act; those that populate memory leave it soon.
        EXPECT_TRUE(from_->Until([&] {
            Threads listed = Listed(*daemons[side]);
            names.clear();
            for (const auto &thread : listed) {
                names.push_back(thread.second);
            }
            std::sort(names.begin(), names.end());
            return names == expected[side] && listed == Living(*daemons[side]);
        }));
        EXPECT_EQ(names, expected[side]);
    }
    from_->Get("migrate-set-parameters", Named("a", R"("max-bandwidth": 0)"));
    ExpectCompleted();
}

// ---- commands ----

class DaemonExec : public DaemonTransport
{
  protected:
    // A command of `daemon`'s that leaves its number in the folder.
    std::string Command(const std::string &daemon, const std::string &does) const
    {
        return "exec:echo $$ >" + folder_ / (daemon + ".$HAUL_CHANNEL") + "; " + does;
    }
    // Those of `daemon`'s commands that are there still, be it as zombies.
    Words Left(const std::string &daemon) const
    {
        Words left;
        for (const char *channel : {"control", "0", "1"}) {
            pid_t pid = 0;
            std::ifstream(folder_ / (daemon + "." + channel)) >> pid;
            EXPECT_GT(pid, 0) << channel;
            if (pid <= 0 || kill(pid, 0) == 0) {
                left.emplace_back(channel);
            }
        }
        return left;
    }
    void ExpectNoneLeft(const std::string &daemon)
    {
        from_->Until([&] { return Left(daemon).empty(); });
        EXPECT_EQ(Left(daemon), Words{});
    }
    haul_test::Directory folder_;
};

TEST_F(DaemonExec, ACancelEndsThemThoughTheGuestStays)
{
    const std::string there = "unix:" + to_.path + ".move"; // the folder's path may be too long for one
    Receive(there);
    ASSERT_EQ(Listening(), there);
    from_->Get("migrate-set-capabilities",
               Named("a", R"("capabilities": [{"capability": "pause-before-switchover", "state": true}])"));
    Send(Command("from", "exec " + Runfile("tools/haul/haul") + " relay " + there));
    ASSERT_TRUE(from_->Reaches("a", "pre-switchover")); // and holds there
    EXPECT_EQ(Left("from"), (Words{"control", "0", "1"}));
    from_->Get("migrate_cancel", Named("a"));
    ASSERT_TRUE(from_->Reaches("a", "cancelled"));
    ExpectNoneLeft("from");
    EXPECT_EQ(from_->Guest("a"), "running");
    EXPECT_GT(from_->Number("a", "ram", "transferred"), 100000) << "what there is to say is kept";
    unlink((to_.path + ".move").c_str());
}

// One on either side, joined by named pipes, which open when both ends are there: in the same order.
TEST_F(DaemonExec, AGuestThatCameDoesNotKeepThem)
{
    for (const char *channel : {"control", "0", "1"}) {
        for (const char *way : {".there", ".back"}) {
            ASSERT_EQ(mkfifo((folder_ / channel + way).c_str(), 0600), 0);
        }
    }
    std::string pipe = folder_ / "$HAUL_CHANNEL";
    Receive(Command("to", "exec 3<" + pipe + ".there 4>" + pipe + ".back; cat <&3 & cat >&4"));
    Send(Command("from", "exec 3>" + pipe + ".there 4<" + pipe + ".back; cat <&4 & cat >&3"));
    ExpectCompleted();
    ExpectNoneLeft("to");
    ExpectNoneLeft("from");
    EXPECT_EQ(to_->Guest("a"), "running");
    EXPECT_EQ(to_->Of("a", "ownership"), "destination");
}

// ---- a file ----

TEST_F(DaemonTransport, AFileIsWrittenAndRead)
{
    std::string path = MakeDirectory() + "/guest.haul";
    from_->Get("migrate-set-parameters", Named("a", R"("multifd-channels": 3)"));
    Send("file:" + path);
    ASSERT_TRUE(from_->Reaches("a", "completed")) << from_.program->Err();
    EXPECT_EQ(from_->Guest("a"), "postmigrate");
    EXPECT_EQ(access(path.c_str(), F_OK), 0);
    Receive("file:" + path);
    ASSERT_TRUE(to_->Reaches("a", "completed")) << to_.program->Err();
    EXPECT_EQ(to_->Guest("a"), "running");
}

TEST_F(DaemonTransport, AFileThatCannotBeWrittenLeavesTheGuestHere)
{
    Send("file:/nonexistent/guest.haul");
    ASSERT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(from_->Of("a", "error-desc"), "/nonexistent/guest.haul")) << from_->Of("a", "error-desc");
    EXPECT_EQ(from_->Guest("a"), "running");
    Receive("file:/nonexistent/guest.haul");
    ASSERT_TRUE(to_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(to_->Of("a", "error-desc"), "/nonexistent/guest.haul")) << to_->Of("a", "error-desc");
    EXPECT_EQ(to_->Guest("a"), "prelaunch");
}

// ---- rdma ----

TEST_F(DaemonTransport, Rdma)
{
    for (Daemon *daemon : {&from_, &to_}) {
        daemon->monitor->Get("migrate-set-parameters", Named("a", R"("rdma-provider": "tcp;ofi_rxm")"));
    }
    Receive("rdma:127.0.0.1:0");
    std::string uri = Listening();
    EXPECT_EQ(uri.rfind("rdma:127.0.0.1:", 0), 0u) << uri;
    Send(uri);
    ExpectCompleted();
    Json answer = to_->Get("query-migrate", Named("a"));
    const json_t *rdma = json_object_get(answer.get(), "rdma");
    EXPECT_STREQ(json_string_value(json_object_get(rdma, "provider")), "tcp;ofi_rxm");
    EXPECT_EQ(to_->Guest("a"), "running");
}

TEST_F(DaemonTransport, ARdmaProviderThatIsNotThereIsNamed)
{
    from_->Get("migrate-set-parameters", Named("a", R"("rdma-provider": "nosuch")"));
    Receive("rdma:127.0.0.1:0");
    Send(Listening());
    ASSERT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(from_->Of("a", "error-desc"), "nosuch")) << from_->Of("a", "error-desc");
    EXPECT_EQ(from_->Guest("a"), "running");
}

// ---- ssh ----

class DaemonSsh : public DaemonTransport
{
  protected:
    void SetUp() override
    {
        if (!server_.Missing().empty()) {
            GTEST_SKIP() << server_.Missing();
        }
    }
    void Use(const std::string &remote_haul)
    {
        Set(R"("ssh": ")" + server_.Client() + R"(", "remote-haul": ")" + remote_haul + "\"");
    }
    void Set(const std::string &parameters)
    {
        from_->Get("migrate-set-parameters", Named("a", parameters));
    }
    std::string Haul()
    {
        return "env HAUL_STATE_DIR=" + to_.options.state_directory + " " + Runfile("tools/haul/haul");
    }
    SshServer server_;
};

TEST_F(DaemonSsh, StartsTheOtherSide)
{
    Use(Haul());
    Send(server_.Uri(), std::string(kSourceGuest) +
                            R"(, "remote": ["--guest", "--guest-memory", "16M", "--guest-vcpu", "thread"])");
    ASSERT_TRUE(from_->Reaches("a", "completed")) << from_.program->Err() << server_.Log();
    EXPECT_EQ(from_->Guest("a"), "postmigrate");
}

TEST_F(DaemonSsh, TheSameMachineIsMeantWhenNoneIsNamedForTheOtherSide)
{
    Use("sh -c 'exit 3'");
    Send(server_.Uri());
    ASSERT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(from_->Of("a", "error-desc"), "exited with status 3")) << from_->Of("a", "error-desc");
    EXPECT_EQ(from_->Guest("a"), "running");
    // It is still here, so it needs no name here either.
    Use(Haul());
    EXPECT_EQ(from_->Fails("migrate", Named("a", R"("uri": ")" + server_.Uri() + "\"")), "");
    EXPECT_TRUE(from_->Reaches("a", "completed")) << from_.program->Err() << server_.Log();
}

TEST_F(DaemonTransport, SshAsksNobody)
{
    Json answer = from_->Get("query-migrate-parameters");
    EXPECT_STREQ(json_string_value(json_object_get(answer.get(), "ssh")), "ssh -oBatchMode=yes");
    EXPECT_STREQ(json_string_value(json_object_get(answer.get(), "remote-haul")), "haul");
}

TEST_F(DaemonTransport, WhatIsForTheOtherSideIsForSshAndMadeOfWords)
{
    auto says = [&](const std::string &uri, const std::string &remote) {
        return from_->Fails(
            "migrate", Named("a", R"("uri": ")" + uri + R"(", "remote": )" + remote + ", " + kSourceGuest));
    };
    EXPECT_EQ(says("tcp:127.0.0.1:1", R"(["--guest"])"), "Parameter 'remote' is for ssh: only");
    EXPECT_EQ(says("ssh:nowhere", R"(["--run-for", 1])"), "Parameter 'remote' expects an array of strings");
    EXPECT_EQ(says("ssh:nowhere", "[\"" + std::string(5000, 'x') + "\"]"),
              "the options for the other host have more than 4095 bytes");
    EXPECT_TRUE(Has(says("ssh:nowhere", R"("--guest")"), "'remote'"));
}

// ---- memory ----

constexpr size_t kMemory = 4 << 20;

class DaemonMemory : public DaemonTransport
{
  protected:
    DaemonMemory()
    {
        std::string base = "/dev/shm/haul-daemon-test-" + std::to_string(getpid()) + "-";
        here_ = base + "from";
        there_ = base + "to";
        std::string content;
        for (size_t i = 0; content.size() < kMemory; i++) {
            content += std::to_string(i * 2654435761u) + " ";
        }
        std::ofstream(here_) << content.substr(0, kMemory);
    }
    ~DaemonMemory() override
    {
        unlink(here_.c_str());
        unlink(there_.c_str());
    }
    static std::string Content(const std::string &path)
    {
        std::ifstream file(path, std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(file), {});
    }
    std::string Object(const std::string &path, const std::string &more = "")
    {
        return R"("memory": {"path": ")" + path + "\"" + more + "}";
    }
    std::string here_, there_;
};

TEST_F(DaemonMemory, AnObjectAtRest)
{
    Receive("tcp:127.0.0.1:0", Object(there_, ", \"size\": " + std::to_string(kMemory)));
    Send(Listening(), Object(here_));
    ExpectCompleted();
    EXPECT_EQ(from_->Of("a", "machine"), "memory");
    EXPECT_TRUE(Content(there_) == Content(here_));
}

TEST_F(DaemonMemory, OneThatIsNotThere)
{
    Send("tcp:127.0.0.1:1", Object("/dev/shm/haul-none"));
    ASSERT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(from_->Of("a", "error-desc"), "/dev/shm/haul-none")) << from_->Of("a", "error-desc");
}

TEST_F(DaemonMemory, OfAProcessThatWritesItAndIsStopped)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "tracking another process needs root";
    }
    haul_test::SharedObject object(kMemory);
    ASSERT_TRUE(object.ok());
    haul_test::Child writer(haul_test::writer_of(object));
    Receive("tcp:127.0.0.1:0", Object(there_, ", \"size\": " + std::to_string(kMemory)));
    Send(Listening(), Object(object.path(), ", \"pid\": " + std::to_string(writer.pid())));
    ExpectCompleted();
    EXPECT_EQ(from_->Guest("a"), "postmigrate");
    EXPECT_TRUE(writer.comes_to('T')) << "the memory is the destination's";
    EXPECT_TRUE(Content(there_) == Content(object.path()));
    EXPECT_TRUE(from_->Saw("a", "STOP"));
}

TEST_F(DaemonMemory, AProcessGoesOnAfterACancel)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "tracking another process needs root";
    }
    haul_test::SharedObject object(kMemory);
    ASSERT_TRUE(object.ok());
    haul_test::leave_no_page_zero(object);
    haul_test::Child writer(haul_test::writer_of(object));
    Receive("tcp:127.0.0.1:0", Object(there_, ", \"size\": " + std::to_string(kMemory)));
    from_->Get("migrate-set-parameters", Named("a", R"("max-bandwidth": 65536)"));
    Send(Listening(), Object(object.path(), ", \"pid\": " + std::to_string(writer.pid())));
    ASSERT_TRUE(from_->Reaches("a", "active")) << from_.program->Err();
    from_->Get("migrate_cancel", Named("a"));
    ASSERT_TRUE(from_->Reaches("a", "cancelled")) << from_.program->Err();
    EXPECT_EQ(from_->Guest("a"), "running");
    EXPECT_TRUE(writer.comes_to('S')) << "it writes, and sleeps between";
}

TEST_F(DaemonMemory, AProcessThatIsNotThere)
{
    Receive("tcp:127.0.0.1:0", Object(there_, ", \"size\": " + std::to_string(kMemory)));
    Send(Listening(), Object(here_, R"(, "pid": 2147483647)"));
    ASSERT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(from_->Of("a", "error-desc"), "2147483647")) << from_->Of("a", "error-desc");
}

// ---- background snapshots ----

TEST_F(DaemonTransport, ABackgroundSnapshotLeavesTheGuestRunningHere)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "protecting memory from the kernel's writes too needs root";
    }
    std::string path = MakeDirectory() + "/guest.haul";
    from_->Get("migrate-set-capabilities",
               Named("a", R"("capabilities": [{"capability": "background-snapshot", "state": true}])"));
    Send("file:" + path, R"("guest": {"memory": 16777216, "vcpu": "thread", "dirty-rate": 2097152})");
    ASSERT_TRUE(from_->Reaches("a", "completed")) << from_.program->Err();
    EXPECT_EQ(from_->Guest("a"), "running");
    EXPECT_TRUE(from_->Saw("a", "STOP"));
    EXPECT_TRUE(from_->Saw("a", "RESUME"));
    EXPECT_EQ(from_->Of("a", "mode"), "background-snapshot");
    Receive("file:" + path);
    ASSERT_TRUE(to_->Reaches("a", "completed")) << to_.program->Err();
    EXPECT_EQ(to_->Guest("a"), "running") << "the guest as it was";
    // What went on can be moved, as can any guest that runs in the daemon.
    from_->Get("migrate-set-capabilities",
               Named("a", R"("capabilities": [{"capability": "background-snapshot", "state": false}])"));
    EXPECT_EQ(to_->Fails("migrate-forget", Named("a")), "");
    Receive("tcp:127.0.0.1:0");
    EXPECT_EQ(from_->Fails("migrate", Named("a", "\"uri\": \"" + Listening() + "\"")), "");
    ExpectCompleted();
}

TEST_F(DaemonTransport, ABackgroundSnapshotHearsOfAnotherBandwidth)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "protecting memory from the kernel's writes too needs root";
    }
    from_->Get("migrate-set-capabilities",
               Named("a", R"("capabilities": [{"capability": "background-snapshot", "state": true}])"));
    from_->Get("migrate-set-parameters", Named("a", R"("max-bandwidth": 65536)")); // minutes
    Send("file:" + MakeDirectory() + "/guest.haul", R"("guest": {"memory": 16777216, "vcpu": "thread"})");
    ASSERT_TRUE(from_->Reaches("a", "active")) << from_.program->Err();
    ASSERT_TRUE(from_->Until([&] { return from_->Number("a", "ram", "transferred") > 65536; }));
    EXPECT_EQ(from_->Of("a", "status"), "active");
    from_->Get("migrate-set-parameters", Named("a", R"("max-bandwidth": 0)"));
    EXPECT_TRUE(from_->Reaches("a", "completed")) << from_.program->Err();
    EXPECT_GT(from_->Number("a", "ram", "transferred"), 8 << 20) << "what had minutes to go";
    EXPECT_EQ(from_->Guest("a"), "running");
}

TEST_F(DaemonTransport, ABackgroundSnapshotIsForAFile)
{
    from_->Get("migrate-set-capabilities",
               Named("a", R"("capabilities": [{"capability": "background-snapshot", "state": true}])"));
    Send("tcp:127.0.0.1:1");
    ASSERT_TRUE(from_->Reaches("a", "failed"));
    EXPECT_TRUE(Has(from_->Of("a", "error-desc"), "file:PATH")) << from_->Of("a", "error-desc");
    EXPECT_EQ(from_->Guest("a"), "running");
}

} // namespace
