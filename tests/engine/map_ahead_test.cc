// SPDX-License-Identifier: Apache-2.0
// Guest memory that another process filled is mapped a little ahead of the senders, and no further.
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;

// Whether the page at `at` is in this process's page tables.
bool IsMapped(const unsigned char *at)
{
    uint64_t entry = 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    auto index = static_cast<off_t>(reinterpret_cast<uintptr_t>(at) / kPage);
    EXPECT_EQ(pread(pagemap, &entry, sizeof entry, index * 8), 8);
    close(pagemap);
    return entry >> 63;
}

TEST(MapAhead, GoesALittleAheadOfTheSenders)
{
    Guest from({256 * kMiB}, true), to({256 * kMiB}, false);
    unsigned char *memory = from.blocks[0]->data();
    ASSERT_EQ(madvise(memory, 256 * kMiB, MADV_DONTNEED), 0); // the object keeps its pages
    ASSERT_FALSE(IsMapped(memory + 48 * kMiB));
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = kMiB;
    Move move(from, to, options);
    EXPECT_TRUE(Eventually([&] { return IsMapped(memory + 48 * kMiB); }));
    EXPECT_GT(ThreadOf(move.source, "map-ahead"), 0); // it waits for the senders
    usleep(200000);
    EXPECT_FALSE(IsMapped(memory + 160 * kMiB));
    haul_cancel(move.source);
    EXPECT_LT(move.Wait(), 0);
    EXPECT_EQ(ThreadOf(move.source, "map-ahead"), -1);
}

} // namespace
