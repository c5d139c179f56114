// SPDX-License-Identifier: Apache-2.0
// Background snapshots of real machines, which go on while and after they are saved.
#include "tests/machines/disks.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sys/mman.h>
#include <unistd.h>

namespace
{

// HAUL_QEMU_SNAPSHOTS asks for another number of snapshots.
int snapshots()
{
    const char *text = getenv("HAUL_QEMU_SNAPSHOTS");
    return text ? atoi(text) : 3;
}

// In the order in which a snapshot comes to them: "handshake" is a step of setup, and in "saved" and "naming"
// all is in the file, which has no name yet.
const char *const kStates[] = {"setup", "handshake", "device", "active", "saved", "naming"};

using namespace haul_test;

// Waits until a snapshot that holds in `last` is there.
void follow(Mover &save, const std::string &last)
{
    for (const char *state : kStates) {
        ASSERT_EQ(state, save.expect("STATE ")) << save.output();
        if (state == last) {
            return;
        }
    }
}

// Whether any memory of the process is registered for write protection by a userfaultfd ("uw").
bool guarded(const Machine &machine)
{
    std::ifstream smaps("/proc/" + std::to_string(machine.pid()) + "/smaps");
    std::string line;
    while (std::getline(smaps, line)) {
        if (line.rfind("VmFlags:", 0) == 0 && line.find(" uw") != std::string::npos) {
            return true;
        }
    }
    return false;
}

class QemuSnapshot : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
    }
    std::vector<std::string> Snapshot(const Machine &machine, const std::string &setting = "timeout=30") const
    {
        return {"send", machine.qmp(), "file:" + path_, "mode=background-snapshot", "channels=2", setting};
    }
    std::unique_ptr<Machine> Restore(MachineOptions options)
    {
        options.incoming = true;
        options.paused = true;
        auto to = std::make_unique<Machine>(folder_, "to", options);
        Mover restore({"receive", to->qmp(), "file:" + path_, "channels=2"});
        EXPECT_EQ(0, restore.wait()) << restore.output() << to->errors();
        return to;
    }
    // The moment was between the time when the guest had said "ok `before`" and "ok `after`".
    void ExpectRestores(const MachineOptions &options, long before, long after = LONG_MAX)
    {
        auto machine = Restore(options);
        const Machine &to = *machine;
        ASSERT_TRUE(to.wait_for("\nok ", 30)) << to.errors();
        std::string said = to.console();
        long first = atol(said.c_str() + said.find("\nok ") + 4);
        EXPECT_GE(first, before);
        EXPECT_LE(first, after);
        ASSERT_TRUE(to.counts()) << to.errors();
        EXPECT_TRUE(to.wait_for("sweep", 60)) << to.last_words();
        EXPECT_FALSE(to.says_bad()) << to.last_words();
    }
    Folder folder_;
    std::string path_ = folder_ / "snapshot";
};

TEST_F(QemuSnapshot, TheMachineGoesOnAndAnotherBeginsFromTheFile)
{
    MachineOptions options;
    options.backends = 2;
    options.rate_mib = 32;
    Machine from(folder_, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    for (int i = 0; i < snapshots(); i++) {
        SCOPED_TRACE("snapshot " + std::to_string(i));
        long before = from.last_ok();
        std::filesystem::remove(path_);
        Mover save(Snapshot(from));
        ASSERT_EQ(0, save.wait()) << save.output() << from.errors();
        RecordProperty("snapshot" + std::to_string(i), save.output());
        EXPECT_EQ("running", from.status());
        ASSERT_TRUE(from.counts()) << save.output();
        long after = from.last_ok();
        from.command("stop"); // while the other is checked
        ASSERT_NO_FATAL_FAILURE(ExpectRestores(options, before, after));
        from.command("cont");
    }
    EXPECT_TRUE(from.wait_for("sweep", 60, from.console().size())) << from.last_words();
    EXPECT_FALSE(from.says_bad()) << from.last_words();
}

// However it ends before the file is whole, the machine goes on, unprotected.
TEST_F(QemuSnapshot, AnEndInAnyStateLetsTheMachineGoOn)
{
    MachineOptions options;
    Machine from(folder_, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    for (const char *end : {"die=", "cancel="}) {
        for (const char *state : kStates) {
            if (end == std::string("cancel=") && state == std::string("naming")) {
                continue; // too late, see below
            }
            SCOPED_TRACE(std::string(end) + state);
            Mover save(Snapshot(from, std::string(end) + state));
            EXPECT_EQ(end == std::string("die=") ? -9 : 1, save.wait()) << save.output();
            EXPECT_FALSE(std::filesystem::exists(path_));
            EXPECT_FALSE(std::filesystem::exists(path_ + ".partial"));
            EXPECT_FALSE(guarded(from));
            ASSERT_TRUE(from.counts());
            EXPECT_FALSE(from.says_bad()) << from.last_words();
        }
    }
    long before = from.last_ok();
    auto words = Snapshot(from, "hold=active");
    words.push_back("cancel=naming");
    Mover save(words);
    ASSERT_NO_FATAL_FAILURE(follow(save, "active"));
    EXPECT_TRUE(guarded(from)) << "this test could not tell";
    save.tell("go");
    ASSERT_EQ(0, save.wait()) << save.output();
    EXPECT_FALSE(guarded(from));
    ASSERT_TRUE(from.counts());
    from.kill();
    ExpectRestores(options, before);
}

class QemuSnapshotKilled : public QemuSnapshot, public testing::WithParamInterface<const char *>
{
};

// Devices cannot be asked any more, so it cannot be told whether the balloon took what was to be saved.
TEST_P(QemuSnapshotKilled, LeavesNoFile)
{
    MachineOptions options;
    options.boot = false;
    Machine from(folder_, "from", options);
    Mover save(Snapshot(from, std::string("hold=") + GetParam()));
    ASSERT_NO_FATAL_FAILURE(follow(save, GetParam()));
    from.kill();
    save.tell("go");
    EXPECT_EQ(1, save.wait()) << save.output();
    EXPECT_FALSE(std::filesystem::exists(path_)) << save.output();
    EXPECT_FALSE(std::filesystem::exists(path_ + ".partial"));
}

INSTANTIATE_TEST_SUITE_P(In, QemuSnapshotKilled, ::testing::Values("setup", "handshake", "device", "active"),
                         [](const auto &info) { return std::string(info.param); });

// All that was asked of it is in the file.
TEST_F(QemuSnapshot, AMachineKilledAfterAllIsSavedIsInTheFile)
{
    MachineOptions options;
    options.boot = false;
    for (const char *state : {"saved", "naming"}) {
        SCOPED_TRACE(state);
        std::filesystem::remove(path_);
        Machine from(folder_, "from", options);
        Mover save(Snapshot(from, std::string("hold=") + state));
        ASSERT_NO_FATAL_FAILURE(follow(save, state));
        from.kill();
        save.tell("go");
        EXPECT_EQ(0, save.wait()) << save.output();
        EXPECT_EQ("running", Restore(options)->status());
    }
}

TEST_F(QemuSnapshot, APausedMachineStaysPaused)
{
    MachineOptions options;
    options.boot = false;
    Machine from(folder_, "from", options);
    from.command("stop");
    Mover save(Snapshot(from));
    ASSERT_EQ(0, save.wait()) << save.output();
    EXPECT_EQ("running", from.command("cont").empty() ? "" : from.status());
}

TEST_F(QemuSnapshot, DrivesThatAreNotInTheFileAreNamed)
{
    if (!missing_for_disks().empty()) {
        GTEST_SKIP() << missing_for_disks();
    }
    run("qemu-img create -q -f raw " + (folder_ / "own") + " 8M");
    run("qemu-img create -q -f raw " + (folder_ / "cd") + " 1M");
    MachineOptions options;
    options.boot = false;
    options.extra = {"-drive",  "if=none,id=disk0,format=raw,file=" + (folder_ / "own"),
                     "-device", "virtio-blk-pci,drive=disk0",
                     "-drive",  "if=none,id=cd,media=cdrom,read-only=on,format=raw,file=" + (folder_ / "cd"),
                     "-device", "ide-cd,drive=cd"};
    Machine from(folder_, "from", options);
    std::string named = "warning: drive disk0 (" + (folder_ / "own") + ") is not in the file: ";
    Mover save(Snapshot(from));
    ASSERT_EQ(0, save.wait()) << save.output();
    EXPECT_NE(save.output().find(named + "the machine goes on writing to it"), std::string::npos)
        << save.output();
    EXPECT_EQ(save.output().find("drive cd"), std::string::npos) << save.output();
    std::filesystem::remove(path_);
    from.command("stop");
    Mover paused(Snapshot(from));
    ASSERT_EQ(0, paused.wait()) << paused.output();
    EXPECT_NE(paused.output().find(named + "haul restore needs it as it is now"), std::string::npos)
        << paused.output();
}

// docs/snapshot.md, "Drives": the machine is paused only until its memory is under protection.
TEST_F(QemuSnapshot, DrivesAsTheyWereAtTheStopAreUnderTheirOverlays)
{
    if (!missing_for_disks().empty()) {
        GTEST_SKIP() << missing_for_disks();
    }
    Drives drives;
    auto from = drives.source();
    from->command("stop");
    auto overlay = [&](const std::string &drive) {
        return "{\"type\":\"blockdev-snapshot-sync\",\"data\":{" + drive + ",\"format\":\"qcow2\",";
    };
    std::string reply = from->command(
        "transaction", "{\"actions\":[" + overlay("\"device\":\"disk0\"") + "\"snapshot-file\":\"" +
                           (drives.folder / "over0") + "\"}}," + overlay("\"node-name\":\"format1\"") +
                           "\"snapshot-node-name\":\"over1\",\"snapshot-file\":\"" +
                           (drives.folder / "over1") + "\"}}]}");
    ASSERT_NE(reply.find("return"), std::string::npos) << reply;
    std::string path = drives.folder / "snapshot";
    {
        Mover save({"send", from->qmp(), "file:" + path, "mode=background-snapshot", "hold=active"});
        ASSERT_NO_FATAL_FAILURE(follow(save, "active"));
        from->command("cont");
        EXPECT_EQ("running", from->status());
        save.tell("go");
        ASSERT_EQ(0, save.wait()) << save.output();
    }
    expect_healthy(*from);
    from->kill();
    // What is below the overlays was not written since.
    for (const char *format : {"raw", "qcow2"}) {
        std::filesystem::copy(drives.image("from", format), drives.image("to", format));
    }
    MachineOptions options = drives.options("to");
    options.incoming = true;
    Machine to(drives.folder, "to", options);
    Mover restore({"receive", to.qmp(), "file:" + path});
    ASSERT_EQ(0, restore.wait()) << restore.output() << to.errors();
    to.command("cont"); // it was saved paused, and so it begins
    expect_healthy(to);
}

TEST_F(QemuSnapshot, ABalloonThatReportsFreePagesIsRefused)
{
    MachineOptions options;
    options.boot = false;
    options.extra = {"-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on"};
    Machine from(folder_, "from", options);
    Mover save(Snapshot(from));
    EXPECT_EQ(1, save.wait());
    EXPECT_NE(save.output().find("the balloon /machine/peripheral/balloon has free-page-reporting=on"),
              std::string::npos)
        << save.output();
    EXPECT_FALSE(std::filesystem::exists(path_));
    EXPECT_EQ("running", from.status());
}

TEST_F(QemuSnapshot, ABalloonThatGivesHintsIsRefusedInEachMode)
{
    MachineOptions options;
    options.boot = false;
    options.extra = {"-object", "iothread,id=hints", "-device",
                     "virtio-balloon-pci,free-page-hint=on,iothread=hints"};
    Machine from(folder_, "from", options);
    std::vector<std::string> move = {"send", from.qmp(), "file:" + path_};
    for (const auto &words : {Snapshot(from), move}) {
        Mover save(words);
        EXPECT_EQ(1, save.wait());
        EXPECT_NE(save.output().find("has free-page-hint=on"), std::string::npos) << save.output();
        EXPECT_FALSE(std::filesystem::exists(path_));
        EXPECT_EQ("running", from.status());
    }
}

// What is taken away, and used again, before it was saved leaves no trace in memory.
TEST_F(QemuSnapshot, ABalloonThatChangesMeanwhileFailsTheSnapshot)
{
    MachineOptions options;
    options.balloon = true;
    Machine from(folder_, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    auto inflate = [&](uint64_t mib) {
        from.command("balloon", "{\"value\":" + std::to_string(mib << 20) + "}");
        std::string wanted = std::to_string(mib << 20);
        for (int i = 0; i < 3000 && from.command("query-balloon").find(wanted) == std::string::npos; i++) {
            usleep(10000);
        }
    };
    {
        Mover save(
            {"send", from.qmp(), "file:" + path_, "mode=background-snapshot", "channels=2", "hold=active"});
        ASSERT_NO_FATAL_FAILURE(follow(save, "active"));
        inflate(options.mib - 16);
        inflate(options.mib);
        save.tell("go");
        EXPECT_EQ(1, save.wait()) << save.output();
        EXPECT_NE(save.output().find("balloon"), std::string::npos) << save.output();
        EXPECT_FALSE(std::filesystem::exists(path_));
    }
    EXPECT_TRUE(from.counts());
    EXPECT_TRUE(Eventually([&] { // QEMU reports changes up to a second late
        usleep(300000);
        return Mover(Snapshot(from)).wait() == 0;
    }));
    EXPECT_FALSE(from.says_bad()) << from.last_words();
}

TEST_F(QemuSnapshot, MemoryThatAnotherProcessWritesIsRefused)
{
    MachineOptions options;
    options.boot = false;
    options.backing = "file";
    options.mem_path = folder_ / "memory";
    Machine from(folder_, "from", options);
    int fd = open((options.mem_path + ".ram0").c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    void *mine = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ASSERT_NE(mine, MAP_FAILED);
    Mover save(Snapshot(from));
    EXPECT_EQ(1, save.wait());
    EXPECT_NE(save.output().find("process " + std::to_string(getpid())), std::string::npos) << save.output();
    EXPECT_NE(save.output().find("which a background snapshot cannot stop"), std::string::npos)
        << save.output();
    munmap(mine, 4096);
    close(fd);
    EXPECT_EQ("running", from.status());
}

} // namespace
