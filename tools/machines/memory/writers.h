/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_MEMORY_WRITERS_H
#define HAUL_TOOLS_MACHINES_MEMORY_WRITERS_H

/* Who may write a memory object, and whether each of its writes can be seen. */

#include "engine/trackers.h"
#include "tools/machines/memory/object.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_MEMORY_MAX_RANGES 64u

/*
 * haul_memory_find_ranges lists where `pid` maps the object shared, cut to its length, as ranges of block 0.
 * -EINVAL: it does not map it; the message says that writes through write() cannot be followed.
 */
int haul_memory_find_ranges(const struct haul_memory_object *object, const char *path, int pid,
                            struct haul_tracked_range *ranges, unsigned *count, struct haul_error *error);

/*
 * haul_memory_refuse_others makes sure that no process but `pid` (0: none) and this one maps the object
 * writable (trap T1). -EBUSY: one does; -EPERM: with a `pid`, when there are processes that this user, not
 * root, may not look into.
 */
int haul_memory_refuse_others(const struct haul_memory_object *object, const char *path, int pid,
                              struct haul_error *error);

/*
 * haul_memory_refuse_unseen makes sure that no device can write `pid`'s memory behind its page tables: files
 * open for direct I/O, io_uring (trap T2), VFIO and RDMA devices (trap T3). -EBUSY: the message names the
 * descriptor.
 */
int haul_memory_refuse_unseen(int pid, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
