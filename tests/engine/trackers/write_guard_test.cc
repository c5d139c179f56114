// SPDX-License-Identifier: Apache-2.0
// Writes that wait: of this process and of another, by its threads and by the kernel for it.
#include "tests/engine/held_write.h"
#include "tests/engine/trackers/support.h"

#include <thread>

#include <sys/eventfd.h>

namespace
{

using haul_test::Eventually;
using haul_test::HeldWrite;

struct GuardDeleter {
    void operator()(haul_write_guard *guard) const
    {
        haul_write_guard_free(guard);
    }
};
using Guard = std::unique_ptr<haul_write_guard, GuardDeleter>;

class WriteGuard : public testing::Test
{
  protected:
    void SetUp() override
    {
        SharedMemory memory(kPage);
        haul_tracked_range range = memory.range();
        haul_write_guard *guard = nullptr;
        haul_error error = {};
        int result = haul_write_guard_uffd_new(0, &range, 1, &guard, &error);
        haul_write_guard_free(guard);
        if (result == -ENOSYS || result == -EPERM) {
            GTEST_SKIP() << error.message;
        }
    }
    static Guard make(int pid, const std::vector<haul_tracked_range> &ranges)
    {
        haul_write_guard *guard = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_write_guard_uffd_new(pid, ranges.data(), static_cast<unsigned>(ranges.size()), &guard,
                                            &error),
                  0)
            << error.message;
        return Guard(guard);
    }
    static void protect(const Guard &guard, uint32_t block, uint64_t first, uint64_t count)
    {
        haul_error error = {};
        EXPECT_EQ(ops(guard)->protect(haul_write_guard_get_opaque(guard.get()), block, first, count, &error),
                  0)
            << error.message;
    }
    static void release(const Guard &guard, uint32_t block, uint64_t first, uint64_t count)
    {
        haul_error error = {};
        EXPECT_EQ(ops(guard)->release(haul_write_guard_get_opaque(guard.get()), block, first, count, &error),
                  0)
            << error.message;
    }
    // The next write that waits, as {block, page}.
    static std::pair<uint32_t, uint64_t> next(const Guard &guard)
    {
        haul_waiting_write writes[4];
        haul_error error = {};
        int never = eventfd(0, EFD_CLOEXEC);
        int count = ops(guard)->wait(haul_write_guard_get_opaque(guard.get()), never, writes, 4, &error);
        close(never);
        EXPECT_EQ(count, 1) << error.message;
        return {writes[0].block, writes[0].page};
    }
    static const haul_write_guard_ops *ops(const Guard &guard)
    {
        return haul_write_guard_get_ops(guard.get());
    }
    using Place = std::pair<uint32_t, uint64_t>;
};

TEST_F(WriteGuard, LetsAWriteGoOnWhenItsPageIsReleased)
{
    SharedMemory memory(64 * kPage);
    memset(memory.data(), 1, memory.bytes());
    Guard guard = make(0, {memory.range()});
    memory.data()[5 * kPage] = 2; // not protected yet
    protect(guard, 0, 0, 64);
    std::atomic<int> done{0};
    std::thread writer([&] {
        memory.data()[5 * kPage + 7] = 3;
        done++;
        memory.data()[6 * kPage] = 3;
        done++;
    });
    EXPECT_EQ(next(guard), Place(0, 5));
    char now = 0; // by the descriptor: ThreadSanitizer takes the write that waits for done
    EXPECT_EQ(pread(memory.fd(), &now, 1, 5 * kPage + 7), 1);
    EXPECT_EQ(now, 1);
    release(guard, 0, 5, 1);
    EXPECT_EQ(next(guard), Place(0, 6));
    EXPECT_EQ(done, 1);
    release(guard, 0, 0, 64); // pages that nobody waits for, too
    writer.join();
    EXPECT_EQ(memory.data()[5 * kPage + 7], 3);
    memory.data()[63 * kPage] = 4;
}

TEST_F(WriteGuard, ProtectsWhatWasNeverTouched)
{
    SharedMemory memory(64 * kPage);
    Guard guard = make(0, {memory.range()});
    protect(guard, 0, 0, 64);
    std::thread writer([&] { memory.data()[40 * kPage] = 1; });
    EXPECT_EQ(next(guard), Place(0, 40));
    release(guard, 0, 40, 1);
    writer.join();
}

TEST_F(WriteGuard, SeesWhatTheKernelWrites)
{
    SharedMemory memory(64 * kPage);
    memset(memory.data(), 1, memory.bytes());
    Guard guard = make(0, {memory.range()});
    protect(guard, 0, 0, 64);
    int ends[2];
    char bytes[kPage] = {9};
    ASSERT_EQ(pipe(ends), 0);
    ASSERT_EQ(write(ends[1], bytes, sizeof bytes), static_cast<ssize_t>(sizeof bytes));
    std::thread reader(
        [&] { EXPECT_EQ(read(ends[0], memory.data() + 9 * kPage, kPage), static_cast<ssize_t>(kPage)); });
    EXPECT_EQ(next(guard), Place(0, 9));
    release(guard, 0, 9, 1);
    reader.join();
    EXPECT_EQ(memory.data()[9 * kPage], 9);
    close(ends[0]);
    close(ends[1]);
}

uint64_t now_ns()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

// Who comes while nobody listens waits from then on.
TEST_F(WriteGuard, SaysSinceWhenAWriteWasQueued)
{
    SharedMemory memory(64 * kPage);
    Guard guard = make(0, {memory.range()});
    protect(guard, 0, 0, 64);
    std::vector<std::unique_ptr<HeldWrite>> held;
    auto hold = [&](size_t page) {
        held.push_back(std::make_unique<HeldWrite>(memory.data() + page * kPage));
        EXPECT_TRUE(held.back()->Waits());
    };
    haul_waiting_write writes[4] = {};
    int never = eventfd(0, EFD_CLOEXEC);
    auto wait = [&](unsigned capacity) {
        return ops(guard)->wait(haul_write_guard_get_opaque(guard.get()), never, writes, capacity, nullptr);
    };
    hold(1);
    hold(2);
    hold(3);
    uint64_t waiting = now_ns();
    for (int i = 0; i < 2; i++) { // one is left behind each time
        EXPECT_EQ(wait(1), 1);
        EXPECT_LE(writes[0].since_ns, waiting);
    }
    uint64_t before = now_ns();
    EXPECT_EQ(wait(4), 1);
    EXPECT_LE(writes[0].since_ns, waiting);
    uint64_t drained = now_ns();
    hold(4);
    EXPECT_EQ(wait(4), 1);
    EXPECT_GE(writes[0].since_ns, before) << "the ones before it do not matter";
    EXPECT_LE(writes[0].since_ns, drained);
    close(never);
    release(guard, 0, 0, 64);
}

TEST_F(WriteGuard, SaysThatAWriteWaitsSinceItWokeUpWhoServesIt)
{
    SharedMemory memory(64 * kPage);
    Guard guard = make(0, {memory.range()});
    protect(guard, 0, 0, 64);
    haul_waiting_write writes[4] = {};
    int never = eventfd(0, EFD_CLOEXEC);
    std::atomic<int> tid{0};
    std::thread serves([&] {
        tid = gettid();
        EXPECT_EQ(ops(guard)->wait(haul_write_guard_get_opaque(guard.get()), never, writes, 4, nullptr), 1);
    });
    EXPECT_TRUE(Eventually([&] { return tid != 0 && haul_test::Sleeps(tid); }));
    uint64_t asleep = now_ns();
    HeldWrite write(memory.data());
    write.Go();
    serves.join();
    EXPECT_GE(writes[0].since_ns, asleep);
    EXPECT_LE(writes[0].since_ns, now_ns());
    release(guard, 0, 0, 1);
    close(never);
}

TEST_F(WriteGuard, KnowsABlockThatIsMappedInPieces)
{
    SharedMemory low(16 * kPage), high(16 * kPage), other(16 * kPage);
    haul_tracked_range one = low.range(), two = high.range(), three = other.range();
    two.block_offset = 16 * kPage; // the second half of block 0
    three.block = 1;
    Guard guard = make(0, {one, two, three});
    protect(guard, 0, 0, 32);
    protect(guard, 1, 0, 16);
    std::thread writer([&] {
        high.data()[3 * kPage] = 1;
        other.data()[2 * kPage] = 1;
        low.data()[15 * kPage] = 1;
        high.data()[0] = 1;
    });
    EXPECT_EQ(next(guard), Place(0, 19));
    release(guard, 0, 19, 1);
    EXPECT_EQ(next(guard), Place(1, 2));
    release(guard, 1, 2, 1);
    EXPECT_EQ(next(guard), Place(0, 15));
    release(guard, 0, 15, 2); // across both pieces
    writer.join();
}

TEST_F(WriteGuard, CanBeInterrupted)
{
    SharedMemory memory(kPage);
    Guard guard = make(0, {memory.range()});
    int interrupt = eventfd(1, EFD_CLOEXEC);
    haul_waiting_write writes[1];
    EXPECT_EQ(ops(guard)->wait(haul_write_guard_get_opaque(guard.get()), interrupt, writes, 1, nullptr), 0);
    close(interrupt);
}

TEST_F(WriteGuard, LetsEverybodyGoOnWhenItStops)
{
    SharedMemory memory(64 * kPage);
    Guard guard = make(0, {memory.range()});
    protect(guard, 0, 0, 64);
    std::thread one([&] { memory.data()[1 * kPage] = 1; }), two([&] { memory.data()[2 * kPage] = 1; });
    haul_waiting_write writes[4];
    int never = eventfd(0, EFD_CLOEXEC);
    EXPECT_GE(ops(guard)->wait(haul_write_guard_get_opaque(guard.get()), never, writes, 4, nullptr), 1);
    close(never);
    ops(guard)->stop(haul_write_guard_get_opaque(guard.get()));
    one.join();
    two.join();
    ops(guard)->stop(haul_write_guard_get_opaque(guard.get())); // harmless
    Guard again = make(0, {memory.range()});
}

TEST_F(WriteGuard, HoldsAnotherProcessAndLeavesItNoDescriptor)
{
    SharedMemory memory(64 * kPage);
    auto flags = Flags::create();
    Child child([&] {
        flags->ready = 1;
        wait_for(flags->stop);
        memory.data()[33 * kPage] = 1;
        flags->done = 1;
        pause();
    });
    wait_for(flags->ready);
    int before = descriptors_of(child.pid());
    Guard guard = make(child.pid(), {memory.range()});
    EXPECT_EQ(descriptors_of(child.pid()), before);
    protect(guard, 0, 0, 64);
    memory.data()[34 * kPage] = 1; // ours is no business of this guard
    flags->stop = 1;
    EXPECT_EQ(next(guard), Place(0, 33));
    EXPECT_EQ(flags->done, 0u);
    release(guard, 0, 33, 1);
    wait_for(flags->done);
}

// Trap T7: the kernel lets go of everything when the last descriptor goes.
TEST_F(WriteGuard, TheDeathOfTheGuardingProcessLetsEverybodyGoOn)
{
    SharedMemory memory(1024 * kPage);
    auto flags = Flags::create();
    Child writer([&] {
        flags->ready = 1;
        write_randomly(memory.data(), 1024, 5, flags->stop, flags->count);
        flags->done = 1;
        pause();
    });
    wait_for(flags->ready);
    int before = descriptors_of(writer.pid());
    for (int i = 0; i < 10; i++) {
        auto held = Flags::create();
        Child guarding([&] {
            Guard guard = make(writer.pid(), {memory.range()});
            protect(guard, 0, 0, 1024);
            next(guard); // the writer waits now
            held->ready = 1;
            pause();
        });
        wait_for(held->ready);
        guarding.end(SIGKILL);
        EXPECT_TRUE(Eventually([&, count = flags->count.load()] { return flags->count > count + 100; }));
    }
    EXPECT_TRUE(Eventually([&] { return descriptors_of(writer.pid()) == before; }));
    flags->stop = 1;
    wait_for(flags->done);
}

TEST_F(WriteGuard, ReportsThatTheProcessHasExited)
{
    SharedMemory memory(64 * kPage);
    auto flags = Flags::create();
    Child child([&] {
        flags->ready = 1;
        pause();
    });
    wait_for(flags->ready);
    Guard guard = make(child.pid(), {memory.range()});
    child.end(SIGKILL);
    haul_error error = {};
    EXPECT_EQ(ops(guard)->protect(haul_write_guard_get_opaque(guard.get()), 0, 0, 64, &error), -ESRCH);
    EXPECT_NE(std::string(error.message).find("the process has exited"), std::string::npos) << error.message;
}

TEST_F(WriteGuard, RefusesMemoryThatIsWatchedAlready)
{
    SharedMemory memory(64 * kPage);
    Guard guard = make(0, {memory.range()});
    haul_tracked_range range = memory.range();
    haul_write_guard *second = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_write_guard_uffd_new(0, &range, 1, &second, &error), -EBUSY);
    EXPECT_NE(std::string(error.message).find("write guard: cannot watch 0x"), std::string::npos);
    EXPECT_NE(std::string(error.message).find("watches it already"), std::string::npos) << error.message;
}

} // namespace
