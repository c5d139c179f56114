/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinator of a background snapshot. Everything that takes long comes before or after the stop: memory
 * is protected while the guest runs (what it writes until the stop is protected once more then), and saved
 * while it runs again.
 */
#include "engine/background/background.h"

#include "engine/clock.h"
#include "engine/file/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOK_NS 100000000u /* at most, between two looks at the writers */

/* ---- failing ---- */

void haul_bg_fail(struct haul_background *background, const struct haul_error *error)
{
    pthread_mutex_lock(&background->lock);
    if (background->error.code == 0) {
        background->error = *error;
        /* Release, pairs with the acquire in check. */
        atomic_store_explicit(&background->failed, error->code, memory_order_release);
    }
    pthread_mutex_unlock(&background->lock);
    /* No write waits any more: the coordinator may be in a call that waits for one. */
    haul_bg_pages_give_up(&background->pages);
    haul_bg_pool_close(&background->pool);
    haul_doorbell_ring(&background->migration->source->bell);
}

static int check(struct haul_background *background, struct haul_error *error)
{
    /* Acquire, pairs with the release in haul_bg_fail. */
    if (atomic_load_explicit(&background->failed, memory_order_acquire) != 0) {
        pthread_mutex_lock(&background->lock);
        *error = background->error;
        pthread_mutex_unlock(&background->lock);
        return -error->code;
    }
    return haul_migration_cancelled(background->migration) ? haul_error_set(error, ECANCELED, "cancelled")
                                                           : 0;
}

/* ---- life ---- */

int haul_background_check(const struct haul_migration *migration, struct haul_error *error)
{
    const struct haul_options *options = &migration->options;
    if (!migration->file_path) {
        return haul_error_set(error, EINVAL, "'%s' is no file: a background snapshot is written to file:PATH",
                              migration->uri);
    }
    if (!migration->guard) {
        return haul_error_set(error, EINVAL,
                              "a background snapshot needs a write guard; call haul_set_write_guard first");
    }
    const char *useless = options->verify                    ? "verify"
                          : options->auto_converge           ? "auto-converge"
                          : options->pause_before_switchover ? "pause-before-switchover"
                                                             : NULL;
    if (useless) {
        return haul_error_set(error, ENOTSUP, "the guest goes on during a background snapshot: leave %s out",
                              useless);
    }
    return 0;
}

static size_t largest(const struct haul_bg_pages *pages, bool chunks)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < pages->block_count; i++) {
        uint32_t size = chunks ? pages->blocks[i].chunk : pages->blocks[i].cluster;
        most = size > most ? size : most;
    }
    return most * HAUL_PAGE_SIZE;
}

static int make_writers(struct haul_background *background, struct haul_error *error)
{
    struct haul_migration *migration = background->migration;
    struct haul_placement_slot slots[HAUL_CHANNELS_MAX];
    unsigned count = migration->options.channels;
    int rc = haul_source_plan_placement(migration, slots, error);
    if (rc < 0) {
        return rc;
    }
    /* Each has doorbells and counters on cache lines of their own, more than calloc aligns to. */
    size_t size = count * sizeof *background->writers;
    background->writers = aligned_alloc(alignof(struct haul_bg_writer), size);
    if (!background->writers) {
        return haul_error_set(error, ENOMEM, "no memory for %u writers", count);
    }
    memset(background->writers, 0, size);
    for (unsigned i = 0; i < count; i++) {
        struct haul_bg_writer *writer = &background->writers[i];
        background->writer_count = i + 1;
        writer->background = background;
        writer->index = i;
        writer->slot = slots[i];
        writer->copy_size = largest(&background->pages, true);
        writer->copy = haul_placement_alloc(writer->copy_size, slots[i].node);
        writer->sums = calloc(HAUL_SNAPSHOT_PUT_PAGES, sizeof *writer->sums);
        if (!writer->copy || !writer->sums) {
            return haul_error_set(error, ENOMEM, "no memory for %u writers", count);
        }
        haul_doorbell_init(&writer->bell);
        haul_account_start(&writer->account);
    }
    return 0;
}

/* A small guest needs no large pool. */
static size_t pool_bytes(const struct haul_bg_pages *pages)
{
    uint64_t quarter = pages->total * HAUL_PAGE_SIZE / 4;
    return quarter < HAUL_BG_POOL_BYTES ? (size_t)quarter : HAUL_BG_POOL_BYTES;
}

static int make(struct haul_migration *migration, struct haul_background **made, struct haul_error *error)
{
    /* It holds doorbells, see make_writers. */
    struct haul_background *background = aligned_alloc(alignof(struct haul_background), sizeof *background);
    if (!background) {
        return haul_error_set(error, ENOMEM, "no memory for a snapshot");
    }
    memset(background, 0, sizeof *background);
    *made = background;
    haul_bg_priority_init(&background->priority);
    background->migration = migration;
    background->file = haul_file_source_writer(migration->source->file);
    pthread_mutex_init(&background->lock, NULL);
    background->fault_stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (background->fault_stop_fd < 0) {
        return haul_error_set(error, errno, "cannot make an eventfd: %s", strerror(errno));
    }
    int rc = haul_bg_pages_init(&background->pages, migration, error);
    if (rc == 0) {
        rc = haul_bg_pool_init(&background->pool, pool_bytes(&background->pages),
                               largest(&background->pages, false), error);
    }
    return rc < 0 ? rc : make_writers(background, error);
}

void haul_background_free(struct haul_background *background)
{
    if (!background) {
        return;
    }
    for (unsigned i = 0; i < background->writer_count; i++) {
        haul_placement_free(background->writers[i].copy, background->writers[i].copy_size);
        free(background->writers[i].sums);
    }
    free(background->writers);
    haul_bg_pool_cleanup(&background->pool);
    haul_bg_pages_cleanup(&background->pages);
    if (background->fault_stop_fd >= 0) {
        close(background->fault_stop_fd);
    }
    pthread_mutex_destroy(&background->priority.lock);
    pthread_mutex_destroy(&background->lock);
    free(background);
}

/* ---- the steps ---- */

static int start_threads(struct haul_background *background, struct haul_error *error)
{
    atomic_store_explicit(&background->streaming, background->writer_count, memory_order_relaxed);
    int rc = haul_bg_faults_start(background, error);
    for (unsigned i = 0; rc == 0 && i < background->writer_count; i++) {
        rc = haul_bg_writer_start(&background->writers[i], error);
    }
    haul_bg_priority_begin(background);
    return rc;
}

static int setup(struct haul_migration *migration, struct haul_error *error)
{
    if (haul_migration_set_state(migration, HAUL_STATE_SETUP) < 0) {
        return haul_error_set(error, EINVAL, "the migration is not in a state to start");
    }
    struct haul_background *background = NULL;
    int rc = haul_file_source_open(migration, error);
    if (rc == 0) {
        rc = haul_source_setup_handlers(migration, error);
    }
    if (rc == 0) {
        rc = haul_source_save_state(migration, true, error);
    }
    if (rc == 0) {
        rc = make(migration, &background, error);
    }
    pthread_mutex_lock(&migration->lock);
    migration->source->background = background; /* also what is half made: it is freed in the end */
    migration->stats.setup_time_ns = haul_now_ns() - migration->started_ns;
    pthread_mutex_unlock(&migration->lock);
    if (rc == 0) {
        rc = start_threads(background, error);
    }
    if (rc == 0) {
        rc = haul_bg_pages_arm(&background->pages, error);
    }
    return rc == 0 ? check(background, error) : rc;
}

/* The guest stands still for what is in here. */
static int take_the_moment(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_background *background = migration->source->background;
    uint64_t stopped;
    uint64_t stop_done;
    int rc = haul_source_stop(migration, &stopped, &stop_done, error);
    if (rc == 0 && haul_migration_set_state(migration, HAUL_STATE_DEVICE) < 0) {
        rc = haul_error_set(error, EINVAL, "the migration is not in a state to save device state");
    }
    if (rc == 0) {
        rc = haul_source_save_state(migration, false, error);
    }
    uint64_t saved = haul_now_ns();
    if (rc == 0) {
        rc = check(background, error);
    }
    if (rc == 0) { /* after the state: saving it may write memory (trap T9) */
        rc = haul_bg_pages_moment(&background->pages, error);
    }
    uint64_t protected = haul_now_ns();
    if (rc == 0) {
        rc = haul_source_resume(migration, error);
    }
    if (rc < 0) {
        return rc;
    }
    uint64_t resumed = haul_now_ns();
    pthread_mutex_lock(&migration->lock);
    migration->stats.actual = (struct haul_downtime){
        .total_ns = resumed - stopped,
        .stop_ns = stop_done - stopped,
        .device_ns = saved - stop_done,
        .last_pass_ns = protected - saved,
        .start_ns = resumed - protected,
    };
    pthread_mutex_unlock(&migration->lock);
    return 0;
}

static void publish_progress(struct haul_background *background)
{
    struct haul_migration *migration = background->migration;
    uint64_t taken = atomic_load_explicit(&background->pages.taken_pages, memory_order_relaxed);
    pthread_mutex_lock(&migration->lock);
    migration->stats.remaining = (background->pages.total - taken) * HAUL_PAGE_SIZE;
    migration->stats.migration_thread_cpu_ns = haul_thread_cpu_ns();
    pthread_mutex_unlock(&migration->lock);
}

/* Lets the writers read memory, and waits until all of it is taken and released. */
static int stream(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_background *background = migration->source->background;
    struct haul_doorbell *bell = &migration->source->bell;
    if (haul_migration_set_state(migration, HAUL_STATE_ACTIVE) < 0) {
        return haul_error_set(error, EINVAL, "the migration is not in a state to save memory");
    }
    /* Release, pairs with the acquire in the writers: they see the pages of the moment. */
    atomic_store_explicit(&background->begun, true, memory_order_release);
    haul_bg_writers_ring(background);
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(bell);
        int rc = check(background, error);
        publish_progress(background);
        haul_bg_priority_look(background);
        /* Acquire, pairs with the decrement by the last writer. */
        if (rc < 0 || atomic_load_explicit(&background->streaming, memory_order_acquire) == 0) {
            return rc;
        }
        haul_doorbell_wait(bell, ticket, LOOK_NS);
    }
}

/* Ends the fault thread; no write has to wait any more, or none is saved. */
static void end_faults(struct haul_background *background)
{
    uint64_t one = 1;
    if (background->fault_started) {
        ssize_t written = write(background->fault_stop_fd, &one, sizeof one);
        (void)written; /* the counter of an eventfd never is at its limit here */
        pthread_join(background->fault_thread, NULL);
        background->fault_started = false;
    }
}

/* The writers store what is left, unless aborted, and end. */
static void end_writers(struct haul_background *background)
{
    /* Release, pairs with the acquire in the writers. */
    atomic_store_explicit(&background->draining, true, memory_order_release);
    haul_bg_priority_end(background);
    haul_bg_writers_ring(background);
    for (unsigned i = 0; i < background->writer_count; i++) {
        if (background->writers[i].started) {
            pthread_join(background->writers[i].thread, NULL);
            background->writers[i].started = false;
        }
    }
}

static void stop_guard(struct haul_migration *migration)
{
    if (migration->source->tracking) {
        migration->source->tracking = false;
        migration->guard->stop(migration->guard_opaque);
    }
}

static int complete(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_background *background = migration->source->background;
    bool uncertain = false;
    end_faults(background);
    stop_guard(migration);
    end_writers(background);
    int rc = check(background, error);
    if (rc == 0 && migration->guest.saved) {
        rc = migration->guest.saved(migration->guest_opaque, error);
    }
    if (rc == 0) {
        rc = haul_file_source_complete(migration, error);
    }
    if (rc == 0 && !haul_migration_commit(migration)) {
        rc = haul_error_set(error, ECANCELED, "cancelled");
    }
    if (rc == 0) {
        rc = haul_file_source_publish(migration->source->file, &uncertain, error);
        pthread_mutex_lock(&migration->lock);
        migration->stats.file_complete = rc == 0 || uncertain;
        pthread_mutex_unlock(&migration->lock);
    }
    if (rc < 0 && uncertain) {
        haul_error_prefix(error, "the file is complete and has its name, but a crash of this host could lose "
                                 "it: ");
    }
    return rc;
}

/*
 * Undoes everything: the guest first. Until the guard is gone the fault thread lets every write go on, so
 * that no write waits for a disk that does not answer.
 */
static void give_up(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    struct haul_background *background = source->background;
    if (background) {
        haul_bg_pages_give_up(&background->pages);
        haul_bg_pool_close(&background->pool);
    }
    struct haul_error failure = {0};
    bool runs = haul_source_give_back(migration, &failure);
    if (background) {
        atomic_store_explicit(&background->aborted, true, memory_order_relaxed);
        end_writers(background);
        end_faults(background);
    }
    stop_guard(migration);
    if (runs) {
        haul_migration_step(migration, HAUL_STEP_RESUMED, NULL);
    } else {
        haul_source_blame_resume(migration, &failure);
    }
    if (source->file) {
        haul_file_source_discard(source->file);
    }
}

void *haul_bg_migration_thread(void *argument)
{
    struct haul_migration *migration = argument;
    struct haul_thread_entry entry;
    haul_thread_enter(&migration->threads, &entry, "bg-migration", HAUL_THREAD_ALONE);
    migration->source->tracking = true; /* the guard is to be stopped, on every path */
    int rc = setup(migration, &migration->error);
    if (rc == 0) {
        rc = take_the_moment(migration, &migration->error);
    }
    if (rc == 0) {
        rc = stream(migration, &migration->error);
    }
    if (rc == 0) {
        rc = complete(migration, &migration->error);
    }
    if (rc < 0) {
        give_up(migration);
    }
    migration->result = rc;
    if (rc == -ECANCELED) {
        haul_migration_set_state(migration, HAUL_STATE_CANCELLING);
        haul_migration_set_state(migration, HAUL_STATE_CANCELLED);
    } else {
        haul_migration_set_state(migration, rc == 0 ? HAUL_STATE_COMPLETED : HAUL_STATE_FAILED);
    }
    haul_thread_leave(&migration->threads, &entry);
    return NULL;
}

/* ---- counters ---- */

int haul_background_channel(struct haul_background *background, unsigned index,
                            struct haul_channel_counters *counters)
{
    if (index >= background->writer_count) {
        return -ENOENT;
    }
    haul_account_read(&background->writers[index].account, NULL, counters);
    counters->node = background->writers[index].slot.node;
    return 0;
}

void haul_background_counters(struct haul_background *background, struct haul_stats *stats)
{
    const struct haul_wait_histogram *waits = &background->waits;
    for (unsigned i = 0; i < background->writer_count; i++) {
        struct haul_channel_counters counters;
        haul_background_channel(background, i, &counters);
        stats->transferred += counters.bytes_delivered;
        stats->normal += counters.raw_pages;
        stats->duplicate += counters.zero_pages;
    }
    stats->write_faults = atomic_load_explicit(&background->waits.count, memory_order_relaxed);
    stats->write_fault_p50_ns = haul_wait_histogram_percentile(waits, 50);
    stats->write_fault_p99_ns = haul_wait_histogram_percentile(waits, 99);
    stats->write_fault_longest_ns = atomic_load_explicit(&background->waits.longest_ns, memory_order_relaxed);
}
