/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_BITMAP_H
#define HAUL_ENGINE_BITMAP_H

/* Dirty bitmaps: one bit per page, 64 to a word, bit p of word p / 64. Owned by the migration_thread. */

#include "channels/bits.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sets or clears `count` bits from `first`. */
void haul_bitmap_set(uint64_t *bitmap, uint64_t first, uint64_t count);
void haul_bitmap_clear(uint64_t *bitmap, uint64_t first, uint64_t count);

/* haul_bitmap_count returns the set bits among the first `bits`. Bits past the end must be clear. */
uint64_t haul_bitmap_count(const uint64_t *bitmap, uint64_t bits);

/*
 * haul_bitmap_next_run finds the first run of set bits at or after `from` below `bits`, at most `most` long.
 * Returns false when there is none.
 */
bool haul_bitmap_next_run(const uint64_t *bitmap, uint64_t bits, uint64_t from, uint64_t most,
                          uint64_t *first, uint64_t *count);

/* haul_bitmap_next_gap is the same for clear bits, of any length. */
bool haul_bitmap_next_gap(const uint64_t *bitmap, uint64_t bits, uint64_t from, uint64_t *first,
                          uint64_t *count);

#ifdef __cplusplus
}
#endif
#endif
