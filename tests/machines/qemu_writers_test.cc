// SPDX-License-Identifier: Apache-2.0
// Who else writes a machine's memory (trap T1), and who of these is refused. The machine is a process that
// maps what QEMU would.
#include "tests/machines/unseen.h"
#include "tests/tools/memory_writer.h"
#include "tools/machines/qemu/watch.h"

#include <memory>

namespace
{

using namespace haul_test;

constexpr size_t kBytes = 16 * kMemoryPage;

using Ready = std::function<void()>;

class QemuWriters : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (geteuid() != 0) {
            GTEST_SKIP() << "looks into the processes of others, as root only";
        }
        for (int i = 0; i < 2; i++) {
            objects.push_back(std::make_unique<SharedObject>(kBytes, false));
            ASSERT_TRUE(objects[i]->ok());
            snprintf(blocks[i].name, sizeof blocks[i].name, "ram%d", i);
            blocks[i].length = kBytes;
            blocks[i].page_size = kMemoryPage;
            blocks[i].fd = objects[i]->fd();
            blocks[i].host = objects[i]->map();
            madvise(blocks[i].host, kBytes, MADV_DONTFORK); // as haul itself does
        }
        qemu = std::make_unique<Child>([&](const Ready &ready) {
            map(0);
            map(1);
            ready();
            pause();
        });
        inspection.pid = qemu->pid();
        inspection.blocks = blocks;
        inspection.count = 2;
    }
    // In a child, which reaches the memory as a back end does: by a descriptor that it was handed.
    unsigned char *map(int block)
    {
        void *memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, blocks[block].fd, 0);
        return memory == MAP_FAILED ? nullptr : static_cast<unsigned char *>(memory);
    }
    int find()
    {
        return haul_qemu_find_writers(&inspection, &writers, &error);
    }
    bool says(const std::string &text)
    {
        return std::string(error.message).find(text) != std::string::npos;
    }
    std::vector<std::unique_ptr<SharedObject>> objects;
    haul_qemu_block blocks[2] = {};
    std::unique_ptr<Child> qemu;
    haul_qemu_inspection inspection = {};
    haul_qemu_writers writers = {};
    haul_error error = {};
};

TEST_F(QemuWriters, ListsThoseThatCanWrite)
{
    Child reader([&](const Ready &ready) {
        mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, blocks[0].fd, 0);
        ready();
        pause();
    });
    Child writer([&](const Ready &ready) {
        map(1);
        ready();
        pause();
    });
    ASSERT_EQ(find(), 0) << error.message;
    ASSERT_EQ(writers.count, 2u);
    EXPECT_TRUE(writers.pids[0] == writer.pid() || writers.pids[1] == writer.pid());
}

TEST_F(QemuWriters, OneThatDrivesAPassedThroughDeviceIsRefused)
{
    DeviceFile device;
    if (!device.ok()) {
        GTEST_SKIP() << "cannot make a file in /dev";
    }
    Child writer([&](const Ready &ready) {
        map(1);
        (void)!open(device.path().c_str(), O_RDWR);
        ready();
        pause();
    });
    EXPECT_EQ(find(), -ENOTSUP);
    EXPECT_TRUE(says("process " + std::to_string(writer.pid()) + " (")) << error.message;
    EXPECT_TRUE(says("drives a passed-through device (" + device.path() + ")")) << error.message;
    EXPECT_TRUE(says("unplug what it serves")) << error.message;
    writer.end();
    EXPECT_EQ(find(), 0) << error.message;
    EXPECT_EQ(writers.count, 1u);
}

// One that only has the device, and not the memory, is nobody's business.
TEST_F(QemuWriters, APassedThroughDeviceOfAnotherIsNot)
{
    DeviceFile device;
    if (!device.ok()) {
        GTEST_SKIP() << "cannot make a file in /dev";
    }
    Child other([&](const Ready &ready) {
        (void)!open(device.path().c_str(), O_RDWR);
        ready();
        pause();
    });
    EXPECT_EQ(find(), 0) << error.message;
    EXPECT_EQ(writers.count, 1u);
}

TEST_F(QemuWriters, MoreThanThereIsRoomForAreRefused)
{
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < HAUL_QEMU_WRITERS_MAX; i++) {
        children.push_back(std::make_unique<Child>([&](const Ready &ready) {
            map(i % 2);
            ready();
            pause();
        }));
    }
    EXPECT_EQ(find(), -ENOSPC);
    EXPECT_TRUE(says("more than 64 processes map the machine's memory writable")) << error.message;
    children.pop_back();
    EXPECT_EQ(find(), 0) << error.message;
    EXPECT_EQ(writers.count, 64u);
}

TEST_F(QemuWriters, OneThatCannotBeTrackedIsRefused)
{
    Child writer([&](const Ready &ready) {
        if (watch_with_userfaultfd(map(1), kBytes)) {
            ready();
        }
        pause();
    });
    ASSERT_EQ(find(), 0) << error.message;
    ASSERT_EQ(writers.count, 2u);
    haul_tracker *tracker = nullptr;
    int result = haul_qemu_watch_new(&inspection, &writers, &tracker, &error);
    if (result == 0) {
        haul_tracker_free(tracker);
        GTEST_SKIP() << "soft-dirty bits track it on this kernel";
    }
    EXPECT_EQ(result, -EBUSY);
    EXPECT_TRUE(says("process " + std::to_string(writer.pid()) + " (")) << error.message;
    EXPECT_TRUE(says("writes the machine's memory too and cannot be tracked: ")) << error.message;
    EXPECT_TRUE(says("watches it already")) << error.message;
}

} // namespace
