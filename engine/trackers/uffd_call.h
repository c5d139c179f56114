/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_UFFD_CALL_H
#define HAUL_ENGINE_TRACKERS_UFFD_CALL_H

/* The calls of a userfaultfd for write protection, with errors that say what to change. */

#include "engine/trackers.h"
#include "engine/trackers/kernel_compat.h"

/*
 * haul_uffd_open opens a userfaultfd of this process and shakes hands; with another process in mind it tells
 * what the kernel can do before anything is injected there. -ENOSYS: the kernel is too old; -EPERM.
 */
int haul_uffd_open(int flags, uint64_t features, int *uffd, struct haul_error *error);
int haul_uffd_handshake(int uffd, uint64_t features, struct haul_error *error);

/* haul_uffd_register makes a range one that can be protected. -EBUSY: another userfaultfd watches it; -ESRCH:
 * the process has exited; -EPERM; -EINVAL; -ENOMEM. */
int haul_uffd_register(int uffd, const struct haul_tracked_range *range, struct haul_error *error);

/* haul_uffd_protect and haul_uffd_release write-protect [start, end) or lift that and wake who waits there.
 * -ESRCH: the process has exited; -EINVAL: something else is mapped there now. Any thread. */
int haul_uffd_protect(int uffd, uint64_t start, uint64_t end, struct haul_error *error);
int haul_uffd_release(int uffd, uint64_t start, uint64_t end, struct haul_error *error);

#endif
