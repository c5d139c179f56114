/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/destination/destination.h"

#include "engine/bitmap.h"
#include "engine/disks.h"
#include "engine/file/destination.h"
#include "engine/holes.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* ---- memory ---- */

/* A tmpfs with too little room would kill the receiving process half way: say it at the start. */
static int check_room(const struct haul_block *block, struct haul_error *error)
{
    struct statfs fs;
    struct stat file;
    if (block->fd < 0 || fstatfs(block->fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC || fs.f_blocks == 0 ||
        fstat(block->fd, &file) < 0) {
        return 0;
    }
    uint64_t allocated = (uint64_t)file.st_blocks * 512;
    uint64_t missing = block->length > allocated ? block->length - allocated : 0;
    uint64_t room = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    if (missing > room) {
        return haul_error_set(
            error, ENOSPC,
            "RAM block %s needs %llu MiB more and its tmpfs has %llu MiB free; enlarge it (mount -o "
            "remount,size=) or free space",
            block->name, (unsigned long long)(missing >> 20), (unsigned long long)(room >> 20));
    }
    return 0;
}

/* Pages that hold something before the move must be zeroed when the source's are zero (trap T5). */
static int note_present(struct haul_migration *migration, struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->view_count; i++) {
        bool memory = i < migration->block_count;
        int rc = memory ? check_room(&migration->blocks[i], error) : 0;
        if (rc < 0) {
            return rc;
        }
        uint64_t *bits = calloc(haul_bits_words(migration->views[i].pages), sizeof *bits);
        if (!bits) {
            return haul_error_set(error, ENOMEM, "no memory for the bitmaps of received pages");
        }
        if (memory) {
            haul_holes_present(&migration->blocks[i], bits);
        } else {
            rc = haul_disk_present(&migration->disks->disk[i - migration->block_count], bits, error);
        }
        if (rc < 0) {
            free(bits);
            return rc;
        }
        /* Plain and atomic words have one layout; no thread looks at them yet. */
        migration->views[i].maybe_nonzero = (_Atomic uint64_t *)bits;
    }
    return 0;
}

/* ---- life ---- */

int haul_destination_init(struct haul_migration *migration, struct haul_error *error)
{
    if (migration->mode == HAUL_MODE_BACKGROUND_SNAPSHOT) {
        return haul_error_set(error, EINVAL,
                              "mode background-snapshot is for a source: a machine is started from its file "
                              "in mode normal");
    }
    migration->destination = calloc(1, sizeof *migration->destination);
    return migration->destination ? 0 : haul_error_set(error, ENOMEM, "no memory for the destination");
}

static void free_present(struct haul_migration *migration)
{
    for (uint32_t i = 0; migration->views && i < migration->view_count; i++) {
        free((void *)migration->views[i].maybe_nonzero);
        migration->views[i].maybe_nonzero = NULL;
    }
}

int haul_destination_start(struct haul_migration *migration, const char *uri, struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    unsigned threads =
        migration->options.populate_threads ? migration->options.populate_threads : haul_allowed_cpus();
    bool copies = migration->mode == HAUL_MODE_NORMAL; /* else nothing is ever written here */
    int rc = copies ? note_present(migration, error) : 0;
    if (rc == 0) {
        struct haul_transport_options options = haul_migration_transport(migration);
        rc = migration->file_path ? haul_file_destination_open(migration, error)
                                  : haul_listener_open(uri, &options, &migration->listener, error);
    }
    if (rc == 0) {
        destination->uri = strdup(migration->file_path ? uri : haul_listener_uri(migration->listener));
        rc = destination->uri ? 0 : haul_error_set(error, ENOMEM, "no memory for the destination's address");
    }
    if (rc == 0 && copies && migration->options.populate && !migration->file_path) {
        rc = haul_populate_start(migration, threads, &destination->populate, error);
    }
    if (rc == 0) {
        rc = haul_thread_start(&migration->thread, haul_destination_loader, migration);
        rc = rc == 0 ? 0 : haul_error_set(error, -rc, "cannot start the loader: %s", strerror(-rc));
    }
    if (rc < 0) {
        haul_populate_stop(destination->populate);
        destination->populate = NULL;
        haul_listener_close(migration->listener);
        migration->listener = NULL;
        pthread_mutex_lock(&migration->lock); /* a cancel may look at it */
        struct haul_file_destination *file = destination->file;
        destination->file = NULL;
        pthread_mutex_unlock(&migration->lock);
        haul_file_destination_free(file);
        free(destination->uri);
        destination->uri = NULL;
        free_present(migration);
    }
    return rc;
}

const char *haul_destination_uri(const struct haul_migration *migration)
{
    return migration->destination->uri;
}

/* Adds up the channels' counters; under migration->lock. */
void haul_destination_counters(struct haul_migration *migration, struct haul_stats *stats)
{
    for (unsigned i = 0; i < HAUL_CHANNELS_MAX; i++) {
        struct haul_channel_counters counters;
        if (haul_destination_channel(migration, i, &counters) < 0) {
            continue;
        }
        haul_migration_count_channel(&counters, stats);
    }
    stats->compression_ratio = 1.0;
}

int haul_destination_channel(struct haul_migration *migration, unsigned index,
                             struct haul_channel_counters *counters)
{
    if (migration->destination->file) {
        return haul_file_destination_channel(migration->destination->file, index, counters);
    }
    if (index >= HAUL_CHANNELS_MAX || !migration->destination->receivers[index]) {
        return -ENOENT;
    }
    haul_receiver_counters(migration->destination->receivers[index], counters);
    return 0;
}

void haul_destination_wake(struct haul_migration *migration)
{
    pthread_mutex_lock(&migration->lock);
    bool made = migration->destination->barrier_made;
    if (migration->destination->file) {
        haul_file_destination_wake(migration->destination->file);
    }
    pthread_mutex_unlock(&migration->lock);
    if (made) {
        haul_barrier_abort(&migration->destination->barrier);
    }
}

void haul_destination_cleanup(struct haul_migration *migration)
{
    struct haul_destination *destination = migration->destination;
    for (unsigned i = 0; i < HAUL_CHANNELS_MAX; i++) {
        haul_receiver_free(destination->receivers[i]);
    }
    if (destination->barrier_made) {
        haul_barrier_destroy(&destination->barrier);
    }
    haul_file_destination_free(destination->file);
    free_present(migration);
    free(destination->uri);
    free(destination->source_views);
    free(destination);
}
