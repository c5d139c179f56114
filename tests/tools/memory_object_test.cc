// SPDX-License-Identifier: Apache-2.0

// What is a memory object, who may write it, and what is refused.
#include "tests/machines/unseen.h"
#include "tests/tools/memory_writer.h"

#include "tools/machines/memory/object.h"
#include "tools/machines/memory/writers.h"

#include <cerrno>

#include <sys/stat.h>

using namespace haul_test;

namespace
{

constexpr size_t kSize = 16 * kMemoryPage;

std::string free_name()
{
    char name[] = "/dev/shm/haul-test-XXXXXX";
    close(mkostemp(name, O_CLOEXEC));
    unlink(name);
    return name;
}

class MemoryObject : public testing::Test
{
  protected:
    ~MemoryObject() override
    {
        haul_memory_object_close(&object);
    }
    std::string message() const
    {
        return error.message;
    }
    bool says(const char *text) const
    {
        return message().find(text) != std::string::npos;
    }

    haul_memory_object object = {-1, 0, 0, nullptr, false};
    haul_error error = {};
};

TEST_F(MemoryObject, TmpfsFileIsOpenedAndMapped)
{
    SharedObject file(kSize);
    ASSERT_EQ(haul_memory_object_open(&object, file.path(), false, &error), 0) << error.message;
    EXPECT_EQ(object.length, kSize);
    EXPECT_EQ(object.page_size, 4096u);
    EXPECT_FALSE(object.created);
    ASSERT_EQ(haul_memory_object_map(&object, file.path(), false, &error), 0) << error.message;
    file.map()[5] = 42;
    EXPECT_EQ(static_cast<unsigned char *>(object.host)[5], 42);
}

TEST_F(MemoryObject, MemfdIsOpenedByItsDescriptor)
{
    SharedObject memfd(kSize, false);
    ASSERT_EQ(haul_memory_object_open(&object, memfd.path(), true, &error), 0) << error.message;
    EXPECT_EQ(object.length, kSize);
}

TEST_F(MemoryObject, HugePagesAreNoticed)
{
    SharedObject memfd(4 << 20, false, MFD_HUGETLB);
    if (!memfd.ok()) {
        GTEST_SKIP() << "no hugetlbfs memfd here: " << strerror(errno);
    }
    ASSERT_EQ(haul_memory_object_open(&object, memfd.path(), true, &error), 0) << error.message;
    EXPECT_EQ(object.page_size, 2u << 20);
}

TEST_F(MemoryObject, FileElsewhereIsRefused)
{
    EXPECT_EQ(haul_memory_object_open(&object, "/proc/self/status", false, &error), -EINVAL);
    EXPECT_EQ(message(),
              "/proc/self/status is not shared memory (file system type 0x9fa0): use a file in /dev/shm or "
              "another tmpfs, in a hugetlbfs, or a memfd as /proc/PID/fd/N");
}

TEST_F(MemoryObject, DirectoryAndPipeAreRefused)
{
    EXPECT_EQ(haul_memory_object_open(&object, "/dev/shm", false, &error), -EINVAL);
    EXPECT_TRUE(says("/dev/shm is not shared memory")) << message();
    haul_memory_object_close(&object);
    std::string pipe = free_name();
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    EXPECT_EQ(haul_memory_object_open(&object, pipe.c_str(), false, &error), -EINVAL);
    unlink(pipe.c_str());
}

TEST_F(MemoryObject, MissingFileIsRefused)
{
    EXPECT_EQ(haul_memory_object_open(&object, "/dev/shm/haul-test/none", false, &error), -ENOENT);
    EXPECT_EQ(message(), "cannot open /dev/shm/haul-test/none: No such file or directory");
}

TEST_F(MemoryObject, EmptyFileAndOddSizeAreRefused)
{
    for (size_t size : {0, 5000}) {
        SharedObject file(size);
        EXPECT_EQ(haul_memory_object_open(&object, file.path(), false, &error), -EINVAL);
        EXPECT_EQ(message(),
                  std::string(file.path()) + " has " + std::to_string(size) +
                      " bytes, which is not a whole number of its pages of 4096 bytes: set its size with "
                      "truncate");
        haul_memory_object_close(&object);
    }
}

TEST_F(MemoryObject, CreateMakesAFileOfTheSize)
{
    std::string name = free_name();
    ASSERT_EQ(haul_memory_object_create(&object, name.c_str(), kSize, &error), 0) << error.message;
    EXPECT_TRUE(object.created);
    struct stat status = {};
    EXPECT_EQ(stat(name.c_str(), &status), 0);
    EXPECT_EQ((size_t)status.st_size, kSize);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    unlink(name.c_str());
}

TEST_F(MemoryObject, CreateTakesAnExistingFileOfTheSize)
{
    SharedObject file(kSize);
    ASSERT_EQ(haul_memory_object_create(&object, file.path(), kSize, &error), 0) << error.message;
    EXPECT_FALSE(object.created);
}

TEST_F(MemoryObject, CreateRefusesAnExistingFileOfAnotherSize)
{
    SharedObject file(kSize);
    EXPECT_EQ(haul_memory_object_create(&object, file.path(), 2 * kSize, &error), -EINVAL);
    EXPECT_EQ(message(), std::string(file.path()) +
                             " exists with 65536 bytes, not 131072: remove it, or leave the "
                             "size out if that is right");
    EXPECT_EQ(access(file.path(), F_OK), 0);
}

TEST_F(MemoryObject, CreateThatFailsLeavesNothingBehind)
{
    std::string name = free_name();
    EXPECT_EQ(haul_memory_object_create(&object, name.c_str(), 4097, &error), -EINVAL);
    EXPECT_NE(access(name.c_str(), F_OK), 0);
    haul_memory_object_close(&object);
    EXPECT_EQ(haul_memory_object_create(&object, name.c_str(), 1ull << 50, &error), -ENOSPC);
    EXPECT_TRUE(says("bytes left, 1125899906842624 are needed: enlarge it")) << message();
    EXPECT_NE(access(name.c_str(), F_OK), 0);
}

// ---- writers ------------------------------------------------------------------------------------------

class MemoryWriters : public MemoryObject
{
  protected:
    void SetUp() override
    {
        ASSERT_EQ(haul_memory_object_open(&object, file.path(), false, &error), 0) << error.message;
    }
    int find(int pid)
    {
        return haul_memory_find_ranges(&object, file.path(), pid, ranges, &count, &error);
    }
    int refuse_others(int pid)
    {
        return haul_memory_refuse_others(&object, file.path(), pid, &error);
    }

    SharedObject file{kSize};
    haul_tracked_range ranges[HAUL_MEMORY_MAX_RANGES] = {};
    unsigned count = 0;
};

TEST_F(MemoryWriters, MappingIsFound)
{
    Child child(writer_of(file));
    ASSERT_EQ(find(child.pid()), 0) << error.message;
    ASSERT_EQ(count, 1u);
    EXPECT_EQ(ranges[0].length, kSize);
    EXPECT_EQ(ranges[0].block, 0u);
    EXPECT_EQ(ranges[0].block_offset, 0u);
}

TEST_F(MemoryWriters, EveryMappingIsFoundWhereItIs)
{
    Child child([this](const std::function<void()> &ready) {
        mmap(nullptr, kMemoryPage, PROT_WRITE, MAP_SHARED, file.fd(), 3 * kMemoryPage);
        mmap(nullptr, kMemoryPage, PROT_WRITE, MAP_SHARED, file.fd(), 9 * kMemoryPage);
        mmap(nullptr, kMemoryPage, PROT_WRITE, MAP_PRIVATE, file.fd(), 5 * kMemoryPage);
        ready();
        pause();
    });
    ASSERT_EQ(find(child.pid()), 0) << error.message;
    ASSERT_EQ(count, 2u);
    EXPECT_EQ(ranges[0].block_offset + ranges[1].block_offset, 12 * kMemoryPage);
    EXPECT_EQ(ranges[0].memory_offset, ranges[0].block_offset);
    EXPECT_EQ(ranges[1].memory_offset, ranges[1].block_offset);
}

TEST_F(MemoryWriters, ProcessThatDoesNotMapItIsRefused)
{
    Child child([](const std::function<void()> &ready) {
        ready();
        pause();
    });
    EXPECT_EQ(find(child.pid()), -EINVAL);
    EXPECT_EQ(message(),
              "process " + std::to_string(child.pid()) + " does not map " + file.path() +
                  " shared: name the process that does (write() calls to the file cannot be followed)");
}

// Trap T1.
TEST_F(MemoryWriters, SecondWriterIsRefused)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "only root sees into every process";
    }
    Child first(writer_of(file)), second(writer_of(file));
    EXPECT_EQ(refuse_others(first.pid()), -EBUSY);
    EXPECT_EQ(message(),
              "process " + std::to_string(second.pid()) + " maps " + file.path() +
                  " writable too: end it, or name it as the one that writes if it is the only one");
    second.end();
    EXPECT_EQ(refuse_others(first.pid()), 0) << error.message;
}

TEST_F(MemoryWriters, WriterOfMemoryAtRestIsRefused)
{
    Child child(writer_of(file));
    EXPECT_EQ(refuse_others(0), -EBUSY);
    child.end();
    EXPECT_EQ(refuse_others(0), 0) << error.message;
}

TEST_F(MemoryWriters, ReaderIsNoWriter)
{
    Child reader([this](const std::function<void()> &ready) {
        mmap(nullptr, kSize, PROT_READ, MAP_SHARED, file.fd(), 0);
        ready();
        pause();
    });
    EXPECT_EQ(refuse_others(0), 0) << error.message;
}

TEST_F(MemoryWriters, PlainProcessHasNothingUnseen)
{
    Child child(writer_of(file));
    EXPECT_EQ(haul_memory_refuse_unseen(child.pid(), &error), 0) << error.message;
}

// Trap T2.
TEST_F(MemoryWriters, DirectInputIsRefused)
{
    std::string name = std::string(getenv("TEST_TMPDIR") ? getenv("TEST_TMPDIR") : "/tmp") + "/direct";
    int fd = open(name.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0) {
        GTEST_SKIP() << "no direct I/O on " << name << ": " << strerror(errno);
    }
    Child child(writer_of(file));
    close(fd);
    unlink(name.c_str());
    EXPECT_EQ(haul_memory_refuse_unseen(child.pid(), &error), -EBUSY);
    EXPECT_TRUE(says("holds a file open for direct I/O (descriptor ")) << message();
    EXPECT_TRUE(says("which can write its memory unseen: close it before the move")) << message();
}

TEST_F(MemoryWriters, APassedThroughDeviceIsRefused)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "only root makes files in /dev";
    }
    DeviceFile device;
    ASSERT_TRUE(device.ok());
    int fd = open(device.path().c_str(), O_RDWR | O_CLOEXEC);
    Child child(writer_of(file));
    close(fd);
    EXPECT_EQ(haul_memory_refuse_unseen(child.pid(), &error), -EBUSY);
    EXPECT_TRUE(says("holds a passed-through device (descriptor ")) << message();
    EXPECT_TRUE(says(device.path().c_str())) << message();
}

TEST_F(MemoryWriters, IoUringIsRefused)
{
    char parameters[512] = {};
    int fd = (int)syscall(SYS_io_uring_setup, 4, parameters);
    if (fd < 0) {
        GTEST_SKIP() << "no io_uring here: " << strerror(errno);
    }
    Child child(writer_of(file));
    close(fd);
    EXPECT_EQ(haul_memory_refuse_unseen(child.pid(), &error), -EBUSY);
    EXPECT_TRUE(says("holds an io_uring (descriptor ")) << message();
}

} // namespace
