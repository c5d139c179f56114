/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_POPULATED_H
#define HAUL_ENGINE_TRACKERS_POPULATED_H

/*
 * Which pages of a tracked range had content at the last look, to notice those that lost it (trap T8). A page
 * that is discarded while it is write-protected stays "not written" for the kernel; what shows is that it is
 * absent now, and a hole in its object.
 */

#include "engine/trackers.h"

struct haul_populated {
    struct haul_tracked_range range;
    uint64_t first_page; /* of the range, within its block */
    uint64_t first_word; /* of the block's bitmap that `bits` starts at, so that both line up */
    uint64_t *bits;      /* bit p: page first_word * 64 + p of the block had content */
    bool seekable;       /* the object can tell its holes (tmpfs, memfd) */
    /* The stretch of data that load found last: how far it goes costs a visit to each of its pages. */
    uint64_t data_start, data_stop; /* offsets in the object */
};

int haul_populated_init(struct haul_populated *populated, const struct haul_tracked_range *range,
                        struct haul_error *error);
void haul_populated_cleanup(struct haul_populated *populated);

/*
 * haul_populated_load takes from the object which pages at addresses [start, end) have content; nothing where
 * it cannot tell. It takes as long as haul_content_end.
 */
int haul_populated_load(struct haul_populated *populated, uint64_t start, uint64_t end,
                        struct haul_error *error);

/* haul_populated_empty: the object has no content at all for [start, end), which takes one look; false where
 * it cannot tell. */
bool haul_populated_empty(const struct haul_populated *populated, uint64_t start, uint64_t end);

/* haul_populated_add: the pages at addresses [start, end) have content; where `bitmap` is given, they are
 * reported too. Returns how many pages. */
uint64_t haul_populated_add(struct haul_populated *populated, uint64_t start, uint64_t end, uint64_t *bitmap);

/* haul_populated_clear_holes clears in the block's `bitmap` the range's pages that have no content. */
void haul_populated_clear_holes(const struct haul_populated *populated, uint64_t *bitmap);

/*
 * haul_populated_drop: the pages at addresses [start, end) are absent now. Those that had content and became
 * holes are reported in `bitmap` (all of them, where the object cannot tell its holes) and forgotten; *pages
 * gets how many.
 */
int haul_populated_drop(struct haul_populated *populated, uint64_t start, uint64_t end, uint64_t *bitmap,
                        uint64_t *pages, struct haul_error *error);

#endif
