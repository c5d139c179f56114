// SPDX-License-Identifier: Apache-2.0
#include "engine/trackers/content.h"
#include "tests/engine/trackers/support.h"

#include <sys/syscall.h>

static int searches; // for a hole, each of which visits page after page

extern "C" off_t lseek(int fd, off_t offset, int whence) noexcept
{
    searches += whence == SEEK_HOLE;
    return syscall(SYS_lseek, fd, offset, whence);
}

namespace
{

constexpr off_t kMiB = 1 << 20;

class Content : public ::testing::Test
{
  protected:
    Content()
    {
        memset(memory_.data(), 1, memory_.bytes());
        searches = 0;
    }
    bool allocate(off_t offset, off_t length) const
    {
        return fallocate(memory_.fd(), 0, offset, length) == 0;
    }
    off_t end(off_t at, off_t end = 8 * kMiB) const
    {
        return haul_content_end(memory_.fd(), at, end);
    }
    SharedMemory memory_{8 * kMiB};
};

TEST_F(Content, OfAFullFileIsKnownWithoutASearch)
{
    EXPECT_EQ(end(0), 8 * kMiB);
    EXPECT_EQ(end(3 * kMiB), 8 * kMiB);
    EXPECT_EQ(end(kMiB, 4 * kMiB), 4 * kMiB);
    EXPECT_EQ(searches, 0);
}

TEST_F(Content, EndsAtAHole)
{
    ASSERT_TRUE(memory_.punch(5 * kMiB + kPage, kPage));
    EXPECT_EQ(end(0), static_cast<off_t>(5 * kMiB + kPage));
    EXPECT_EQ(end(5 * kMiB), static_cast<off_t>(5 * kMiB + kPage));
    EXPECT_EQ(end(5 * kMiB + 2 * kPage), 8 * kMiB);
}

// As many blocks as a full file has, but SEEK_DATA passes over what nobody wrote.
TEST_F(Content, EndsWhereMemoryWasOnlyAllocated)
{
    ASSERT_TRUE(memory_.punch(3 * kMiB, 3 * kMiB));
    ASSERT_TRUE(allocate(3 * kMiB, 3 * kMiB));
    EXPECT_EQ(end(0), 3 * kMiB);
    EXPECT_EQ(end(6 * kMiB), 8 * kMiB);
}

TEST_F(Content, MayHoldALittleThatWasOnlyAllocated)
{
    ASSERT_TRUE(memory_.punch(3 * kMiB, kPage));
    ASSERT_TRUE(allocate(3 * kMiB, kPage));
    EXPECT_EQ(end(0), 8 * kMiB);
    EXPECT_EQ(searches, 0);
}

TEST_F(Content, IsNotTakenForGrantedBeyondTheFile)
{
    EXPECT_EQ(end(kMiB, 8 * kMiB + kPage), 8 * kMiB) << "the hole behind the end of each file";
}

TEST_F(Content, OfAClosedFileFails)
{
    EXPECT_EQ(haul_content_end(-1, 0, kMiB), -1);
    EXPECT_EQ(errno, EBADF);
}

} // namespace
