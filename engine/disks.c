/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/disks.h"

#include "engine/bitmap.h"
#include "engine/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- registration ---- */

static int check_disk(const struct haul_migration *migration, const struct haul_disk *disk,
                      struct haul_error *error)
{
    size_t length = disk->name ? strlen(disk->name) : 0;
    if (length == 0 || length > HAUL_NAME_MAX) {
        return haul_error_set(error, EINVAL, "a disk name has %zu bytes; it must have 1 to %d", length,
                              HAUL_NAME_MAX);
    }
    uint32_t granularity = disk->granularity;
    bool power_of_two = granularity >= HAUL_PAGE_SIZE && (granularity & (granularity - 1)) == 0;
    if (disk->size == 0 || disk->size > HAUL_DISK_SIZE_MAX || !power_of_two ||
        granularity > HAUL_DISK_GRANULARITY_MAX) {
        return haul_error_set(error, EINVAL,
                              "disk %s: size %llu and granularity %u: the size must be 1 byte to 64 TiB, the "
                              "granularity a power of two from 4096 to 1 MiB",
                              disk->name, (unsigned long long)disk->size, granularity);
    }
    const struct haul_disk_ops *ops = disk->ops;
    bool usable = ops && ops->read &&
                  (migration->source ? ops->start && ops->fetch : ops->write && ops->zero && ops->flush);
    return usable ? 0
                  : haul_error_set(error, EINVAL, "disk %s lacks callbacks: a %s", disk->name,
                                   migration->source ? "source's needs read, start and fetch"
                                                     : "destination's needs read, write, zero and flush");
}

int haul_add_disk(struct haul_migration *migration, const struct haul_disk *disk, struct haul_error *error)
{
    if (migration->started) {
        return haul_error_set(error, EBUSY, "the migration has already started");
    }
    int rc = check_disk(migration, disk, error);
    if (rc < 0) {
        return rc;
    }
    struct haul_disks *disks = migration->disks ? migration->disks : calloc(1, sizeof *disks);
    if (!disks) {
        return haul_error_set(error, ENOMEM, "no memory for disk %s", disk->name);
    }
    migration->disks = disks;
    for (uint32_t i = 0; i < disks->count; i++) {
        if (strcmp(disks->disk[i].name, disk->name) == 0) {
            return haul_error_set(error, EEXIST, "disk %s is there already", disk->name);
        }
    }
    if (disks->count == HAUL_DISKS_MAX) {
        return haul_error_set(error, ENOSPC, "more than %d disks", HAUL_DISKS_MAX);
    }
    struct haul_own_disk *own = &disks->disk[disks->count++];
    memcpy(own->name, disk->name, strlen(disk->name) + 1);
    own->size = disk->size;
    own->pages = (disk->size + HAUL_PAGE_SIZE - 1) / HAUL_PAGE_SIZE;
    own->granularity = disk->granularity;
    own->ops = disk->ops;
    own->opaque = disk->opaque;
    return 0;
}

uint32_t haul_disks_count(const struct haul_migration *migration)
{
    return migration->disks ? migration->disks->count : 0;
}

int haul_disks_check(const struct haul_migration *migration, struct haul_error *error)
{
    if (haul_disks_count(migration) == 0) {
        return 0;
    }
    const char *name = migration->disks->disk[0].name;
    if (migration->file_path) {
        return haul_error_set(error, ENOTSUP,
                              "a snapshot file holds no disks, and disk %s would stay behind: copy the image "
                              "while the guest stands still, or leave the disk out",
                              name);
    }
    if (migration->mode != HAUL_MODE_NORMAL) {
        return haul_error_set(
            error, ENOTSUP,
            "mode %s copies nothing, and both sides are on one host: let both use the image "
            "of disk %s as it is, and leave the disk out of the move",
            haul_mode_name(migration->mode), name);
    }
    return 0;
}

void haul_disks_free(struct haul_migration *migration)
{
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        free(migration->disks->disk[i].granules);
    }
    free(migration->disks);
    migration->disks = NULL;
}

/* ---- what channels call ---- */

static int name_it(const struct haul_own_disk *disk, const char *what, uint64_t offset,
                   struct haul_error *error)
{
    return haul_error_prefix(error, "disk %s: %s at byte %llu: ", disk->name, what,
                             (unsigned long long)offset);
}

/* How many of `length` bytes at `offset` the disk has. */
static size_t within(const struct haul_own_disk *disk, uint64_t offset, size_t length)
{
    uint64_t left = offset < disk->size ? disk->size - offset : 0;
    return left < length ? (size_t)left : length;
}

int haul_disk_read(const struct haul_own_disk *disk, uint64_t offset, void *bytes, size_t length,
                   struct haul_error *error)
{
    size_t own = within(disk, offset, length);
    memset((unsigned char *)bytes + own, 0, length - own);
    int rc = disk->ops->read(disk->opaque, offset, bytes, own, error);
    return rc < 0 ? name_it(disk, "reading", offset, error) : 0;
}

static int read_pages(void *opaque, uint64_t first, uint32_t pages, void *bytes, struct haul_error *error)
{
    return haul_disk_read(opaque, first * HAUL_PAGE_SIZE, bytes, pages * HAUL_PAGE_SIZE, error);
}

static int write_pages(void *opaque, uint64_t first, uint32_t pages, const void *bytes,
                       struct haul_error *error)
{
    struct haul_own_disk *disk = opaque;
    uint64_t offset = first * HAUL_PAGE_SIZE;
    atomic_store_explicit(&disk->written, true, memory_order_relaxed);
    int rc =
        disk->ops->write(disk->opaque, offset, bytes, within(disk, offset, pages * HAUL_PAGE_SIZE), error);
    return rc < 0 ? name_it(disk, "writing", offset, error) : 0;
}

static int zero_pages(void *opaque, uint64_t first, uint64_t pages, struct haul_error *error)
{
    struct haul_own_disk *disk = opaque;
    uint64_t offset = first * HAUL_PAGE_SIZE;
    atomic_store_explicit(&disk->written, true, memory_order_relaxed);
    int rc = disk->ops->zero(disk->opaque, offset, within(disk, offset, pages * HAUL_PAGE_SIZE), error);
    return rc < 0 ? name_it(disk, "zeroing", offset, error) : 0;
}

static const struct haul_block_io disk_io = {.read = read_pages, .write = write_pages, .zero = zero_pages};

void haul_disks_views(struct haul_migration *migration, struct haul_block_view *views)
{
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        struct haul_own_disk *disk = &migration->disks->disk[i];
        views[i] = (struct haul_block_view){.pages = disk->pages, .io = &disk_io, .io_opaque = disk};
    }
}

/* ---- granules and pages ---- */

static uint64_t granule_count(const struct haul_own_disk *disk)
{
    return (disk->size + disk->granularity - 1) / disk->granularity;
}

/* Sets the pages of all granules that are set; returns how many pages these have. */
static uint64_t expand(const struct haul_own_disk *disk, const uint64_t *granules, uint64_t *bitmap)
{
    uint64_t per_granule = disk->granularity / HAUL_PAGE_SIZE;
    uint64_t total = 0;
    uint64_t at = 0;
    uint64_t first, count;
    while (haul_bitmap_next_run(granules, granule_count(disk), at, UINT64_MAX, &first, &count)) {
        at = first + count;
        uint64_t end = at * per_granule < disk->pages ? at * per_granule : disk->pages;
        haul_bitmap_set(bitmap, first * per_granule, end - first * per_granule);
        total += end - first * per_granule;
    }
    return total;
}

int haul_disk_present(const struct haul_own_disk *disk, uint64_t *bitmap, struct haul_error *error)
{
    if (!disk->ops->clear_holes) {
        haul_bitmap_set(bitmap, 0, disk->pages);
        return 0;
    }
    uint64_t count = granule_count(disk);
    uint64_t *granules = calloc(haul_bits_words(count), sizeof *granules);
    if (!granules) {
        return haul_error_set(error, ENOMEM, "no memory for a bitmap of disk %s", disk->name);
    }
    haul_bitmap_set(granules, 0, count);
    disk->ops->clear_holes(disk->opaque, granules);
    expand(disk, granules, bitmap);
    free(granules);
    return 0;
}

/* ---- source ---- */

int haul_disks_start(struct haul_migration *migration, struct haul_error *error)
{
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        struct haul_own_disk *disk = &migration->disks->disk[i];
        disk->granules = calloc(haul_bits_words(granule_count(disk)), sizeof *disk->granules);
        if (!disk->granules) {
            return haul_error_set(error, ENOMEM, "no memory for a bitmap of disk %s", disk->name);
        }
        migration->disks->started = i + 1; /* stop is due even when start fails half way */
        int rc = disk->ops->start(disk->opaque, error);
        if (rc < 0) {
            return haul_error_prefix(error, "disk %s: tracking its writes: ", disk->name);
        }
    }
    return 0;
}

void haul_disks_stop(struct haul_migration *migration)
{
    for (uint32_t i = 0; migration->disks && i < migration->disks->started; i++) {
        const struct haul_own_disk *disk = &migration->disks->disk[i];
        if (disk->ops->stop) {
            disk->ops->stop(disk->opaque);
        }
    }
}

int haul_disks_fetch(struct haul_migration *migration, uint64_t *const *bitmaps, uint64_t *pages,
                     struct haul_error *error)
{
    *pages = 0;
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        const struct haul_own_disk *disk = &migration->disks->disk[i];
        memset(disk->granules, 0, haul_bits_words(granule_count(disk)) * sizeof *disk->granules);
        int rc = disk->ops->fetch(disk->opaque, disk->granules, error);
        if (rc < 0) {
            return haul_error_prefix(error, "disk %s: asking what was written: ", disk->name);
        }
        *pages += expand(disk, disk->granules, bitmaps[i]);
    }
    return 0;
}

/* ---- destination ---- */

/* However many disks there are and however long each takes, the source hears that it goes on. */
static void got_further(struct haul_migration *migration)
{
    atomic_fetch_add_explicit(&migration->disks->flush_steps, 1, memory_order_relaxed);
    haul_control_progress(migration->control);
}

int haul_disks_open(struct haul_migration *migration, struct haul_error *error)
{
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        const struct haul_own_disk *disk = &migration->disks->disk[i];
        migration->disks->opened = i + 1; /* discard is due even when open fails half way */
        got_further(migration);
        int rc = disk->ops->open ? disk->ops->open(disk->opaque, error) : 0;
        if (rc < 0) {
            return haul_error_prefix(error, "disk %s: ", disk->name);
        }
    }
    return 0;
}

uint64_t haul_disks_complete_ns(const struct haul_migration *migration)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        const struct haul_own_disk *disk = &migration->disks->disk[i];
        total += disk->ops->complete_ns ? disk->ops->complete_ns(disk->opaque) : 0;
    }
    return total;
}

void haul_disks_abandon(struct haul_migration *migration)
{
    if (migration->disks) {
        atomic_store_explicit(&migration->disks->abandoned, true, memory_order_relaxed);
    }
}

/* The end of the move, wherever it comes from, ends a long one. */
static int flush_one(struct haul_migration *migration, const struct haul_own_disk *disk,
                     struct haul_error *error)
{
    int rc;
    got_further(migration); /* from here on it is this disk's time that counts */
    while ((rc = disk->ops->flush(disk->opaque, error)) > 0) {
        if (haul_migration_cancelled(migration) ||
            atomic_load_explicit(&migration->disks->abandoned, memory_order_relaxed)) {
            return haul_error_set(error, ECANCELED, "cancelled");
        }
        got_further(migration);
    }
    return rc;
}

uint32_t haul_disks_flush_steps(const struct haul_migration *migration)
{
    return migration->disks ? atomic_load_explicit(&migration->disks->flush_steps, memory_order_relaxed) : 0;
}

int haul_disks_flush(struct haul_migration *migration, uint64_t *took_ns, struct haul_error *error)
{
    *took_ns = 0;
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        struct haul_own_disk *disk = &migration->disks->disk[i];
        if (!atomic_exchange_explicit(&disk->written, false, memory_order_relaxed)) {
            continue;
        }
        uint64_t begun = haul_now_ns();
        int rc = flush_one(migration, disk, error);
        if (rc < 0) {
            return haul_error_prefix(error, "disk %s: making it durable: ", disk->name);
        }
        *took_ns += haul_now_ns() - begun;
    }
    return 0;
}

int haul_disks_complete(struct haul_migration *migration, struct haul_error *error)
{
    int result = 0;
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        const struct haul_own_disk *disk = &migration->disks->disk[i];
        struct haul_error why;
        got_further(migration);
        int rc = disk->ops->complete ? disk->ops->complete(disk->opaque, &why) : 0;
        if (rc < 0 && result == 0) {
            result = haul_error_set(error, -rc, "disk %s: %s", disk->name, why.message);
        }
    }
    return result;
}

void haul_disks_discard(struct haul_migration *migration)
{
    if (!migration->disks || migration->disks->discarded) {
        return;
    }
    migration->disks->discarded = true;
    for (uint32_t i = 0; i < migration->disks->opened; i++) {
        const struct haul_own_disk *disk = &migration->disks->disk[i];
        struct haul_error left = {0};
        if (disk->ops->discard) {
            disk->ops->discard(disk->opaque, &left);
        }
        if (left.code) {
            haul_migration_say(migration, "disk %s: %s", disk->name, left.message);
        }
    }
}
