// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_TRACKERS_UFFD_SUPPORT_H
#define HAUL_TESTS_ENGINE_TRACKERS_UFFD_SUPPORT_H

#include "tests/engine/trackers/support.h"

// What keeps the userfaultfd tracker from working here; empty: nothing.
inline std::string unsupported()
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

#endif
