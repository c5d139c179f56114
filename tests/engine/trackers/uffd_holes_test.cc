// SPDX-License-Identifier: Apache-2.0
// Memory without content: never touched, and discarded while it is tracked (trap T8).
#include "tests/engine/trackers/uffd_support.h"

#include <algorithm>

namespace
{

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

// Which pages the tracker knows to have content.
Pages content(const Tracker &tracker, size_t pages)
{
    std::vector<uint64_t> bits((pages + 63) / 64, ~UINT64_C(0));
    uint64_t *block = bits.data();
    haul_tracker_get_ops(tracker.get())->clear_holes(haul_tracker_get_opaque(tracker.get()), &block);
    Pages found;
    for (size_t page = 0; page < pages; page++) {
        if (bits[page / 64] >> (page % 64) & 1) {
            found.push_back(page);
        }
    }
    return found;
}

// The memory of a machine that came by a move: written by somebody else, here and there in the page table.
TEST_F(Uffd, KnowsContentThatIsNotInThePageTable)
{
    constexpr size_t pages = 4096;
    SharedMemory memory(pages * kPage);
    Pages expected;
    for (size_t page = 0; page < pages; page++) {
        if (page % 7 != 3 && (page < 1000 || page > 1800)) {
            memory.data()[page * kPage] = 1;
            expected.push_back(page);
        }
    }
    ASSERT_EQ(madvise(memory.data(), memory.bytes(), MADV_DONTNEED), 0);
    for (size_t page : expected) {
        if (page % 3 == 0) {
            EXPECT_EQ(memory.data()[page * kPage], 1);
        }
    }
    Tracker tracker = make(0, memory.range());
    ASSERT_EQ(start(tracker, nullptr), 0);
    EXPECT_EQ(content(tracker, pages), expected);
    Dirty dirty({pages});
    ASSERT_TRUE(memory.punch(5 * kPage, kPage)); /* in the page table of nobody */
    ASSERT_TRUE(memory.punch(6 * kPage, kPage)); /* in ours */
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), (Pages{5, 6}));
}

// The guest runs between arm and start: what it writes and discards then is no less known.
TEST_F(Uffd, MissesNothingFromArmOn)
{
    SharedMemory memory(1024 * kPage);
    memset(memory.data(), 1, 100 * kPage);
    Tracker tracker = make(0, memory.range());
    haul_error error = {};
    ASSERT_EQ(haul_tracker_arm(tracker.get(), &error), 0) << error.message;
    memory.data()[7 * kPage] = 2;
    memory.data()[700 * kPage] = 2; /* was a hole */
    ASSERT_TRUE(memory.punch(9 * kPage, kPage));
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    Pages present = content(tracker, 1024);
    EXPECT_EQ(present.size(), 100u);
    EXPECT_EQ(std::count(present.begin(), present.end(), 9u), 0); /* sent as zero from the first round on */
    Dirty dirty({1024});
    ASSERT_EQ(dirty.sync(tracker, &error), 0) << error.message;
    EXPECT_EQ(dirty.pages(), (Pages{7, 700}));
    ASSERT_EQ(dirty.sync(tracker, &error), 0) << error.message;
    EXPECT_EQ(dirty.pages(), Pages{});
}

TEST_F(Uffd, ArmsEachMemberOfAGroup)
{
    SharedMemory memory(1024 * kPage), other(1024 * kPage);
    haul_tracked_range second = other.range();
    second.block = 1;
    haul_tracker *members[] = {make(0, memory.range()).release(), make(0, second).release()};
    haul_tracker *made = nullptr;
    ASSERT_EQ(haul_tracker_group_new(members, 2, &made, nullptr), 0);
    Tracker group(made);
    ASSERT_EQ(haul_tracker_arm(made, nullptr), 0);
    memory.data()[3 * kPage] = 1;
    other.data()[4 * kPage] = 1;
    ASSERT_EQ(start(group, nullptr), 0);
    Dirty dirty({1024, 1024});
    ASSERT_EQ(dirty.sync(group, nullptr), 0);
    EXPECT_EQ(dirty.pages(0), Pages{3});
    EXPECT_EQ(dirty.pages(1), Pages{4});
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

} // namespace
