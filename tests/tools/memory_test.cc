// SPDX-License-Identifier: Apache-2.0

// Memory objects moved through the engine, at rest and while a real process writes them.
#include "tests/tools/huge_pages.h"
#include "tests/tools/machine_move.h"
#include "tests/tools/memory_writer.h"

#include <cerrno>
#include <cstring>
#include <random>

#include <sys/stat.h>

using namespace haul_test;

namespace
{

constexpr size_t kSize = 8 << 20;

class MemoryMachine : public testing::Test
{
  protected:
    MemoryMachine()
    {
        char name[] = "/dev/shm/haul-test-XXXXXX";
        close(mkostemp(name, O_CLOEXEC));
        unlink(name);
        destination_path = name;
    }
    ~MemoryMachine() override
    {
        unlink(destination_path.c_str());
    }

    static Machine source_of(const SharedObject &object, int pid)
    {
        haul_machine *machine = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_memory_source_new(object.path(), pid, &machine, &error), 0) << error.message;
        return Machine(machine);
    }
    Machine new_destination(uint64_t size = kSize)
    {
        haul_machine *machine = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_memory_destination_new(destination_path.c_str(), size, &machine, &error), 0)
            << error.message;
        return Machine(machine);
    }
    static std::string summary_of(const Machine &machine)
    {
        char text[256] = "";
        machine->ops->summary(machine.get(), text, sizeof text);
        return text;
    }
    static std::vector<unsigned char> bytes_of(const std::string &path)
    {
        int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        struct stat status = {};
        fstat(fd, &status);
        std::vector<unsigned char> bytes((size_t)status.st_size);
        EXPECT_EQ(read(fd, bytes.data(), bytes.size()), (ssize_t)bytes.size());
        close(fd);
        return bytes;
    }
    void expect_same(const SharedObject &object) const
    {
        auto here = bytes_of(object.path()), there = bytes_of(destination_path);
        ASSERT_EQ(here.size(), there.size());
        for (size_t at = 0; at < here.size(); at += kMemoryPage) {
            ASSERT_EQ(memcmp(&here[at], &there[at], kMemoryPage), 0)
                << "page " << at / kMemoryPage << " differs";
        }
    }
    static void fill(SharedObject &object)
    {
        std::mt19937_64 random(1);
        unsigned char *data = object.map();
        for (size_t page = 0; page < object.size() / kMemoryPage; page++) {
            if (page % 4 != 3) { // every fourth stays a hole
                for (size_t at = 0; at < kMemoryPage; at += 8) {
                    uint64_t value = random();
                    memcpy(data + page * kMemoryPage + at, &value, 8);
                }
            }
        }
        object.unmap();
    }

    std::string destination_path;
};

TEST_F(MemoryMachine, AtRestArrivesInANewFile)
{
    SharedObject object(kSize);
    fill(object);
    {
        Machine from = source_of(object, 0), to = new_destination();
        MachineMove move(from, to);
        EXPECT_EQ(move.wait(), "");
        EXPECT_EQ(summary_of(from), "");
    }
    expect_same(object);
}

haul_options hand_over()
{
    haul_options options = move_options();
    options.mode = "cpr-transfer";
    return options;
}

ino_t inode_of(const std::string &path)
{
    struct stat status = {};
    EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
    return status.st_ino;
}

// The destination's name becomes one of the object itself.
TEST_F(MemoryMachine, HandedOverObjectGetsTheDestinationsName)
{
    SharedObject object(kSize);
    fill(object);
    Machine from = source_of(object, 0), to = new_destination();
    EXPECT_NE(inode_of(destination_path), inode_of(object.path()));
    MachineMove move(from, to, hand_over());
    EXPECT_EQ(move.wait(), "");
    EXPECT_EQ(inode_of(destination_path), inode_of(object.path()));
    EXPECT_EQ(move.stats.transferred, 0u);
    expect_same(object);
}

TEST_F(MemoryMachine, MemfdCannotBeGivenAName)
{
    SharedObject object(kSize, false);
    fill(object);
    {
        Machine from = source_of(object, 0), to = new_destination();
        MachineMove move(from, to, hand_over());
        EXPECT_NE(move.wait().find("cannot become a name of the source's memory"), std::string::npos);
    }
    EXPECT_NE(access(destination_path.c_str(), F_OK), 0) << "what was created for the move goes again";
}

// Trap T5: what is zero or a hole at the source must not keep the destination's older content.
TEST_F(MemoryMachine, AtRestReplacesAllOfAnExistingFile)
{
    SharedObject object(kSize), old(kSize);
    fill(object);
    memset(old.map(), 0xaa, kSize);
    old.unmap();
    ASSERT_EQ(link(old.path(), destination_path.c_str()), 0);
    {
        Machine from = source_of(object, 0), to = new_destination(0);
        MachineMove move(from, to);
        EXPECT_EQ(move.wait(), "");
    }
    expect_same(object);
}

TEST_F(MemoryMachine, HugePagesArrive)
{
    HugePages pages(4);
    SharedObject object(4 << 20, false, MFD_HUGETLB), target(4 << 20, false, MFD_HUGETLB);
    if (!object.ok() || !target.ok() || !object.map() || !target.map()) {
        GTEST_SKIP() << "no huge pages here: " << strerror(errno);
    }
    memset(object.map(), 0x5a, kMemoryPage);
    memset(object.map() + (2 << 20), 0xa5, 2 << 20);
    target.map()[7] = 1;
    object.unmap();
    haul_machine *machine = nullptr;
    haul_error error = {};
    ASSERT_EQ(haul_memory_destination_new(target.path(), 0, &machine, &error), 0) << error.message;
    {
        Machine from = source_of(object, 0), to(machine);
        MachineMove move(from, to);
        EXPECT_EQ(move.wait(), "");
    }
    EXPECT_EQ(memcmp(object.map(), target.map(), object.size()), 0);
}

TEST_F(MemoryMachine, CreatedFileIsRemovedWhenTheMoveFails)
{
    SharedObject object(kSize);
    {
        Machine from = source_of(object, 0), to = new_destination(2 * kSize);
        EXPECT_EQ(access(destination_path.c_str(), F_OK), 0);
        MachineMove move(from, to);
        EXPECT_NE(move.wait(), "");
    }
    EXPECT_NE(access(destination_path.c_str(), F_OK), 0);
}

TEST_F(MemoryMachine, ExistingFileStaysWhenTheMoveFails)
{
    SharedObject object(kSize), other(2 * kSize);
    ASSERT_EQ(link(other.path(), destination_path.c_str()), 0);
    {
        Machine from = source_of(object, 0), to = new_destination(0);
        MachineMove move(from, to);
        EXPECT_NE(move.wait(), "");
    }
    EXPECT_EQ(access(destination_path.c_str(), F_OK), 0);
}

// ---- live ---------------------------------------------------------------------------------------------

class LiveMemory : public MemoryMachine
{
  protected:
    void SetUp() override
    {
        if (geteuid() != 0) {
            GTEST_SKIP() << "only root sees into every process, and so who else writes the object";
        }
    }
};

TEST_F(LiveMemory, LiveMemoryArrivesWholeAndItsProcessStaysStopped)
{
    SharedObject object(kSize);
    fill(object);
    Child writer(writer_of(object));
    {
        Machine from = source_of(object, writer.pid()), to = new_destination();
        MachineMove move(from, to);
        ASSERT_EQ(move.wait(), "");
        EXPECT_EQ(summary_of(from),
                  "process " + std::to_string(writer.pid()) +
                      " stays stopped here, its memory is at the destination now: end it with kill "
                      "-KILL " +
                      std::to_string(writer.pid()));
        EXPECT_EQ(writer.state(), 'T');
    }
    EXPECT_TRUE(writer.comes_to('T'));
    expect_same(object);
}

TEST_F(LiveMemory, HandedOverLiveMemoryIsNoLongerItsProcesss)
{
    SharedObject object(kSize);
    fill(object);
    Child writer(writer_of(object));
    Machine from = source_of(object, writer.pid()), to = new_destination();
    MachineMove move(from, to, hand_over());
    ASSERT_EQ(move.wait(), "");
    EXPECT_EQ(writer.state(), 'T');
    EXPECT_EQ(inode_of(destination_path), inode_of(object.path()));
}

TEST_F(LiveMemory, LiveMemoryInPiecesArrivesWhole)
{
    SharedObject object(kSize);
    Child writer([&](const std::function<void()> &ready) {
        size_t half = object.size() / 2;
        auto *high = static_cast<unsigned char *>(
            mmap(nullptr, half, PROT_READ | PROT_WRITE, MAP_SHARED, object.fd(), (off_t)half));
        auto *low = static_cast<unsigned char *>(
            mmap(nullptr, half, PROT_READ | PROT_WRITE, MAP_SHARED, object.fd(), 0));
        ready();
        for (uint64_t number = 1;; number++) {
            size_t page = number % (half / kMemoryPage);
            memcpy((number & 1 ? low : high) + page * kMemoryPage, &number, sizeof number);
            if (number % 8 == 0) {
                usleep(1000);
            }
        }
    });
    {
        Machine from = source_of(object, writer.pid()), to = new_destination();
        MachineMove move(from, to);
        ASSERT_EQ(move.wait(), "");
    }
    expect_same(object);
}

TEST_F(LiveMemory, FailedMoveLeavesTheProcessRunningAndCanBeTriedAgain)
{
    SharedObject object(kSize);
    fill(object);
    Child writer(writer_of(object));
    Machine from = source_of(object, writer.pid());
    {
        Machine wrong = new_destination(2 * kSize);
        MachineMove move(from, wrong);
        EXPECT_NE(move.wait(), "");
        EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    }
    EXPECT_NE(writer.state(), 'T');
    {
        Machine to = new_destination();
        MachineMove move(from, to);
        ASSERT_EQ(move.wait(), "");
    }
    expect_same(object);
}

TEST_F(LiveMemory, CancelledMoveLeavesTheProcessRunning)
{
    SharedObject object(kSize);
    fill(object);
    Child writer(writer_of(object));
    Machine from = source_of(object, writer.pid()), to = new_destination();
    haul_options options = move_options();
    options.max_bandwidth_bytes_per_s = 1 << 20;
    MachineMove move(from, to, options);
    ASSERT_TRUE(move.comes_to(HAUL_STATE_ACTIVE));
    EXPECT_EQ(haul_cancel(move.source()), 0);
    EXPECT_NE(move.wait(), "");
    EXPECT_EQ(move.code, -ECANCELED);
    EXPECT_NE(writer.state(), 'T');
}

// A second mapping that appears during the move is not tracked: the move must fail, not lose its writes.
TEST_F(LiveMemory, MappingThatAppearsDuringTheMoveFailsIt)
{
    SharedObject object(kSize);
    fill(object);
    void *page = mmap(nullptr, kMemoryPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    auto *map_again = static_cast<std::atomic<int> *>(page);
    Child writer([&](const std::function<void()> &ready) {
        object.map();
        ready();
        while (!map_again->load()) {
            usleep(1000);
        }
        mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, object.fd(), 0);
        map_again->store(2);
        pause();
    });
    Machine from = source_of(object, writer.pid()), to = new_destination();
    haul_options options = move_options();
    options.max_bandwidth_bytes_per_s = 1 << 20;
    MachineMove move(from, to, options);
    ASSERT_TRUE(move.comes_to(HAUL_STATE_ACTIVE));
    map_again->store(1);
    while (map_again->load() != 2) {
        usleep(1000);
    }
    haul_set_max_bandwidth(move.source(), 0);
    std::string error = move.wait();
    EXPECT_NE(error.find("process " + std::to_string(writer.pid()) + " mapped "), std::string::npos) << error;
    EXPECT_NE(error.find("anew during the move"), std::string::npos) << error;
    EXPECT_NE(writer.state(), 'T');
    munmap(page, kMemoryPage);
}

TEST_F(LiveMemory, ProcessThatEndsDuringTheMoveFailsIt)
{
    SharedObject object(kSize);
    fill(object);
    Child writer(writer_of(object));
    Machine from = source_of(object, writer.pid()), to = new_destination();
    haul_options options = move_options();
    options.max_bandwidth_bytes_per_s = 1 << 20;
    MachineMove move(from, to, options);
    ASSERT_TRUE(move.comes_to(HAUL_STATE_ACTIVE));
    writer.end();
    haul_set_max_bandwidth(move.source(), 0);
    EXPECT_NE(move.wait(), "");
    EXPECT_EQ(move.code, -ESRCH);
}

// ---- after an uncertain end (rule R1) -----------------------------------------------------------------

TEST_F(LiveMemory, LocatorFindsTheProcessAgain)
{
    SharedObject object(kSize);
    Child writer(writer_of(object));
    std::string locator;
    {
        Machine from = source_of(object, writer.pid());
        locator = from->ops->locator(from.get());
    }
    kill(writer.pid(), SIGSTOP); // as an uncertain end leaves it
    ASSERT_TRUE(writer.comes_to('T'));
    haul_machine *machine = nullptr;
    haul_error error = {};
    ASSERT_EQ(haul_memory_attach_existing(locator.c_str(), &machine, &error), 0) << error.message;
    {
        Machine again(machine);
        EXPECT_EQ(again->ops->abandon(again.get(), &error), 0) << error.message;
    }
    EXPECT_EQ(writer.state(), 'T');
    ASSERT_EQ(haul_memory_attach_existing(locator.c_str(), &machine, &error), 0) << error.message;
    Machine again(machine);
    EXPECT_EQ(again->ops->resume(again.get(), &error), 0) << error.message;
    EXPECT_NE(writer.state(), 'T');
}

TEST_F(LiveMemory, LocatorOfAnotherProcessIsRefused)
{
    SharedObject object(kSize);
    Child writer(writer_of(object));
    std::string locator = std::to_string(writer.pid()) + " 1 " + object.path();
    haul_machine *machine = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_memory_attach_existing(locator.c_str(), &machine, &error), -ESRCH);
    EXPECT_EQ(std::string(error.message),
              "process " + std::to_string(writer.pid()) + " is gone: another one has its number now");
}

TEST_F(MemoryMachine, DamagedLocatorIsRefused)
{
    haul_machine *machine = nullptr;
    for (const char *text : {"", "x", "12", "12 34", "-1 2 /dev/shm/x", "99999999999 2 /dev/shm/x"}) {
        haul_error error = {};
        EXPECT_EQ(haul_memory_attach_existing(text, &machine, &error), -EINVAL) << text;
        EXPECT_EQ(std::string(error.message), "'" + std::string(text) + "' does not name a memory machine");
    }
}

} // namespace
