// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/support.h"

#include <thread>

namespace
{

Tracker bitmap(const std::vector<uint64_t> &pages)
{
    haul_tracker *tracker = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_tracker_bitmap_new(pages.data(), static_cast<unsigned>(pages.size()), &tracker, &error), 0)
        << error.message;
    return Tracker(tracker);
}

TEST(Bitmap, ReportsMarkedPagesOnce)
{
    Tracker tracker = bitmap({100, 200});
    Dirty dirty({100, 200});
    ASSERT_EQ(start(tracker, nullptr), 0);
    haul_tracker_mark(tracker.get(), 0, 60, 10);
    haul_tracker_mark(tracker.get(), 1, 199, 1);
    haul_tracker_mark(tracker.get(), 1, 0, 0);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.reported, 11u);
    EXPECT_EQ(dirty.pages(0), (std::vector<size_t>{60, 61, 62, 63, 64, 65, 66, 67, 68, 69}));
    EXPECT_EQ(dirty.pages(1), std::vector<size_t>{199});
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.reported, 0u);
    EXPECT_EQ(dirty.count(0) + dirty.count(1), 0u);
    stop(tracker);
}

TEST(Bitmap, DropsWhatWasMarkedBeforeStart)
{
    Tracker tracker = bitmap({64});
    Dirty dirty({64});
    haul_tracker_mark(tracker.get(), 0, 3, 1);
    ASSERT_EQ(start(tracker, nullptr), 0);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.count(), 0u);
}

TEST(Bitmap, IgnoresWhatLiesOutside)
{
    Tracker tracker = bitmap({70});
    Dirty dirty({70});
    ASSERT_EQ(start(tracker, nullptr), 0);
    haul_tracker_mark(tracker.get(), 1, 0, 1);
    haul_tracker_mark(tracker.get(), 0, 70, 1);
    haul_tracker_mark(tracker.get(), 0, 69, UINT64_MAX);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), std::vector<size_t>{69});
}

TEST(Bitmap, LosesNoWriteOfAnotherThread)
{
    constexpr size_t kPages = 256;
    SharedMemory memory(kPages * kPage);
    ASSERT_TRUE(memory.mapped());
    Tracker tracker = bitmap({kPages});
    std::atomic<bool> end{false};
    std::thread writer([&] {
        std::minstd_rand random(7);
        while (!end) {
            size_t page = random() % kPages;
            auto *word = reinterpret_cast<std::atomic<uint64_t> *>(memory.data() + page * kPage);
            word->store(word->load(std::memory_order_relaxed) + random() + 1, std::memory_order_relaxed);
            haul_tracker_mark(tracker.get(), 0, page, 1);
        }
    });
    copy_while_written(tracker, memory.data(), kPages, 300, [&] {
        end = true;
        writer.join();
    });
}

// Each page is marked once, so that no later mark of the same page can hide a lost one.
TEST(Bitmap, LosesNoMark)
{
    constexpr size_t kPages = 1 << 20;
    Tracker tracker = bitmap({kPages});
    ASSERT_EQ(start(tracker, nullptr), 0);
    std::atomic<int> writers{2};
    auto mark = [&](size_t first) {
        for (size_t page = first; page < kPages; page += 2) {
            haul_tracker_mark(tracker.get(), 0, page, 1);
        }
        writers--;
    };
    std::thread even(mark, 0), odd(mark, 1);
    Dirty dirty({kPages});
    size_t reported = 0;
    bool last = false;
    do {
        last = writers == 0;
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_EQ(dirty.count(), dirty.reported);
        reported += dirty.reported;
    } while (!last);
    even.join();
    odd.join();
    EXPECT_EQ(reported, kPages);
}

} // namespace
