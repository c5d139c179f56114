// SPDX-License-Identifier: Apache-2.0
// Where guest memory lies: known also of memory that only another process has touched, and nothing is made by
// asking.
#include "engine/memory_nodes.h"
#include "tests/engine/fake_migration.h"
#include "tests/tools/huge_pages.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <numa.h>
#include <numaif.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace
{

using namespace haul_test;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 1024;
constexpr size_t kStep = kPages / 256 + 1; // between two pages that are asked

// Whether the kernel answers at all: some containers forbid the question.
bool KernelTells()
{
    Mapping mapping(kPage, false);
    mapping.data[0] = 1;
    return haul_memory_node(mapping.data) != HAUL_NODE_UNKNOWN;
}

class MemoryNodes : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!KernelTells()) {
            GTEST_SKIP() << "move_pages is not permitted here";
        }
    }
    // On all nodes together.
    uint64_t Weigh()
    {
        uint64_t bytes[HAUL_MEMORY_NODES_MAX] = {};
        haul_memory_by_node(migration.get(), bytes);
        uint64_t sum = 0;
        for (uint64_t node : bytes) {
            sum += node;
        }
        return sum;
    }
    // As a machine does by its own mapping: here the pages stay untouched.
    static void Fill(const Mapping &mapping, size_t first, size_t count)
    {
        std::vector<char> content(count * kPage, 'x');
        ASSERT_EQ(pwrite(mapping.fd, content.data(), content.size(), (off_t)(first * kPage)),
                  (ssize_t)content.size());
    }
    static uint64_t Allocated(const Mapping &mapping)
    {
        struct stat file = {};
        EXPECT_EQ(fstat(mapping.fd, &file), 0);
        return (uint64_t)file.st_blocks * 512;
    }
    FakeMigration migration;
};

// How many of the pages that are asked lie in [first, last).
size_t Asked(size_t first, size_t last)
{
    size_t count = 0;
    for (size_t page = 0; page < kPages; page += kStep) {
        count += page >= first && page < last;
    }
    return count;
}

TEST_F(MemoryNodes, MemoryThatOnlyAnotherProcessTouchedIsKnown)
{
    Mapping mapping(kPages * kPage);
    Fill(mapping, 100, 300);
    ASSERT_EQ(haul_memory_node(mapping.data + 105 * kPage), HAUL_NODE_UNKNOWN) << "nothing to show here";
    migration.Add("ram", mapping);
    uint64_t before = Allocated(mapping);
    EXPECT_EQ(Weigh(), Asked(100, 400) * kStep * kPage);
    EXPECT_EQ(Allocated(mapping), before) << "asking made pages";
}

TEST_F(MemoryNodes, ABlockMayBeginWithinItsFile)
{
    Mapping mapping((100 + kPages) * kPage);
    Fill(mapping, 100 + 500, 200);
    migration.Add("ram", mapping.data + 100 * kPage, kPages * kPage, mapping.fd, kPage, 100 * kPage);
    EXPECT_EQ(Weigh(), Asked(500, 700) * kStep * kPage);
}

// What one node has must not count for another.
TEST_F(MemoryNodes, EachNodeHasItsShare)
{
    if (numa_available() < 0 || numa_max_node() < 1) {
        GTEST_SKIP() << "one node only; kernel_test runs this where there are two";
    }
    Mapping mapping(kPages * kPage);
    for (int node : {0, 1}) {
        unsigned long mask = 1ul << node;
        ASSERT_EQ(set_mempolicy(MPOL_BIND, &mask, 8 * sizeof mask), 0);
        Fill(mapping, node ? 300 : 100, node ? 600 : 200);
    }
    ASSERT_EQ(set_mempolicy(MPOL_DEFAULT, nullptr, 0), 0);
    migration.Add("ram", mapping);
    uint64_t bytes[HAUL_MEMORY_NODES_MAX] = {};
    haul_memory_by_node(migration.get(), bytes);
    EXPECT_EQ(bytes[0], Asked(100, 300) * kStep * kPage);
    EXPECT_EQ(bytes[1], Asked(300, 900) * kStep * kPage);
}

TEST_F(MemoryNodes, HolesStayHoles)
{
    Mapping mapping(kPages * kPage);
    migration.Add("ram", mapping);
    EXPECT_EQ(Weigh(), 0u);
    EXPECT_EQ(Allocated(mapping), 0u);
}

class MemoryNodesOfHugePages : public MemoryNodes
{
  protected:
    void SetUp() override
    {
        MemoryNodes::SetUp();
        if (IsSkipped()) {
            return;
        }
        int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
        if (uffd < 0) {
            GTEST_SKIP() << "userfaultfd is not permitted here";
        }
        close(uffd);
        if (!pages_.missing().empty()) {
            GTEST_SKIP() << pages_.missing();
        }
    }
    // As a machine does that was there before haul: here the pages stay untouched.
    static void FillByAnotherProcess(const Mapping &mapping, size_t first, size_t count)
    {
        pid_t child = fork();
        if (child == 0) {
            void *at = mmap(nullptr, mapping.size, PROT_READ | PROT_WRITE, MAP_SHARED, mapping.fd, 0);
            if (at == MAP_FAILED) {
                _exit(1);
            }
            memset(static_cast<char *>(at) + first * kHuge, 1, count * kHuge);
            _exit(0);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_EQ(status, 0);
    }
    // The rights that a source has.
    static int OpenToRead(const Mapping &mapping)
    {
        return open(("/proc/self/fd/" + std::to_string(mapping.fd)).c_str(), O_RDONLY | O_CLOEXEC);
    }
    static constexpr size_t kHuge = 2 << 20;
    static_assert(kPages * kPage == 2 * kHuge);

  private:
    HugePages pages_{4};
};

TEST_F(MemoryNodesOfHugePages, ThoseThatOnlyAnotherProcessTouchedAreKnown)
{
    Mapping mapping(4 * kHuge, true, MFD_HUGETLB);
    FillByAnotherProcess(mapping, 0, 2); // one before the block, one that is its first
    int fd = OpenToRead(mapping);
    ASSERT_GE(fd, 0);
    unsigned char *host = mapping.data + kHuge;
    ASSERT_EQ(haul_memory_node(host), HAUL_NODE_UNKNOWN) << "nothing to show here";
    migration.Add("ram", host, 2 * kHuge, fd, kHuge, kHuge);
    uint64_t bytes[HAUL_MEMORY_NODES_MAX] = {};
    haul_memory_by_node(migration.get(), bytes);
    close(fd);
    EXPECT_EQ(Allocated(mapping), 2 * kHuge) << "asking made pages";
    EXPECT_EQ(haul_memory_node(host), HAUL_NODE_UNKNOWN) << "the block's own mapping stays as it was";
    int node = haul_memory_node_of_content(host);
    ASSERT_GE(node, 0);
    EXPECT_EQ(bytes[node], Asked(0, kPages / 2) * kStep * kPage);
}

TEST_F(MemoryNodesOfHugePages, HolesStayHoles)
{
    Mapping mapping(2 * kHuge, true, MFD_HUGETLB);
    migration.Add("ram", mapping.data, mapping.size, mapping.fd, kHuge);
    EXPECT_EQ(Weigh(), 0u);
    EXPECT_EQ(Allocated(mapping), 0u);
}

// A private mapping of it could be asked, but must not: see huge_view_open.
TEST_F(MemoryNodesOfHugePages, ThoseOfAFileThatMayNotBeWrittenCountNowhere)
{
    Mapping mapping(2 * kHuge, true, MFD_HUGETLB | MFD_ALLOW_SEALING);
    FillByAnotherProcess(mapping, 0, 2);
    ASSERT_EQ(fcntl(mapping.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
    migration.Add("ram", mapping.data, mapping.size, mapping.fd, kHuge);
    EXPECT_EQ(Weigh(), 0u);
}

TEST_F(MemoryNodes, MemoryWithoutAFileCountsWhereItWasTouched)
{
    Mapping mapping(kPages * kPage, false);
    memset(mapping.data + 200 * kPage, 1, 100 * kPage);
    madvise(mapping.data, mapping.size, MADV_NOHUGEPAGE);
    migration.Add("ram", mapping);
    size_t resident = mapping.Resident();
    EXPECT_GE(Weigh(), Asked(200, 300) * kStep * kPage); // more where the kernel gives huge pages
    EXPECT_EQ(mapping.Resident(), resident);
}

TEST_F(MemoryNodes, APageThatIsToBeReadIsKnown)
{
    Mapping mapping(kPage);
    Fill(mapping, 0, 1);
    ASSERT_EQ(haul_memory_node(mapping.data), HAUL_NODE_UNKNOWN);
    EXPECT_GE(haul_memory_node_of_content(mapping.data), 0);
}

} // namespace
