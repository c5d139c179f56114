// SPDX-License-Identifier: Apache-2.0
// Background snapshots of real machines, which go on while and after they are saved.
#include "tests/machines/move.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <filesystem>
#include <sys/mman.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

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
    void ExpectRestores(MachineOptions options, long before)
    {
        options.incoming = true;
        options.paused = true;
        Machine to(folder_, "to", options);
        Mover restore({"receive", to.qmp(), "file:" + path_, "channels=2"});
        ASSERT_EQ(0, restore.wait()) << restore.output() << to.errors();
        ASSERT_TRUE(to.counts()) << restore.output();
        EXPECT_GE(to.last_ok(), before);
        EXPECT_TRUE(to.wait_for("sweep", 60)) << to.console();
        EXPECT_FALSE(to.says_bad()) << to.console();
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
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.console() << from.errors();
    long before = 0;
    for (int i = 0; i < 3; i++) { // the last one is restored
        before = from.last_ok();
        std::filesystem::remove(path_);
        Mover save(Snapshot(from));
        ASSERT_EQ(0, save.wait()) << save.output() << from.errors();
        RecordProperty("snapshot" + std::to_string(i), save.output());
        EXPECT_EQ("running", from.status());
        EXPECT_TRUE(from.counts()) << save.output();
    }
    EXPECT_TRUE(from.wait_for("sweep", 60, from.console().size())) << from.console();
    EXPECT_FALSE(from.says_bad()) << from.console();
    from.kill();
    ExpectRestores(options, before);
}

TEST_F(QemuSnapshot, ADeathInAnyStateLetsTheMachineGoOn)
{
    MachineOptions options;
    Machine from(folder_, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.console() << from.errors();
    for (const char *state : {"setup", "device", "active"}) {
        Mover save(Snapshot(from, std::string("die=") + state));
        EXPECT_EQ(-9, save.wait()) << save.output();
        EXPECT_FALSE(std::filesystem::exists(path_)) << state;
        EXPECT_FALSE(std::filesystem::exists(path_ + ".partial")) << state;
        ASSERT_TRUE(from.counts()) << state;
        EXPECT_FALSE(from.says_bad()) << from.console();
    }
    long before = from.last_ok();
    Mover save(Snapshot(from));
    ASSERT_EQ(0, save.wait()) << save.output();
    ASSERT_TRUE(from.counts());
    from.kill();
    ExpectRestores(options, before);
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

// What is taken away, and used again, before it was saved leaves no trace in memory.
TEST_F(QemuSnapshot, ABalloonThatChangesMeanwhileFailsTheSnapshot)
{
    MachineOptions options;
    options.balloon = true;
    Machine from(folder_, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.console() << from.errors();
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
        for (const char *state : {"setup", "device", "active"}) {
            ASSERT_EQ(state, save.expect("STATE ")) << save.output();
        }
        inflate(options.mib - 16);
        inflate(options.mib);
        save.tell("go");
        EXPECT_EQ(1, save.wait()) << save.output();
        EXPECT_NE(save.output().find("balloon"), std::string::npos) << save.output();
        EXPECT_FALSE(std::filesystem::exists(path_));
    }
    EXPECT_TRUE(from.counts());
    bool saved = false; // QEMU reports changes up to a second late
    for (int i = 0; i < 10 && !saved; i++) {
        Mover again(Snapshot(from));
        saved = again.wait() == 0;
        usleep(300000);
    }
    EXPECT_TRUE(saved);
    EXPECT_FALSE(from.says_bad()) << from.console();
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
