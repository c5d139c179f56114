// SPDX-License-Identifier: Apache-2.0
// Another process's memory is put on another object: it sees the new memory, keeps what it had asked for, and
// cannot write before it is told so.
#include "engine/remap.h"
#include "tests/engine/trackers/support.h"

#include <fstream>

namespace
{

constexpr size_t kBytes = 4 << 20;

// The flags that smaps shows for the mapping of `pid` that begins at `address`.
std::string flags_at(int pid, const void *address)
{
    char begin[32];
    snprintf(begin, sizeof begin, "%lx-", reinterpret_cast<unsigned long>(address));
    std::ifstream smaps("/proc/" + std::to_string(pid) + "/smaps");
    bool found = false;
    for (std::string line; std::getline(smaps, line);) {
        found = found || line.rfind(begin, 0) == 0;
        if (found && line.rfind("VmFlags:", 0) == 0) {
            return line + " ";
        }
    }
    return "";
}

// A process that runs on `old_memory`, and does with it what it is told by `flags`: 1 read, 2 write, 3
// discard.
class Remap : public testing::Test
{
  protected:
    void SetUp() override
    {
        if (geteuid() != 0) {
            GTEST_SKIP() << "not root, which a call in another process needs";
        }
    }
    void run(const std::function<void()> &first = [] {})
    {
        child = std::make_unique<Child>([this, first] {
            signal(SIGSEGV, SIG_DFL); // sanitizers have a handler
            first();
            flags->ready = 1;
            for (;;) {
                switch (flags->stop.load()) {
                case 1:
                    flags->value = old_memory.data()[5 * kPage];
                    break;
                case 2:
                    old_memory.data()[5 * kPage] = 77;
                    break;
                case 3:
                    flags->value = fallocate(old_memory.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                             8 * kPage, kPage);
                    break;
                default:
                    usleep(200);
                    continue;
                }
                flags->stop = 0;
                flags->done = 1;
            }
        });
        wait_for(flags->ready);
    }
    // What the process answers.
    int64_t tell(uint32_t what)
    {
        flags->done = 0;
        flags->stop = what;
        wait_for(flags->done);
        return flags->value;
    }
    int remap(uint64_t length = kBytes)
    {
        int stale[] = {old_memory.fd()};
        haul_remap request = {.address = reinterpret_cast<uintptr_t>(old_memory.data()),
                              .length = length,
                              .process_fd = new_memory.fd(),
                              .offset = 0,
                              .stale = stale,
                              .stale_count = 1};
        return haul_process_remap(child->pid(), &request, &error);
    }
    int protect(bool writable)
    {
        return haul_process_protect(child->pid(), reinterpret_cast<uintptr_t>(old_memory.data()), kBytes,
                                    writable, &error);
    }

    SharedMemory old_memory{kBytes}, new_memory{kBytes};
    std::shared_ptr<Flags> flags = Flags::create();
    std::unique_ptr<Child> child;
    haul_error error = {};
};

TEST_F(Remap, TheProcessSeesTheNewMemory)
{
    old_memory.data()[5 * kPage] = 1;
    new_memory.data()[5 * kPage] = 2;
    run();
    EXPECT_EQ(tell(1), 1);
    int before = descriptors_of(child->pid());
    ASSERT_EQ(remap(), 0) << error.message;
    EXPECT_EQ(tell(1), 2);
    EXPECT_EQ(descriptors_of(child->pid()), before);
    ASSERT_EQ(protect(true), 0) << error.message;
    tell(2);
    EXPECT_EQ(new_memory.data()[5 * kPage], 77);
    EXPECT_EQ(old_memory.data()[5 * kPage], 1) << "the old memory is left alone";
}

TEST_F(Remap, AWriteBeforeItIsAllowedEndsTheProcess)
{
    run();
    ASSERT_EQ(remap(), 0) << error.message;
    flags->stop = 2;
    int status = child->join();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
    EXPECT_EQ(new_memory.data()[5 * kPage], 0);
}

TEST_F(Remap, TheRightToWriteIsTakenToo)
{
    run();
    tell(2);
    ASSERT_EQ(protect(false), 0) << error.message;
    flags->stop = 2;
    int status = child->join();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
}

TEST_F(Remap, ItsOldDescriptorDiscardsInTheNewMemory)
{
    old_memory.data()[8 * kPage] = 1;
    new_memory.data()[8 * kPage] = 2;
    run();
    ASSERT_EQ(remap(), 0) << error.message;
    EXPECT_EQ(tell(3), 0);
    EXPECT_EQ(new_memory.data()[8 * kPage], 0);
    EXPECT_EQ(old_memory.data()[8 * kPage], 1);
}

TEST_F(Remap, WhatWasAskedForAtTheMemoryIsKept)
{
    run([this] {
        madvise(old_memory.data(), kBytes, MADV_DONTDUMP);
        madvise(old_memory.data(), kBytes, MADV_DONTFORK);
        madvise(old_memory.data() + kBytes / 2, kBytes / 2, MADV_NOHUGEPAGE);
    });
    std::string low = flags_at(child->pid(), old_memory.data());
    std::string high = flags_at(child->pid(), old_memory.data() + kBytes / 2);
    ASSERT_NE(high.find(" nh "), std::string::npos) << high;
    ASSERT_EQ(remap(), 0) << error.message;
    ASSERT_EQ(protect(true), 0) << error.message;
    for (const char *flag : {" dd ", " dc ", " nh ", " mg ", " hg "}) {
        std::string now = flags_at(child->pid(), old_memory.data());
        EXPECT_EQ(now.find(flag) != std::string::npos, low.find(flag) != std::string::npos) << flag << now;
        now = flags_at(child->pid(), old_memory.data() + kBytes / 2);
        EXPECT_EQ(now.find(flag) != std::string::npos, high.find(flag) != std::string::npos) << flag << now;
    }
}

TEST_F(Remap, MemoryThatIsNotThereIsRefused)
{
    run([this] { munmap(old_memory.data() + kBytes - kPage, kPage); });
    EXPECT_EQ(remap(), -EINVAL);
    EXPECT_NE(std::string(error.message).find("maps nothing at 0x"), std::string::npos) << error.message;
    EXPECT_EQ(remap(0), -EINVAL);
}

TEST_F(Remap, ADescriptorThatTheProcessDoesNotHaveIsRefused)
{
    run([this] { close(new_memory.fd()); });
    old_memory.data()[5 * kPage] = 1;
    EXPECT_EQ(remap(), -EBADF);
    EXPECT_NE(std::string(error.message).find("mmap within process"), std::string::npos) << error.message;
    EXPECT_EQ(tell(1), 1) << "nothing changed";
}

TEST_F(Remap, AProcessThatIsGoneIsSaidToBe)
{
    run();
    int pid = child->pid();
    child->end(SIGKILL);
    EXPECT_EQ(haul_process_protect(pid, 4096, 4096, true, &error), -ESRCH) << error.message;
}

} // namespace
