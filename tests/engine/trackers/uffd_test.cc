// SPDX-License-Identifier: Apache-2.0
// Which pages the userfaultfd tracker reports as written, of this process.
#include "tests/engine/trackers/uffd_support.h"
#include "tests/tools/huge_pages.h"

#include <fstream>
#include <thread>

#include <sys/vfs.h>

namespace
{

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

// Several threads scan it. Two ranges of one block meet within a word of its bitmap.
TEST_F(Uffd, ReportsAllOfALargeMemory)
{
    constexpr size_t kPages = 3 * 262144, kCut = 1 * 262144 + 37; /* 3 GiB, nearly all of it holes */
    SharedMemory memory(kPages * kPage);
    haul_tracked_range low = memory.range(), high = memory.range();
    low.length = kCut * kPage;
    high.address += kCut * kPage, high.length -= kCut * kPage;
    high.memory_offset = high.block_offset = kCut * kPage;
    Tracker tracker = make(0, {low, high});
    Dirty dirty({kPages});
    ASSERT_EQ(start(tracker, nullptr), 0);
    Pages written;
    for (size_t border = 0; border <= kPages; border += 131072) {
        for (size_t page : {border - 2, border - 1, border, border + 1}) {
            if (page < kPages) {
                written.push_back(page);
            }
        }
        if (border == 262144) {
            written.insert(written.end(), {kCut - 1, kCut});
        }
    }
    for (int round = 0; round < 3; round++) {
        for (size_t page : written) {
            memory.data()[page * kPage] = static_cast<char>(round + 1);
        }
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_EQ(dirty.pages(), written);
        EXPECT_EQ(dirty.reported, written.size());
    }
    memory.punch(131071 * kPage, 2 * kPage);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), (Pages{131071, 131072}));
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

// Needs huge pages, which root can have reserved.
TEST_F(Uffd, ReportsHugetlbPagesWhole)
{
    haul_test::HugePages pages(4);
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

} // namespace
