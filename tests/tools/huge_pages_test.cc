// SPDX-License-Identifier: Apache-2.0
// Memory of huge pages that is handed over, and that is saved into a file and restored.
#include "tests/tools/huge_pages.h"

#include "tests/tools/loopback.h"
#include "tests/tools/machine_move.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

using haul_test::HugePages;

namespace
{

constexpr size_t kHugePage = 2 << 20;
constexpr size_t kSize = 3 * kHugePage;

class HugeMemory : public Move
{
  protected:
    // A hugetlbfs that only this test and its children see.
    void SetUp() override
    {
        Move::SetUp();
        if (!pages_.missing().empty()) {
            GTEST_SKIP() << pages_.missing();
        }
        folder_ = MakeDirectory();
        if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
            mount("none", folder_.c_str(), "hugetlbfs", 0, "pagesize=2M") < 0) {
            GTEST_SKIP() << "needs root and a mount namespace for a hugetlbfs: " << strerror(errno);
        }
        mounted_ = true;
        from_ = folder_ + "/from";
        to_ = folder_ + "/to";
        snapshot_ = MakeDirectory() + "/snapshot";
    }
    void TearDown() override
    {
        if (mounted_) {
            unlink(from_.c_str());
            unlink(to_.c_str());
            umount2(folder_.c_str(), MNT_DETACH);
        }
        unlink(snapshot_.c_str());
    }
    // Calls `use` with all of the file at `path`, mapped.
    template <typename Use> static void Map(const std::string &path, Use use)
    {
        int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        ASSERT_GE(fd, 0) << strerror(errno);
        ASSERT_EQ(ftruncate(fd, kSize), 0);
        void *at = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ASSERT_NE(at, MAP_FAILED) << strerror(errno);
        use(static_cast<unsigned char *>(at));
        munmap(at, kSize);
        close(fd);
    }
    // One page with content in the first huge page, none in the second, all in the third.
    void Fill() const
    {
        Map(from_, [](unsigned char *at) {
            memset(at + 5 * 4096, 0x5a, 4096);
            for (size_t i = 0; i < kHugePage; i++) {
                at[2 * kHugePage + i] = static_cast<unsigned char>(i * 2654435761U >> 24);
            }
        });
    }
    void ExpectSame() const
    {
        Map(from_, [this](unsigned char *from) {
            Map(to_, [from](unsigned char *to) { EXPECT_EQ(memcmp(from, to, kSize), 0); });
        });
    }
    void Save(const Words &more)
    {
        Words words = {"send", "file:" + snapshot_, "--memory", from_, "--quiet"};
        words.insert(words.end(), more.begin(), more.end());
        Program save(source_, words);
        EXPECT_EQ(save.Wait(), 0) << save.Err();
    }

    HugePages pages_{8};
    std::string folder_, from_, to_, snapshot_;
    bool mounted_ = false;
};

TEST_F(HugeMemory, IsHandedOver)
{
    Fill();
    haul_machine *from = nullptr, *to = nullptr;
    haul_error error = {};
    ASSERT_EQ(haul_memory_source_new(from_.c_str(), 0, &from, &error), 0) << error.message;
    haul_test::Machine source(from);
    ASSERT_EQ(haul_memory_destination_new(to_.c_str(), kSize, &to, &error), 0) << error.message;
    haul_test::Machine destination(to);
    haul_options options = haul_test::move_options();
    options.mode = "cpr-transfer";
    haul_test::MachineMove move(source, destination, options);
    EXPECT_EQ(move.wait(), "");
    EXPECT_EQ(move.stats.transferred, 0u);
    struct stat one, other;
    ASSERT_EQ(stat(from_.c_str(), &one), 0);
    ASSERT_EQ(stat(to_.c_str(), &other), 0);
    EXPECT_EQ(one.st_ino, other.st_ino) << "the destination's name is one of the memory itself";
    ExpectSame();
}

TEST_F(HugeMemory, IsSavedAndRestored)
{
    Fill();
    Save({"--verify"});
    Program inspect(source_, {"inspect", "file:" + snapshot_});
    EXPECT_EQ(inspect.Wait(), 0) << inspect.Err();
    EXPECT_TRUE(Has(inspect.Out(), "513 pages with content, 1023 zero")) << inspect.Out();
    EXPECT_TRUE(Has(inspect.Out(), "6.00 MiB   2.00 MiB")) << inspect.Out();
    for (bool direct : {false, true}) {
        // What was there before must go, also where the snapshot has nothing (trap T5).
        Map(to_, [](unsigned char *at) { memset(at, 0xee, kSize); });
        Words words = {"restore", "file:" + snapshot_, "--memory", to_, "--quiet"};
        if (direct) {
            words.push_back("--direct-io");
        }
        Program restore(destination_, words);
        if (restore.Wait() != 0 && direct && Has(restore.Err(), "has no direct I/O")) {
            break;
        }
        EXPECT_EQ(restore.Wait(), 0) << restore.Err();
        ExpectSame();
    }
}

TEST_F(HugeMemory, IsNotRestoredIntoSmallPages)
{
    Fill();
    Save({});
    const std::string small = "/dev/shm/haul-huge-" + std::to_string(getpid());
    Program restore(destination_, {"restore", "file:" + snapshot_, "--memory", small, "--memory-size",
                                   std::to_string(kSize), "--quiet"});
    EXPECT_EQ(restore.Wait(), 1);
    EXPECT_TRUE(Has(restore.Err(),
                    "has pages of 2097152 bytes at the source and 4096 at the destination; use the "
                    "same huge page size on both sides"))
        << restore.Err();
    EXPECT_NE(access(small.c_str(), F_OK), 0) << "left behind";
    unlink(small.c_str());
}

} // namespace
