/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DISK_H
#define HAUL_ENGINE_DISK_H

/*
 * Disks that move with a guest whose storage is not shared. The author of a VMM registers each with its ops;
 * their pages travel in the same rounds, on the same channels and under the same limits as RAM: all that is
 * not a hole in the first round, then what the guest wrote meanwhile, the last of it while it is stopped.
 * What is left of them counts in the prediction. A copy that comes with haul, of an image in a file, is in
 * engine/disk_file.h; docs/disks.md tells the whole story.
 *
 * A source needs: read, start, fetch, and whatever else has something to do. A destination: read (to verify),
 * write, zero, flush. Callbacks return 0 or a negative errno with a message, in front of which the engine
 * puts the disk's name.
 */

#include "engine/haul.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_DISKS_MAX 64
#define HAUL_DISK_SIZE_MAX ((uint64_t)1 << 46) /* 64 TiB */
#define HAUL_DISK_GRANULARITY_MAX (1u << 20)

struct haul_disk_ops {
    /* ---- both sides ---- */
    /*
     * Channel threads (to verify: helpers), several at once, between start or open and stop, complete or
     * discard: `length` bytes at `offset` into `bytes`; both are within the disk, and multiples of 4096
     * except at its end. A source may be writing them at the same moment: then they are fetched as dirty
     * afterwards, and sent again.
     */
    int (*read)(void *opaque, uint64_t offset, void *bytes, size_t length, struct haul_error *error);
    /*
     * Optional; source: migration_thread, after start and, to verify, when the guest is stopped; destination:
     * before haul_start returns, and to verify. Clears in `bitmap` (one bit per granule, all set) those
     * that certainly read as zero, so that they are not read and stay unallocated. NULL: every granule is
     * read; at a destination every zero one is zeroed.
     */
    void (*clear_holes)(void *opaque, uint64_t *bitmap);

    /* ---- source; migration_thread ---- */
    /* Once, before the disk is read. Every write that lands after it returns is reported by a later fetch. */
    int (*start)(void *opaque, struct haul_error *error);
    /*
     * Sets (never clears) in `bitmap` every granule that was written since start or the last fetch, and
     * forgets them. What it sets, `read` sees: a bit is due once the bytes are where `read` finds them, and
     * before the guest hears that they are written. A discarded granule counts as written.
     */
    int (*fetch)(void *opaque, uint64_t *bitmap, struct haul_error *error);
    /* Once if start was called, on every path, also after a failed start. */
    void (*stop)(void *opaque);

    /* ---- destination ---- */
    /*
     * Loader thread, once, when a source with the same tables came and before anything is written; may be
     * NULL. An error refuses the source, before it sends anything: a disk that is read-only, or too small a
     * file system. From here until `complete` the image must not look like a whole one to anybody who finds
     * it.
     */
    int (*open)(void *opaque, struct haul_error *error);
    /* Loader thread, once, after open; may be NULL: how long `complete` is reckoned to take, for the source's
     * prediction of the downtime. */
    uint64_t (*complete_ns)(void *opaque);
    /* Channel threads, several at once, never for overlapping bytes. Offsets and lengths as in `read`. */
    int (*write)(void *opaque, uint64_t offset, const void *bytes, size_t length, struct haul_error *error);
    /* As write: the bytes read as zero from now on, unallocated where that can be done. */
    int (*zero)(void *opaque, uint64_t offset, uint64_t length, struct haul_error *error);
    /*
     * A channel's or the loader thread, while nothing is written: on return all
     * writes so far survive a crash of the host. Called at the end of each round that wrote the disk,
     * before the source hears of that round, so that nothing is left to do before HANDOVER. One that may
     * take long returns 1 every now and then, to be called again at once: the source, which waits no longer
     * than its silence timeout, hears that it goes on.
     */
    int (*flush)(void *opaque, struct haul_error *error);
    /*
     * Loader thread, once, after HANDOVER and before the guest's `start` hook; may be NULL: the image is
     * whole. Everything was written and flushed. An error gives the guest back to the source; all disks are
     * discarded before it hears that.
     */
    int (*complete)(void *opaque, struct haul_error *error);
    /*
     * Loader thread, once, when the move failed after `open` was called (also in vain), and also after
     * `complete` when it is certain that the guest ran nothing here: the source goes on with its own disk,
     * and what is here is worth nothing and must not look whole. May be NULL. Where that is not certain
     * after HANDOVER, it is not called: this image may be the guest's only one. `left` gets a sentence where
     * something is left that the operator should know of.
     */
    void (*discard)(void *opaque, struct haul_error *left);
};

/* One disk. Same names and sizes on both sides, in any order. */
struct haul_disk {
    const char *name; /* 1..255 bytes, unique among the disks; copied */
    uint64_t size; /* bytes as the guest sees it, 1..HAUL_DISK_SIZE_MAX; reads beyond are never asked for */
    /*
     * Bytes that one bit of this side's bitmaps stands for: a power of two, 4096 to 1 MiB. Bit g is
     * bitmap[g / 64] >> (g % 64) & 1; the last granule may be shorter. The other side may have another.
     */
    uint32_t granularity;
    const struct haul_disk_ops *ops; /* outlives the migration */
    void *opaque;
};

/*
 * haul_add_disk registers a disk, before haul_start (-EBUSY after). -EINVAL (a name, size or granularity out
 * of range, or a callback missing that this side needs), -EEXIST (name taken), -ENOSPC (over 64 disks),
 * -ENOMEM. A move with disks is refused by haul_start (-ENOTSUP) where they would stay behind: mode
 * cpr-transfer and file:PATH.
 */
int haul_add_disk(struct haul_migration *migration, const struct haul_disk *disk, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
