// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_MEMORY_WRITER_H
#define HAUL_TESTS_TOOLS_MEMORY_WRITER_H

// A real process that writes a shared memory object, for tests that stop, track and move it.

#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace haul_test
{

constexpr size_t kMemoryPage = 4096;

// A memory object of this test's own, mapped here as well.
class SharedObject
{
  public:
    // A file in /dev/shm, or a memfd with `flags` (MFD_HUGETLB) when `file` is false.
    explicit SharedObject(size_t bytes, bool file = true, unsigned flags = 0) : size_(bytes)
    {
        if (file) {
            char name[] = "/dev/shm/haul-test-XXXXXX";
            fd_ = mkostemp(name, O_CLOEXEC);
            path_ = file_ = name;
        } else {
            fd_ = memfd_create("haul-test", MFD_CLOEXEC | flags);
            path_ = "/proc/self/fd/" + std::to_string(fd_);
        }
        ok_ = fd_ >= 0 && ftruncate(fd_, (off_t)bytes) == 0;
    }
    ~SharedObject()
    {
        unmap();
        close(fd_);
        if (!file_.empty()) {
            unlink(file_.c_str());
        }
    }
    SharedObject(const SharedObject &) = delete;
    SharedObject &operator=(const SharedObject &) = delete;

    bool ok() const
    {
        return ok_;
    }
    const char *path() const
    {
        return path_.c_str();
    }
    int fd() const
    {
        return fd_;
    }
    size_t size() const
    {
        return size_;
    }
    // Maps it here until unmap.
    unsigned char *map()
    {
        if (!data_) {
            void *data = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
            data_ = data == MAP_FAILED ? nullptr : static_cast<unsigned char *>(data);
        }
        return data_;
    }
    void unmap()
    {
        if (data_) {
            munmap(data_, size_);
            data_ = nullptr;
        }
    }

  private:
    size_t size_;
    int fd_ = -1;
    bool ok_ = false;
    std::string path_, file_;
    unsigned char *data_ = nullptr;
};

// A forked child that runs `body` and is ended with the object; ready() waits until it said so.
class Child
{
  public:
    // `body` calls its argument once it is ready, and never returns by itself.
    explicit Child(const std::function<void(const std::function<void()> &)> &body)
    {
        int ends[2];
        EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
        pid_ = fork();
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL); // also when the test is killed
            body([&] { (void)!write(ends[1], "r", 1); });
            _exit(0);
        }
        close(ends[1]);
        char byte;
        EXPECT_EQ(read(ends[0], &byte, 1), 1) << "the child did not get ready";
        close(ends[0]);
    }
    ~Child()
    {
        end();
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;

    int pid() const
    {
        return pid_;
    }
    void end()
    {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
            pid_ = 0;
        }
    }
    // The state letter of its main thread.
    char state() const
    {
        std::string path = "/proc/" + std::to_string(pid_) + "/stat";
        int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        char text[512] = {};
        ssize_t got = read(fd, text, sizeof text - 1);
        close(fd);
        std::string stat(text, got > 0 ? (size_t)got : 0);
        size_t name = stat.rfind(')');
        return name == std::string::npos || name + 2 >= stat.size() ? '?' : stat[name + 2];
    }
    bool comes_to(char expected) const
    {
        return Eventually([&] { return state() == expected; });
    }

  private:
    int pid_ = 0;
};

// What a writing child does: goes round the object, and puts a rising number at the start and the end of each
// page.
inline void write_for_ever(unsigned char *data, size_t size, unsigned pages_per_ms)
{
    uint64_t number = 1;
    for (;;) {
        for (size_t page = 0; page < size / kMemoryPage; page++, number++) {
            volatile uint64_t *words = reinterpret_cast<volatile uint64_t *>(data + page * kMemoryPage);
            words[0] = number;
            words[kMemoryPage / sizeof(uint64_t) - 1] = number;
            if (number % pages_per_ms == 0) {
                usleep(1000);
            }
        }
    }
}

// Gives every page content beside a writer's numbers: all of them have to be sent, however few the writer has
// come to by then. No mapping of ours is left, which would be refused.
inline void leave_no_page_zero(SharedObject &object)
{
    unsigned char *data = object.map();
    for (size_t at = 0; at < object.size(); at += kMemoryPage) {
        data[at + sizeof(uint64_t)] = 1;
    }
    object.unmap();
}

// The last number that such a child wrote. Through the descriptor: a mapping of ours would be refused.
inline uint64_t latest_of(const SharedObject &object)
{
    uint64_t latest = 0;
    for (size_t at = 0; at < object.size(); at += kMemoryPage) {
        uint64_t number = 0;
        EXPECT_EQ(pread(object.fd(), &number, sizeof number, static_cast<off_t>(at)),
                  static_cast<ssize_t>(sizeof number));
        latest = std::max(latest, number);
    }
    return latest;
}

// The child is alive and goes through many pages.
inline bool writes_on(const SharedObject &object)
{
    uint64_t goal = latest_of(object) + 300;
    return Eventually([&] { return latest_of(object) >= goal; });
}

// A child that maps `object` by itself and writes all of it again and again.
inline std::function<void(const std::function<void()> &)> writer_of(SharedObject &object,
                                                                    unsigned pages_per_ms = 8)
{
    return [&object, pages_per_ms](const std::function<void()> &ready) {
        unsigned char *data = object.map();
        data[0] = 1;
        ready();
        write_for_ever(data, object.size(), pages_per_ms);
    };
}

} // namespace haul_test

#endif
