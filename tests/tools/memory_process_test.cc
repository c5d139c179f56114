// SPDX-License-Identifier: Apache-2.0

// Stopping the process that writes a memory object, and what happens to it when haul dies.
#include "tests/tools/memory_writer.h"

#include "tools/machines/memory/process.h"

#include <atomic>
#include <cerrno>
#include <memory>
#include <pthread.h>

using namespace haul_test;

namespace
{

struct ProcessClose {
    void operator()(haul_process *process) const
    {
        haul_process_close(process);
    }
};
using Process = std::unique_ptr<haul_process, ProcessClose>;

Process open_process(int pid)
{
    haul_process *process = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_process_open(pid, &process, &error), 0) << error.message;
    return Process(process);
}

// Counters in shared memory, one per thread of the child.
struct Counters {
    std::atomic<uint64_t> value[4];
};

void *count(void *opaque)
{
    auto *counter = static_cast<std::atomic<uint64_t> *>(opaque);
    for (;;) {
        counter->fetch_add(1, std::memory_order_relaxed);
    }
}

class MemoryProcess : public testing::Test
{
  protected:
    MemoryProcess()
        : object(sizeof(Counters)), counters(reinterpret_cast<Counters *>(object.map())),
          child([this](const std::function<void()> &ready) {
              for (unsigned i = 1; i < 4; i++) {
                  pthread_t thread;
                  pthread_create(&thread, nullptr, count, &counters->value[i]);
              }
              ready();
              count(&counters->value[0]);
          })
    {
    }

    std::vector<uint64_t> values() const
    {
        std::vector<uint64_t> now;
        for (auto &value : counters->value) {
            now.push_back(value.load(std::memory_order_relaxed));
        }
        return now;
    }

    // Whether each thread of the child goes on.
    bool all_run() const
    {
        auto before = values();
        return Eventually([&] {
            auto now = values();
            unsigned moved = 0;
            for (unsigned k = 0; k < 4; k++) {
                moved += now[k] != before[k];
            }
            return moved == 4;
        });
    }

    // Whether none does, for a while.
    bool none_runs() const
    {
        auto before = values();
        usleep(50000);
        return values() == before;
    }

    SharedObject object;
    Counters *counters;
    Child child;
};

TEST_F(MemoryProcess, StopStopsEveryThreadAndResumeLetsThemOn)
{
    Process process = open_process(child.pid());
    haul_error error = {};
    for (int i = 0; i < 5; i++) {
        ASSERT_TRUE(all_run());
        ASSERT_EQ(haul_process_stop(process.get(), &error), 0) << error.message;
        ASSERT_TRUE(none_runs());
        ASSERT_EQ(haul_process_resume(process.get(), &error), 0) << error.message;
    }
    EXPECT_TRUE(all_run());
    // Resuming what runs is harmless.
    EXPECT_EQ(haul_process_resume(process.get(), &error), 0);
}

TEST_F(MemoryProcess, WhatSomebodyElseStoppedStaysStopped)
{
    kill(child.pid(), SIGSTOP);
    ASSERT_TRUE(child.comes_to('T')); // its other threads may still have to hear of it
    Process process = open_process(child.pid());
    haul_error error = {};
    EXPECT_EQ(haul_process_stop(process.get(), &error), 0) << error.message;
    EXPECT_TRUE(none_runs());
    EXPECT_EQ(haul_process_resume(process.get(), &error), 0) << error.message;
    process.reset();
    EXPECT_TRUE(none_runs());
    EXPECT_EQ(child.state(), 'T');
}

TEST_F(MemoryProcess, CloseLetsOnWhatWasStopped)
{
    Process process = open_process(child.pid());
    ASSERT_EQ(haul_process_stop(process.get(), nullptr), 0);
    process.reset();
    EXPECT_TRUE(all_run());
}

TEST_F(MemoryProcess, KeptStoppedStaysStoppedAfterClose)
{
    Process process = open_process(child.pid());
    haul_error error = {};
    ASSERT_EQ(haul_process_stop(process.get(), &error), 0) << error.message;
    ASSERT_EQ(haul_process_keep_stopped(process.get(), &error), 0) << error.message;
    process.reset();
    EXPECT_TRUE(none_runs());
    // Another haul may let it on by the operator's order.
    process = open_process(child.pid());
    EXPECT_EQ(haul_process_continue(process.get(), &error), 0) << error.message;
    EXPECT_TRUE(all_run());
}

TEST_F(MemoryProcess, ResumeAfterKeptStoppedStillWorks)
{
    Process process = open_process(child.pid());
    haul_error error = {};
    ASSERT_EQ(haul_process_stop(process.get(), &error), 0) << error.message;
    ASSERT_EQ(haul_process_keep_stopped(process.get(), &error), 0) << error.message;
    ASSERT_EQ(haul_process_resume(process.get(), &error), 0) << error.message;
    EXPECT_TRUE(all_run());
}

TEST_F(MemoryProcess, SomebodyElsesContinueIsNoticed)
{
    Process process = open_process(child.pid());
    haul_error error = {};
    ASSERT_EQ(haul_process_stop(process.get(), &error), 0) << error.message;
    kill(child.pid(), SIGCONT);
    ASSERT_TRUE(all_run());
    EXPECT_EQ(haul_process_keep_stopped(process.get(), &error), -EBUSY);
    EXPECT_EQ(std::string(error.message),
              "somebody let process " + std::to_string(child.pid()) +
                  " run on while haul had it stopped: find out who sends it SIGCONT");
}

TEST_F(MemoryProcess, EndOfTheProcessIsAnError)
{
    Process process = open_process(child.pid());
    const std::string gone = "process " + std::to_string(child.pid()) + " is gone";
    child.end();
    haul_error error = {};
    EXPECT_EQ(haul_process_stop(process.get(), &error), -ESRCH);
    EXPECT_EQ(error.message, gone);
    EXPECT_EQ(haul_process_keep_stopped(process.get(), &error), -ESRCH);
    EXPECT_EQ(haul_process_continue(process.get(), &error), -ESRCH);
    EXPECT_EQ(error.message, gone);
}

TEST_F(MemoryProcess, EndOfAStoppedProcessIsAnErrorOfResume)
{
    Process process = open_process(child.pid());
    haul_error error = {};
    ASSERT_EQ(haul_process_stop(process.get(), &error), 0) << error.message;
    child.end();
    EXPECT_EQ(haul_process_resume(process.get(), &error), -ESRCH);
}

TEST(MemoryProcessOpen, UnknownProcessIsRefused)
{
    haul_process *process = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_process_open(0x3fffffff, &process, &error), -ESRCH);
    EXPECT_STREQ(error.message, "there is no process 1073741823");
}

TEST(MemoryProcessOpen, ThisProcessIsRefused)
{
    haul_process *process = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_process_open(getpid(), &process, &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("is haul itself"), std::string::npos) << error.message;
}

// A stand-in for haul in a process group of its own: stops `pid`, perhaps for good, and waits to be killed.
void stand_in(int pid, bool keep, const std::function<void()> &ready)
{
    setpgid(0, 0);
    haul_process *process = nullptr;
    if (haul_process_open(pid, &process, nullptr) || haul_process_stop(process, nullptr) ||
        (keep && haul_process_keep_stopped(process, nullptr))) {
        _exit(1);
    }
    ready();
    for (;;) {
        pause();
    }
}

TEST_F(MemoryProcess, KilledHaulLetsTheProcessOn)
{
    Child haul([this](const std::function<void()> &ready) { stand_in(child.pid(), false, ready); });
    ASSERT_TRUE(none_runs());
    haul.end();
    EXPECT_TRUE(all_run());
}

TEST_F(MemoryProcess, InterruptForTheWholeGroupLetsTheProcessOn)
{
    Child haul([this](const std::function<void()> &ready) { stand_in(child.pid(), false, ready); });
    ASSERT_TRUE(none_runs());
    kill(-haul.pid(), SIGINT);
    EXPECT_TRUE(all_run());
}

// Rule R1: from the handover on, haul's death must not make a second owner.
TEST_F(MemoryProcess, KilledHaulLeavesItStoppedAfterTheHandover)
{
    Child haul([this](const std::function<void()> &ready) { stand_in(child.pid(), true, ready); });
    haul.end();
    EXPECT_TRUE(none_runs());
    EXPECT_EQ(child.state(), 'T');
}

// The guardian must not keep haul's connections open.
TEST_F(MemoryProcess, GuardianHoldsNoOtherDescriptor)
{
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    Process process = open_process(child.pid());
    close(ends[1]);
    char byte;
    // The end of the pipe shows once the guardian has closed its copy.
    EXPECT_EQ(read(ends[0], &byte, 1), 0);
    close(ends[0]);
}

} // namespace
