// SPDX-License-Identifier: Apache-2.0
// The memory of another process, which has to stay as it was whatever happens, and what is refused.
#include "tests/engine/trackers/uffd_support.h"

#include <fstream>
#include <thread>

#include <sys/syscall.h>

namespace
{

using haul_test::Eventually;

// A child that maps `memory` at the same place and writes until it is told to stop.
struct Writer {
    std::shared_ptr<Flags> flags = Flags::create();
    Child child;
    Writer(const SharedMemory &memory, uint32_t seed)
        : child([=, &memory, control = flags] {
              control->ready = 1;
              write_randomly(memory.data(), memory.bytes() / kPage, seed, control->stop, control->count);
              control->done = 1;
              pause();
          })
    {
        wait_for(flags->ready);
    }
    void end()
    {
        flags->stop = 1;
        wait_for(flags->done);
    }
};

// A child that does its work when it is told to.
struct Waiting {
    std::shared_ptr<Flags> flags = Flags::create();
    Child child;
    explicit Waiting(const std::function<void(Flags &)> &work = [](Flags &) {})
        : child([&work, control = flags] {
              control->ready = 1;
              wait_for(control->stop);
              work(*control);
          })
    {
        wait_for(flags->ready);
    }
    void go()
    {
        flags->stop = 1;
    }
};

TEST_F(Uffd, LosesNoWriteOfAnotherProcess)
{
    SharedMemory memory(2048 * kPage);
    Writer writer(memory, 9);
    int before = descriptors_of(writer.child.pid());
    Tracker tracker = make(writer.child.pid(), memory.range());
    EXPECT_EQ(descriptors_of(writer.child.pid()), before);
    copy_while_written(tracker, memory.data(), 2048, 300, [&] { writer.end(); });
}

TEST_F(Uffd, LosesNoWriteOfTwoProcessesInAGroup)
{
    SharedMemory memory(2048 * kPage);
    Writer one(memory, 9), two(memory, 10);
    haul_tracker *members[] = {make(one.child.pid(), memory.range()).release(),
                               make(two.child.pid(), memory.range()).release()};
    haul_tracker *group = nullptr;
    ASSERT_EQ(haul_tracker_group_new(members, 2, &group, nullptr), 0);
    Tracker tracker(group);
    copy_while_written(tracker, memory.data(), 2048, 300, [&] {
        one.end();
        two.end();
    });
}

TEST_F(Uffd, ReportsOnlyTheProcessThatItTracks)
{
    SharedMemory memory(64 * kPage);
    memset(memory.data(), 1, memory.bytes());
    Waiting other([&](Flags &flags) {
        memory.data()[3 * kPage] = 2; /* in the page cache, but never in this process's page table */
        int ends[2];
        char bytes[2 * kPage] = {1};
        bool moved =
            pipe(ends) == 0 && write(ends[1], bytes, sizeof bytes) == sizeof bytes &&
            read(ends[0], memory.data() + 8 * kPage, sizeof bytes) == sizeof bytes; /* the kernel writes */
        flags.value = moved ? 0 : -1;
        flags.done = 1;
        pause();
    });
    Tracker tracker = make(other.child.pid(), memory.range());
    Dirty dirty({64});
    ASSERT_EQ(start(tracker, nullptr), 0);
    memory.data()[20 * kPage] = 1; /* ours */
    other.go();
    wait_for(other.flags->done);
    EXPECT_EQ(other.flags->value, 0);
    ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
    EXPECT_EQ(dirty.pages(), (Pages{3, 8, 9}));
}

// Is any memory of the process under a userfaultfd?
bool watched(int pid)
{
    std::ifstream file("/proc/" + std::to_string(pid) + "/smaps");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("VmFlags:", 0) == 0 && line.find(" uw") != std::string::npos) {
            return true;
        }
    }
    return false;
}

TEST_F(Uffd, StopLeavesTheProcessAsItWas)
{
    SharedMemory memory(256 * kPage);
    Writer writer(memory, 3);
    int pid = writer.child.pid();
    for (int i = 0; i < 3; i++) {
        Tracker tracker = make(pid, memory.range());
        Dirty dirty({256});
        ASSERT_EQ(start(tracker, nullptr), 0);
        EXPECT_TRUE(watched(pid));
        EXPECT_TRUE(Eventually(
            [&, count = writer.flags->count.load()] { return writer.flags->count > count + 100; }));
        ASSERT_EQ(dirty.sync(tracker, nullptr), 0);
        EXPECT_GT(dirty.count(), 0u);
        stop(tracker);
        EXPECT_FALSE(watched(pid));
        stop(tracker); /* harmless */
    }
    writer.end();
}

// Trap T7: killed at any moment, from before the injection until after many scans.
TEST_F(Uffd, TheDeathOfTheTrackingProcessLeavesTheOtherAsItWas)
{
    SharedMemory memory(1024 * kPage);
    Writer writer(memory, 4);
    int pid = writer.child.pid();
    int before = descriptors_of(pid);
    std::minstd_rand random(12);
    Orphans helpers;
    for (int i = 0; i < 20; i++) {
        auto flags = Flags::create();
        Child tracking([&] {
            Orphans::mark();
            flags->ready = 1;
            haul_tracked_range range = memory.range();
            haul_tracker *tracker = nullptr;
            if (haul_tracker_uffd_new(pid, &range, 1, &tracker, nullptr)) {
                _exit(1);
            }
            Tracker held(tracker);
            Dirty dirty({1024});
            start(held, nullptr);
            while (dirty.sync(held, nullptr) == 0) {
                flags->count++;
            }
        });
        wait_for(flags->ready);
        usleep(random() % 10000);
        helpers.leave(tracking);
    }
    helpers.await();
    EXPECT_FALSE(watched(pid));
    EXPECT_EQ(descriptors_of(pid), before);
    Tracker tracker = make(pid, memory.range());
    copy_while_written(tracker, memory.data(), 1024, 50, [&] { writer.end(); });
}

const char kGone[] = ", whose memory is tracked, has exited or replaced its program";

TEST_F(Uffd, TheEndOfTheTrackedProcessIsAnError)
{
    for (bool exec : {false, true}) {
        SharedMemory memory(64 * kPage);
        Waiting tracked([&](Flags &) {
            memory.data()[0] = 1; /* a write that no later sync can see */
            if (exec) {
                execl("/bin/sleep", "sleep", "5", nullptr);
            }
        });
        int pid = tracked.child.pid();
        Tracker tracker = make(pid, memory.range());
        Dirty dirty({64});
        haul_error error = {};
        ASSERT_EQ(start(tracker, &error), 0) << error.message;
        tracked.go();
        ASSERT_TRUE(Eventually([&] { return !watched(pid); }));
        usleep(20000);
        EXPECT_EQ(dirty.sync(tracker, &error), -ESRCH);
        EXPECT_EQ(std::string(error.message), "process " + std::to_string(pid) + kGone);
        stop(tracker);
    }
}

TEST_F(Uffd, TheEndOfTheProcessBeforeTheTrackingBeginsIsAnError)
{
    for (bool armed : {false, true}) {
        SharedMemory memory(64 * kPage);
        Waiting tracked;
        Tracker tracker = make(tracked.child.pid(), memory.range());
        haul_error error = {};
        if (armed) {
            ASSERT_EQ(haul_tracker_arm(tracker.get(), &error), 0) << error.message;
        }
        const std::string gone = "process " + std::to_string(tracked.child.pid()) + kGone;
        tracked.child.end(SIGKILL);
        EXPECT_EQ(start(tracker, &error), -ESRCH);
        EXPECT_EQ(error.message, gone);
        stop(tracker);
    }
}

TEST_F(Uffd, OtherMemoryInTheRangeIsAnError)
{
    SharedMemory memory(64 * kPage);
    Tracker tracker = make(0, memory.range());
    Dirty dirty({64});
    haul_error error = {};
    ASSERT_EQ(start(tracker, &error), 0);
    ASSERT_NE(mmap(memory.data() + 8 * kPage, kPage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              MAP_FAILED);
    EXPECT_EQ(dirty.sync(tracker, &error), -EPERM);
    EXPECT_NE(std::string(error.message).find("other memory was mapped there since the tracking began"),
              std::string::npos)
        << error.message;
}

/* ---- what is refused ---- */

std::string refused(int pid, const haul_tracked_range &range, int code)
{
    haul_tracker *tracker = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_tracker_uffd_new(pid, &range, 1, &tracker, &error), -code) << error.message;
    EXPECT_EQ(error.code, code);
    EXPECT_EQ(tracker, nullptr);
    return error.message;
}

TEST_F(Uffd, RefusesUnalignedRanges)
{
    SharedMemory memory(64 * kPage);
    for (int i = 0; i < 6; i++) {
        haul_tracked_range range = memory.range();
        range.address += i == 0;
        range.length -= i == 1;
        range.block_offset += i == 2;
        range.memory_offset += i == 3;
        range.length = i == 4 ? 0 : range.length;
        range.length = i == 5 ? ~UINT64_C(4095) : range.length;
        EXPECT_NE(refused(0, range, EINVAL).find("must be multiples of 4096, and its length not zero"),
                  std::string::npos);
    }
}

TEST_F(Uffd, RefusesRangesThatAreNotMapped)
{
    SharedMemory memory(64 * kPage);
    munmap(memory.data() + 60 * kPage, 4 * kPage);
    char expected[128];
    snprintf(expected, sizeof expected, "process %d maps nothing at 0x%lx", getpid(),
             reinterpret_cast<unsigned long>(memory.data() + 60 * kPage));
    EXPECT_NE(refused(0, memory.range(), EINVAL).find(expected), std::string::npos);
}

TEST_F(Uffd, RefusesRangesThatAreNotShared)
{
    SharedMemory memory(64 * kPage);
    void *at = mmap(nullptr, memory.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE, memory.fd(), 0);
    haul_tracked_range range = memory.range();
    range.address = reinterpret_cast<uintptr_t>(at);
    EXPECT_NE(refused(0, range, EINVAL)
                  .find("privately, so what it writes cannot be read from outside: map it shared "
                        "(QEMU: share=on)"),
              std::string::npos);
    munmap(at, memory.bytes());
}

TEST_F(Uffd, RefusesAnotherObjectOrAnotherPartOfIt)
{
    SharedMemory memory(64 * kPage), other(64 * kPage);
    haul_tracked_range range = memory.range();
    range.memory_fd = other.fd();
    EXPECT_NE(refused(0, range, EINVAL).find("not the memory object to be moved"), std::string::npos);
    range = memory.range();
    range.memory_offset = kPage;
    range.length -= kPage;
    EXPECT_NE(refused(0, range, EINVAL).find("maps another part of the memory object"), std::string::npos);
}

TEST_F(Uffd, RefusesMemoryThatIsWatchedAlready)
{
    SharedMemory memory(64 * kPage);
    Tracker first = make(0, memory.range());
    EXPECT_NE(refused(0, memory.range(), EBUSY).find("a userfaultfd watches it already"), std::string::npos);
}

TEST_F(Uffd, RefusesAProcessThatDoesNotExist)
{
    SharedMemory memory(64 * kPage);
    int gone = Child([] {}).pid();
    EXPECT_EQ(refused(gone, memory.range(), ESRCH),
              "userfaultfd tracker: cannot open /proc/" + std::to_string(gone) + "/pagemap: No such process");
}

TEST_F(Uffd, WorksUnprivilegedAndRefusesForeignProcesses)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root, to drop privileges";
    }
    SharedMemory memory(64 * kPage);
    auto flags = Flags::create();
    Child foreign([] { pause(); });
    Child unprivileged([&] {
        if (setgid(65534) || setuid(65534)) {
            _exit(1);
        }
        prctl(PR_SET_DUMPABLE, 1); /* lost with the user; without it /proc/self is root's */
        haul_tracked_range range = memory.range();
        haul_tracker *tracker = nullptr;
        haul_error error = {};
        flags->value = haul_tracker_uffd_new(foreign.pid(), &range, 1, &tracker, &error);
        if (!strstr(error.message, "Operation not permitted")) {
            _exit(2);
        }
        Tracker own;
        if (haul_tracker_uffd_new(0, &range, 1, &tracker, &error)) {
            _exit(3);
        }
        own.reset(tracker);
        Dirty dirty({64});
        start(own, &error);
        memory.data()[6 * kPage] = 1;
        _exit(dirty.sync(own, &error) == 0 && dirty.pages() == Pages{6} ? 0 : 4);
    });
    EXPECT_EQ(unprivileged.join(), 0);
    EXPECT_EQ(flags->value, -EPERM);
}

} // namespace
