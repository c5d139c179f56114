// SPDX-License-Identifier: Apache-2.0
// Memory that others than the machine's own vCPUs write: disks with direct I/O (trap T2), other processes
// (trap T1).
#include "tests/machines/move.h"
#include "tests/machines/unseen.h"
#include "tests/tools/memory_writer.h"
#include "tests/waiting.h"
#include "tools/machines/qemu/inspect.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

class QemuIo : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
    }
    Folder folder;
};

TEST_F(QemuIo, DirectIoUnderLoadLosesNothing)
{
    make_disk(folder / "disk", 64);
    ASSERT_TRUE(make_file_system(folder / "fs", 64));
    MachineOptions options;
    options.rate_mib = 2;
    options.disk = folder / "disk";
    options.file_system = folder / "fs";
    Machine first(folder, "m0", options);
    ASSERT_TRUE(first.wait_for("lap 2", kBootSeconds)) << first.last_words() << first.errors();
    ASSERT_TRUE(first.wait_for("files", 60)) << first.last_words();
    options.incoming = true;
    std::vector<std::unique_ptr<Machine>> machines;
    Machine *from = &first;
    for (int i = 1; i <= 2; i++) {
        machines.push_back(std::make_unique<Machine>(folder, "m" + std::to_string(i), options));
        Machine &to = *machines.back();
        Move move(*from, to, {{"channels=2", "downtime=300"}});
        ASSERT_EQ(0, move.source->wait()) << move.log() << to.errors();
        ASSERT_EQ(0, move.destination->wait()) << move.log() << to.errors();
        std::cerr << move.source->output();
        EXPECT_NE(std::string::npos, move.source->output().find("SUMMARY guest stopped for")) << move.log();
        from->kill();
        // What direct reads brought is checked a lap later, memory in a sweep.
        ASSERT_TRUE(to.wait_for("lap", 60)) << to.last_words() << to.errors();
        EXPECT_TRUE(to.wait_for("lap", 60, to.console().size())) << to.last_words();
        EXPECT_TRUE(to.wait_for("files", 60)) << to.last_words();
        EXPECT_TRUE(to.wait_for("sweep", 60)) << to.last_words();
        EXPECT_FALSE(to.says_bad()) << to.last_words();
        from = &to;
    }
    from->command("stop"); // drained and flushed
    from->kill();
    EXPECT_EQ(
        0, system(("e2fsck -p " + (folder / "fs") + " >/dev/null; e2fsck -fn " + (folder / "fs")).c_str()));
}

// haul dies while the guest is stopped for a scan, or close to it: it must run on.
TEST_F(QemuIo, HaulDiesBetweenScans)
{
    make_disk(folder / "disk", 16);
    ASSERT_TRUE(make_file_system(folder / "fs", 64));
    MachineOptions options;
    options.disk = folder / "disk";
    options.file_system = folder / "fs";
    Machine from(folder, "from", options);
    ASSERT_TRUE(from.wait_for("lap 2", kBootSeconds)) << from.last_words() << from.errors();
    options.incoming = true;
    for (int i = 0; i < 4; i++) {
        Machine to(folder, "to" + std::to_string(i), options);
        Move move(from, to, {{"downtime=0"}, {"timeout=5"}}); // never converges
        move.source->expect("STATE round1");
        usleep(10000 * (unsigned)i);
        move.source->kill(SIGKILL);
        move.source->wait();
        EXPECT_TRUE(from.counts()) << from.status() << move.log();
        EXPECT_EQ("running", from.status());
        EXPECT_FALSE(from.says_bad()) << from.last_words();
    }
}

void inspect(const Machine &machine, haul_qemu_inspection *inspection)
{
    haul_error error = {};
    haul_qmp *qmp = nullptr;
    ASSERT_EQ(0, haul_qmp_open(machine.qmp().c_str(), 5000, &qmp, &error)) << error.message;
    ASSERT_EQ(0, haul_qemu_inspect(qmp, false, inspection, &error)) << error.message;
    haul_qmp_close(qmp);
    ASSERT_STREQ("shared", inspection->blocks[1].name);
}

TEST_F(QemuIo, AnotherProcessWritesTheMemory)
{
    MachineOptions options;
    // A DIMM that the guest has not put to use: whatever is in it comes from the other process.
    options.extra = {"-m",      "192,slots=1,maxmem=1G",
                     "-object", "memory-backend-memfd,id=shared,size=128M,share=on",
                     "-device", "pc-dimm,memdev=shared"};
    Machine from(folder, "from", options);
    options.incoming = true;
    Machine to(folder, "to", options);
    ASSERT_TRUE(from.wait_for("ready", kBootSeconds)) << from.last_words() << from.errors();

    haul_qemu_inspection before = {};
    inspect(from, &before);
    Child writer([&](const std::function<void()> &ready) {
        std::string path =
            "/proc/" + std::to_string(getppid()) + "/fd/" + std::to_string(before.blocks[1].fd);
        int fd = open(path.c_str(), O_RDWR);
        uint32_t *memory = (uint32_t *)mmap(nullptr, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ready();
        for (uint32_t n = 1; access((folder / "quiet").c_str(), F_OK) < 0; n++) {
            memory[(n * 1031u) % (1u << 20)] = n;
            usleep(100);
        }
        close(open((folder / "silent").c_str(), O_WRONLY | O_CREAT, 0600));
        pause();
    });
    Move move(from, to, {{"hold=round1", "channels=2"}});
    move.source->expect("STATE round1");
    usleep(500000);
    // As a vhost-user process falls silent when QEMU stops the machine.
    close(open((folder / "quiet").c_str(), O_WRONLY | O_CREAT, 0600));
    EXPECT_TRUE(Eventually([&] { return access((folder / "silent").c_str(), F_OK) == 0; }));
    move.source->tell("go");
    ASSERT_EQ(0, move.source->wait()) << move.log() << to.errors();
    std::cerr << move.source->output();
    EXPECT_NE(std::string::npos, move.source->output().find("another process that maps the memory"))
        << move.log();
    haul_qemu_inspection after = {}; // not earlier: haul refuses memory that somebody else maps
    inspect(to, &after);
    EXPECT_EQ(0, memcmp(before.blocks[1].host, after.blocks[1].host, 128 << 20));
    EXPECT_TRUE(to.counts());
    writer.end();
    haul_qemu_inspection_cleanup(&before);
    haul_qemu_inspection_cleanup(&after);
}

// Two machines that only their firmware runs, and a process that writes the first one's memory too.
class QemuWriter : public QemuIo
{
  protected:
    void SetUp() override
    {
        QemuIo::SetUp();
        if (IsSkipped()) {
            return;
        }
        MachineOptions options;
        options.mib = 64;
        options.boot = false;
        options.extra = {"-device", "qemu-xhci"}; // unplugs without the guest's help
        MachineOptions watched = options;
        watched.extra.insert(watched.extra.end(),
                             {"-qmp", "unix:" + (folder / "events") + ",server=on,wait=off"});
        from = std::make_unique<Machine>(folder, "from", watched);
        options.incoming = true;
        to = std::make_unique<Machine>(folder, "to", options);
        haul_error error = {};
        haul_qmp *qmp = nullptr;
        ASSERT_EQ(0, haul_qmp_open(from->qmp().c_str(), 5000, &qmp, &error)) << error.message;
        ASSERT_EQ(0, haul_qemu_inspect(qmp, true, &inspection, &error)) << error.message;
        haul_qmp_close(qmp);
        ASSERT_EQ(1u, inspection.count);
    }
    void TearDown() override
    {
        haul_qemu_inspection_cleanup(&inspection);
    }
    // In the child: what a back end does with the descriptor that QEMU hands it.
    void *map()
    {
        return mmap(nullptr, inspection.blocks[0].length, PROT_READ | PROT_WRITE, MAP_SHARED,
                    inspection.blocks[0].fd, 0);
    }
    // And here: haul looks for who else maps the memory.
    void forget()
    {
        munmap(inspection.blocks[0].host, inspection.blocks[0].length);
        inspection.blocks[0].host = nullptr;
    }
    void expect_refused(Move &move, const std::string &why)
    {
        EXPECT_EQ(1, move.source->wait()) << move.log();
        EXPECT_NE(std::string::npos, move.source->output().find(why)) << move.log();
        EXPECT_EQ("running", from->status());
    }
    std::unique_ptr<Machine> from, to;
    haul_qemu_inspection inspection = {};
};

TEST_F(QemuWriter, ThatCannotBeTrackedIsRefused)
{
    Child writer([&](const std::function<void()> &ready) {
        if (watch_with_userfaultfd(map(), inspection.blocks[0].length)) {
            ready();
        }
        pause();
    });
    forget();
    Move move(*from, *to);
    move.source->wait();
    if (move.log().find("soft-dirty") != std::string::npos && move.source->wait() == 0) {
        GTEST_SKIP() << "soft-dirty bits track it on this kernel";
    }
    expect_refused(move, "process " + std::to_string(writer.pid()) + " (");
    expect_refused(move, "writes the machine's memory too and cannot be tracked: ");
}

TEST_F(QemuWriter, ThatDrivesAPassedThroughDeviceIsRefused)
{
    DeviceFile device;
    ASSERT_TRUE(device.ok());
    Child writer([&](const std::function<void()> &ready) {
        map();
        (void)!open(device.path().c_str(), O_RDWR);
        ready();
        pause();
    });
    forget();
    Move move(*from, *to);
    expect_refused(move, "drives a passed-through device (" + device.path() + ")");
    EXPECT_EQ(std::string::npos, move.log().find("STATE round1")) << "not before the memory had gone";
}

// Plugged after the move had begun.
TEST_F(QemuWriter, ThatGetsAPassedThroughDeviceLaterIsRefusedAtTheStop)
{
    DeviceFile device;
    ASSERT_TRUE(device.ok());
    std::string plug = folder / "plug", plugged = folder / "plugged";
    Child writer([&](const std::function<void()> &ready) {
        map();
        ready();
        Eventually([&] { return access(plug.c_str(), F_OK) == 0; });
        (void)!open(device.path().c_str(), O_RDWR);
        (void)!open(plugged.c_str(), O_WRONLY | O_CREAT, 0600);
        pause();
    });
    forget();
    Move move(*from, *to, {{"hold=round1"}});
    move.source->expect("STATE round1");
    close(open(plug.c_str(), O_WRONLY | O_CREAT, 0600));
    EXPECT_TRUE(Eventually([&] { return access(plugged.c_str(), F_OK) == 0; }));
    move.source->tell("go");
    expect_refused(move, "drives a passed-through device (" + device.path() + ")");
}

// Memory that the other side knows nothing of.
TEST_F(QemuWriter, MemoryThatIsPluggedMeanwhileIsRefusedAtTheStop)
{
    forget();
    Move move(*from, *to, {{"hold=round1"}, {"timeout=5"}});
    move.source->expect("STATE round1");
    from->command("object-add",
                  R"({"qom-type":"memory-backend-memfd","id":"late","size":8388608,"share":true})");
    move.source->tell("go");
    expect_refused(move, "memory backend \"late\" (8 MiB) was plugged during the move: move again");
    EXPECT_EQ(1, move.destination->wait()) << move.log();
}

// It wrote what it wrote, and no look finds it.
TEST_F(QemuWriter, ADeviceThatCameAndWentIsRefusedAtTheStop)
{
    forget();
    Move move(*from, *to, {{"hold=round1"}, {"timeout=5"}});
    move.source->expect("STATE round1");
    haul_error error = {};
    haul_qmp *events = nullptr;
    bool seen = false;
    ASSERT_EQ(0, haul_qmp_open((folder / "events").c_str(), 5000, &events, &error)) << error.message;
    from->command("device_add", R"({"driver":"usb-tablet","id":"late"})");
    from->command("device_del", R"({"id":"late"})");
    EXPECT_EQ(0, haul_qmp_wait_event(events, "DEVICE_DELETED", 30000, &seen, &error)) << error.message;
    EXPECT_TRUE(seen);
    haul_qmp_close(events);
    move.source->tell("go");
    expect_refused(move, "a device was unplugged during the move");
    EXPECT_EQ(1, move.destination->wait()) << move.log();
}

} // namespace
