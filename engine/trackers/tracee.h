/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_TRACEE_H
#define HAUL_ENGINE_TRACKERS_TRACEE_H

/* One thread of another process, stopped with ptrace, made to run system calls, and put back as it was. All
 * calls from one thread, in the helper process; a thread that was seized is let go when that process ends.
 * x86-64. */

#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

struct haul_tracee {
    int tid;
    struct user_regs_struct saved;
    uint64_t saved_signals; /* blocked mask */
};

/*
 * haul_tracee_interrupt seizes thread `tid` and tells it to stop; haul_tracee_wait waits until it has.
 * -ESRCH: it ended; -EPERM; -ETIMEDOUT: it does not stop (uninterruptible sleep).
 */
int haul_tracee_interrupt(int tid);
int haul_tracee_wait(int tid, unsigned timeout_ms);

/*
 * haul_tracee_borrow takes a stopped thread's registers and signal mask; `memory` is its /proc/PID/mem.
 * -ENOTSUP: it runs 32-bit code; or a negative errno of ptrace.
 */
int haul_tracee_borrow(struct haul_tracee *tracee, int tid, int memory, unsigned long options);

/*
 * haul_tracee_call makes the borrowed thread run one system call through the syscall instruction at
 * `address`, with all signals held. *result gets what the call returned. -ESRCH: it died meanwhile; -EIO: it
 * did not come back from the call.
 */
int haul_tracee_call(struct haul_tracee *tracee, uint64_t address, long number, const long arguments[6],
                     long *result);

/* haul_tracee_return puts the thread back as it was and lets it go; a system call that the stop interrupted
 * is restarted. */
int haul_tracee_return(struct haul_tracee *tracee);

#endif
