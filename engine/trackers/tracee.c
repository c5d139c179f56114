/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/tracee.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef __x86_64__
#error "system calls are injected with the registers of x86-64"
#endif

#define CODE_SEGMENT_64 0x33
#define SYSCALL_STOP (SIGTRAP | 0x80) /* with PTRACE_O_TRACESYSGOOD */
#define CALL_TIMEOUT_MS 2000

/* Waits for the next stop of `tid`. */
static int wait_stop(int tid, unsigned timeout_ms, int *status)
{
    const struct timespec nap = {.tv_nsec = 50000};
    struct timespec now, start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        int got = waitpid(tid, status, __WALL | WNOHANG);
        if (got == tid) {
            return WIFSTOPPED(*status) ? 0 : -ESRCH;
        }
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 > (long)timeout_ms) {
            return -ETIMEDOUT;
        }
        nanosleep(&nap, NULL);
    }
}

static int is_event_stop(int status)
{
    return status >> 16 == PTRACE_EVENT_STOP;
}

int haul_tracee_interrupt(int tid)
{
    if (ptrace(PTRACE_SEIZE, tid, 0L, (long)PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, tid, 0L, 0L)) {
        return -errno;
    }
    return 0;
}

int haul_tracee_wait(int tid, unsigned timeout_ms)
{
    int status, result;
    /* Signals that come before PTRACE_INTERRUPT's own stop are delivered as ever. */
    while (!(result = wait_stop(tid, timeout_ms, &status)) && !is_event_stop(status)) {
        int signal = WSTOPSIG(status) == SYSCALL_STOP ? 0 : WSTOPSIG(status);
        if (ptrace(PTRACE_CONT, tid, 0L, (long)signal)) {
            return -errno;
        }
    }
    return result;
}

/*
 * A thread stopped inside a restartable sequence would go on in it although the kernel, seeing the borrowed
 * address instead, ended it. Being stopped is one of the reasons to abort such a sequence, so abort it here
 * as the kernel does.
 */
static void abort_restartable_sequence(struct haul_tracee *tracee, int memory)
{
    struct __ptrace_rseq_configuration rseq = {0};
    struct {
        uint32_t version, flags;
        uint64_t start, length, abort;
    } section;
    uint64_t pointer;
    const off_t pointer_offset = 8; /* rseq_cs in struct rseq */
    if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tracee->tid, sizeof rseq, &rseq) < 0 ||
        !rseq.rseq_abi_pointer ||
        pread(memory, &pointer, sizeof pointer, (off_t)rseq.rseq_abi_pointer + pointer_offset) !=
            (ssize_t)sizeof pointer ||
        !pointer || pread(memory, &section, sizeof section, (off_t)pointer) != (ssize_t)sizeof section) {
        return;
    }
    if (tracee->saved.rip - section.start < section.length) {
        tracee->saved.rip = section.abort;
    }
}

int haul_tracee_borrow(struct haul_tracee *tracee, int tid, int memory, unsigned long options)
{
    *tracee = (struct haul_tracee){.tid = tid};
    if (options && ptrace(PTRACE_SETOPTIONS, tid, 0L, options | PTRACE_O_TRACESYSGOOD)) {
        return -errno;
    }
    if (ptrace(PTRACE_GETREGS, tid, 0L, &tracee->saved)) {
        return -errno;
    }
    if (tracee->saved.cs != CODE_SEGMENT_64) {
        return -ENOTSUP;
    }
    if ((long)tracee->saved.orig_rax < 0) {
        abort_restartable_sequence(tracee, memory);
    }
    if (ptrace(PTRACE_GETSIGMASK, tid, sizeof tracee->saved_signals, &tracee->saved_signals)) {
        return -errno;
    }
    return 0;
}

/* Runs a thread to its next stop at a system call. SIGSTOP, which cannot be blocked, takes effect as ever. */
static int run_to_syscall_stop(int tid)
{
    long signal = 0;
    for (;;) {
        int status;
        if (ptrace(PTRACE_SYSCALL, tid, 0L, signal)) {
            return -errno;
        }
        int result = wait_stop(tid, CALL_TIMEOUT_MS, &status);
        if (result) {
            return result;
        }
        if (WSTOPSIG(status) == SYSCALL_STOP) {
            return 0;
        }
        if (is_event_stop(status)) {
            signal = 0;
        } else if (WSTOPSIG(status) == SIGSTOP) {
            signal = SIGSTOP;
        } else {
            return -EIO; /* a fault: the call was not made; the signal is dropped with it */
        }
    }
}

int haul_tracee_call(struct haul_tracee *tracee, uint64_t address, long number, const long arguments[6],
                     long *result)
{
    const uint64_t all = ~UINT64_C(0);
    struct user_regs_struct registers = tracee->saved;
    registers.rip = address;
    registers.rax = (unsigned long)number;
    registers.orig_rax = ~0ul; /* no system call to restart */
    registers.rdi = (unsigned long)arguments[0];
    registers.rsi = (unsigned long)arguments[1];
    registers.rdx = (unsigned long)arguments[2];
    registers.r10 = (unsigned long)arguments[3];
    registers.r8 = (unsigned long)arguments[4];
    registers.r9 = (unsigned long)arguments[5];
    registers.eflags &= ~0x100ul; /* no single step */
    if (ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof all, &all)) {
        return -errno;
    }
    if (ptrace(PTRACE_SETREGS, tracee->tid, 0L, &registers)) {
        return -errno;
    }
    int failure = run_to_syscall_stop(tracee->tid); /* its entry */
    if (!failure) {
        failure = run_to_syscall_stop(tracee->tid); /* its exit */
    }
    if (failure) {
        return failure;
    }
    if (ptrace(PTRACE_GETREGS, tracee->tid, 0L, &registers)) {
        return -errno;
    }
    *result = (long)registers.rax;
    return 0;
}

int haul_tracee_return(struct haul_tracee *tracee)
{
    /*
     * A call that the first stop interrupted is restarted by the kernel on its way through signal handling,
     * if the registers say so. Detaching a stopped thread sends it that way.
     */
    if (ptrace(PTRACE_SETREGS, tracee->tid, 0L, &tracee->saved) ||
        ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof tracee->saved_signals, &tracee->saved_signals) ||
        ptrace(PTRACE_DETACH, tracee->tid, 0L, 0L)) {
        return -errno;
    }
    return 0;
}
