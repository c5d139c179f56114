// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/support.h"

#include <thread>

#include <sys/ptrace.h>

extern "C" {
#include "engine/trackers/freeze.h"
}

namespace
{

// Stands still: nothing counts while the process is frozen, everything afterwards.
void expect_frozen(int pid, const std::atomic<uint64_t> &count)
{
    for (int i = 0; i < 20; i++) {
        haul_freeze freeze;
        haul_error error = {};
        ASSERT_EQ(haul_freeze_begin(&freeze, pid, &error), 0) << error.message;
        uint64_t before = count;
        usleep(2000);
        EXPECT_EQ(count, before);
        haul_freeze_end(&freeze);
        EXPECT_TRUE(haul_test::Eventually([&] { return count > before; }));
    }
}

TEST(Freeze, StopsAllThreadsOfAnotherProcess)
{
    auto flags = Flags::create();
    Child child([&] {
        auto work = [&] {
            while (!flags->stop) {
                flags->count++;
            }
        };
        std::thread one(work), two([&] {
            while (!flags->stop) { /* threads come and go */
                std::thread([&] { flags->count++; }).join();
            }
        });
        std::thread sleeper([&] { wait_for(flags->stop); });
        flags->ready = 1;
        one.join();
        two.join();
        sleeper.join();
    });
    wait_for(flags->ready);
    expect_frozen(child.pid(), flags->count);
    flags->stop = 1;
    EXPECT_EQ(child.join(), 0);
}

TEST(Freeze, StopsAllOtherThreadsOfThisProcess)
{
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the sanitizer's own locks may be held by the threads that are stopped";
#endif
    std::atomic<uint64_t> count{0};
    std::atomic<bool> end{false};
    std::thread one([&] {
        while (!end) {
            count++;
        }
    });
    std::thread two([&] {
        while (!end) {
            count++;
            usleep(10);
        }
    });
    expect_frozen(0, count);
    end = true;
    one.join();
    two.join();
}

TEST(Freeze, EndsWithTheProcessThatFroze)
{
    auto flags = Flags::create();
    Child child([&] {
        while (!flags->stop) {
            flags->count++;
            flags->ready = 1;
        }
    });
    wait_for(flags->ready);
    Child freezer([&] {
        haul_freeze freeze;
        flags->value = haul_freeze_begin(&freeze, child.pid(), nullptr);
        flags->done = 1;
        pause();
    });
    wait_for(flags->done);
    ASSERT_EQ(flags->value, 0);
    uint64_t before = flags->count;
    usleep(2000);
    EXPECT_EQ(flags->count, before);
    freezer.end(SIGKILL);
    EXPECT_TRUE(haul_test::Eventually([&] { return flags->count > before; }));
    flags->stop = 1;
    EXPECT_EQ(child.join(), 0);
}

TEST(Freeze, SaysWhatKeepsItFromStoppingAThread)
{
    haul_freeze freeze;
    haul_error error = {};
    int gone = Child([] {}).pid();
    EXPECT_EQ(haul_freeze_begin(&freeze, gone, &error), -ESRCH);
    EXPECT_EQ(std::string(error.message), "process " + std::to_string(gone) + " has exited");

    auto flags = Flags::create();
    Child traced([] { pause(); });
    Child debugger([&] {
        flags->value = ptrace(PTRACE_SEIZE, traced.pid(), nullptr, nullptr);
        flags->ready = 1;
        pause();
    });
    wait_for(flags->ready);
    ASSERT_EQ(flags->value, 0);
    EXPECT_EQ(haul_freeze_begin(&freeze, traced.pid(), &error), -EPERM);
    std::string pid = std::to_string(traced.pid());
    EXPECT_EQ(std::string(error.message), "cannot stop thread " + pid + " of process " + pid +
                                              ": Operation not permitted (it is traced already, belongs to "
                                              "the kernel, or haul lacks CAP_SYS_PTRACE)");

    Child waiting([&] { wait_uninterruptibly(&flags->done); });
    wait_for(flags->done);
    EXPECT_EQ(haul_freeze_begin(&freeze, waiting.pid(), &error), -ETIMEDOUT);
    pid = std::to_string(waiting.pid());
    EXPECT_EQ(std::string(error.message),
              "thread " + pid + " of process " + pid + " does not stop: Connection timed out");
}

} // namespace
