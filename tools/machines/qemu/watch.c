/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/watch.h"

#include "tools/machines/qemu/process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLACES_MAX 64 /* mappings of one block in one process */

static bool overlap(const struct haul_qemu_block *block, const struct haul_mapping *place,
                    struct haul_tracked_range *range)
{
    uint64_t block_end = block->fd_offset + block->length;
    uint64_t place_end = place->object_offset + place->length;
    uint64_t start = block->fd_offset > place->object_offset ? block->fd_offset : place->object_offset;
    uint64_t end = block_end < place_end ? block_end : place_end;
    if (!place->shared || !place->writable || start >= end) {
        return false;
    }
    *range = (struct haul_tracked_range){
        .address = place->address + (start - place->object_offset),
        .length = end - start,
        .memory_fd = block->fd,
        .memory_offset = start,
        .own_mapping = (const char *)block->host + (start - block->fd_offset),
        .block_offset = start - block->fd_offset,
    };
    return true;
}

/* Adds to `ranges` (room for capacity) where `pid` can write the blocks. */
static int find_ranges(const struct haul_qemu_inspection *inspection, int pid,
                       struct haul_tracked_range *ranges, unsigned capacity, unsigned *count,
                       struct haul_error *error)
{
    *count = 0;
    for (unsigned i = 0; i < inspection->count; i++) {
        struct haul_mapping places[PLACES_MAX];
        size_t place_count = 0;
        int result =
            haul_find_mappings(pid, inspection->blocks[i].fd, places, PLACES_MAX, &place_count, error);
        if (result) {
            return result;
        }
        for (size_t p = 0; p < place_count; p++) {
            struct haul_tracked_range range;
            if (!overlap(&inspection->blocks[i], &places[p], &range)) {
                continue;
            }
            if (*count == capacity) {
                return haul_error_set(error, ENOSPC,
                                      "process %d maps the machine's memory in more than %u places", pid,
                                      capacity);
            }
            range.block = i;
            ranges[(*count)++] = range;
        }
    }
    return 0;
}

static bool known(const struct haul_qemu_writers *writers, int pid)
{
    for (unsigned i = 0; i < writers->count; i++) {
        if (writers->pids[i] == pid) {
            return true;
        }
    }
    return false;
}

static int compare_pids(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Adds those of the block's mappers that can write. */
static int add_writers(const struct haul_qemu_inspection *inspection, const struct haul_qemu_block *block,
                       struct haul_qemu_writers *writers, struct haul_error *error)
{
    int mappers[HAUL_QEMU_WRITERS_MAX];
    size_t count = 0;
    size_t unreadable = 0;
    int result =
        haul_find_mappers(block->fd, true, mappers, HAUL_QEMU_WRITERS_MAX, &count, &unreadable, error);
    if (result) {
        return result;
    }
    /*
     * What even root may not look into has more rights than haul, such as the first process of a container;
     * QEMU hands its memory to none of those. For another user everybody else's processes are closed, and any
     * may be a backend.
     */
    if (unreadable && geteuid() != 0) {
        return haul_error_set(error, EPERM,
                              "%zu processes cannot be looked into, any of them may write the machine's "
                              "memory: run haul as root",
                              unreadable);
    }
    for (size_t i = 0; i < count; i++) {
        struct haul_tracked_range ranges[PLACES_MAX];
        unsigned range_count = 0;
        result = known(writers, mappers[i])
                     ? 0
                     : find_ranges(inspection, mappers[i], ranges, PLACES_MAX, &range_count, error);
        if (result == -ESRCH) { /* gone since */
            continue;
        }
        if (result) {
            return result;
        }
        if (!range_count) {
            continue;
        }
        if (writers->count == HAUL_QEMU_WRITERS_MAX) {
            return haul_error_set(error, ENOSPC,
                                  "more than %d processes map the machine's memory writable: unplug some of "
                                  "the devices that they serve",
                                  HAUL_QEMU_WRITERS_MAX);
        }
        writers->pids[writers->count++] = mappers[i];
    }
    return 0;
}

/* What a back end's device writes by DMA is in nobody's page tables (traps T1 and T3). QEMU's own devices are
 * refused apart from these, in every mode. */
static int refuse_passthrough(const struct haul_qemu_inspection *inspection,
                              const struct haul_qemu_writers *writers, struct haul_error *error)
{
    for (unsigned i = 0; i < writers->count; i++) {
        char link[HAUL_FD_LINK_SIZE];
        int result = writers->pids[i] == inspection->pid
                         ? -ENOENT
                         : haul_process_find_passthrough(writers->pids[i], link);
        if (result == -ENOENT || (result == 0 && !link[0])) {
            continue; /* QEMU, one that is gone since, or one without */
        }
        char name[32];
        haul_process_name(writers->pids[i], name, sizeof name);
        return result
                   ? haul_error_set(error, -result,
                                    "cannot list the open files of process %d (%s), which writes the "
                                    "machine's memory too: %s; run haul as root",
                                    writers->pids[i], name, strerror(-result))
                   : haul_error_set(error, ENOTSUP,
                                    "process %d (%s) writes the machine's memory too and drives a "
                                    "passed-through device (%.200s), which writes it unseen: unplug what it "
                                    "serves (device_del) before the move",
                                    writers->pids[i], name, link);
    }
    return 0;
}

int haul_qemu_find_writers(const struct haul_qemu_inspection *inspection, struct haul_qemu_writers *writers,
                           struct haul_error *error)
{
    writers->count = 0;
    for (unsigned i = 0; i < inspection->count; i++) {
        int result = add_writers(inspection, &inspection->blocks[i], writers, error);
        if (result) {
            return result;
        }
    }
    qsort(writers->pids, writers->count, sizeof writers->pids[0], compare_pids);
    if (!known(writers, inspection->pid)) {
        return haul_error_set(error, ESRCH, "QEMU, process %d, no longer maps its memory",
                              (int)inspection->pid);
    }
    return refuse_passthrough(inspection, writers, error);
}

static int watch_process(const struct haul_qemu_inspection *inspection, int pid,
                         struct haul_tracker **tracker, struct haul_error *error)
{
    unsigned capacity = inspection->count + PLACES_MAX;
    unsigned count = 0;
    struct haul_tracked_range *ranges = calloc(capacity, sizeof *ranges);
    if (!ranges) {
        return haul_error_set(error, ENOMEM, "no memory for the list of tracked memory");
    }
    int result = find_ranges(inspection, pid, ranges, capacity, &count, error);
    if (!result) {
        result = haul_tracker_process_new(pid, ranges, count, tracker, error);
    }
    free(ranges);
    if (result && pid != inspection->pid) {
        char name[32];
        haul_process_name(pid, name, sizeof name);
        haul_error_prefix(
            error, "process %d (%s) writes the machine's memory too and cannot be tracked: ", pid, name);
    }
    return result;
}

int haul_qemu_watch_new(const struct haul_qemu_inspection *inspection,
                        const struct haul_qemu_writers *writers, struct haul_tracker **tracker,
                        struct haul_error *error)
{
    struct haul_tracker *members[HAUL_QEMU_WRITERS_MAX];
    for (unsigned i = 0; i < writers->count; i++) {
        int result = watch_process(inspection, writers->pids[i], &members[i], error);
        if (result) {
            while (i--) {
                haul_tracker_free(members[i]);
            }
            return result;
        }
    }
    if (writers->count == 1) {
        *tracker = members[0];
        return 0;
    }
    return haul_tracker_group_new(members, writers->count, tracker, error);
}

int haul_qemu_guard_new(const struct haul_qemu_inspection *inspection,
                        const struct haul_qemu_writers *writers, struct haul_write_guard **guard,
                        struct haul_error *error)
{
    for (unsigned i = 0; i < writers->count; i++) {
        if (writers->pids[i] != inspection->pid) {
            char name[32];
            haul_process_name(writers->pids[i], name, sizeof name);
            return haul_error_set(error, EBUSY,
                                  "process %d (%s) writes the machine's memory too (vhost-user, virtiofs), "
                                  "which a background snapshot cannot stop: unplug what it serves, or save "
                                  "the machine with haul send file:PATH",
                                  writers->pids[i], name);
        }
    }
    unsigned capacity = inspection->count + PLACES_MAX;
    unsigned count = 0;
    struct haul_tracked_range *ranges = calloc(capacity, sizeof *ranges);
    if (!ranges) {
        return haul_error_set(error, ENOMEM, "no memory for the list of guarded memory");
    }
    int result = find_ranges(inspection, inspection->pid, ranges, capacity, &count, error);
    if (!result) {
        result = haul_write_guard_uffd_new(inspection->pid, ranges, count, guard, error);
    }
    free(ranges);
    return result;
}
