// SPDX-License-Identifier: Apache-2.0
// The parts of the QEMU adapter against real machines.
#include "tests/machines/qemu.h"
#include "tests/tools/huge_pages.h"
#include "tools/machines/qemu/guardian.h"
#include "tools/machines/qemu/inspect.h"
#include "tools/machines/qemu/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <set>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

using haul_test::Folder;
using haul_test::Machine;
using haul_test::MachineOptions;

class QemuTest : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!haul_test::missing().empty()) {
            GTEST_SKIP() << haul_test::missing();
        }
    }
    void TearDown() override
    {
        haul_qemu_inspection_cleanup(&inspection);
        haul_qmp_close(qmp);
    }
    int open(const Machine &machine)
    {
        return haul_qmp_open(machine.qmp().c_str(), 5000, &qmp, &error);
    }
    int inspect(const Machine &machine)
    {
        int result = open(machine);
        return result ? result : haul_qemu_inspect(qmp, true, &inspection, &error);
    }
    // Without a kernel: what these tests look at is there from the start.
    static MachineOptions small()
    {
        MachineOptions options;
        options.boot = false;
        options.mib = 64;
        return options;
    }
    Folder folder;
    haul_qmp *qmp = nullptr;
    haul_qemu_inspection inspection = {};
    haul_error error = {};
};

TEST_F(QemuTest, FindsOneBackend)
{
    Machine machine(folder, "m", small());
    ASSERT_EQ(0, inspect(machine)) << error.message;
    EXPECT_EQ(machine.pid(), inspection.pid);
    EXPECT_EQ(0, strncmp(inspection.machine_type, "pc-q35-", 7)) << inspection.machine_type;
    ASSERT_EQ(1u, inspection.count);
    EXPECT_STREQ("ram0", inspection.blocks[0].name);
    EXPECT_EQ(64u << 20, inspection.blocks[0].length);
    EXPECT_EQ(4096u, inspection.blocks[0].page_size);
    EXPECT_STREQ("", inspection.direct_io);
}

// Same type, same size: only QEMU knows which is which. Its own view of the guest's memory is the proof.
TEST_F(QemuTest, TellsEqualBackendsApart)
{
    MachineOptions options = small();
    options.backends = 4;
    options.paused = true;
    Machine machine(folder, "m", options);
    ASSERT_EQ(0, inspect(machine)) << error.message;
    ASSERT_EQ(4u, inspection.count);
    for (unsigned i = 0; i < 4; i++) {
        const haul_qemu_block &block = inspection.blocks[i];
        EXPECT_EQ("ram" + std::to_string(i), block.name);
        *(uint32_t *)((char *)block.host + 0x200000) = 0xabc0 + i;
        std::string line = "xp /1xw " + std::to_string((i * 16ull << 20) + 0x200000);
        std::string reply = machine.command("human-monitor-command", "{\"command-line\":\"" + line + "\"}");
        EXPECT_NE(std::string::npos, reply.find("0x0000abc" + std::to_string(i))) << reply;
    }
}

TEST_F(QemuTest, FindsFilesAndDimmsAndUnmappedIvshmem)
{
    MachineOptions options = small();
    options.backing = "file";
    options.type = "pc";
    options.extra = {
        "-m",      "64,slots=2,maxmem=1G",   "-object", "memory-backend-memfd,id=dimm,size=128M,share=on",
        "-device", "pc-dimm,memdev=dimm",    "-object", "memory-backend-memfd,id=iv,size=1M,share=on",
        "-device", "ivshmem-plain,memdev=iv"};
    Machine machine(folder, "m", options);
    ASSERT_EQ(0, inspect(machine)) << error.message;
    ASSERT_EQ(3u, inspection.count);
    EXPECT_STREQ("dimm", inspection.blocks[0].name);
    EXPECT_STREQ("iv", inspection.blocks[1].name);
    EXPECT_STREQ("ram0", inspection.blocks[2].name);
}

TEST_F(QemuTest, HugePages)
{
    MachineOptions options = small();
    options.backing = "hugetlb";
    haul_test::HugePages pages(options.mib / 2);
    if (!pages.missing().empty()) {
        GTEST_SKIP() << pages.missing();
    }
    Machine machine(folder, "m", options);
    ASSERT_EQ(0, inspect(machine)) << error.message;
    ASSERT_EQ(1u, inspection.count);
    EXPECT_EQ(2u << 20, inspection.blocks[0].page_size);
    haul_qemu_inspection_cleanup(&inspection); // before the pages are given back
}

TEST_F(QemuTest, RefusesPrivateMemory)
{
    MachineOptions options = small();
    options.backing = "private";
    Machine machine(folder, "m", options);
    EXPECT_EQ(-ENOTSUP, inspect(machine));
    EXPECT_NE(nullptr, strstr(error.message, "memory backend \"ram0\" (64 MiB) is private")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, "share=on")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, "-machine memory-backend=ram0")) << error.message;
}

TEST_F(QemuTest, RefusesAPassedThroughDevice)
{
    // No such device here: a node of that name, opened by QEMU, is what the check would see.
    if (access("/dev/vfio", F_OK) == 0) {
        GTEST_SKIP() << "/dev/vfio exists on this machine; not touched";
    }
    ASSERT_EQ(0, system("mkdir /dev/vfio && touch /dev/vfio/haul-test"));
    MachineOptions options = small();
    options.extra = {"-add-fd", "fd=9,set=1"};
    int fd = ::open("/dev/vfio/haul-test", O_RDWR);
    dup2(fd, 9);
    {
        Machine machine(folder, "m", options);
        close(9);
        close(fd);
        EXPECT_EQ(-ENOTSUP, inspect(machine));
    }
    EXPECT_NE(nullptr, strstr(error.message, "passed-through device (/dev/vfio/haul-test)")) << error.message;
    EXPECT_EQ(0, system("rm -r /dev/vfio"));
}

TEST_F(QemuTest, SeesDirectIo)
{
    haul_test::make_disk(folder / "disk", 1);
    MachineOptions options = small();
    options.disk = folder / "disk";
    Machine machine(folder, "m", options);
    ASSERT_EQ(0, inspect(machine)) << error.message;
    EXPECT_EQ(options.disk, inspection.direct_io);
}

TEST_F(QemuTest, MonitorInUse)
{
    Machine machine(folder, "m", small());
    haul_qmp *first = nullptr;
    ASSERT_EQ(0, haul_qmp_open(machine.qmp().c_str(), 5000, &first, &error)) << error.message;
    std::vector<haul_qmp *> more;
    EXPECT_EQ(-EBUSY, haul_qmp_open(machine.qmp().c_str(), 500, &qmp, &error));
    EXPECT_NE(nullptr, strstr(error.message, "another client may hold this monitor")) << error.message;
    haul_qmp_close(first);
    EXPECT_EQ(0, open(machine)) << error.message;
}

TEST_F(QemuTest, QemuDies)
{
    Machine machine(folder, "m", small());
    ASSERT_EQ(0, open(machine)) << error.message;
    machine.kill();
    EXPECT_EQ(-EPIPE, haul_qemu_inspect(qmp, false, &inspection, &error));
    EXPECT_NE(nullptr, strstr(error.message, "it has exited")) << error.message;
}

std::string settings_of(Machine &machine)
{
    return machine.command("query-migrate-capabilities") + machine.command("query-migrate-parameters");
}

TEST_F(QemuTest, SettingsComeBack)
{
    Machine machine(folder, "m", small());
    machine.command("migrate-set-capabilities", "{\"capabilities\":[{\"capability\":\"multifd\",\"state\":"
                                                "true},{\"capability\":\"return-path\",\"state\":true}]}");
    machine.command("migrate-set-parameters", "{\"downtime-limit\":77,\"max-bandwidth\":123456}");
    std::string before = settings_of(machine);
    ASSERT_EQ(0, open(machine)) << error.message;
    haul_qemu_settings settings = {};
    ASSERT_EQ(0, haul_qemu_settings_apply(qmp, true, &settings, &error)) << error.message;
    EXPECT_NE(before, settings_of(machine));
    EXPECT_NE(std::string::npos, settings_of(machine).find("\"max-bandwidth\": 0"));
    ASSERT_EQ(0, haul_qemu_settings_restore(qmp, &settings, &error)) << error.message;
    EXPECT_EQ(before, settings_of(machine));
}

// A child plays haul, stops the machine, and dies by SIGKILL.
TEST_F(QemuTest, GuardianContinuesTheMachine)
{
    Machine machine(folder, "m", small());
    std::string before = settings_of(machine);
    pid_t haul = fork();
    if (haul == 0) {
        haul_guardian *guardian = nullptr;
        haul_qemu_settings settings = {};
        char script[4096];
        std::string lines = "?{\"execute\":\"migrate_cancel\"}\n{\"execute\":\"cont\"}\n";
        if (haul_guardian_new(machine.qmp().c_str(), &guardian, &error) == 0 && open(machine) == 0 &&
            haul_qemu_settings_apply(qmp, true, &settings, &error) == 0 &&
            haul_qemu_settings_script(&settings, script, sizeof script) == 0 &&
            haul_guardian_arm(guardian, (lines + script).c_str(), &error) == 0 &&
            haul_qmp_execute(qmp, "stop", nullptr, nullptr, &error) == 0) {
            raise(SIGKILL);
        }
        _exit(1);
    }
    int how = 0;
    ASSERT_EQ(haul, waitpid(haul, &how, 0));
    ASSERT_TRUE(WIFSIGNALED(how)) << "the child failed";
    for (int i = 0; i < 500 && (machine.status() != "running" || settings_of(machine) != before); i++) {
        usleep(20000);
    }
    EXPECT_EQ("running", machine.status());
    EXPECT_EQ(before, settings_of(machine));
    EXPECT_EQ(0, open(machine)) << "the guardian left the monitor: " << error.message;
}

TEST_F(QemuTest, ADisarmedGuardianDoesNothing)
{
    Machine machine(folder, "m", small());
    haul_guardian *guardian = nullptr;
    ASSERT_EQ(0, haul_guardian_new(machine.qmp().c_str(), &guardian, &error)) << error.message;
    ASSERT_EQ(0, haul_guardian_arm(guardian, "{\"execute\":\"stop\"}\n", &error)) << error.message;
    haul_guardian_free(guardian);
    EXPECT_EQ("running", machine.status());
}

TEST_F(QemuTest, TheTestGuestBootsAndCounts)
{
    haul_test::make_disk(folder / "disk", 16);
    ASSERT_TRUE(haul_test::make_file_system(folder / "fs", 32));
    MachineOptions options;
    options.disk = folder / "disk";
    options.file_system = folder / "fs";
    Machine machine(folder, "m", options);
    ASSERT_TRUE(machine.wait_for("ready", haul_test::kBootSeconds))
        << machine.last_words() << machine.errors();
    EXPECT_TRUE(machine.wait_for("sweep 1 ok", 60)) << machine.last_words();
    EXPECT_TRUE(machine.wait_for("lap 2", 60)) << machine.last_words();
    EXPECT_TRUE(machine.wait_for("files", 60)) << machine.last_words();
    EXPECT_FALSE(machine.says_bad()) << machine.last_words();
}

} // namespace
