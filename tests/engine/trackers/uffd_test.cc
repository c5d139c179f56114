// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/support.h"

#include <fstream>
#include <thread>

#include <sys/syscall.h>
#include <sys/vfs.h>

namespace
{

// What keeps the userfaultfd tracker from working here; empty: nothing.
std::string unsupported()
{
    SharedMemory memory(kPage);
    haul_tracked_range range = memory.range();
    haul_tracker *tracker = nullptr;
    haul_error error = {};
    int result = haul_tracker_uffd_new(0, &range, 1, &tracker, &error);
    haul_tracker_free(tracker);
    return result == -ENOSYS || result == -EPERM ? error.message : "";
}

class Uffd : public testing::Test
{
  protected:
    void SetUp() override
    {
        std::string why = unsupported();
        if (!why.empty()) {
            GTEST_SKIP() << why;
        }
    }
    static Tracker make(int pid, const haul_tracked_range &range)
    {
        return make(pid, std::vector{range});
    }
    static Tracker make(int pid, const std::vector<haul_tracked_range> &ranges)
    {
        haul_tracker *tracker = nullptr;
        haul_error error = {};
        EXPECT_EQ(
            haul_tracker_uffd_new(pid, ranges.data(), static_cast<unsigned>(ranges.size()), &tracker, &error),
            0)
            << error.message;
        return Tracker(tracker);
    }
};

using Pages = std::vector<size_t>;

// Private memory of this process, aligned to a huge page.
class PrivateMemory
{
  public:
    explicit PrivateMemory(size_t bytes, int advice) : bytes_(bytes)
    {
        constexpr size_t huge = 2 << 20;
        area_ = static_cast<char *>(
            mmap(nullptr, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        data_ = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(area_) + huge - 1) & ~(huge - 1));
        madvise(data_, bytes, advice);
    }
    ~PrivateMemory()
    {
        munmap(area_, bytes_ + (2 << 20));
    }
    char *data() const
    {
        return data_;
    }
    haul_tracked_range range() const
    {
        return {.address = reinterpret_cast<uintptr_t>(data_),
                .length = bytes_,
                .memory_fd = -1,
                .memory_offset = 0,
                .block = 0,
                .block_offset = 0};
    }

  private:
    size_t bytes_;
    char *area_;
    char *data_;
};

/* ---- this process ---- */

TEST_F(Uffd, ReportsEachWrittenPageOnce)
{
    SharedMemory memory(1024 * kPage);
    memset(memory.data(), 1, 512 * kPage); /* the rest is never touched */
    Tracker tracker = make(0, memory.range());
    Dirty dirty({1024});
    EXPECT_STREQ(haul_tracker_get_ops(tracker.get())->name, "uffd-wp");
    ASSERT_EQ(start(tracker, nullptr), 0);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), Pages{});
    memory.data()[0] = 2;
    memory.data()[700 * kPage + 5] = 2;
    volatile char read = memory.data()[100 * kPage] + memory.data()[900 * kPage];
    (void)read;
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), (Pages{0, 700}));
    EXPECT_EQ(dirty.reported, 2u);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), Pages{});
    memory.data()[900 * kPage] = 2; /* was read above */
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), Pages{900});
    stop(tracker);
    memory.data()[900 * kPage] = 3;
}

TEST_F(Uffd, ReportsPagesAtTheirPlaceInTheirBlock)
{
    SharedMemory first(100 * kPage), second(300 * kPage);
    haul_tracked_range one = first.range(), two = second.range(), three = second.range();
    one.block = 1, one.block_offset = 67 * kPage;
    two.length = 128 * kPage, two.block_offset = 3 * kPage;
    three.address += 200 * kPage, three.memory_offset = 200 * kPage, three.length = 100 * kPage;
    three.block_offset = 131 * kPage;
    Tracker tracker = make(0, {one, two, three});
    Dirty dirty({300, 200});
    ASSERT_EQ(start(tracker, nullptr), 0);
    first.data()[0] = first.data()[99 * kPage] = 1;
    second.data()[0] = second.data()[127 * kPage] = 1;
    second.data()[150 * kPage] = 1; /* in no range */
    second.data()[200 * kPage] = second.data()[299 * kPage] = 1;
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(0), (Pages{3, 130, 131, 230}));
    EXPECT_EQ(dirty.pages(1), (Pages{67, 166}));
    EXPECT_EQ(dirty.reported, 6u);
    second.punch(127 * kPage, 2 * kPage);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(0), Pages{130});
}

TEST_F(Uffd, ReportsMoreRegionsThanOneScanReturns)
{
    constexpr size_t kPages = 8192;
    SharedMemory memory(kPages * kPage);
    Tracker tracker = make(0, memory.range());
    Dirty dirty({kPages});
    ASSERT_EQ(start(tracker, nullptr), 0);
    for (size_t page = 1; page < kPages; page += 2) {
        memory.data()[page * kPage] = 1;
    }
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), kPages / 2);
    EXPECT_TRUE(dirty.test(kPages - 1));
    EXPECT_FALSE(dirty.test(kPages - 2));
    for (size_t page = 1; page < kPages; page += 2) {
        memory.punch(page * kPage, kPage);
    }
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), kPages / 2);
}

TEST_F(Uffd, LosesNoWriteOfAnotherThread)
{
    constexpr size_t kPages = 1024;
    for (bool shared : {true, false}) {
        SharedMemory memory(kPages * kPage);
        PrivateMemory own(kPages * kPage, MADV_NOHUGEPAGE);
        char *data = shared ? memory.data() : own.data();
        Tracker tracker = make(0, shared ? memory.range() : own.range());
        std::atomic<uint32_t> end{0};
        std::atomic<uint64_t> count{0};
        std::thread writer([&] { write_randomly(data, kPages, 5, end, count); });
        copy_while_written(tracker, data, kPages, 300, [&] {
            end = 1;
            writer.join();
        });
    }
}

TEST_F(Uffd, LosesNoWriteToHugePages)
{
    constexpr size_t kPages = 2048;
    PrivateMemory memory(kPages * kPage, MADV_HUGEPAGE);
    memset(memory.data(), 1, kPages * kPage);
    Tracker tracker = make(0, memory.range());
    std::atomic<uint32_t> end{0};
    std::atomic<uint64_t> count{0};
    std::thread writer([&] { write_randomly(memory.data(), kPages, 6, end, count); });
    copy_while_written(tracker, memory.data(), kPages, 100, [&] {
        end = 1;
        writer.join();
    });
}

// Needs reserved huge pages (vm.nr_hugepages).
TEST_F(Uffd, ReportsHugetlbPagesWhole)
{
    SharedMemory memory(8 << 20, MFD_HUGETLB);
    if (!memory.mapped()) {
        GTEST_SKIP() << "no huge pages are reserved here (vm.nr_hugepages, at least 4)";
    }
    memset(memory.data(), 1, 6 << 20);
    Tracker tracker = make(0, memory.range());
    Dirty dirty({2048});
    ASSERT_EQ(start(tracker, nullptr), 0);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 0u);
    memory.data()[3 << 20] = 1;
    memory.data()[7 << 20] = 1;
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 1024u);
    EXPECT_TRUE(dirty.test(512) && dirty.test(1023) && dirty.test(1536) && dirty.test(2047));
    ASSERT_TRUE(memory.punch(0, 2 << 20)); /* present and clean */
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 512u);
    EXPECT_TRUE(dirty.test(0) && dirty.test(511));
    memory.data()[4 << 20] = 9; /* written, then gone */
    ASSERT_TRUE(memory.punch(4 << 20, 2 << 20));
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 512u);
    EXPECT_TRUE(dirty.test(1024));
    memory.data()[4 << 20] = 9; /* and again: it must have been armed */
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 512u);
    ASSERT_EQ(madvise(memory.data(), 8 << 20, MADV_DONTNEED),
              0); /* all out of the page table; the content stays */
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    memory.data()[1 << 20] = 5; /* written, then out of it again */
    ASSERT_EQ(madvise(memory.data(), 2 << 20, MADV_DONTNEED), 0);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 512u);
    EXPECT_TRUE(dirty.test(0));
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 0u);
    haul_error error = {};
    haul_tracked_range cut = memory.range();
    cut.length -= 4096;
    haul_tracker *none = nullptr;
    tracker.reset();
    EXPECT_EQ(haul_tracker_uffd_new(0, &cut, 1, &none, &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("cuts a huge page"), std::string::npos) << error.message;
}

/* ---- holes that appear (T8) ---- */

// The object behind `memory` loses pages in every way that matters; each must be reported once.
void expect_holes_reported(const SharedMemory &memory, const Tracker &tracker)
{
    Dirty dirty({1024});
    haul_error error = {};
    auto sync = [&] {
        EXPECT_EQ(dirty.sync(tracker, &error), 0) << error.message;
        return dirty.pages();
    };
    memset(memory.data(), 1, 600 * kPage);
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    EXPECT_EQ(sync(), Pages{});
    ASSERT_TRUE(memory.punch(10 * kPage, 2 * kPage)); /* clean pages, by the object */
    EXPECT_EQ(sync(), (Pages{10, 11}));
    EXPECT_EQ(sync(), Pages{});
    ASSERT_EQ(madvise(memory.data() + 20 * kPage, kPage, MADV_REMOVE), 0); /* by the mapping */
    EXPECT_EQ(sync(), Pages{20});
    ASSERT_TRUE(memory.punch(700 * kPage, 5 * kPage)); /* was a hole already */
    EXPECT_EQ(sync(), Pages{});
    memory.data()[30 * kPage] = 2; /* written, then gone */
    ASSERT_TRUE(memory.punch(30 * kPage, kPage));
    EXPECT_EQ(sync(), Pages{30});
    EXPECT_EQ(sync(), Pages{});
    ASSERT_TRUE(memory.punch(40 * kPage, kPage)); /* gone, then written */
    memory.data()[40 * kPage] = 3;
    EXPECT_EQ(sync(), Pages{40});
    ASSERT_TRUE(memory.punch(40 * kPage, kPage));
    EXPECT_EQ(sync(), Pages{40});
    /* As a balloon does it, and a whole page table of it, so that the table itself may go. */
    memset(memory.data(), 4, 600 * kPage);
    ASSERT_TRUE(memory.punch(0, 600 * kPage));
    ASSERT_EQ(madvise(memory.data(), 600 * kPage, MADV_DONTNEED), 0);
    EXPECT_EQ(sync().size(), 600u);
    EXPECT_EQ(sync(), Pages{});
    /* Only out of the page table: the content stays, and a write before must not be forgotten. */
    memset(memory.data(), 5, 512 * kPage);
    EXPECT_EQ(sync().size(), 512u);
    ASSERT_EQ(madvise(memory.data(), 512 * kPage, MADV_DONTNEED), 0);
    EXPECT_EQ(sync(), Pages{});
    memset(memory.data(), 6, 512 * kPage);
    ASSERT_EQ(madvise(memory.data(), 512 * kPage, MADV_DONTNEED), 0);
    EXPECT_EQ(sync().size(), 512u);
    EXPECT_EQ(sync(), Pages{});
    memory.data()[50 * kPage] = 7;
    EXPECT_EQ(sync(), Pages{50});
    /* Content that this mapping never touched since it was taken out of its page table. */
    ASSERT_EQ(madvise(memory.data(), 512 * kPage, MADV_DONTNEED), 0);
    ASSERT_TRUE(memory.punch(60 * kPage, kPage));
    EXPECT_EQ(sync(), Pages{60});
}

TEST_F(Uffd, ReportsHolesInAMemfd)
{
    SharedMemory memory(1024 * kPage);
    expect_holes_reported(memory, make(0, memory.range()));
}

TEST_F(Uffd, ReportsHolesInATmpfsFile)
{
    SharedMemory memory("/dev/shm", 1024 * kPage);
    ASSERT_TRUE(memory.mapped());
    expect_holes_reported(memory, make(0, memory.range()));
}

TEST_F(Uffd, ReportsHolesInContentOfOtherProcesses)
{
    SharedMemory memory(64 * kPage);
    std::vector<char> page(kPage, 'x');
    ASSERT_EQ(pwrite(memory.fd(), page.data(), kPage, 5 * kPage), static_cast<ssize_t>(kPage));
    Tracker tracker = make(0, memory.range());
    Dirty dirty({64});
    ASSERT_EQ(start(tracker, nullptr), 0);
    ASSERT_TRUE(memory.punch(5 * kPage, kPage)); /* never in this page table */
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), Pages{5});
}

TEST_F(Uffd, ReportsHolesWithoutTheObject)
{
    SharedMemory memory(64 * kPage);
    memset(memory.data(), 1, 64 * kPage);
    haul_tracked_range range = memory.range();
    range.memory_fd = -1;
    Tracker tracker = make(0, range);
    Dirty dirty({64});
    ASSERT_EQ(start(tracker, nullptr), 0);
    ASSERT_TRUE(memory.punch(5 * kPage, kPage));
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), Pages{5});
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), Pages{});
}

TEST_F(Uffd, ReportsDiscardedPrivateMemory)
{
    for (int advice : {MADV_NOHUGEPAGE, MADV_HUGEPAGE}) {
        PrivateMemory memory(1024 * kPage, advice);
        memset(memory.data(), 1, 1024 * kPage);
        Tracker tracker = make(0, memory.range());
        Dirty dirty({1024});
        ASSERT_EQ(start(tracker, nullptr), 0);
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_EQ(dirty.pages(), Pages{});
        /* All of one page table, or one huge page, clean: nothing is left in the page table. */
        ASSERT_EQ(madvise(memory.data() + 512 * kPage, 512 * kPage, MADV_DONTNEED), 0);
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_EQ(dirty.count(), 512u);
        EXPECT_TRUE(dirty.test(512) && dirty.test(1023));
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_EQ(dirty.pages(), Pages{});
        memory.data()[600 * kPage] = 2;
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_TRUE(dirty.test(600));
        ASSERT_EQ(madvise(memory.data() + 7 * kPage, kPage, MADV_DONTNEED), 0);
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_TRUE(dirty.test(7));
        memory.data()[8 * kPage] = 2;
        ASSERT_EQ(madvise(memory.data() + 8 * kPage, kPage, MADV_DONTNEED), 0);
        volatile char zero = memory.data()[8 * kPage];
        EXPECT_EQ(zero, 0);
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_TRUE(dirty.test(8));
    }
}

/* ---- another process ---- */

// A child that maps `memory` at the same place and writes until it is told to stop.
struct Writer {
    std::shared_ptr<Flags> flags = Flags::create();
    Child child;
    Writer(const SharedMemory &memory, uint32_t seed)
        : child([=, &memory, control = flags] {
              control->ready = 1;
              write_randomly(memory.data(), memory.bytes() / kPage, seed, control->stop, control->count);
              control->done = 1;
              pause();
          })
    {
        wait_for(flags->ready);
    }
    void end()
    {
        flags->stop = 1;
        wait_for(flags->done);
    }
};

TEST_F(Uffd, LosesNoWriteOfAnotherProcess)
{
    SharedMemory memory(2048 * kPage);
    Writer writer(memory, 9);
    int before = descriptors_of(writer.child.pid());
    Tracker tracker = make(writer.child.pid(), memory.range());
    EXPECT_EQ(descriptors_of(writer.child.pid()), before);
    copy_while_written(tracker, memory.data(), 2048, 300, [&] { writer.end(); });
}

TEST_F(Uffd, LosesNoWriteOfTwoProcessesInAGroup)
{
    SharedMemory memory(2048 * kPage);
    Writer one(memory, 9), two(memory, 10);
    haul_tracker *members[] = {make(one.child.pid(), memory.range()).release(),
                               make(two.child.pid(), memory.range()).release()};
    haul_tracker *group = nullptr;
    ASSERT_EQ(haul_tracker_group_new(members, 2, &group, nullptr), 0);
    Tracker tracker(group);
    copy_while_written(tracker, memory.data(), 2048, 300, [&] {
        one.end();
        two.end();
    });
}

TEST_F(Uffd, ReportsOnlyTheProcessThatItTracks)
{
    SharedMemory memory(64 * kPage);
    memset(memory.data(), 1, memory.bytes());
    auto flags = Flags::create();
    Child child([&] {
        flags->ready = 1;
        wait_for(flags->stop);
        memory.data()[3 * kPage] = 2; /* in the page cache, but never in this process's page table */
        int ends[2];
        char bytes[2 * kPage] = {1};
        bool moved =
            pipe(ends) == 0 && write(ends[1], bytes, sizeof bytes) == sizeof bytes &&
            read(ends[0], memory.data() + 8 * kPage, sizeof bytes) == sizeof bytes; /* the kernel writes */
        flags->value = moved ? 0 : -1;
        flags->done = 1;
        pause();
    });
    wait_for(flags->ready);
    Tracker tracker = make(child.pid(), memory.range());
    Dirty dirty({64});
    ASSERT_EQ(start(tracker, nullptr), 0);
    memory.data()[20 * kPage] = 1; /* ours */
    flags->stop = 1;
    wait_for(flags->done);
    EXPECT_EQ(flags->value, 0);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), (Pages{3, 8, 9}));
}

// Is any memory of the process under a userfaultfd?
bool watched(int pid)
{
    std::ifstream file("/proc/" + std::to_string(pid) + "/smaps");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("VmFlags:", 0) == 0 && line.find(" uw") != std::string::npos) {
            return true;
        }
    }
    return false;
}

TEST_F(Uffd, StopLeavesTheProcessAsItWas)
{
    SharedMemory memory(256 * kPage);
    Writer writer(memory, 3);
    int pid = writer.child.pid();
    for (int i = 0; i < 3; i++) {
        Tracker tracker = make(pid, memory.range());
        Dirty dirty({256});
        ASSERT_EQ(start(tracker, nullptr), 0);
        EXPECT_TRUE(watched(pid));
        uint64_t count = writer.flags->count;
        while (writer.flags->count < count + 100) {
            usleep(100);
        }
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_GT(dirty.count(), 0u);
        stop(tracker);
        EXPECT_FALSE(watched(pid));
        stop(tracker); /* harmless */
    }
    writer.end();
}

// Trap T7: killed at any moment, from before the injection until after many scans.
TEST_F(Uffd, TheDeathOfTheTrackingProcessLeavesTheOtherAsItWas)
{
    SharedMemory memory(1024 * kPage);
    Writer writer(memory, 4);
    int pid = writer.child.pid();
    int before = descriptors_of(pid);
    std::minstd_rand random(12);
    for (int i = 0; i < 20; i++) {
        auto flags = Flags::create();
        Child tracking([&] {
            flags->ready = 1;
            haul_tracked_range range = memory.range();
            haul_tracker *tracker = nullptr;
            if (haul_tracker_uffd_new(pid, &range, 1, &tracker, nullptr)) {
                _exit(1);
            }
            Tracker held(tracker);
            Dirty dirty({1024});
            start(held, nullptr);
            while (dirty.sync(held, nullptr) == 0) {
                flags->count++;
            }
        });
        wait_for(flags->ready);
        usleep(random() % 10000);
        tracking.end(SIGKILL);
    }
    for (int i = 0; i < 1000 && watched(pid); i++) {
        usleep(1000); /* a helper that was in the middle takes a moment */
    }
    EXPECT_FALSE(watched(pid));
    EXPECT_EQ(descriptors_of(pid), before);
    Tracker tracker = make(pid, memory.range());
    copy_while_written(tracker, memory.data(), 1024, 50, [&] { writer.end(); });
}

TEST_F(Uffd, TheEndOfTheTrackedProcessIsAnError)
{
    for (bool exec : {false, true}) {
        SharedMemory memory(64 * kPage);
        auto flags = Flags::create();
        Child child([&] {
            flags->ready = 1;
            wait_for(flags->stop);
            memory.data()[0] = 1; /* a write that no later sync can see */
            if (exec) {
                execl("/bin/sleep", "sleep", "5", nullptr);
            }
        });
        wait_for(flags->ready);
        Tracker tracker = make(child.pid(), memory.range());
        Dirty dirty({64});
        haul_error error = {};
        ASSERT_EQ(start(tracker, &error), 0) << error.message;
        flags->stop = 1;
        while (watched(child.pid())) {
            usleep(100);
        }
        usleep(20000);
        EXPECT_EQ(dirty.sync(tracker, &error), -ESRCH);
        EXPECT_EQ(std::string(error.message),
                  "process " + std::to_string(child.pid()) +
                      ", whose memory is tracked, has exited or replaced its program");
        stop(tracker);
    }
}

TEST_F(Uffd, OtherMemoryInTheRangeIsAnError)
{
    SharedMemory memory(64 * kPage);
    Tracker tracker = make(0, memory.range());
    Dirty dirty({64});
    haul_error error = {};
    ASSERT_EQ(start(tracker, &error), 0);
    ASSERT_NE(mmap(memory.data() + 8 * kPage, kPage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              MAP_FAILED);
    EXPECT_EQ(dirty.sync(tracker, &error), -EPERM);
    EXPECT_NE(std::string(error.message).find("other memory was mapped there since the tracking began"),
              std::string::npos)
        << error.message;
}

/* ---- what is refused ---- */

std::string refused(int pid, const haul_tracked_range &range, int code)
{
    haul_tracker *tracker = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_tracker_uffd_new(pid, &range, 1, &tracker, &error), -code) << error.message;
    EXPECT_EQ(error.code, code);
    EXPECT_EQ(tracker, nullptr);
    return error.message;
}

TEST_F(Uffd, RefusesUnalignedRanges)
{
    SharedMemory memory(64 * kPage);
    for (int i = 0; i < 6; i++) {
        haul_tracked_range range = memory.range();
        range.address += i == 0;
        range.length -= i == 1;
        range.block_offset += i == 2;
        range.memory_offset += i == 3;
        range.length = i == 4 ? 0 : range.length;
        range.length = i == 5 ? ~UINT64_C(4095) : range.length;
        EXPECT_NE(refused(0, range, EINVAL).find("must be multiples of 4096, and its length not zero"),
                  std::string::npos);
    }
}

TEST_F(Uffd, RefusesRangesThatAreNotMapped)
{
    SharedMemory memory(64 * kPage);
    munmap(memory.data() + 60 * kPage, 4 * kPage);
    char expected[128];
    snprintf(expected, sizeof expected, "process %d maps nothing at 0x%lx", getpid(),
             reinterpret_cast<unsigned long>(memory.data() + 60 * kPage));
    EXPECT_NE(refused(0, memory.range(), EINVAL).find(expected), std::string::npos);
}

TEST_F(Uffd, RefusesRangesThatAreNotShared)
{
    SharedMemory memory(64 * kPage);
    void *at = mmap(nullptr, memory.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE, memory.fd(), 0);
    haul_tracked_range range = memory.range();
    range.address = reinterpret_cast<uintptr_t>(at);
    EXPECT_NE(refused(0, range, EINVAL)
                  .find("privately, so what it writes cannot be read from outside: map it shared "
                        "(QEMU: share=on)"),
              std::string::npos);
    munmap(at, memory.bytes());
}

TEST_F(Uffd, RefusesAnotherObjectOrAnotherPartOfIt)
{
    SharedMemory memory(64 * kPage), other(64 * kPage);
    haul_tracked_range range = memory.range();
    range.memory_fd = other.fd();
    EXPECT_NE(refused(0, range, EINVAL).find("not the memory object to be moved"), std::string::npos);
    range = memory.range();
    range.memory_offset = kPage;
    range.length -= kPage;
    EXPECT_NE(refused(0, range, EINVAL).find("maps another part of the memory object"), std::string::npos);
}

TEST_F(Uffd, RefusesMemoryThatIsWatchedAlready)
{
    SharedMemory memory(64 * kPage);
    Tracker first = make(0, memory.range());
    EXPECT_NE(refused(0, memory.range(), EBUSY).find("a userfaultfd watches it already"), std::string::npos);
}

TEST_F(Uffd, RefusesAProcessThatDoesNotExist)
{
    SharedMemory memory(64 * kPage);
    int gone = Child([] {}).pid();
    EXPECT_EQ(refused(gone, memory.range(), ESRCH),
              "userfaultfd tracker: cannot open /proc/" + std::to_string(gone) + "/pagemap: No such process");
}

TEST_F(Uffd, WorksUnprivilegedAndRefusesForeignProcesses)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root, to drop privileges";
    }
    SharedMemory memory(64 * kPage);
    auto flags = Flags::create();
    Child foreign([] { pause(); });
    Child unprivileged([&] {
        if (setgid(65534) || setuid(65534)) {
            _exit(1);
        }
        prctl(PR_SET_DUMPABLE, 1); /* lost with the user; without it /proc/self is root's */
        haul_tracked_range range = memory.range();
        haul_tracker *tracker = nullptr;
        haul_error error = {};
        flags->value = haul_tracker_uffd_new(foreign.pid(), &range, 1, &tracker, &error);
        if (!strstr(error.message, "Operation not permitted")) {
            _exit(2);
        }
        Tracker own;
        if (haul_tracker_uffd_new(0, &range, 1, &tracker, &error)) {
            _exit(3);
        }
        own.reset(tracker);
        Dirty dirty({64});
        start(own, &error);
        memory.data()[6 * kPage] = 1;
        _exit(dirty.sync(own, &error) == 0 && dirty.pages() == Pages{6} ? 0 : 4);
    });
    EXPECT_EQ(unprivileged.join(), 0);
    EXPECT_EQ(flags->value, -EPERM);
}

} // namespace
