// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/support.h"

#include <cstddef>
#include <ctime>
#include <thread>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>

extern "C" {
#include "engine/trackers/inject.h"
}

namespace
{

using haul_test::Eventually;

constexpr int kFlags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;

// Injects once; the descriptor must be a userfaultfd of the other process, and leave no trace there.
void inject(int pid)
{
    int before = descriptors_of(pid);
    int fd = -1;
    haul_error error = {};
    ASSERT_EQ(haul_inject_userfaultfd(pid, kFlags, &fd, &error), 0) << error.message;
    uffdio_api api = {.api = UFFD_API, .features = 0, .ioctls = 0};
    EXPECT_EQ(ioctl(fd, UFFDIO_API, &api), 0) << strerror(errno);
    close(fd);
    EXPECT_EQ(descriptors_of(pid), before);
}

char state_of(int pid)
{
    char text[512] = {};
    FILE *file = fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "r");
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    const char *name_end = length ? strrchr(text, ')') : nullptr;
    return name_end ? name_end[2] : '?';
}

// Work that notices a register or a result that is not its own.
bool checked_step(uint32_t round)
{
    volatile uint64_t seed = round;
    uint64_t a = seed, b = seed * 3, c = seed * 5, d = seed * 7, e = seed * 11, f = seed * 13;
    double x = static_cast<double>(seed), y = x * 2;
    for (int i = 0; i < 500; i++) {
        a += 1, b += 3, c += 5, d += 7, e += 11, f += 13, x += 1, y += 2;
    }
    uint64_t n = seed + 500;
    return a == n && b == n * 3 && c == n * 5 && d == n * 7 && e == n * 11 && f == n * 13 &&
           x == static_cast<double>(n) && y == x * 2;
}

TEST(Inject, LeavesASpinningThreadAsItWas)
{
    auto flags = Flags::create();
    Child child([&] {
        for (uint32_t round = 0; !flags->stop; round++) {
            if (!checked_step(round)) {
                flags->value = -1;
            }
            flags->ready = 1;
            flags->count++;
        }
    });
    wait_for(flags->ready);
    for (int i = 0; i < 50; i++) {
        inject(child.pid());
    }
    EXPECT_TRUE(Eventually([&, count = flags->count.load()] { return flags->count > count + 10; }));
    flags->stop = 1;
    EXPECT_EQ(child.join(), 0);
    EXPECT_EQ(flags->value, 0);
}

TEST(Inject, RestartsASleepAtItsRemainingTime)
{
    auto flags = Flags::create();
    Child child([&] {
        timespec start, end, time = {.tv_sec = 0, .tv_nsec = 800000000};
        clock_gettime(CLOCK_MONOTONIC, &start);
        flags->ready = 1;
        flags->value = nanosleep(&time, nullptr) ? errno : 0;
        clock_gettime(CLOCK_MONOTONIC, &end);
        flags->count =
            static_cast<uint64_t>((end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec);
    });
    wait_for(flags->ready);
    usleep(50000);
    for (int i = 0; i < 5; i++) {
        inject(child.pid());
        usleep(20000);
    }
    EXPECT_EQ(child.join(), 0);
    EXPECT_EQ(flags->value, 0);
    EXPECT_GE(flags->count, 800000000u);
}

TEST(Inject, RestartsABlockedRead)
{
    auto flags = Flags::create();
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    Child child([&] {
        char byte = 0;
        flags->ready = 1;
        ssize_t got = read(ends[0], &byte, 1);
        flags->value = got == 1 && byte == 'x' ? 0 : got < 0 ? -errno : -1;
    });
    wait_for(flags->ready);
    usleep(20000);
    inject(child.pid());
    inject(child.pid());
    ASSERT_EQ(write(ends[1], "x", 1), 1);
    EXPECT_EQ(child.join(), 0);
    EXPECT_EQ(flags->value, 0);
    close(ends[0]);
    close(ends[1]);
}

std::atomic<uint64_t> *counted_signals;

TEST(Inject, LosesNoSignal)
{
    auto flags = Flags::create();
    Child child([&] {
        counted_signals = &flags->count;
        struct sigaction action = {};
        action.sa_handler = [](int) { ++*counted_signals; };
        sigaction(SIGRTMIN, &action, nullptr);
        sigaction(SIGALRM, &action, nullptr);
        itimerval timer = {.it_interval = {0, 700}, .it_value = {0, 700}};
        setitimer(ITIMER_REAL, &timer, nullptr);
        flags->ready = 1;
        for (uint32_t round = 0; !flags->stop; round++) {
            if (!checked_step(round)) {
                flags->value = -1;
            }
        }
        timer = {};
        setitimer(ITIMER_REAL, &timer, nullptr);
        signal(SIGALRM, SIG_IGN);
        flags->count = 0;
        flags->done = 1;
        while (flags->done != 2) {
            usleep(100);
        }
    });
    wait_for(flags->ready);
    for (int i = 0; i < 50; i++) { /* a timer signal arrives in most of them */
        inject(child.pid());
    }
    flags->stop = 1;
    wait_for(flags->done);
    EXPECT_EQ(flags->value, 0);
    std::atomic<bool> end{false};
    uint64_t sent = 0;
    std::thread sender([&] {
        while (!end) {
            sigval value = {};
            sent += sigqueue(child.pid(), SIGRTMIN, value) == 0;
            usleep(300);
        }
    });
    for (int i = 0; i < 50; i++) {
        inject(child.pid());
    }
    end = true;
    sender.join();
    /* Real-time signals queue: each must have been handled. */
    EXPECT_TRUE(Eventually([&] { return flags->count == sent; })) << flags->count << " of " << sent;
    flags->done = 2;
    EXPECT_EQ(child.join(), 0);
}

TEST(Inject, KeepsAStoppedProcessStopped)
{
    auto flags = Flags::create();
    Child child([&] {
        flags->ready = 1;
        while (!flags->stop) {
            flags->count++;
            usleep(100);
        }
    });
    wait_for(flags->ready);
    ASSERT_EQ(kill(child.pid(), SIGSTOP), 0);
    auto stopped = [&] { return state_of(child.pid()) == 'T'; };
    ASSERT_TRUE(Eventually(stopped));
    inject(child.pid());
    inject(child.pid());
    EXPECT_TRUE(Eventually(stopped));
    uint64_t count = flags->count;
    usleep(20000);
    EXPECT_EQ(flags->count, count);
    ASSERT_EQ(kill(child.pid(), SIGCONT), 0);
    EXPECT_TRUE(Eventually([&] { return flags->count > count; }));
    flags->stop = 1;
    EXPECT_EQ(child.join(), 0);
}

TEST(Inject, AStopMeanwhileTakesEffect)
{
    auto flags = Flags::create();
    Child child([&] {
        flags->ready = 1;
        for (uint32_t round = 0; !flags->stop; round++) {
            if (!checked_step(round)) {
                flags->value = -1;
            }
            flags->count++;
        }
    });
    wait_for(flags->ready);
    std::atomic<bool> end{false};
    std::thread stopper([&] {
        while (!end) {
            kill(child.pid(), SIGSTOP);
            usleep(150);
            kill(child.pid(), SIGCONT);
            usleep(150);
        }
        kill(child.pid(), SIGSTOP);
    });
    for (int i = 0; i < 50; i++) {
        inject(child.pid());
    }
    end = true;
    stopper.join();
    EXPECT_TRUE(Eventually([&] { return state_of(child.pid()) == 'T'; }));
    kill(child.pid(), SIGCONT);
    flags->stop = 1;
    EXPECT_EQ(child.join(), 0);
    EXPECT_EQ(flags->value, 0);
}

TEST(Inject, UsesAnotherThreadWhenTheMainOneCannotBeStopped)
{
    auto flags = Flags::create();
    Child child([&] {
        std::thread([&] {
            wait_for(flags->stop);
            _exit(0);
        }).detach();
        wait_uninterruptibly(&flags->ready);
    });
    wait_for(flags->ready);
    inject(child.pid());
    flags->stop = 1;
    EXPECT_EQ(child.join(), 0);
}

TEST(InjectErrors, AMainThreadThatHasEnded)
{
    auto flags = Flags::create();
    Child child([&] {
        std::thread([] { pause(); }).detach();
        flags->ready = 1;
        syscall(SYS_exit, 0); /* this thread only */
    });
    wait_for(flags->ready);
    ASSERT_TRUE(Eventually([&] { return state_of(child.pid()) == 'Z'; }));
    int fd = -1;
    haul_error error = {};
    EXPECT_EQ(haul_inject_userfaultfd(child.pid(), kFlags, &fd, &error), -ESRCH);
    EXPECT_EQ(std::string(error.message),
              "process " + std::to_string(child.pid()) + " has exited (its main thread has; others go on)");
}

TEST(Inject, PassesASeccompFilterThatWouldKill)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root: lifting a seccomp filter takes CAP_SYS_ADMIN";
    }
    auto flags = Flags::create();
    Child child([&] {
        sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        sock_fprog program = {.len = 4, .filter = code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        flags->value = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
        flags->ready = 1;
        wait_for(flags->stop);
        syscall(SYS_userfaultfd, kFlags); /* the filter is in force again */
    });
    wait_for(flags->ready);
    ASSERT_EQ(flags->value, 0);
    inject(child.pid());
    flags->stop = 1;
    int status = child.join();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << status;
}

std::string failure(int pid, int code)
{
    int fd = -1;
    haul_error error = {};
    EXPECT_EQ(haul_inject_userfaultfd(pid, kFlags, &fd, &error), -code) << error.message;
    EXPECT_EQ(error.code, code);
    EXPECT_EQ(fd, -1);
    return error.message;
}

TEST(InjectErrors, NoSuchProcess)
{
    int gone = Child([] {}).pid();
    EXPECT_EQ(failure(gone, ESRCH),
              "there is no process " + std::to_string(gone) + " to trace: No such process");
}

TEST(InjectErrors, AProcessThatHasExited)
{
    Child child([] {});
    ASSERT_TRUE(Eventually([&] { return state_of(child.pid()) == 'Z'; }));
    /* A sanitizer's own thread may outlive the main one by a moment, which the message would mention. */
    EXPECT_EQ(failure(child.pid(), ESRCH).rfind("process " + std::to_string(child.pid()) + " has exited", 0),
              0u);
}

TEST(InjectErrors, AnotherTracer)
{
    auto flags = Flags::create();
    Child traced([] { pause(); });
    Child debugger([&] {
        flags->value = ptrace(PTRACE_SEIZE, traced.pid(), nullptr, nullptr);
        flags->ready = 1;
        pause();
    });
    wait_for(flags->ready);
    ASSERT_EQ(flags->value, 0);
    EXPECT_EQ(failure(traced.pid(), EBUSY), "process " + std::to_string(traced.pid()) +
                                                " is traced by process " + std::to_string(debugger.pid()) +
                                                " (a debugger, strace): end that first");
    EXPECT_EQ(kill(traced.pid(), 0), 0);
}

TEST(InjectErrors, NoPermission)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root, to have a process of another user";
    }
    auto flags = Flags::create();
    auto *message =
        static_cast<char *>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    Child target([] { pause(); });
    Child unprivileged([&] {
        if (setgid(65534) || setuid(65534)) {
            _exit(1);
        }
        int fd = -1;
        haul_error error = {};
        flags->value = haul_inject_userfaultfd(target.pid(), kFlags, &fd, &error);
        strcpy(message, error.message);
    });
    EXPECT_EQ(unprivileged.join(), 0);
    EXPECT_EQ(flags->value, -EPERM);
    EXPECT_EQ(std::string(message),
              "process " + std::to_string(target.pid()) +
                  " may not be traced: Operation not permitted; run haul as root, or give it "
                  "CAP_SYS_PTRACE");
    munmap(message, kPage);
}

// Trap T7: whenever the injecting process is killed, the other one goes on unharmed.
TEST(Inject, SurvivesTheDeathOfTheTracer)
{
    auto flags = Flags::create();
    Child traced([&] {
        for (uint32_t round = 0; !flags->stop; round++) {
            if (!checked_step(round)) {
                flags->value = -1;
            }
            flags->ready = 1;
            flags->count++;
        }
    });
    wait_for(flags->ready);
    int before = descriptors_of(traced.pid());
    std::minstd_rand random(11);
    Orphans helpers;
    for (int i = 0; i < 40; i++) {
        auto started = Flags::create();
        Child tracer([&] {
            Orphans::mark();
            started->ready = 1;
            for (;;) {
                int fd = -1;
                haul_inject_userfaultfd(traced.pid(), kFlags, &fd, nullptr);
                close(fd);
            }
        });
        wait_for(started->ready);
        usleep(random() % 4000);
        helpers.leave(tracer);
    }
    helpers.await();
    EXPECT_EQ(descriptors_of(traced.pid()), before);
    EXPECT_TRUE(Eventually([&, count = flags->count.load()] { return flags->count > count; }));
    inject(traced.pid());
    flags->stop = 1;
    EXPECT_EQ(traced.join(), 0);
    EXPECT_EQ(flags->value, 0);
}

} // namespace
