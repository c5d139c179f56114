/* SPDX-License-Identifier: Apache-2.0 */
/* The explicit bitmap: whoever writes guest memory says so. */
#include "engine/trackers/tracker.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

struct bitmap_block {
    uint64_t pages;
    _Atomic uint64_t *bits; /* set by haul_tracker_mark on any thread, taken by bitmap_sync */
};

struct bitmap_tracker {
    struct haul_tracker base;
    unsigned blocks;
    struct bitmap_block block[];
};

static int bitmap_start(void *opaque, struct haul_error *error)
{
    (void)error;
    struct bitmap_tracker *tracker = opaque;
    for (unsigned b = 0; b < tracker->blocks; b++) {
        for (uint64_t word = 0; word < haul_bits_words(tracker->block[b].pages); word++) {
            /* Relaxed: what was marked before is read in the first round anyway. */
            atomic_store_explicit(&tracker->block[b].bits[word], 0, memory_order_relaxed);
        }
    }
    return 0;
}

static int bitmap_sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error)
{
    (void)error;
    struct bitmap_tracker *tracker = opaque;
    uint64_t reported = 0;
    for (unsigned b = 0; b < tracker->blocks; b++) {
        struct bitmap_block *block = &tracker->block[b];
        for (uint64_t word = 0; word < haul_bits_words(block->pages); word++) {
            if (!atomic_load_explicit(&block->bits[word], memory_order_relaxed)) {
                continue; /* relaxed: a bit missed here is taken by the next sync */
            }
            /* Acquire pairs with the release in haul_tracker_mark: who sees the bit sees the bytes. */
            uint64_t bits = atomic_exchange_explicit(&block->bits[word], 0, memory_order_acquire);
            bitmaps[b][word] |= bits;
            reported += (uint64_t)__builtin_popcountll(bits);
        }
    }
    *pages = reported;
    return 0;
}

static void bitmap_stop(void *opaque)
{
    (void)opaque;
}

static const struct haul_tracker_ops bitmap_ops = {
    .name = "bitmap",
    .start = bitmap_start,
    .sync = bitmap_sync,
    .stop = bitmap_stop,
};

static void bitmap_free(struct haul_tracker *base)
{
    struct bitmap_tracker *tracker = (struct bitmap_tracker *)base;
    for (unsigned b = 0; b < tracker->blocks; b++) {
        free((void *)tracker->block[b].bits);
    }
    free(tracker);
}

int haul_tracker_bitmap_new(const uint64_t *block_pages, unsigned blocks, struct haul_tracker **result,
                            struct haul_error *error)
{
    struct bitmap_tracker *tracker = calloc(1, sizeof *tracker + blocks * sizeof tracker->block[0]);
    if (!tracker) {
        return haul_error_set(error, ENOMEM, "bitmap tracker: no memory for %u blocks", blocks);
    }
    tracker->base = (struct haul_tracker){.ops = &bitmap_ops, .free = bitmap_free};
    for (unsigned b = 0; b < blocks; b++) {
        tracker->block[b].pages = block_pages[b];
        tracker->block[b].bits = calloc(haul_bits_words(block_pages[b]) + 1, sizeof *tracker->block[b].bits);
        if (!tracker->block[b].bits) {
            bitmap_free(&tracker->base);
            return haul_error_set(error, ENOMEM, "bitmap tracker: no memory for the %llu pages of block %u",
                                  (unsigned long long)block_pages[b], b);
        }
        tracker->blocks = b + 1;
    }
    *result = &tracker->base;
    return 0;
}

void haul_tracker_mark(struct haul_tracker *base, unsigned block_index, uint64_t first, uint64_t count)
{
    struct bitmap_tracker *tracker = (struct bitmap_tracker *)base;
    if (base->ops != &bitmap_ops || block_index >= tracker->blocks) {
        return;
    }
    struct bitmap_block *block = &tracker->block[block_index];
    if (first >= block->pages) {
        return;
    }
    uint64_t end = count < block->pages - first ? first + count : block->pages;
    for (uint64_t word = first / 64; word * 64 < end; word++) {
        /*
         * Release pairs with the acquire in bitmap_sync. Unconditional: a test of the bit first could see it
         * set, be overtaken by a sync that takes it, and leave the write unreported.
         */
        atomic_fetch_or_explicit(&block->bits[word], haul_bits_mask(word, first, end), memory_order_release);
    }
}
