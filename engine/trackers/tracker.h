/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_TRACKER_H
#define HAUL_ENGINE_TRACKERS_TRACKER_H

/* What all trackers share: the base object that each embeds first, and arithmetic on dirty bitmaps. */

#include "channels/bits.h"
#include "engine/trackers.h"

#define HAUL_TRACKER_PAGE_SIZE 4096ul

struct haul_tracker {
    const struct haul_tracker_ops *ops;
    void (*free)(struct haul_tracker *tracker); /* stops first; frees the object itself */
    /* See haul_tracker_arm; NULL: nothing to do before start. */
    int (*arm)(struct haul_tracker *tracker, struct haul_error *error);
};

/* haul_bits_set sets the bits [first, first + count); other threads may set other bits meanwhile. */
void haul_bits_set(uint64_t *bits, uint64_t first, uint64_t count);

/* haul_bits_merge sets the bits of `from`, `count` of them, at bit `first` and on in `to`; returns how many
 * it found set. */
uint64_t haul_bits_merge(uint64_t *to, uint64_t first, const uint64_t *from, uint64_t count);

/* haul_bits_any says whether a bit of [first, first + count) is set. */
bool haul_bits_any(const uint64_t *bits, uint64_t first, uint64_t count);

#endif
