/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_ENGINE_TRACKERS_SUPPORT_H
#define HAUL_TESTS_ENGINE_TRACKERS_SUPPORT_H

#include "engine/trackers.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

constexpr size_t kPage = 4096;

// A memfd and this process's mapping of it.
class SharedMemory
{
  public:
    explicit SharedMemory(size_t bytes, unsigned flags = 0) : bytes_(bytes)
    {
        map(memfd_create("guest-ram", MFD_CLOEXEC | flags));
    }
    SharedMemory(const char *directory, size_t bytes) : bytes_(bytes)
    {
        map(open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    }
    ~SharedMemory()
    {
        if (area_ != MAP_FAILED) {
            munmap(area_, bytes_ + (2 << 20));
        }
        close(fd_);
    }
    SharedMemory(const SharedMemory &) = delete;
    SharedMemory &operator=(const SharedMemory &) = delete;
    bool mapped() const
    {
        return data_ != MAP_FAILED;
    }
    char *data() const
    {
        return data_;
    }
    size_t bytes() const
    {
        return bytes_;
    }
    int fd() const
    {
        return fd_;
    }
    haul_tracked_range range() const
    {
        return {.address = reinterpret_cast<uintptr_t>(data_),
                .length = bytes_,
                .memory_fd = fd_,
                .memory_offset = 0,
                .block = 0,
                .block_offset = 0};
    }
    bool punch(size_t offset, size_t length) const
    {
        return fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                         static_cast<off_t>(length)) == 0;
    }

  private:
    // At a multiple of 2 MiB, so that whole page tables belong to it.
    void map(int fd)
    {
        constexpr size_t align = 2 << 20;
        fd_ = fd;
        if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes_))) {
            return;
        }
        area_ = mmap(nullptr, bytes_ + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        auto at = (reinterpret_cast<uintptr_t>(area_) + align - 1) & ~(align - 1);
        data_ = static_cast<char *>(mmap(reinterpret_cast<void *>(at), bytes_, PROT_READ | PROT_WRITE,
                                         MAP_SHARED | MAP_FIXED, fd_, 0));
    }
    void *area_ = MAP_FAILED; // address space around the mapping
    size_t bytes_;
    int fd_ = -1;
    char *data_ = static_cast<char *>(MAP_FAILED);
};

// A few words that a test and its child process share.
struct Flags {
    std::atomic<uint32_t> ready;
    std::atomic<uint32_t> stop;
    std::atomic<uint32_t> done;
    std::atomic<uint64_t> count;
    std::atomic<int64_t> value;

    static std::shared_ptr<Flags> create()
    {
        void *at = mmap(nullptr, sizeof(Flags), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        return {new (at) Flags(), [](Flags *flags) { munmap(flags, sizeof *flags); }};
    }
};

inline void wait_for(const std::atomic<uint32_t> &flag)
{
    while (!flag) {
        usleep(200);
    }
}

// A child process that runs a function; ended at the latest with the object, or with the test.
class Child
{
  public:
    explicit Child(const std::function<void()> &work)
    {
        pid_ = fork();
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            work();
            _exit(0);
        }
    }
    ~Child()
    {
        end(SIGKILL);
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;
    int pid() const
    {
        return pid_;
    }
    // Sends the signal, and returns the wait status.
    int end(int signal)
    {
        int status = -1;
        if (pid_ > 0) {
            kill(pid_, signal);
            waitpid(pid_, &status, 0);
            pid_ = -1;
        }
        return status;
    }
    // Waits for its own end.
    int join()
    {
        int status = -1;
        waitpid(pid_, &status, 0);
        pid_ = -1;
        return status;
    }

  private:
    pid_t pid_ = -1;
};

// What children that are killed leave behind: the helpers that they had started, which go on to their end.
class Orphans
{
  public:
    Orphans()
    {
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    }
    ~Orphans()
    {
        await();
        prctl(PR_SET_CHILD_SUBREAPER, 0);
    }
    // In the child: what it starts can be told by it.
    static void mark()
    {
        setpgid(0, 0);
    }
    // Kills the child.
    void leave(Child &child)
    {
        groups_.push_back(child.pid());
        child.end(SIGKILL);
    }
    void await()
    {
        for (int group : groups_) {
            while (waitpid(-group, nullptr, 0) > 0) {
            }
        }
        groups_.clear();
    }

  private:
    std::vector<int> groups_;
};

// Puts the calling thread into an uninterruptible wait, as vfork does, until it is killed; sets `flag`
// before.
inline void wait_uninterruptibly(std::atomic<uint32_t> *flag)
{
    static char stack[65536];
    auto child = [](void *set) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        *static_cast<std::atomic<uint32_t> *>(set) = 1;
        return pause();
    };
    clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, flag);
}

struct TrackerDeleter {
    void operator()(haul_tracker *tracker) const
    {
        haul_tracker_free(tracker);
    }
};
using Tracker = std::unique_ptr<haul_tracker, TrackerDeleter>;

inline int start(const Tracker &tracker, haul_error *error)
{
    return haul_tracker_get_ops(tracker.get())->start(haul_tracker_get_opaque(tracker.get()), error);
}

inline void stop(const Tracker &tracker)
{
    haul_tracker_get_ops(tracker.get())->stop(haul_tracker_get_opaque(tracker.get()));
}

// One dirty bitmap per block, cleared for each sync.
class Dirty
{
  public:
    explicit Dirty(const std::vector<size_t> &pages)
    {
        for (size_t count : pages) {
            bits_.emplace_back((count + 63) / 64);
        }
        for (auto &block : bits_) {
            blocks_.push_back(block.data());
        }
    }
    int sync(const Tracker &tracker, haul_error *error)
    {
        for (auto &block : bits_) {
            std::fill(block.begin(), block.end(), 0);
        }
        return haul_tracker_get_ops(tracker.get())
            ->sync(haul_tracker_get_opaque(tracker.get()), blocks_.data(), &reported, error);
    }
    bool test(size_t page, size_t block = 0) const
    {
        return bits_[block][page / 64] >> (page % 64) & 1;
    }
    size_t count(size_t block = 0) const
    {
        size_t total = 0;
        for (uint64_t word : bits_[block]) {
            total += static_cast<size_t>(__builtin_popcountll(word));
        }
        return total;
    }
    std::vector<size_t> pages(size_t block = 0) const
    {
        std::vector<size_t> set;
        for (size_t page = 0; page < bits_[block].size() * 64; page++) {
            if (test(page, block)) {
                set.push_back(page);
            }
        }
        return set;
    }
    uint64_t reported = 0;

  private:
    std::vector<std::vector<uint64_t>> bits_;
    std::vector<uint64_t *> blocks_;
};

// Descriptors that a process has open; -1: it is gone.
inline int descriptors_of(int pid)
{
    DIR *dir = opendir(("/proc/" + std::to_string(pid) + "/fd").c_str());
    if (!dir) {
        return -1;
    }
    int count = 0;
    while (dirent *entry = readdir(dir)) {
        count += entry->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

// Writes one word of random pages until `stop`, with a fixed seed; counts its writes.
inline void write_randomly(char *data, size_t pages, uint32_t seed, const std::atomic<uint32_t> &stop,
                           std::atomic<uint64_t> &count)
{
    std::minstd_rand random(seed);
    while (!stop) {
        // Volatile words: the copier reads them meanwhile, as the engine does.
        auto *word =
            reinterpret_cast<std::atomic<uint64_t> *>(data + random() % pages * kPage + random() % 512 * 8);
        word->store(word->load(std::memory_order_relaxed) + random() + 1, std::memory_order_relaxed);
        count++;
    }
}

// Copies a page as the engine does: while it may be written.
inline void copy_page(char *to, const char *from)
{
    for (size_t at = 0; at < kPage; at += 8) {
        auto *source = reinterpret_cast<const std::atomic<uint64_t> *>(from + at);
        uint64_t word = source->load(std::memory_order_relaxed);
        memcpy(to + at, &word, sizeof word);
    }
}

// Syncs and copies while somebody writes `live`; `end` makes the writer stop. Nothing may be lost (rule R3).
inline void copy_while_written(const Tracker &tracker, const char *live, size_t pages, int rounds,
                               const std::function<void()> &end)
{
    haul_error error = {};
    std::vector<char> copy(pages * kPage);
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    for (size_t page = 0; page < pages; page++) {
        copy_page(&copy[page * kPage], live + page * kPage);
    }
    Dirty dirty({pages});
    size_t found = 0;
    bool last = false;
    auto begun = haul_test::Clock::now();
    for (int round = 0; !last; round++) { // and on until the writer had its turn
        last = round >= rounds && (found > 0 || haul_test::Clock::now() > begun + haul_test::kPatience);
        if (last) {
            end();
        }
        ASSERT_EQ(dirty.sync(tracker, &error), 0) << error.message;
        for (size_t page : dirty.pages()) {
            copy_page(&copy[page * kPage], live + page * kPage);
            found++;
        }
        usleep(500);
    }
    size_t stale = 0;
    for (size_t page = 0; page < pages; page++) {
        stale += memcmp(&copy[page * kPage], live + page * kPage, kPage) != 0;
    }
    EXPECT_EQ(stale, 0u);
    EXPECT_GT(found, 0u);
    ASSERT_EQ(dirty.sync(tracker, &error), 0) << error.message;
    EXPECT_EQ(dirty.count(), 0u) << "pages reported though nobody writes any more";
}

#endif
