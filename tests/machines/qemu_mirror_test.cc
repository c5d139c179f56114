// SPDX-License-Identifier: Apache-2.0
// A drive's mirror whose destination dies while QEMU stops the machine. QEMU before 8.2.3 loses count of who
// uses the drive when a mirror ends by itself while it flushes the drives of a stopped machine: the drive can
// never be mirrored again, and QEMU aborts when it ends. So no mirror may end by itself. And how mirrors of
// several drives end together.
#include "tests/machines/disks.h"
#include "tests/waiting.h"
#include "tools/machines/qemu/mirror.h"

#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace
{

using namespace haul_test;

// A destination's drive, served by qemu-nbd.
class Server
{
  public:
    explicit Server(const Folder &folder, const std::string &number = "0") : path_(folder / ("nbd" + number))
    {
        std::string image = folder / ("copy" + number);
        run("truncate -s 16M " + image);
        pid_ = fork();
        if (pid_ == 0) {
            execlp("qemu-nbd", "qemu-nbd", "--socket", path_.c_str(), "--format", "raw", "--export-name",
                   (HAUL_QEMU_NODE_PREFIX + number).c_str(), image.c_str(), nullptr);
            _exit(127);
        }
        EXPECT_TRUE(Eventually([&] { return (connection_ = connect()) >= 0; }));
    }
    ~Server()
    {
        Kill();
        unlink(path_.c_str());
    }
    Server(const Server &) = delete;
    // A connection that is the caller's.
    int connection() const
    {
        return connection_;
    }
    void Freeze() const
    {
        kill(pid_, SIGSTOP);
    }
    void Thaw() const
    {
        kill(pid_, SIGCONT);
    }
    void Kill()
    {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
            pid_ = -1;
        }
    }

  private:
    int connect() const
    {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        snprintf(address.sun_path, sizeof address.sun_path, "%s", path_.c_str());
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0) {
            return fd;
        }
        close(fd);
        return -1;
    }
    std::string path_;
    pid_t pid_ = -1;
    int connection_ = -1;
};

class QemuMirror : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing_for_disks().empty()) {
            GTEST_SKIP() << missing_for_disks();
        }
        MachineOptions options;
        options.boot = false;
        options.mib = 64;
        // Each request takes 50 ms: long enough for what is to happen meanwhile. Of this kind of drive the
        // firmware leaves the write cache alone, so there is something to flush.
        for (const std::string number : {"0", "1"}) {
            options.extra.insert(
                options.extra.end(),
                {"-blockdev",
                 R"({"driver": "null-co", "node-name": "drive)" + number +
                     R"(", "size": 16777216, "latency-ns": 50000000, "read-zeroes": true})",
                 "-device", "ide-hd,bus=ide." + number + ",id=disk" + number + ",drive=drive" + number});
        }
        machine = std::make_unique<Machine>(folder, "m", options);
        ASSERT_EQ(0, haul_qmp_open(machine->qmp().c_str(), 5000, &qmp, &error)) << error.message;
        haul_qemu_mirror_init(&mirror);
    }
    void TearDown() override
    {
        haul_qemu_mirror_cleanup(&mirror);
        haul_qmp_close(qmp);
    }
    // The first drive, or both.
    void Choose(std::initializer_list<const Server *> servers)
    {
        haul_qemu_mirror_cleanup(&mirror);
        ASSERT_EQ(0, haul_qemu_drives_query(qmp, &mirror.drives, &error)) << error.message;
        ASSERT_EQ(2u, mirror.drives.count);
        mirror.drives.count = 0;
        for (const Server *server : servers) {
            mirror.sockets[mirror.drives.count++] = server->connection();
        }
    }
    // Begins to mirror, and waits until all is copied.
    void Begin(std::initializer_list<const Server *> servers)
    {
        ASSERT_NO_FATAL_FAILURE(Choose(servers));
        ASSERT_EQ(0, haul_qemu_mirror_start(&mirror, qmp, &error)) << error.message;
        int ready = 0;
        ASSERT_TRUE(Eventually([&] { return (ready = haul_qemu_mirror_poll(&mirror, qmp, &error)) != 0; }));
        ASSERT_EQ(1, ready) << error.message;
    }
    // As the guest would; returns before it is done.
    void Write(const std::string &offset, const std::string &disk = "disk0") const
    {
        machine->command("human-monitor-command", R"({"command-line": "qemu-io -d )" + disk +
                                                      R"( \"aio_write -q )" + offset + R"( 64k\""})");
    }
    Folder folder;
    std::unique_ptr<Machine> machine;
    haul_qmp *qmp = nullptr;
    haul_qemu_mirror mirror = {};
    haul_error error = {};
};

TEST_F(QemuMirror, DoesNotEndByItselfWhileTheMachineStops)
{
    for (int i = 0; i < 3; i++) {
        Server server(folder);
        ASSERT_NO_FATAL_FAILURE(Begin({&server}));
        server.Freeze();
        Write("0");
        usleep(200000); // the mirror has read what was written, and waits for the server
        Write("1M");
        std::thread end([&server] {
            usleep(150000); // QEMU waits for the mirror's requests, and then it flushes the drive
            server.Kill();
        });
        machine->command("stop");
        end.join();
        ASSERT_TRUE(Eventually([&] { return haul_qemu_mirror_poll(&mirror, qmp, &error) < 0; }));
        EXPECT_NE(nullptr, strstr(error.message, "mirroring drive ")) << error.message;
        EXPECT_NE(nullptr, strcasestr(error.message, "input/output error")) << error.message;
        ASSERT_EQ(0, haul_qemu_mirror_remove(qmp, &error)) << error.message;
        expect_clean(*machine);
        machine->command("cont");
        EXPECT_EQ("running", machine->status());
    }
    machine->command("quit");
    EXPECT_TRUE(Eventually([&] { return !machine->alive(); }));
    EXPECT_EQ("", machine->errors());
}

TEST_F(QemuMirror, ACancelledOneIsAFailure)
{
    Server server(folder);
    ASSERT_NO_FATAL_FAILURE(Begin({&server}));
    machine->command("block-job-cancel", R"({"device": "haul-mirror-0", "force": true})");
    ASSERT_TRUE(Eventually([&] { return haul_qemu_mirror_poll(&mirror, qmp, &error) < 0; }));
    EXPECT_NE(nullptr, strstr(error.message, "mirroring drive ")) << error.message;
    ASSERT_EQ(0, haul_qemu_mirror_remove(qmp, &error)) << error.message;
    expect_clean(*machine);
}

// The machine stands still meanwhile: a drive does not wait as long again as the one before it.
TEST_F(QemuMirror, AllDrivesHaveOneTimeToEndIn)
{
    constexpr std::chrono::milliseconds kThawed{2000}, kPatience{3000};
    Server first(folder, "0"), second(folder, "1");
    ASSERT_NO_FATAL_FAILURE(Begin({&first, &second}));
    machine->command("stop");
    for (const Server *server : {&first, &second}) {
        server->Freeze();
        Write("0", server == &first ? "disk0" : "disk1");
    }
    auto waits = [&](unsigned i) { return mirror.jobs[i].total_bytes > mirror.jobs[i].done_bytes; };
    ASSERT_TRUE(Eventually([&] {
        return haul_qemu_mirror_poll(&mirror, qmp, &error) == 1 && waits(0) && waits(1);
    })) << error.message;
    mirror.patience_ns = std::chrono::nanoseconds(kPatience).count();
    auto begun = Clock::now();
    Clock::time_point thawed;
    std::thread thaw([&] {
        std::this_thread::sleep_for(kThawed);
        first.Thaw();
        thawed = Clock::now();
    });
    EXPECT_EQ(-ETIMEDOUT, haul_qemu_mirror_finish(&mirror, qmp, &error)) << error.message;
    auto ended = Clock::now();
    thaw.join();
    EXPECT_NE(nullptr, strstr(error.message, "did not get to the destination in 3 s")) << error.message;
    EXPECT_GE(ended - begun, kPatience);
    EXPECT_LT(ended - thawed, kPatience);
    first.Kill();
    second.Kill();
    ASSERT_EQ(0, haul_qemu_mirror_remove(qmp, &error)) << error.message;
    expect_clean(*machine);
}

// As the filter that another tool's mirror left there.
TEST_F(QemuMirror, ANodeOnTopOfTheDrivesIsExplained)
{
    Server server(folder);
    ASSERT_NO_FATAL_FAILURE(Choose({&server}));
    machine->command("blockdev-add",
                     R"({"driver": "copy-on-read", "node-name": "theirs", "file": "drive0"})");
    EXPECT_EQ(-EBUSY, haul_qemu_mirror_start(&mirror, qmp, &error)) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, "another block node lies on its node drive0")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, "start it in a new QEMU")) << error.message;
    ASSERT_EQ(0, haul_qemu_mirror_remove(qmp, &error)) << error.message;
    expect_clean(*machine);

    machine->command("blockdev-del", R"({"node-name": "theirs"})");
    Server again(folder, "0");
    ASSERT_NO_FATAL_FAILURE(Begin({&again}));
    ASSERT_EQ(0, haul_qemu_mirror_remove(qmp, &error)) << error.message;
}

TEST_F(QemuMirror, AFlushTellsWhatTheNextOneTakes)
{
    Server server(folder);
    ASSERT_NO_FATAL_FAILURE(Begin({&server}));
    ASSERT_EQ(0, haul_qemu_mirror_flush(&mirror, qmp, &error)) << error.message;
    EXPECT_GT(mirror.flush_ns, 0u);
    EXPECT_GT(mirror.reflush_ns, 0u);
    EXPECT_EQ(mirror.flushed_bytes, mirror.done_bytes);
    EXPECT_EQ(mirror.flush_bytes, mirror.done_bytes);
    EXPECT_EQ(mirror.flush_ns, haul_qemu_mirror_stop_ns(&mirror));
    ASSERT_EQ(0, haul_qemu_mirror_remove(qmp, &error)) << error.message;
}

// The stop has flushed what was mirrored before.
TEST(QemuMirrorCost, TheFlushAtTheEndIsOfWhatIsLeft)
{
    haul_qemu_mirror mirror;
    haul_qemu_mirror_init(&mirror);
    mirror.drives.count = 1;
    mirror.flush_ns = 100000000;
    mirror.reflush_ns = 10000000;
    mirror.flush_bytes = 8 << 20;
    EXPECT_EQ(10000000u, haul_qemu_mirror_cost_ns(&mirror));
    mirror.pending_bytes = 2 << 20;
    EXPECT_EQ(32500000u, haul_qemu_mirror_cost_ns(&mirror));
    mirror.pending_bytes = 16 << 20;
    EXPECT_EQ(100000000u, haul_qemu_mirror_cost_ns(&mirror));
    mirror.pending_bytes = 0;
    EXPECT_EQ(100000000u, haul_qemu_mirror_stop_ns(&mirror));
    mirror.done_bytes = 16 << 20; // twice as much since as the last flush was of
    EXPECT_EQ(190000000u, haul_qemu_mirror_stop_ns(&mirror));
    mirror.reflush_ns = 200000000; // by chance
    EXPECT_EQ(100000000u, haul_qemu_mirror_stop_ns(&mirror));
    EXPECT_EQ(100000000u, haul_qemu_mirror_cost_ns(&mirror));
}

} // namespace
