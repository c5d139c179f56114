// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/support.h"

#include <thread>

namespace
{

using Pages = std::vector<size_t>;

int make(int pid, const haul_tracked_range &range, Tracker *tracker, haul_error *error)
{
    haul_tracker *made = nullptr;
    int result = haul_tracker_soft_dirty_new(pid, &range, 1, &made, error);
    tracker->reset(made);
    return result;
}

// Tests that need the bits; kernels without them must say so.
class SoftDirty : public testing::Test
{
  protected:
    void SetUp() override
    {
        SharedMemory memory(kPage);
        Tracker tracker;
        haul_error error = {};
        if (make(0, memory.range(), &tracker, &error) == -ENOSYS) {
            ASSERT_STREQ(error.message,
                         "soft-dirty tracker: this kernel is built without CONFIG_MEM_SOFT_DIRTY");
            GTEST_SKIP() << error.message;
        }
    }
};

TEST_F(SoftDirty, ReportsEachWrittenPageOnce)
{
    SharedMemory memory(1024 * kPage);
    memset(memory.data(), 1, 512 * kPage);
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(0, memory.range(), &tracker, &error), 0) << error.message;
    EXPECT_STREQ(haul_tracker_get_ops(tracker.get())->name, "soft-dirty");
    Dirty dirty({1024});
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    ASSERT_EQ(dirty.sync(tracker, &error), 0) << error.message;
    EXPECT_EQ(dirty.pages(), Pages{});
    memory.data()[0] = 2;
    memory.data()[700 * kPage + 5] = 2;
    volatile char read = memory.data()[100 * kPage] + memory.data()[900 * kPage];
    (void)read;
    ASSERT_EQ(dirty.sync(tracker, &error), 0);
    EXPECT_EQ(dirty.pages(), (Pages{0, 700}));
    EXPECT_EQ(dirty.reported, 2u);
    ASSERT_EQ(dirty.sync(tracker, &error), 0);
    EXPECT_EQ(dirty.pages(), Pages{});
    memory.data()[900 * kPage] = 2;
    ASSERT_EQ(dirty.sync(tracker, &error), 0);
    EXPECT_EQ(dirty.pages(), Pages{900});
    stop(tracker);
}

TEST_F(SoftDirty, ReportsHoles)
{
    SharedMemory memory(1024 * kPage);
    memset(memory.data(), 1, 600 * kPage);
    std::vector<char> page(kPage, 'x');
    ASSERT_EQ(pwrite(memory.fd(), page.data(), kPage, 800 * kPage), static_cast<ssize_t>(kPage));
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(0, memory.range(), &tracker, &error), 0) << error.message;
    Dirty dirty({1024});
    auto sync = [&] {
        EXPECT_EQ(dirty.sync(tracker, &error), 0) << error.message;
        return dirty.pages();
    };
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    EXPECT_EQ(sync(), Pages{});
    ASSERT_TRUE(memory.punch(10 * kPage, 2 * kPage));
    ASSERT_TRUE(memory.punch(800 * kPage, kPage)); /* never in this page table */
    EXPECT_EQ(sync(), (Pages{10, 11, 800}));
    EXPECT_EQ(sync(), Pages{});
    memory.data()[30 * kPage] = 2; /* written, then gone */
    ASSERT_TRUE(memory.punch(30 * kPage, kPage));
    EXPECT_EQ(sync(), Pages{30});
    ASSERT_TRUE(memory.punch(40 * kPage, kPage)); /* gone, then written */
    memory.data()[40 * kPage] = 3;
    EXPECT_EQ(sync(), Pages{40});
    memset(memory.data(), 5, 512 * kPage);
    EXPECT_EQ(sync().size(), 512u);
    memset(memory.data(), 6, 512 * kPage); /* written, then only out of the page table */
    ASSERT_EQ(madvise(memory.data(), 512 * kPage, MADV_DONTNEED), 0);
    EXPECT_EQ(sync().size(), 512u);
    EXPECT_EQ(sync(), Pages{});
    memory.data()[50 * kPage] = 7;
    EXPECT_EQ(sync(), Pages{50});
}

TEST_F(SoftDirty, LosesNoWriteOfAnotherThread)
{
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the sanitizer's own locks may be held by the threads that are stopped";
#endif
    constexpr size_t kPages = 1024;
    SharedMemory memory(kPages * kPage);
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(0, memory.range(), &tracker, &error), 0) << error.message;
    std::atomic<uint32_t> end{0};
    std::atomic<uint64_t> count{0};
    std::thread writer([&] { write_randomly(memory.data(), kPages, 5, end, count); });
    copy_while_written(tracker, memory.data(), kPages, 50, [&] {
        end = 1;
        writer.join();
    });
}

TEST_F(SoftDirty, LosesNoWriteOfAnotherProcess)
{
    constexpr size_t kPages = 1024;
    SharedMemory memory(kPages * kPage);
    auto flags = Flags::create();
    Child child([&] {
        std::thread second([&] { write_randomly(memory.data(), kPages, 21, flags->stop, flags->count); });
        flags->ready = 1;
        write_randomly(memory.data(), kPages, 22, flags->stop, flags->count);
        second.join();
        flags->done = 1;
        pause();
    });
    wait_for(flags->ready);
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(child.pid(), memory.range(), &tracker, &error), 0) << error.message;
    copy_while_written(tracker, memory.data(), kPages, 50, [&] {
        flags->stop = 1;
        wait_for(flags->done);
    });
    child.end(SIGKILL);
    Dirty dirty({kPages});
    EXPECT_EQ(dirty.sync(tracker, &error), -ESRCH);
}

TEST_F(SoftDirty, RefusesWhatItCannotTrack)
{
    SharedMemory memory(64 * kPage);
    Tracker tracker;
    haul_error error = {};
    haul_tracked_range range = memory.range();
    range.length -= 1;
    EXPECT_EQ(make(0, range, &tracker, &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("must be multiples of 4096"), std::string::npos)
        << error.message;
    int gone = Child([] {}).pid();
    EXPECT_EQ(make(gone, memory.range(), &tracker, &error), -ESRCH);
    EXPECT_EQ(std::string(error.message),
              "soft-dirty tracker: cannot open /proc/" + std::to_string(gone) + "/pagemap: No such process");
}

// Whatever the kernel has: the first that works.
TEST(Process, TakesWhatTheKernelHas)
{
    SharedMemory memory(64 * kPage);
    haul_tracked_range range = memory.range();
    haul_tracker *made = nullptr;
    haul_error error = {};
    int result = haul_tracker_process_new(0, &range, 1, &made, &error);
    if (result) {
        EXPECT_NE(std::string(error.message).find("Linux 6.7 or newer"), std::string::npos) << error.message;
        GTEST_SKIP() << error.message;
    }
    Tracker tracker(made);
    Dirty dirty({64});
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    memory.data()[5 * kPage] = 1;
    ASSERT_EQ(dirty.sync(tracker, &error), 0) << error.message;
    EXPECT_EQ(dirty.pages(), Pages{5});
}

TEST(Process, SaysWhyEachWasRefused)
{
    SharedMemory memory(64 * kPage);
    haul_tracked_range range = memory.range();
    range.address += 1;
    haul_tracker *made = nullptr;
    haul_error error = {};
    EXPECT_LT(haul_tracker_process_new(0, &range, 1, &made, &error), 0);
    std::string message = error.message;
    EXPECT_EQ(message.rfind("what process " + std::to_string(getpid()) +
                                " writes cannot be tracked: userfaultfd tracker: ",
                            0),
              0u)
        << message;
    EXPECT_NE(message.find("; soft-dirty tracker: "), std::string::npos) << message;
}

} // namespace
