/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/file/source.h"

#include "channels/snapshot/carrier_file.h"
#include "engine/block_table.h"
#include "engine/clock.h"
#include "engine/source/source.h"
#include "engine/state_stream.h"

#include <errno.h>
#include <stdlib.h>

struct haul_file_source {
    struct haul_snapshot_writer *writer;
    struct haul_file_rounds *rounds;
    uint64_t flush_ns; /* what a flush with next to nothing to write took */
};

int haul_file_source_check(const struct haul_migration *migration, struct haul_error *error)
{
    if (migration->compress != HAUL_CODEC_RAW && migration->compress != HAUL_COMPRESS_AUTO) {
        return haul_error_set(error, ENOTSUP,
                              "a file keeps every page at its own place, so it cannot be compressed: leave "
                              "--compress %s out",
                              haul_codec_by_id((unsigned)migration->compress)->name);
    }
    if (migration->mode == HAUL_MODE_CPR_TRANSFER) {
        return haul_error_set(error, ENOTSUP,
                              "memory is handed over to a process, not to a file: leave the mode out");
    }
    return 0;
}

static int make_writer(struct haul_migration *migration, struct haul_file_source *file,
                       struct haul_error *error)
{
    unsigned char *table = malloc(HAUL_FRAME_MAX);
    if (!table) {
        return haul_error_set(error, ENOMEM, "no memory for the block table");
    }
    size_t length = haul_block_table_encode(migration, table, HAUL_FRAME_MAX);
    int rc = haul_snapshot_writer_new(migration->file_path, table, length, migration->options.direct_io,
                                      &file->writer, error);
    free(table);
    return rc;
}

int haul_file_source_open(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_file_source *file = calloc(1, sizeof *file);
    if (!file) {
        return haul_error_set(error, ENOMEM, "no memory for a file");
    }
    migration->source->file = file;
    int rc = make_writer(migration, file, error);
    if (rc == 0) {
        rc = haul_file_rounds_new(file->writer, migration->options.channels, &file->rounds, error);
    }
    uint64_t begun = haul_now_ns();
    if (rc == 0) {
        rc = haul_snapshot_flush(file->writer, error);
    }
    file->flush_ns = haul_now_ns() - begun;
    return rc;
}

uint64_t haul_file_source_cost_ns(const struct haul_file_source *file)
{
    return 2 * file->flush_ns; /* the file, and its directory */
}

int haul_file_source_carrier(struct haul_file_source *file, int node, struct haul_carrier **carrier,
                             struct haul_error *error)
{
    return haul_carrier_file_new(file->rounds, node, carrier, error);
}

struct haul_snapshot_writer *haul_file_source_writer(const struct haul_file_source *file)
{
    return file->writer;
}

uint32_t haul_file_source_rounds_done(const struct haul_file_source *file)
{
    return haul_file_rounds_done(file->rounds);
}

void haul_file_source_stopped(struct haul_file_source *file)
{
    haul_file_rounds_hurry(file->rounds);
}

static int take(void *opaque, enum haul_frame_type type, const void *payload, size_t length,
                struct haul_error *error)
{
    return haul_snapshot_add_state(opaque, type, payload, length, error);
}

int haul_file_source_save(struct haul_file_source *file, const struct haul_handler *handler,
                          struct haul_error *error)
{
    const struct haul_state_sink sink = {.take = take, .opaque = file->writer};
    return haul_state_save_to(&sink, handler, 0, error);
}

/* ---- comparing ---- */

struct comparison {
    struct haul_migration *migration;
    struct haul_snapshot_writer *writer;
    uint64_t leaves;
    _Atomic uint64_t next;   /* relaxed: hands out leaves */
    _Atomic(bool) failed;    /* relaxed: ends the others sooner */
    pthread_mutex_t lock;    /* for `error` */
    struct haul_error error; /* of the first that failed; code 0: none */
};

static int compare_leaf(struct comparison *job, uint64_t number, struct haul_error *error)
{
    const struct haul_snapshot_layout *layout = haul_snapshot_writer_layout(job->writer);
    uint32_t block = 0;
    while (number >= layout->blocks[block].leaves) {
        number -= layout->blocks[block++].leaves;
    }
    return haul_snapshot_compare(job->writer, block, number, job->migration->views[block].host, error);
}

static void compare_leaves(struct comparison *job)
{
    struct haul_error error;
    for (;;) {
        uint64_t number = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (number >= job->leaves || atomic_load_explicit(&job->failed, memory_order_relaxed) ||
            haul_migration_cancelled(job->migration)) {
            return;
        }
        if (compare_leaf(job, number, &error) < 0) {
            pthread_mutex_lock(&job->lock);
            job->error = job->error.code ? job->error : error;
            pthread_mutex_unlock(&job->lock);
            atomic_store_explicit(&job->failed, true, memory_order_relaxed);
        }
    }
}

static void *compare_main(void *argument)
{
    struct comparison *job = argument;
    struct haul_thread_entry entry;
    haul_thread_enter(&job->migration->threads, &entry, "verify", HAUL_THREAD_ALONE);
    compare_leaves(job);
    haul_thread_leave(&job->migration->threads, &entry);
    return NULL;
}

static int compare(struct haul_migration *migration, struct haul_file_source *file, struct haul_error *error)
{
    struct comparison job = {.migration = migration,
                             .writer = file->writer,
                             .leaves = haul_snapshot_writer_layout(file->writer)->leaves,
                             .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t helpers[HAUL_CHANNELS_MAX];
    unsigned wanted = haul_allowed_cpus() - 1;
    unsigned started = 0;
    while (started < wanted && started < HAUL_CHANNELS_MAX &&
           haul_thread_start(&helpers[started], compare_main, &job) == 0) {
        started++; /* fewer only take longer: this thread compares too */
    }
    compare_leaves(&job);
    for (unsigned i = 0; i < started; i++) {
        pthread_join(helpers[i], NULL);
    }
    if (job.error.code != 0) {
        *error = job.error;
        return haul_error_prefix(error, "verify: ");
    }
    return haul_migration_cancelled(migration) ? haul_error_set(error, ECANCELED, "cancelled") : 0;
}

/* ---- the end ---- */

int haul_file_source_complete(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_file_source *file = migration->source->file;
    int rc = migration->options.verify ? compare(migration, file, error) : 0;
    if (rc == 0) {
        rc = haul_snapshot_complete(file->writer, migration->id, error);
    }
    if (rc == 0) {
        haul_file_rounds_settled(file->rounds);
    }
    return rc;
}

int haul_file_source_publish(struct haul_file_source *file, bool *uncertain, struct haul_error *error)
{
    bool published = false;
    int rc = haul_snapshot_publish(file->writer, &published, error);
    *uncertain = rc < 0 && published;
    return rc;
}

void haul_file_source_discard(struct haul_file_source *file)
{
    if (file->writer) {
        haul_snapshot_discard(file->writer);
    }
}

void haul_file_source_free(struct haul_file_source *file)
{
    if (file) {
        haul_file_rounds_free(file->rounds);
        haul_snapshot_writer_free(file->writer);
        free(file);
    }
}
