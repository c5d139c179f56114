/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/source.h"

#include "engine/background/background.h"
#include "engine/bitmap.h"
#include "engine/clock.h"
#include "engine/cpr.h"
#include "engine/destination/populate.h"
#include "engine/disks.h"
#include "engine/file/source.h"
#include "engine/holes.h"
#include "engine/rdma.h"
#include "engine/source/map_ahead.h"
#include "engine/streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define QUIESCE_POLL_NS 100000000u /* a sender that hands its last batch back rings; this is for safety */

/* ---- memory ---- */

static int make_bitmaps(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    source->bitmaps = calloc(migration->view_count, sizeof *source->bitmaps);
    source->present = calloc(migration->view_count, sizeof *source->present);
    for (uint32_t i = 0; source->bitmaps && source->present && i < migration->view_count; i++) {
        size_t words = haul_bits_words(migration->views[i].pages);
        source->bitmaps[i] = calloc(words, sizeof(uint64_t));
        source->present[i] = calloc(words, sizeof(uint64_t));
        if (!source->bitmaps[i] || !source->present[i]) {
            return haul_error_set(error, ENOMEM, "no memory for the dirty bitmaps");
        }
    }
    return source->bitmaps && source->present
               ? 0
               : haul_error_set(error, ENOMEM, "no memory for the dirty bitmaps");
}

/* Tells the destination which chunks of `block` will come with content. */
static int send_present(struct haul_migration *migration, uint32_t block, struct haul_error *error)
{
    uint64_t pages = migration->views[block].pages;
    uint64_t per_chunk = HAUL_POPULATE_CHUNK / HAUL_PAGE_SIZE;
    uint64_t chunks = (pages + per_chunk - 1) / per_chunk;
    size_t bytes = (size_t)((chunks + 7) / 8);
    size_t capacity = bytes + 16;
    if (migration->source->file || capacity > HAUL_FRAME_MAX) {
        return 0; /* nobody to tell; or over 16 TiB: the destination populates everything */
    }
    unsigned char *payload = calloc(1, capacity);
    unsigned char *bits = calloc(1, bytes);
    if (!payload || !bits) {
        free(bits);
        free(payload);
        return haul_error_set(error, ENOMEM, "no memory for the map of present memory");
    }
    for (uint64_t chunk = 0; chunk < chunks; chunk++) {
        uint64_t first, count;
        uint64_t end = (chunk + 1) * per_chunk < pages ? (chunk + 1) * per_chunk : pages;
        if (haul_bitmap_next_run(migration->source->present[block], end, chunk * per_chunk, 1, &first,
                                 &count)) {
            bits[chunk / 8] |= (unsigned char)(1u << (chunk % 8));
        }
    }
    struct haul_writer writer;
    haul_writer_init(&writer, payload, capacity);
    haul_writer_u32(&writer, block);
    haul_writer_u64(&writer, chunks);
    haul_writer_bytes(&writer, bits, bytes);
    int rc = haul_control_send(migration->control, HAUL_FRAME_PRESENT, payload, haul_writer_length(&writer),
                               error);
    free(bits);
    free(payload);
    return rc;
}

/* Sets in source->present every page that may hold content. The tracker already sees what is written
 * meanwhile. */
static int find_present(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    for (uint32_t i = 0; i < migration->block_count; i++) {
        if (migration->tracker->clear_holes) {
            haul_bitmap_set(source->present[i], 0, migration->views[i].pages);
        } else {
            haul_holes_present(&migration->blocks[i], source->present[i]);
        }
    }
    if (migration->tracker->clear_holes) {
        migration->tracker->clear_holes(migration->tracker_opaque, source->present);
    }
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < haul_disks_count(migration); i++) {
        uint64_t *present = source->present[migration->block_count + i];
        rc = haul_disk_present(&migration->disks->disk[i], present, error);
    }
    return rc;
}

/* Round 1 sends every page that may hold content. */
static int plan_first_round(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    int rc = find_present(migration, error);
    for (uint32_t i = 0; rc == 0 && i < migration->view_count; i++) {
        uint64_t pages = migration->views[i].pages;
        memcpy(source->bitmaps[i], source->present[i], haul_bits_words(pages) * sizeof(uint64_t));
        rc = migration->views[i].io ? 0 : send_present(migration, i, error);
    }
    haul_source_count_dirty(migration);
    return rc;
}

static int start_tracker(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    source->tracking = true; /* stop is due even when start fails half way */
    int rc = migration->tracker->start(migration->tracker_opaque, error);
    if (rc < 0) {
        return haul_error_prefix(error, "starting the dirty tracker: ");
    }
    source->last_sync_ns = haul_now_ns();
    return haul_disks_start(migration, error);
}

/* ---- setup ---- */

int haul_source_setup_handlers(struct haul_migration *migration, struct haul_error *error)
{
    haul_source_ask_costs(migration);
    for (uint32_t i = 0; i < migration->handler_count; i++) {
        const struct haul_handler *handler = &migration->handlers[i];
        int rc = handler->ops->setup ? handler->ops->setup(handler->opaque, error) : 0;
        if (rc < 0) {
            return haul_error_prefix(error, "state handler %s: ", handler->ops->name);
        }
    }
    return 0;
}

/* Makes ready whoever is to take the guest. */
static int open_other_side(struct haul_migration *migration, struct haul_error *error)
{
    if (migration->file_path) {
        return haul_file_source_open(migration, error);
    }
    return haul_source_meet(migration, error);
}

/* What only a copied memory needs. */
static int setup_copying(struct haul_migration *migration, struct haul_error *error)
{
    int rc = make_bitmaps(migration, error);
    if (rc == 0) {
        rc = start_tracker(migration, error);
    }
    if (rc == 0) {
        rc = plan_first_round(migration, error);
    }
    if (rc == 0) {
        migration->source->map_ahead = haul_map_ahead_start(migration);
        rc = haul_source_open_channels(migration, error);
    }
    if (rc == 0) {
        rc = haul_streams_connect(migration, error);
    }
    return rc;
}

static int setup(struct haul_migration *migration, struct haul_error *error)
{
    if (haul_migration_set_state(migration, HAUL_STATE_SETUP) < 0) {
        return haul_error_set(error, EINVAL, "the migration is not in a state to start");
    }
    int rc = open_other_side(migration, error);
    if (rc == 0) {
        rc = haul_migration_try_step(migration, &migration->source->estimate.sending_ns, error);
    }
    if (rc == 0) {
        rc = haul_source_setup_handlers(migration, error);
    }
    if (rc == 0) {
        rc = migration->mode == HAUL_MODE_NORMAL ? setup_copying(migration, error)
                                                 : haul_cpr_hand_over(migration, error);
    }
    if (rc == 0) {
        rc = haul_source_save_state(migration, true, error);
    }
    if (rc == 0) {
        pthread_mutex_lock(&migration->lock);
        migration->stats.setup_time_ns = haul_now_ns() - migration->started_ns;
        pthread_mutex_unlock(&migration->lock);
        migration->source->window_started_ns = haul_now_ns();
        rc = haul_migration_set_state(migration, HAUL_STATE_ACTIVE) < 0 ? -EINVAL : 0;
    }
    return rc;
}

/* ---- the thread ---- */

static int migrate(struct haul_migration *migration, bool *uncertain, struct haul_error *error)
{
    int rc = setup(migration, error);
    while (rc == 0) {
        rc = migration->mode == HAUL_MODE_NORMAL ? haul_source_rounds(migration, error)
                                                 : haul_source_predict(migration, error);
        if (rc == 0) {
            rc = haul_source_switchover(migration, uncertain, error);
            if (rc == 0) {
                return 0;
            }
            rc = rc == 1 ? 0 : rc;
        }
    }
    return rc;
}

/* What really ended a migration that failed with `rc`; may wait for the destination. */
static int explain(struct haul_migration *migration, int rc)
{
    struct haul_source *source = migration->source;
    /* "Broken pipe" says less than the destination's own reason, if there is one. */
    if (rc == -EPIPE || rc == -ECONNRESET || (source->channel_broke && !source->file)) {
        int reason = haul_migration_reason(migration, &migration->error);
        rc = reason < 0 ? reason : rc;
    }
    /* A cancel looks like many a failure: a handshake whose socket was shut down, a channel that broke. */
    if (rc != -ECANCELED && haul_migration_cancelled(migration)) {
        rc = haul_error_set(&migration->error, ECANCELED, "cancelled");
    }
    return rc;
}

/* The guest is the source's: it runs again before anything is asked or tidied up. Returns what ended the
 * migration. */
static int give_back(struct haul_migration *migration, int rc)
{
    struct haul_source *source = migration->source;
    struct haul_error failure = {0};
    struct haul_error error = {0};
    haul_streams_abort(migration->streams); /* the guest's machine may wait for what they carry */
    bool runs = haul_source_give_back(migration, &failure);
    if (source->throttle_percent > 0) {
        migration->guest.throttle(migration->guest_opaque, 0, &error);
    }
    if (runs) {
        haul_migration_step(migration, HAUL_STEP_RESUMED, NULL);
    }
    rc = explain(migration, rc);
    if (!runs) {
        haul_source_blame_resume(migration, &failure);
    }
    if (migration->control) {
        haul_control_fail(migration->control, &migration->error);
    }
    if (source->file) {
        haul_file_source_discard(source->file);
    }
    return rc;
}

/* Until no sender reads a disk any more: what failed or was aborted still hands its batches back. */
static void await_senders(struct haul_source *source)
{
    for (unsigned i = 0; i < source->sender_count; i++) {
        for (;;) {
            uint32_t ticket = haul_doorbell_ticket(&source->bell);
            if (haul_sender_in_flight(source->senders[i]) == 0) {
                break;
            }
            haul_doorbell_wait(&source->bell, ticket, QUIESCE_POLL_NS);
        }
    }
}

static void finish(struct haul_migration *migration, int rc, bool uncertain)
{
    struct haul_source *source = migration->source;
    enum haul_ownership owner = rc == 0     ? HAUL_OWNER_DESTINATION
                                : uncertain ? HAUL_OWNER_UNCERTAIN
                                            : HAUL_OWNER_SOURCE;
    if (uncertain && source->file) {
        haul_error_prefix(
            &migration->error,
            "the file is complete and has its name, but a crash of this host could lose it; the "
            "guest stays paused here: look at the file, then resume or abandon the guest: ");
    } else if (uncertain) {
        haul_error_prefix(
            &migration->error,
            "HANDOVER was sent and the destination did not confirm that the guest runs there; the guest "
            "stays paused here: look at the destination, then resume or abandon it: ");
    } else if (rc < 0) {
        rc = give_back(migration, rc);
    } else {
        haul_migration_step(migration, HAUL_STEP_RUNNING, NULL);
        if (migration->guest.handed_over) {
            migration->guest.handed_over(migration->guest_opaque);
        }
    }
    migration->result = rc;
    if ((rc == -EPIPE || rc == -ECONNRESET) && migration->connector) {
        haul_connector_explain(migration->connector, &migration->error); /* may wait: the guest runs by now */
    }
    if (source->tracking) {
        migration->tracker->stop(migration->tracker_opaque);
    }
    haul_source_forget_present(migration);
    for (unsigned i = 0; i < source->sender_count; i++) {
        haul_sender_abort(source->senders[i]);
    }
    if (haul_disks_count(migration) > 0) {
        await_senders(source);
        haul_disks_stop(migration);
    }
    haul_streams_stop(migration->streams);
    pthread_mutex_lock(&migration->lock);
    migration->stats.ownership = owner;
    migration->stats.migration_thread_cpu_ns = haul_thread_cpu_ns();
    if (rc == 0) {
        migration->stats.remaining = migration->stats.disk.remaining = 0;
    }
    pthread_mutex_unlock(&migration->lock);
    if (rc == -ECANCELED) {
        haul_migration_set_state(migration, HAUL_STATE_CANCELLING);
        haul_migration_set_state(migration, HAUL_STATE_CANCELLED);
    } else {
        haul_migration_set_state(migration, rc == 0 ? HAUL_STATE_COMPLETED : HAUL_STATE_FAILED);
    }
}

static void *migration_thread(void *argument)
{
    struct haul_migration *migration = argument;
    struct haul_thread_entry entry;
    haul_thread_enter(&migration->threads, &entry, "migration", HAUL_THREAD_ALONE);
    bool uncertain = false;
    int rc = migrate(migration, &uncertain, &migration->error);
    if (rc == -ECANCELED && uncertain) {
        rc = -EIO; /* the destination's cancel came too late to be one */
        migration->error.code = EIO;
    }
    finish(migration, rc, uncertain);
    haul_thread_leave(&migration->threads, &entry);
    return NULL;
}

/* ---- life ---- */

int haul_source_init(struct haul_migration *migration, struct haul_error *error)
{
    /* The doorbell inside wants a cache line of its own, more than calloc aligns to. */
    struct haul_source *source = aligned_alloc(alignof(struct haul_source), sizeof *source);
    if (source) {
        memset(source, 0, sizeof *source);
    }
    migration->source = source;
    if (!source || !(source->senders = calloc(migration->options.channels, sizeof *source->senders)) ||
        !(source->window_base = calloc(migration->options.channels, sizeof *source->window_base)) ||
        !(source->paces = calloc(migration->options.channels, sizeof *source->paces)) ||
        !(source->link_base_ns = calloc(migration->options.channels, sizeof *source->link_base_ns)) ||
        !(source->carrying_ns = calloc(migration->options.channels, sizeof *source->carrying_ns))) {
        return haul_error_set(error, ENOMEM, "no memory for the channels");
    }
    haul_pace_share(source->paces, migration->options.channels, HAUL_SENDER_DEPTH);
    haul_doorbell_init(&source->bell);
    haul_estimate_init(&source->estimate);
    source->estimate.switchover_bandwidth_bytes_per_s = migration->options.switchover_bandwidth_bytes_per_s;
    source->estimate.shares_memory = migration->mode == HAUL_MODE_CPR_TRANSFER;
    migration->stats.channels = source->estimate.shares_memory ? 0 : migration->options.channels;
    ssize_t got = getrandom(migration->id, sizeof migration->id, 0);
    return got == (ssize_t)sizeof migration->id
               ? 0
               : haul_error_set(error, EIO, "the kernel gave no random migration id");
}

int haul_source_start(struct haul_migration *migration, const char *uri, struct haul_error *error)
{
    bool copies = migration->mode == HAUL_MODE_NORMAL;
    bool background = migration->mode == HAUL_MODE_BACKGROUND_SNAPSHOT;
    if (copies && !migration->tracker) {
        return haul_error_set(error, EINVAL, "the source has no dirty tracker; call haul_set_tracker first");
    }
    if (migration->file_path && haul_file_source_check(migration, error) < 0) {
        return -ENOTSUP;
    }
    if (haul_streams_check(migration, error) < 0) {
        return -EINVAL;
    }
    if (background) {
        int checked = haul_background_check(migration, error);
        if (checked < 0) {
            return checked;
        }
    } else if (!copies) {
        int checked = haul_cpr_check_source(migration, uri, error);
        if (checked < 0) {
            return checked;
        }
    }
    if (migration->options.auto_converge && !migration->guest.throttle) {
        return haul_error_set(error, ENOTSUP,
                              "this kind of guest cannot be slowed down: leave auto-converge out");
    }
    if (copies) {
        strncpy(migration->stats.tracker, migration->tracker->name, sizeof migration->stats.tracker - 1);
    }
    struct haul_transport_options options = haul_migration_transport(migration);
    int rc = migration->file_path ? 0 : haul_connector_open(uri, &options, &migration->connector, error);
    if (rc < 0) {
        return rc;
    }
    rc = haul_thread_start(&migration->thread, background ? haul_bg_migration_thread : migration_thread,
                           migration);
    if (rc < 0) {
        haul_connector_close(migration->connector);
        migration->connector = NULL;
        return haul_error_set(error, -rc, "cannot start the migration thread: %s", strerror(-rc));
    }
    return 0;
}

void haul_source_wake(struct haul_migration *migration)
{
    haul_doorbell_ring(&migration->source->bell);
}

/* Adds up the channels' counters; under migration->lock. */
void haul_source_counters(struct haul_migration *migration, struct haul_stats *stats)
{
    uint64_t compressed_pages = 0;
    uint64_t compressed_bytes = 0;
    for (unsigned i = 0; i < migration->source->sender_count; i++) {
        struct haul_channel_counters counters;
        haul_sender_counters(migration->source->senders[i], &counters);
        haul_migration_count_channel(&counters, stats);
        compressed_pages += counters.compressed_pages;
        compressed_bytes += counters.compressed_bytes;
    }
    if (migration->source->background) {
        haul_background_counters(migration->source->background, stats);
    }
    stats->compression_ratio =
        compressed_bytes ? (double)compressed_pages * HAUL_PAGE_SIZE / (double)compressed_bytes : 1.0;
}

int haul_source_channel(struct haul_migration *migration, unsigned index,
                        struct haul_channel_counters *counters)
{
    if (migration->source->background) {
        return haul_background_channel(migration->source->background, index, counters);
    }
    if (index >= migration->source->sender_count) {
        return -ENOENT;
    }
    haul_sender_counters(migration->source->senders[index], counters);
    return 0;
}

static void free_bitmaps(uint64_t **bitmaps, uint32_t count)
{
    for (uint32_t i = 0; bitmaps && i < count; i++) {
        free(bitmaps[i]);
    }
    free(bitmaps);
}

void haul_source_forget_present(struct haul_migration *migration)
{
    haul_map_ahead_stop(migration->source->map_ahead);
    migration->source->map_ahead = NULL;
    free_bitmaps(migration->source->present, migration->view_count);
    migration->source->present = NULL;
}

void haul_source_cleanup(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    for (unsigned i = 0; i < source->sender_count; i++) {
        haul_sender_free(source->senders[i]);
    }
    haul_rdma_end(migration);
    haul_background_free(source->background);
    haul_file_source_free(source->file);
    haul_source_forget_present(migration);
    free_bitmaps(source->bitmaps, migration->view_count);
    free(source->paces);
    free(source->link_base_ns);
    free(source->carrying_ns);
    free(source->window_base);
    free(source->senders);
    free(source);
}
