/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_REMAP_H
#define HAUL_ENGINE_REMAP_H

/*
 * Another process's memory put on another object, by system calls injected with ptrace (x86-64): what an
 * adapter needs whose guest lives in a process that knows nothing of haul, to adopt memory (haul_guest_ops).
 * Calls from any thread, one at a time for one process.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_REMAP_STALE_MAX 16

struct haul_remap {
    uint64_t address; /* in the process; whole pages, all of them mapped */
    uint64_t length;
    int process_fd;  /* the process's own descriptor of the new object, open for reading and writing */
    uint64_t offset; /* where in that object the memory starts */
    /* The process's descriptors of the old object: each refers to the new one afterwards, so that what the
     * process discards by them is discarded where it lies now. At most HAUL_REMAP_STALE_MAX. */
    const int *stale;
    unsigned stale_count;
};

/*
 * haul_process_remap maps the new object shared over the range, without the right to write it, and restores
 * what the process had asked for there: left out of core dumps or of forked children, mergeable, huge pages
 * or none, locked. Who runs on the range (a thread, a KVM guest) sees the new memory from its next access on.
 * -EINVAL: not mapped, or too many pieces; -EBUSY: under a userfaultfd, or traced; the errors of ptrace(2)
 * and of the calls. After a failure the range may be on either object.
 */
int haul_process_remap(int pid, const struct haul_remap *remap, struct haul_error *error);

/* haul_process_protect gives or takes the right to write a range of shared memory. Errors as above. */
int haul_process_protect(int pid, uint64_t address, uint64_t length, bool writable, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
