/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_INJECT_H
#define HAUL_ENGINE_TRACKERS_INJECT_H

/* System calls that another process makes: a userfaultfd for its memory, or a list of others. */

#include "channels/error.h"

/*
 * haul_inject_userfaultfd makes process `pid` open a userfaultfd with `flags`, takes the descriptor, and
 * makes the process close its own copy, so that *uffd is the only one (trap T7). One thread is stopped for
 * about a millisecond; nothing else of the process changes. -ESRCH, -EPERM, -EBUSY (traced by another
 * process), -ENOTSUP (32-bit), -ETIMEDOUT (no thread can be stopped), -EIO, or the error that userfaultfd
 * gave there.
 */
int haul_inject_userfaultfd(int pid, int flags, int *uffd, struct haul_error *error);

/* One system call that needs no memory of the process for its arguments. */
struct haul_injected_call {
    const char *name; /* for messages */
    long number;
    long arguments[6];
};

/*
 * haul_inject_calls makes one thread of process `pid` run `calls` in order, up to the first that fails; what
 * those before it did stays done. A helper that began finishes them also when this process is killed. Errors
 * as above, or that of the call, which the message names.
 */
int haul_inject_calls(int pid, const struct haul_injected_call *calls, unsigned count,
                      struct haul_error *error);

#endif
