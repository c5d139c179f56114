// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/support.h"

#include <algorithm>

extern "C" {
#include "engine/trackers/maps.h"
}

namespace
{

std::vector<int> mappers(int fd, bool skip_self, size_t *unreadable = nullptr)
{
    int pids[32];
    size_t count = 0, hidden = 0;
    haul_error error = {};
    EXPECT_EQ(haul_find_mappers(fd, skip_self, pids, 32, &count, &hidden, &error), 0) << error.message;
    if (unreadable) {
        *unreadable = hidden;
    }
    return {pids, pids + count};
}

TEST(Mappers, FindsEveryProcessThatMapsTheObject)
{
    SharedMemory memory(16 * kPage), other(kPage);
    EXPECT_EQ(mappers(memory.fd(), false), std::vector<int>{getpid()});
    EXPECT_EQ(mappers(memory.fd(), true), std::vector<int>{});
    auto flags = Flags::create();
    Child child([&] {
        flags->ready = 1;
        pause();
    });
    Child unmapped([&] {
        munmap(memory.data(), memory.bytes());
        flags->done = 1;
        pause();
    });
    wait_for(flags->ready);
    wait_for(flags->done);
    EXPECT_EQ(mappers(memory.fd(), true), std::vector<int>{child.pid()});
    child.end(SIGKILL);
    EXPECT_EQ(mappers(memory.fd(), true), std::vector<int>{});
}

TEST(Mappers, FindsFilesOnAnyFileSystem)
{
    for (std::string path :
         {std::string("/dev/shm/haul-mappers-XXXXXX"), testing::TempDir() + "/mappers-XXXXXX"}) {
        int fd = mkstemp(path.data());
        ASSERT_GE(fd, 0) << path;
        unlink(path.c_str());
        ASSERT_EQ(ftruncate(fd, kPage), 0);
        EXPECT_EQ(mappers(fd, false), std::vector<int>{}) << path;
        void *at = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 0);
        EXPECT_EQ(mappers(fd, false), std::vector<int>{getpid()}) << path;
        munmap(at, kPage);
        close(fd);
    }
}

TEST(Mappers, SaysWhenThereAreMoreThanFit)
{
    SharedMemory memory(kPage);
    size_t count = 0, unreadable = 0;
    haul_error error = {};
    EXPECT_EQ(haul_find_mappers(memory.fd(), false, nullptr, 0, &count, &unreadable, &error), -ENOSPC);
    EXPECT_STREQ(error.message, "more than 0 processes map the memory object");
}

TEST(Mappers, RefusesADescriptorThatCannotBeMapped)
{
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    int pid;
    size_t count = 0, unreadable = 0;
    haul_error error = {};
    EXPECT_EQ(haul_find_mappers(ends[0], false, &pid, 1, &count, &unreadable, &error), -ENODEV);
    EXPECT_NE(std::string(error.message).find("cannot map the memory object"), std::string::npos)
        << error.message;
    close(ends[0]);
    close(ends[1]);
}

TEST(Mappers, CountsProcessesThatItMayNotRead)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root, to have processes of another user";
    }
    SharedMemory memory(kPage);
    auto flags = Flags::create();
    Child child([&] {
        if (setgid(65534) || setuid(65534)) {
            _exit(1);
        }
        int pids[8];
        size_t count = 0, unreadable = 0;
        haul_error error = {};
        flags->value = haul_find_mappers(memory.fd(), true, pids, 8, &count, &unreadable, &error);
        flags->count = unreadable;
        _exit(0);
    });
    EXPECT_EQ(child.join(), 0);
    EXPECT_EQ(flags->value, 0);
    EXPECT_GT(flags->count, 0u); /* this process, for one */
}

TEST(Mappers, CopesWithProcessesThatVanish)
{
    SharedMemory memory(kPage);
    /* Processes that are hidden from this user come and go too: the count says something only without any. */
    size_t hidden = 0;
    mappers(memory.fd(), true, &hidden);
    bool sees_all = geteuid() == 0 && hidden == 0; /* some machines hide even from root */
    auto flags = Flags::create();
    Child breeder([&] {
        while (!flags->stop) {
            int pid = fork();
            if (pid == 0) {
                _exit(0);
            }
            waitpid(pid, nullptr, 0);
        }
    });
    for (int i = 0; i < 50; i++) {
        size_t unreadable = 0;
        std::vector<int> found = mappers(memory.fd(), true, &unreadable);
        EXPECT_NE(std::find(found.begin(), found.end(), breeder.pid()), found.end());
        if (sees_all) {
            EXPECT_EQ(unreadable, 0u);
        }
    }
    flags->stop = 1;
    breeder.join();
}

TEST(Mappings, TellsWhereAndHow)
{
    SharedMemory memory(16 * kPage);
    void *part = mmap(nullptr, 4 * kPage, PROT_READ, MAP_PRIVATE, memory.fd(), 8 * kPage);
    ASSERT_NE(part, MAP_FAILED);
    /* Splits the first mapping for the kernel, not for us. */
    ASSERT_EQ(madvise(memory.data() + 4 * kPage, 4 * kPage, MADV_DONTDUMP), 0);
    haul_mapping found[4];
    size_t count = 0;
    haul_error error = {};
    ASSERT_EQ(haul_find_mappings(0, memory.fd(), found, 4, &count, &error), 0) << error.message;
    ASSERT_EQ(count, 2u);
    const haul_mapping &whole = found[0].shared ? found[0] : found[1];
    const haul_mapping &piece = found[0].shared ? found[1] : found[0];
    EXPECT_EQ(whole.address, reinterpret_cast<uintptr_t>(memory.data()));
    EXPECT_EQ(whole.length, 16 * kPage);
    EXPECT_EQ(whole.object_offset, 0u);
    EXPECT_TRUE(whole.writable);
    EXPECT_EQ(piece.address, reinterpret_cast<uintptr_t>(part));
    EXPECT_EQ(piece.length, 4 * kPage);
    EXPECT_EQ(piece.object_offset, 8 * kPage);
    EXPECT_FALSE(piece.shared);
    EXPECT_FALSE(piece.writable);
    EXPECT_EQ(haul_find_mappings(0, memory.fd(), found, 1, &count, &error), -ENOSPC);
    munmap(part, 4 * kPage);
    int gone = Child([] {}).pid();
    EXPECT_EQ(haul_find_mappings(gone, memory.fd(), found, 4, &count, &error), -ESRCH);
    EXPECT_NE(std::string(error.message).find("cannot read /proc/"), std::string::npos) << error.message;
}

TEST(Maps, ParsesEveryKindOfLine)
{
    haul_map map;
    char file[] = "7f0000000000-7f0000200000 rw-s 00001000 103:0a 1234567 /dev/shm/a b (deleted)\n";
    ASSERT_TRUE(haul_map_parse(file, &map));
    EXPECT_EQ(map.address, 0x7f0000000000u);
    EXPECT_EQ(map.end, 0x7f0000200000u);
    EXPECT_EQ(map.object_offset, 0x1000u);
    EXPECT_EQ(map.object.device, 0x103ull << 32 | 0x0a);
    EXPECT_EQ(map.object.inode, 1234567u);
    EXPECT_TRUE(map.readable && map.writable && map.shared);
    EXPECT_STREQ(map.path, "/dev/shm/a b (deleted)");
    char anonymous[] = "55d0-55e0 ---p 00000000 00:00 0 \n";
    ASSERT_TRUE(haul_map_parse(anonymous, &map));
    EXPECT_STREQ(map.path, "");
    EXPECT_FALSE(map.readable || map.writable || map.shared);
    char vsyscall[] = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
    ASSERT_TRUE(haul_map_parse(vsyscall, &map));
    EXPECT_STREQ(map.path, "[vsyscall]");
    for (const char *bad :
         {"", "\n", "55e0-55d0 rw-p 0 00:00 0\n", "55d0 rw-p 0 00:00 0", "55d0-55e0 rw 0 00:00 0\n",
          "hello-world rw-p 0 00:00 0\n", "55d0-55e0 rw-p 0 0000 0\n"}) {
        std::string line = bad;
        EXPECT_FALSE(haul_map_parse(line.data(), &map)) << bad;
    }
}

} // namespace
