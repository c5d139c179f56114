/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_BATCH_H
#define HAUL_CHANNELS_BATCH_H

/*
 * A batch is the unit of work that the migration_thread hands to a sender thread, and the RAM blocks that
 * its page numbers refer to.
 */

#include "channels/atomic.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HAUL_PAGE_SHIFT 12
#define HAUL_PAGE_SIZE ((size_t)1 << HAUL_PAGE_SHIFT) /* the granule of tracking and of the wire */
#define HAUL_CHANNELS_MAX 128
#define HAUL_BATCH_PAGES 256 /* pages of one PAGES batch: at most 1 MiB */
#define HAUL_BATCH_RUNS 256

/* One run of pages within a block. */
struct haul_run {
    uint64_t first; /* page index within the block */
    uint64_t count; /* pages, at least 1 */
};

enum haul_batch_kind {
    HAUL_BATCH_KIND_PAGES, /* read, test for zero, send; at most HAUL_BATCH_PAGES pages in all */
    HAUL_BATCH_KIND_ZERO,  /* known to read as zero (holes): sent as zero runs of any length, never read */
    HAUL_BATCH_KIND_ROUND  /* the round mark: no pages; everything before it belongs to `round` */
};

/*
 * Owner: the migration_thread from haul_sender_acquire to haul_sender_submit, then the sender thread until it
 * puts the batch on the completion ring, then the migration_thread again.
 */
struct haul_batch {
    enum haul_batch_kind kind;
    uint32_t round;
    uint32_t block; /* index into the block table */
    uint32_t run_count;
    uint32_t page_count; /* sum over runs, PAGES only */
    bool first_touch;    /* PAGES only: this process has probably not read the pages before */
    struct haul_run runs[HAUL_BATCH_RUNS];
};

struct haul_error;

/*
 * The pages of a block that is not in this process's memory: a disk. Calls come from the channels' threads,
 * several at a time, but no page is in two of them at once. `first` and `pages` lie within the block. 0, or a
 * negative errno with a message that names the disk.
 */
struct haul_block_io {
    /* 1..HAUL_BATCH_PAGES pages into, or from, contiguous memory. */
    int (*read)(void *opaque, uint64_t first, uint32_t pages, void *bytes, struct haul_error *error);
    int (*write)(void *opaque, uint64_t first, uint32_t pages, const void *bytes, struct haul_error *error);
    /* Makes the pages read as zero. */
    int (*zero)(void *opaque, uint64_t first, uint64_t pages, struct haul_error *error);
};

/* What a channel knows of one block of the table, RAM or disk. Immutable while channels run, but for the
 * bitmap's bits. */
struct haul_block_view {
    unsigned char *host; /* the block's first byte in this process; NULL: its pages come and go by `io` */
    uint64_t pages;
    /*
     * Destination only, else NULL: one bit per page, set while the page may hold non-zero bytes. A zero run
     * clears only pages whose bit is set (trap T5), so that untouched memory stays untouched. Set by the
     * engine for what was present at setup, by receivers for what they write. Receivers of one round write
     * disjoint pages, but share words: relaxed atomic or/and suffices, the round barrier orders the rounds.
     */
    HAUL_ATOMIC(uint64_t) * maybe_nonzero;
    const struct haul_block_io *io; /* NULL: memory */
    void *io_opaque;
};

#endif
