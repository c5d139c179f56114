/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_MAPS_H
#define HAUL_ENGINE_TRACKERS_MAPS_H

/* Reading /proc/PID/maps: behind haul_find_mapping, haul_find_mappers and the checks of tracked ranges. */

#include "engine/trackers.h"

/* A memory object as the maps files name it. */
struct haul_object {
    uint64_t device; /* major << 32 | minor */
    uint64_t inode;
};

static inline bool haul_object_equal(const struct haul_object *a, const struct haul_object *b)
{
    return a->device == b->device && a->inode == b->inode;
}

/* One line of a maps file. */
struct haul_map {
    uint64_t address;
    uint64_t end;
    uint64_t object_offset;
    struct haul_object object; /* inode 0: no object (anonymous memory, [stack], [vdso]) */
    bool readable;
    bool writable;
    bool shared;
    const char *path; /* "" where there is none; valid during the visit */
};

/* Called for each mapping, by address; 0 goes on, a positive value stops without an error, a negative one
 * with it. */
typedef int haul_map_visit(void *opaque, const struct haul_map *map);

/* haul_map_parse takes one line apart, in place; false: it is no line of a maps file. */
bool haul_map_parse(char *line, struct haul_map *map);

/* haul_maps_read visits the mappings of `pid` (0: this process). -ESRCH: no such process; -EPERM: not
 * allowed. */
int haul_maps_read(int pid, haul_map_visit *visit, void *opaque, struct haul_error *error);

/* haul_object_of identifies the object behind a descriptor that can be mapped. */
int haul_object_of(int memory_fd, struct haul_object *object, struct haul_error *error);

/*
 * haul_check_range fails unless every page of `range` is mapped by `pid`, and, where the range names an
 * object, as a shared mapping of that object at that offset. -EINVAL, with a message that says what to
 * change; or the errors of haul_maps_read.
 */
int haul_check_range(int pid, const struct haul_tracked_range *range, struct haul_error *error);

#endif
