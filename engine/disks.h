/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DISKS_H
#define HAUL_ENGINE_DISKS_H

/*
 * The block handler: what the engine does with the disks of a migration. A disk is one more entry of the
 * block table, behind the RAM blocks: disk i is block block_count + i, here and on the wire. Its pages take
 * the way that RAM takes, but that channels read and write them by struct haul_block_io, which is made of the
 * disk's ops here.
 */

#include "engine/disk.h"
#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_own_disk {
    char name[HAUL_NAME_MAX + 1];
    uint64_t size;
    uint64_t pages; /* of 4096 bytes, the last may be shorter */
    uint32_t granularity;
    const struct haul_disk_ops *ops;
    void *opaque;
    uint64_t *granules;        /* source, the migration_thread's: what fetch sets */
    HAUL_ATOMIC(bool) written; /* destination: since the last flush; relaxed, the round barrier orders it */
};

struct haul_disks {
    uint32_t count;
    /* The loader's own: how far a destination's disks came. */
    uint32_t opened; /* whose open was called */
    bool discarded;
    /* Pieces flushed so far. Relaxed: the loader only asks whether a channel's flush gets further. */
    HAUL_ATOMIC(uint32_t) flush_steps;
    /* The move failed: a flush under way is for nothing. Relaxed: it is seen at the next piece, or the one
     * after. */
    HAUL_ATOMIC(bool) abandoned;
    uint32_t started; /* source, the migration_thread's: disks whose start was called */
    struct haul_own_disk disk[HAUL_DISKS_MAX];
};

/* haul_disks_count returns how many there are. */
uint32_t haul_disks_count(const struct haul_migration *migration);

/* haul_disks_flush_steps returns a number that changes while a flush gets further. Any thread. */
uint32_t haul_disks_flush_steps(const struct haul_migration *migration);

/* haul_disks_abandon ends a long flush on another thread soon, with -ECANCELED. Loader, when the move failed.
 */
void haul_disks_abandon(struct haul_migration *migration);

/* haul_disks_views fills the views of disks, `views` being the first. Before the channels exist. */
void haul_disks_views(struct haul_migration *migration, struct haul_block_view *views);

/* haul_disks_check refuses a start that would leave disks behind. -ENOTSUP, -EINVAL. */
int haul_disks_check(const struct haul_migration *migration, struct haul_error *error);

void haul_disks_free(struct haul_migration *migration);

/*
 * haul_disk_present sets in `bitmap`, one bit per 4096-byte page, every page that may hold content. -ENOMEM.
 */
int haul_disk_present(const struct haul_own_disk *disk, uint64_t *bitmap, struct haul_error *error);

/* haul_disk_read reads `length` bytes at `offset`, both multiples of 4096; what lies beyond the disk's end is
 * zero. Any thread. */
int haul_disk_read(const struct haul_own_disk *disk, uint64_t offset, void *bytes, size_t length,
                   struct haul_error *error);

/* ---- the table; disk_table.c ---- */

/* haul_disk_table_encode writes the payload of DISKS; returns its length, or 0 when it does not fit. */
size_t haul_disk_table_encode(const struct haul_migration *migration, void *payload, size_t capacity);

/*
 * haul_disk_table_match checks a DISKS payload against our disks. On success order[i] is our index of the
 * source's disk i. -EPROTO: malformed; -EINVAL: the tables differ; the message names the disk and what to
 * change.
 */
int haul_disk_table_match(const struct haul_migration *migration, const void *payload, size_t length,
                          uint32_t *order, struct haul_error *error);

/* haul_disks_check_hello refuses a source with disks where there are none, and the other way round. -EINVAL.
 */
int haul_disks_check_hello(const struct haul_migration *migration, uint32_t capabilities,
                           struct haul_error *error);

/* ---- source, migration_thread ---- */

/* haul_disks_start begins tracking; haul_disks_stop ends it wherever it began. */
int haul_disks_start(struct haul_migration *migration, struct haul_error *error);
void haul_disks_stop(struct haul_migration *migration);

/* haul_disks_fetch sets in `bitmaps` (one per disk) the pages that were written since; *pages gets how many.
 */
int haul_disks_fetch(struct haul_migration *migration, uint64_t *const *bitmaps, uint64_t *pages,
                     struct haul_error *error);

/* ---- destination ---- */

/* haul_disks_open makes the disks ready for a source whose tables fit. Loader. */
int haul_disks_open(struct haul_migration *migration, struct haul_error *error);

/* haul_disks_complete_ns returns how long haul_disks_complete is reckoned to take. All disks are open. */
uint64_t haul_disks_complete_ns(const struct haul_migration *migration);

/* haul_disks_flush makes durable what was written since the last flush; *took_ns gets the time, 0 for
 * nothing. While no channel writes. */
int haul_disks_flush(struct haul_migration *migration, uint64_t *took_ns, struct haul_error *error);

/* haul_disks_complete: HANDOVER came; every disk hears it, whatever another one says. haul_disks_discard: it
 * never will, or the guest certainly never ran after it; does nothing where there is nothing to discard.
 * Loader, once the receivers are stopped. */
int haul_disks_complete(struct haul_migration *migration, struct haul_error *error);
void haul_disks_discard(struct haul_migration *migration);

#ifdef __cplusplus
}
#endif
#endif
