/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_INJECT_H
#define HAUL_ENGINE_TRACKERS_INJECT_H

/* A userfaultfd for another process's memory. */

#include "channels/error.h"

/*
 * haul_inject_userfaultfd makes process `pid` open a userfaultfd with `flags`, takes the descriptor, and
 * makes the process close its own copy, so that *uffd is the only one (trap T7). One thread is stopped for
 * about a millisecond; nothing else of the process changes. -ESRCH, -EPERM, -EBUSY (traced by another
 * process), -ENOTSUP (32-bit), -ETIMEDOUT (no thread can be stopped), -EIO, or the error that userfaultfd
 * gave there.
 */
int haul_inject_userfaultfd(int pid, int flags, int *uffd, struct haul_error *error);

#endif
