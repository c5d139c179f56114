/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/holes.h"

#include "engine/bitmap.h"

#include <unistd.h>

uint64_t haul_holes_present(const struct haul_block *block, uint64_t *bitmap)
{
    uint64_t count = block->length / HAUL_PAGE_SIZE;
    off_t origin = (off_t)block->fd_offset;
    off_t end = origin + (off_t)(count * HAUL_PAGE_SIZE);
    uint64_t present = 0;
    off_t at = origin;
    while (block->fd >= 0 && at < end) {
        off_t data = lseek(block->fd, at, SEEK_DATA);
        if (data < 0 || data >= end) {
            /* ENXIO: no data up to the end of the file. Anything else: this file does not tell. */
            off_t size = data < 0 ? lseek(block->fd, 0, SEEK_END) : end;
            if (size >= end) {
                return present;
            }
            break;
        }
        off_t hole = lseek(block->fd, data, SEEK_HOLE);
        if (hole < 0) {
            break;
        }
        uint64_t first = (uint64_t)(data - origin) / HAUL_PAGE_SIZE;
        uint64_t last =
            ((uint64_t)((hole < end ? hole : end) - origin) + HAUL_PAGE_SIZE - 1) / HAUL_PAGE_SIZE;
        haul_bitmap_set(bitmap, first, last - first);
        present += last - first;
        at = hole;
    }
    if (block->fd >= 0 && at >= end) {
        return present;
    }
    haul_bitmap_set(bitmap, 0, count);
    return count;
}
