/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/holes.h"

#include "engine/bitmap.h"
#include "engine/trackers/content.h"
#include "engine/trackers/maps.h"

#include <errno.h>
#include <unistd.h>

/* A private mapping of a block's file, at the block. */
struct private_mapping {
    uint64_t first;
    uint64_t end;
    struct haul_object object;
    bool found;
};

static int look_for_private(void *opaque, const struct haul_map *map)
{
    struct private_mapping *look = opaque;
    bool there = map->address < look->end && map->end > look->first;
    look->found = there && !map->shared && haul_object_equal(&map->object, &look->object);
    return look->found || map->address >= look->end;
}

int haul_holes_check(const struct haul_block *block, struct haul_error *error)
{
    struct private_mapping look = {.first = (uintptr_t)block->host,
                                   .end = (uintptr_t)block->host + block->length};
    if (block->fd < 0 || haul_object_of(block->fd, &look.object, NULL) < 0) {
        return 0;
    }
    int rc = haul_maps_read(0, look_for_private, &look, error);
    if (rc < 0) {
        return haul_error_prefix(error, "RAM block %s: ", block->name);
    }
    return look.found
               ? haul_error_set(error, EINVAL,
                                "RAM block %s: its file is mapped privately (MAP_PRIVATE), so the file "
                                "lacks what was written: map it shared, or give -1 for the file",
                                block->name)
               : 0;
}

off_t haul_holes_next_content(const struct haul_block *block, off_t at, off_t end)
{
    off_t data = block->fd >= 0 ? lseek(block->fd, at, SEEK_DATA) : -1;
    if (data >= at) {
        return data < end ? data : end;
    }
    /* ENXIO: no content up to the end of the file. Anything else: this file does not tell. */
    bool none = block->fd >= 0 && data < 0 && errno == ENXIO;
    return none && lseek(block->fd, 0, SEEK_END) >= end ? end : -1;
}

void haul_holes_present(const struct haul_block *block, uint64_t *bitmap)
{
    uint64_t count = block->length / HAUL_PAGE_SIZE;
    off_t origin = (off_t)block->fd_offset;
    off_t end = origin + (off_t)(count * HAUL_PAGE_SIZE);
    off_t at = origin;
    while (at < end) {
        off_t data = haul_holes_next_content(block, at, end);
        if (data == end) {
            return;
        }
        off_t hole = data < 0 ? -1 : haul_content_end(block->fd, data, end);
        if (hole <= data) { /* also of a device, which may answer the same to every question */
            haul_bitmap_set(bitmap, 0, count);
            return;
        }
        uint64_t first = (uint64_t)(data - origin) / HAUL_PAGE_SIZE;
        uint64_t last =
            ((uint64_t)((hole < end ? hole : end) - origin) + HAUL_PAGE_SIZE - 1) / HAUL_PAGE_SIZE;
        haul_bitmap_set(bitmap, first, last - first);
        at = hole;
    }
}
