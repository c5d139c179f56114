// SPDX-License-Identifier: Apache-2.0
// Populating destination memory: what becomes present, what is left alone, what is kept.
#include "engine/destination/populate.h"
#include "tests/engine/fake_migration.h"
#include "tests/engine/held_write.h"
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>

using haul_test::Bytes;
using haul_test::Clock;
using haul_test::Eventually;
using haul_test::FakeMigration;
using haul_test::Mapping;

namespace
{

// A chunk that whoever comes to it to populate it waits at, and one that is only watched.
std::atomic<void *> barred{nullptr}, watched{nullptr};
std::atomic<bool> waits_at_bar{false};
std::atomic<Clock::rep> came{0}; // to the watched one

} // namespace

// In place of the C library's.
extern "C" int madvise(void *host, size_t length, int advice) noexcept
{
    if (host == watched) {
        came = Clock::now().time_since_epoch().count();
    }
    while (host == barred) {
        waits_at_bar = true;
        usleep(1000);
    }
    return (int)syscall(SYS_madvise, host, length, advice);
}

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr size_t kPagesPerChunk = HAUL_POPULATE_CHUNK / 4096;

class Populate : public testing::Test
{
  protected:
    ~Populate() override
    {
        barred = nullptr;
        haul_populate_stop(populate_);
        watched = nullptr;
    }
    // Its only thread waits at the first chunk of `mapping`.
    void StartBarredAt(const Mapping &mapping)
    {
        waits_at_bar = false;
        barred = mapping.data;
        Start(1);
        ASSERT_TRUE(Eventually([] { return waits_at_bar.load(); }));
    }
    void Start(unsigned threads)
    {
        ASSERT_EQ(haul_populate_start(migration_.get(), threads, &populate_, &error_), 0) << error_.message;
    }
    // Until `pages` of it, or all, are there.
    static void WaitFor(const Mapping &mapping, size_t pages = SIZE_MAX)
    {
        size_t wanted = std::min(pages, mapping.size / 4096);
        EXPECT_TRUE(Eventually([&] { return mapping.Resident() >= wanted; }));
    }
    int Restrict(const Bytes &payload)
    {
        std::vector<unsigned char> exact(payload.data);
        exact.shrink_to_fit();
        return haul_populate_restrict(populate_, order_, exact.data(), exact.size(), &error_);
    }

    FakeMigration migration_;
    haul_populate *populate_ = nullptr;
    uint32_t order_[2] = {1, 0};
    haul_error error_{};
};

TEST_F(Populate, MakesEverythingPresentAndKeepsContents)
{
    Mapping a(5 * kMiB), b(3 * kMiB + 4096);
    migration_.Add("a", a);
    migration_.Add("b", b);
    memset(a.data + 3 * kMiB, 0x5a, 4096);
    Start(3);
    WaitFor(a);
    WaitFor(b);
    EXPECT_EQ(haul_populate_failed(populate_), 0);
    EXPECT_EQ(a.data[3 * kMiB], 0x5a);
    EXPECT_EQ(a.data[3 * kMiB + 4095], 0x5a);
    EXPECT_EQ(a.data[3 * kMiB + 4096], 0);
}

// Pages of the memory that have a page table entry in this process.
size_t MappedPages(const unsigned char *memory, size_t size)
{
    std::vector<uint64_t> entries(size / 4096);
    FILE *pagemap = fopen("/proc/self/pagemap", "re");
    EXPECT_NE(pagemap, nullptr);
    fseeko(pagemap, static_cast<off_t>(reinterpret_cast<uintptr_t>(memory) / 4096 * 8), SEEK_SET);
    EXPECT_EQ(fread(entries.data(), 8, entries.size(), pagemap), entries.size());
    fclose(pagemap);
    return static_cast<size_t>(
        std::count_if(entries.begin(), entries.end(), [](uint64_t entry) { return entry >> 63; }));
}

TEST_F(Populate, MapsMemoryThatIsPresentAlready)
{
    Mapping used(6 * kMiB + 3 * 4096);
    memset(used.data, 0x5a, used.size);
    // A second mapping of the same pages, as this process has of a guest's memory, starts without any.
    munmap(used.data, used.size);
    used.data = static_cast<unsigned char *>(
        mmap(nullptr, used.size, PROT_READ | PROT_WRITE, MAP_SHARED, used.fd, 0));
    ASSERT_NE(used.data, MAP_FAILED);
    ASSERT_EQ(MappedPages(used.data, used.size), 0u);
    migration_.Add("used", used);
    Start(2);
    // The kernel leaves out a neighbour that is locked at that moment.
    EXPECT_TRUE(Eventually([&] { return MappedPages(used.data, used.size) > used.size / 4096 * 15 / 16; }));
    EXPECT_EQ(haul_populate_failed(populate_), 0);
    EXPECT_EQ(used.data[used.size - 1], 0x5a);
}

TEST_F(Populate, StopsInTheMiddle)
{
    Mapping big(16 * kMiB);
    migration_.Add("big", big);
    StartBarredAt(big);
    std::thread letter([stopper = gettid()] {
        EXPECT_TRUE(Eventually([stopper] { return haul_test::Sleeps(stopper); })) << "it does not wait";
        barred = nullptr;
    });
    haul_populate_stop(populate_);
    populate_ = nullptr;
    EXPECT_EQ(big.Resident(), kPagesPerChunk) << "the chunk that was being populated";
    letter.join();
    haul_populate_stop(nullptr);
}

// Until a hold lets go, nothing new becomes present but what was under way.
TEST_F(Populate, IsHeldWhileASourceConnects)
{
    Mapping big(64 * kMiB);
    migration_.Add("big", big);
    StartBarredAt(big);
    auto held = Clock::now();
    haul_populate_hold(populate_);
    barred = nullptr;
    WaitFor(big, kPagesPerChunk);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    size_t resident = big.Resident();
    if (Clock::now() - held < std::chrono::milliseconds(500)) { // else it was let go
        EXPECT_EQ(resident, kPagesPerChunk);
    }
    order_[0] = 0;
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(32).raw(4, 0xff)), 0) << error_.message;
    WaitFor(big);
}

TEST_F(Populate, ASlowSourceHoldsItForAMoment)
{
    Mapping big(8 * kMiB);
    migration_.Add("big", big);
    watched = big.data + HAUL_POPULATE_CHUNK;
    StartBarredAt(big);
    auto held = Clock::now();
    haul_populate_hold(populate_);
    barred = nullptr;
    WaitFor(big);
    EXPECT_GE(Clock::duration(came) - held.time_since_epoch(), std::chrono::milliseconds(500));
}

TEST_F(Populate, StopsWhileItIsHeld)
{
    Mapping big(256 * kMiB);
    migration_.Add("big", big);
    Start(2);
    haul_populate_hold(populate_);
    haul_populate_stop(populate_);
    populate_ = nullptr;
}

TEST_F(Populate, LeavesAloneWhatPresentLeavesOut)
{
    Mapping a(2 * kMiB), b(16 * kMiB), last(2 * kMiB);
    migration_.Add("a", a);
    migration_.Add("b", b);
    migration_.Add("last", last);
    StartBarredAt(a);
    // The source's block 0 is our block 1: chunks 0 and 5 of 8.
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(8).raw(1, 0x21)), 0) << error_.message;
    barred = nullptr;
    WaitFor(a);
    WaitFor(last);
    EXPECT_EQ(b.Resident(), 2 * kPagesPerChunk);
    for (size_t chunk : {0, 5}) {
        EXPECT_EQ(MappedPages(b.data + chunk * HAUL_POPULATE_CHUNK, HAUL_POPULATE_CHUNK), kPagesPerChunk);
    }
}

TEST_F(Populate, NoThreadsMeansThatRestrictDecidesAlone)
{
    Mapping a(2 * kMiB), b(4 * kMiB);
    migration_.Add("a", a);
    migration_.Add("b", b);
    Start(0);
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(2).raw(1, 0x00)), 0) << error_.message;
    EXPECT_EQ(a.Resident() + b.Resident(), 0u);
}

TEST_F(Populate, PresentThatDoesNotFitIsRefused)
{
    Mapping a(2 * kMiB), b(16 * kMiB + 4096);
    migration_.Add("a", a);
    migration_.Add("b", b);
    Start(0);
    EXPECT_EQ(Restrict(Bytes().u32(2).u64(1).raw(1, 1)), -EPROTO);
    EXPECT_STREQ(error_.message, "PRESENT names block 2 of 2");
    EXPECT_EQ(Restrict(Bytes().u32(0xffffffff).u64(1).raw(1, 1)), -EPROTO);
    EXPECT_EQ(Restrict(Bytes().u32(0)), -EPROTO);
    // Block 0 of the source is b, with nine chunks.
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(8).raw(1, 0xff)), -EPROTO);
    EXPECT_STREQ(error_.message, "PRESENT of block 0 has 8 chunks where 9 are due");
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(UINT64_MAX).raw(2, 0xff)), -EPROTO);
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(9).raw(1, 0xff)), -EPROTO) << "a byte short";
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(9).raw(3, 0xff)), -EPROTO) << "a byte too many";
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(9).raw(2, 0xff)), 0) << error_.message;
    EXPECT_EQ(Restrict(Bytes().u32(1).u64(1).raw(1, 0xff)), 0) << error_.message;
}

TEST_F(Populate, PagesLargerThanAChunkAreAllPopulated)
{
    // Only the arithmetic is tested: no gigantic page is needed for it.
    Mapping big(8 * kMiB);
    migration_.Add("big", big.data, big.size, big.fd, 4 * kMiB);
    order_[0] = 0;
    Start(1);
    EXPECT_EQ(Restrict(Bytes().u32(0).u64(4).raw(1, 0)), 0) << error_.message;
    WaitFor(big);
}

// At a destination that waits for its source.
TEST_F(Populate, ItsThreadsAreListed)
{
    haul_test::Guest to({8 * kMiB}, false);
    haul_options options = haul_test::Options();
    options.populate_threads = 2;
    haul_migration *destination = nullptr;
    ASSERT_EQ(haul_destination_new(&options, &destination, &error_), 0) << error_.message;
    to.Attach(destination, false);
    EXPECT_EQ(haul_threads(destination, nullptr, 0), 0u);
    barred = to.blocks[0]->data(); // or they might have come and gone before anybody looks
    EXPECT_EQ(haul_start(destination, haul_test::UnixUri().c_str(), &error_), 0) << error_.message;
    EXPECT_TRUE(Eventually([&] { return haul_test::ThreadOf(destination, "populate") > 0; }));
    barred = nullptr;
    haul_free(destination);
}

TEST_F(Populate, MemoryThatCannotBeWrittenIsReported)
{
    Mapping a(4 * kMiB);
    migration_.Add("a", a);
    ASSERT_EQ(ftruncate(a.fd, 0), 0); // the file behind it is gone
    Start(2);
    EXPECT_TRUE(Eventually([&] { return haul_populate_failed(populate_) != 0; }));
    EXPECT_EQ(haul_populate_failed(populate_), -EFAULT);
}

// As kernels before 5.14 answer; for the process that calls it, for good.
bool ForgetPopulating()
{
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_madvise, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 22, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 23, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// A whole move in a child process; what failed in it is its exit status.
TEST(PopulateOnAnOldKernel, IsLeftOutAndSaid)
{
    pid_t child = fork();
    if (child == 0) {
        if (!ForgetPopulating()) {
            _exit(2);
        }
        haul_test::Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
        haul_options options = haul_test::Options();
        options.populate = true;
        haul_test::Move move(from, to, options);
        std::string where;
        if (move.Wait() < 0 || !haul_test::SameMemory(from, to, &where)) {
            fprintf(stderr, "%s %s\n", move.source_error.message, where.c_str());
            _exit(3);
        }
        bool said = std::any_of(to.messages.begin(), to.messages.end(), [](const std::string &text) {
            return text.find("Linux 5.14 and later can") != std::string::npos;
        });
        _exit(said ? 0 : 4);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

} // namespace
