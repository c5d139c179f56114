/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/source.h"

#include "engine/bitmap.h"
#include "engine/clock.h"
#include "engine/disks.h"
#include "engine/file/source.h"
#include "engine/memory_nodes.h"
#include "engine/source/map_ahead.h"
#include "engine/streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_SLEEP_NS 100000000u
#define MOST_HOLES_OF_DISK 65536u /* pages a batch: a file system that cannot punch holes writes them all */
#define SLICES_PER_S 50           /* of max-bandwidth, at least: so that it holds at any moment */
#define LEAST_SLICE_PAGES 4

/* ---- failures ---- */

static int take_frame(struct haul_migration *migration, struct haul_frame *frame, struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, frame->payload, frame->length);
    uint32_t round = haul_cursor_u32(&cursor);
    uint64_t flush_ns = haul_disks_count(migration) ? haul_cursor_u64(&cursor) : 0;
    bool good = frame->type == HAUL_FRAME_ROUND_DONE && haul_cursor_done(&cursor) &&
                round == migration->source->rounds_done + 1 && round <= migration->source->round;
    enum haul_frame_type type = frame->type;
    free(frame);
    if (!good) {
        return haul_error_set(error, EPROTO, "the destination sent an unexpected %s", haul_frame_name(type));
    }
    migration->source->rounds_done = round;
    migration->source->flush_ns = flush_ns;
    if (flush_ns > 0) {
        pthread_mutex_lock(&migration->lock);
        migration->stats.disk.flush_ns = flush_ns;
        pthread_mutex_unlock(&migration->lock);
    }
    return 0;
}

int haul_source_check(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    if (haul_migration_cancelled(migration)) {
        return haul_error_set(error, ECANCELED, "cancelled");
    }
    for (unsigned i = 0; i < source->sender_count; i++) {
        if (haul_sender_error(source->senders[i], error) < 0) {
            source->channel_broke = true;
            return -error->code;
        }
    }
    if (source->file) {
        source->rounds_done = haul_file_source_rounds_done(source->file);
        return 0;
    }
    int rc = 0;
    while (rc == 0 && !haul_control_quiet(migration->control)) {
        struct haul_frame *frame = NULL;
        rc = haul_control_next(migration->control, 0, &frame, error);
        if (rc == 0) {
            rc = take_frame(migration, frame, error);
        }
    }
    return rc;
}

struct haul_source_sum haul_source_add_up(const struct haul_source *source)
{
    struct haul_source_sum sum = {0};
    for (unsigned i = 0; i < source->sender_count; i++) {
        struct haul_channel_counters counters;
        haul_sender_counters(source->senders[i], &counters);
        sum.written += counters.bytes_written;
        sum.delivered += counters.bytes_delivered;
        sum.content += counters.raw_pages + counters.compressed_pages;
    }
    return sum;
}

/* ---- rate limit ---- */

static uint64_t in_flight_bytes(const struct haul_source *source)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < source->sender_count; i++) {
        pages += haul_sender_pages_in_flight(source->senders[i]);
    }
    return (uint64_t)((double)pages * source->estimate.wire_bytes_per_page);
}

uint64_t haul_source_rate_limit(const struct haul_migration *migration)
{
    /* Relaxed: pairs with nothing, see haul_set_max_bandwidth. */
    return migration->source->unlimited
               ? 0
               : atomic_load_explicit(&migration->knobs.max_bandwidth, memory_order_relaxed);
}

/* Nanoseconds until max-bandwidth allows another batch, 0 for now. */
static uint64_t rate_limit_wait(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    uint64_t rate = haul_source_rate_limit(migration);
    uint64_t used = 0;
    if (rate > 0) { /* which is asked of every channel's kernel, before every batch */
        used = haul_source_add_up(source).written + in_flight_bytes(source) +
               haul_streams_carried(migration->streams, false);
    }
    return haul_rate_limit_wait(&source->limit, rate, used, haul_now_ns());
}

/* How many pages one batch on channel `index` may have: no more than take some 20 ms. */
static uint32_t batch_pages(const struct haul_migration *migration, unsigned index)
{
    const struct haul_source *source = migration->source;
    /* A disk likes large pieces. */
    uint32_t most = source->file ? HAUL_BATCH_PAGES : source->paces[index].batch_pages;
    uint64_t rate = haul_source_rate_limit(migration);
    uint64_t slice = rate / SLICES_PER_S / HAUL_PAGE_SIZE;
    if (rate == 0 || slice >= most) {
        return most;
    }
    return slice > LEAST_SLICE_PAGES ? (uint32_t)slice : LEAST_SLICE_PAGES;
}

/* ---- waiting for the destination ---- */

int haul_source_wait_round(struct haul_migration *migration, uint32_t round, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    uint64_t patience_ns = (uint64_t)migration->limits.silence_timeout_ms * 1000000;
    uint64_t moved_ns = haul_now_ns();
    uint64_t moved_bytes = 0;
    uint32_t moved_round = 0;
    uint64_t worked = 0;
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(&source->bell);
        int rc = haul_source_check(migration, error);
        if (rc < 0 || source->rounds_done >= round) {
            return rc;
        }
        uint64_t now = haul_now_ns();
        /* While these grow, the destination is behind and not stuck. */
        uint64_t bytes = haul_source_add_up(source).delivered;
        uint64_t works = migration->control ? haul_control_worked(migration->control) : 0;
        if (bytes != moved_bytes || source->rounds_done != moved_round || works != worked) {
            moved_ns = now;
            moved_bytes = bytes;
            worked = works;
            moved_round = source->rounds_done;
        } else if (now - moved_ns > patience_ns && !source->file) { /* a disk may take its time */
            return haul_error_set(error, ETIMEDOUT,
                                  "round %u: the destination answers but has not confirmed the round, and no "
                                  "channel has moved a byte for %u s; is a data connection stalled?",
                                  round, migration->limits.silence_timeout_ms / 1000);
        }
        haul_source_measure(migration, false);
        haul_doorbell_wait(&source->bell, ticket, LONGEST_SLEEP_NS);
    }
}

/* ---- scheduling ---- */

/* Room for one batch. */
struct room {
    unsigned channel;
    struct haul_sender *sender;
    struct haul_batch *batch;
};

/* The channel for memory on `node`, negative while all are full: see haul_pace_pick. */
static int pick_channel(const struct haul_source *source, int node)
{
    unsigned loads[HAUL_CHANNELS_MAX];
    int nodes[HAUL_CHANNELS_MAX];
    for (unsigned i = 0; i < source->sender_count; i++) {
        loads[i] = haul_sender_in_flight(source->senders[i]);
        nodes[i] = node == HAUL_NODE_UNKNOWN ? node : haul_sender_node(source->senders[i]);
    }
    struct haul_pace_choice choice = {
        .paces = source->paces,
        .loads = loads,
        .nodes = nodes,
        .count = source->sender_count,
        .first = source->next_channel,
        .node = node,
    };
    return haul_pace_pick(&choice);
}

/* Takes a free batch of the best channel for memory on `node`, if there is one. */
static bool take_room(struct haul_source *source, int node, struct room *room)
{
    int channel = pick_channel(source, node);
    if (channel < 0) {
        return false;
    }
    room->channel = (unsigned)channel;
    room->sender = source->senders[room->channel];
    room->batch = haul_sender_acquire(room->sender);
    if (room->batch) {
        source->next_channel = (source->next_channel + 1) % source->sender_count;
    }
    return room->batch != NULL;
}

/* Waits for room for memory on `node`. 1: the round is to be cut short instead, which `may_cut` allows. */
static int acquire(struct haul_migration *migration, int node, bool may_cut, struct room *room,
                   struct haul_error *error)
{
    struct haul_source *source = migration->source;
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(&source->bell);
        int rc = haul_source_check(migration, error);
        if (rc < 0) {
            return rc;
        }
        haul_source_measure(migration, false);
        if (may_cut && haul_source_cut_short(migration)) {
            return 1;
        }
        uint64_t wait = rate_limit_wait(migration);
        if (wait == 0 && take_room(source, node, room)) {
            return 0;
        }
        wait = wait > 0 ? wait : LONGEST_SLEEP_NS;
        haul_doorbell_wait(&source->bell, ticket, wait < LONGEST_SLEEP_NS ? wait : LONGEST_SLEEP_NS);
    }
}

static void begin_batch(struct haul_batch *batch, enum haul_batch_kind kind, uint32_t round, uint32_t block)
{
    batch->kind = kind;
    batch->first_touch = round == 1;
    batch->round = round;
    batch->block = block;
    batch->run_count = 0;
    batch->page_count = 0;
}

/* Moves runs from the bitmap at or after *at into `batch` until it has `most` pages or is full; advances
 * *at. */
static void fill_from_bitmap(uint64_t *bitmap, uint64_t pages, uint32_t most, uint64_t *at,
                             struct haul_batch *batch)
{
    struct haul_run run;
    while (batch->page_count < most && batch->run_count < HAUL_BATCH_RUNS &&
           haul_bitmap_next_run(bitmap, pages, *at, most - batch->page_count, &run.first, &run.count)) {
        haul_bitmap_clear(bitmap, run.first, run.count);
        batch->runs[batch->run_count++] = run;
        batch->page_count += (uint32_t)run.count;
        *at = run.first + run.count;
    }
}

static int dispatch_block(struct haul_migration *migration, uint32_t block, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    const struct haul_block_view *view = &migration->views[block];
    uint64_t at = 0;
    struct haul_run next;
    while (haul_bitmap_next_run(source->bitmaps[block], view->pages, at, 1, &next.first, &next.count)) {
        int node = source->several_nodes && view->host
                       ? haul_memory_node_of_content(view->host + next.first * HAUL_PAGE_SIZE)
                       : HAUL_NODE_UNKNOWN;
        struct room room;
        int rc = acquire(migration, node, true, &room, error);
        if (rc != 0) {
            return rc < 0 ? rc : 0;
        }
        begin_batch(room.batch, HAUL_BATCH_KIND_PAGES, source->round, block);
        at = next.first;
        fill_from_bitmap(source->bitmaps[block], view->pages, batch_pages(migration, room.channel), &at,
                         room.batch);
        source->dirty_pages -= room.batch->page_count;
        source->dirty_disk_pages -= view->io ? room.batch->page_count : 0;
        haul_map_ahead_sent(source->map_ahead, view->io ? 0 : room.batch->page_count);
        haul_sender_submit(room.sender, room.batch);
    }
    return 0;
}

int haul_dispatch_pages(struct haul_migration *migration, struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->view_count; i++) {
        int rc = dispatch_block(migration, i, error);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int dispatch_holes_of(struct haul_migration *migration, uint32_t block, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    const uint64_t *present = source->present[block];
    uint64_t pages = migration->views[block].pages;
    uint64_t most = migration->views[block].io ? MOST_HOLES_OF_DISK : UINT64_MAX;
    struct haul_run hole;
    bool more = haul_bitmap_next_gap(present, pages, 0, &hole.first, &hole.count);
    while (more) {
        struct room room;
        int rc = acquire(migration, HAUL_NODE_UNKNOWN, false, &room, error);
        if (rc < 0) {
            return rc;
        }
        struct haul_batch *batch = room.batch;
        begin_batch(batch, HAUL_BATCH_KIND_ZERO, source->round, block);
        uint64_t holes = 0;
        while (more && batch->run_count < HAUL_BATCH_RUNS && holes < most) {
            hole.count = hole.count < most - holes ? hole.count : most - holes;
            batch->runs[batch->run_count++] = hole;
            holes += hole.count;
            more = haul_bitmap_next_gap(present, pages, hole.first + hole.count, &hole.first, &hole.count);
        }
        haul_sender_submit(room.sender, batch);
        pthread_mutex_lock(&migration->lock);
        migration->stats.holes += migration->views[block].io ? 0 : holes;
        pthread_mutex_unlock(&migration->lock);
    }
    return 0;
}

int haul_dispatch_holes(struct haul_migration *migration, struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->view_count; i++) {
        int rc = dispatch_holes_of(migration, i, error);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int haul_dispatch_mark(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    for (unsigned i = 0; i < source->sender_count; i++) {
        struct haul_batch *batch;
        for (;;) {
            uint32_t ticket = haul_doorbell_ticket(&source->bell);
            int rc = haul_source_check(migration, error);
            if (rc < 0) {
                return rc;
            }
            batch = haul_sender_acquire(source->senders[i]);
            if (batch) {
                break;
            }
            haul_doorbell_wait(&source->bell, ticket, LONGEST_SLEEP_NS);
        }
        begin_batch(batch, HAUL_BATCH_KIND_ROUND, source->round, 0);
        haul_sender_submit(source->senders[i], batch);
    }
    return 0;
}
