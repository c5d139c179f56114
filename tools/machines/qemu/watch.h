/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_WATCH_H
#define HAUL_TOOLS_MACHINES_QEMU_WATCH_H

/* Which processes write the machine's memory (trap T1: vhost-user, virtiofsd and DPDK map it too), and
 * trackers for all. */

#include "engine/trackers.h"
#include "tools/machines/qemu/inspect.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_QEMU_WRITERS_MAX 64

/* Processes that map some of the machine's memory shared and writable, QEMU among them; ascending. */
struct haul_qemu_writers {
    int pids[HAUL_QEMU_WRITERS_MAX];
    unsigned count;
};

/*
 * haul_qemu_find_writers: -EPERM when some process cannot be looked into, so that the list might not be
 * complete; -ENOSPC for more than HAUL_QEMU_WRITERS_MAX; -ENOTSUP when one beside QEMU drives a
 * passed-through device (an SPDK or DPDK back end with VFIO), whose writes no tracker sees.
 */
int haul_qemu_find_writers(const struct haul_qemu_inspection *inspection, struct haul_qemu_writers *writers,
                           struct haul_error *error);

/* haul_qemu_watch_new makes one tracker over every mapping of every writer. */
int haul_qemu_watch_new(const struct haul_qemu_inspection *inspection,
                        const struct haul_qemu_writers *writers, struct haul_tracker **tracker,
                        struct haul_error *error);

/*
 * haul_qemu_guard_new makes a write guard over every mapping of QEMU. -EBUSY: another process writes the
 * memory too, by page tables of its own.
 */
int haul_qemu_guard_new(const struct haul_qemu_inspection *inspection,
                        const struct haul_qemu_writers *writers, struct haul_write_guard **guard,
                        struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
