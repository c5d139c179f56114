/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/snapshot/carrier_file.h"

#include "channels/live_read.h"
#include "channels/pack.h"
#include "channels/placement/placement.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Batches of one channel that may be in the page cache alone: what is behind them is on the disk. */
#define WINDOW 8

struct haul_file_rounds {
    struct haul_snapshot_writer *writer;
    unsigned channels;
    _Atomic uint32_t done; /* release in end_round, acquire in haul_file_rounds_done */
    atomic_bool hurry;     /* relaxed: whether the next mark flushes */
    atomic_bool settled;   /* relaxed: a counter's */
    pthread_mutex_t lock;
    pthread_cond_t moved; /* `done` or a carrier's `aborted` changed */
    unsigned at_mark;     /* under `lock`: carriers that reached the mark of round done + 1 */
};

/* Pages written and perhaps not yet on the disk. */
struct span {
    uint32_t block;
    uint64_t first;
    uint64_t count; /* 0: none */
    uint64_t bytes;
};

struct file_carrier {
    struct haul_carrier carrier;
    struct haul_file_rounds *rounds;
    unsigned char *copy;          /* HAUL_BATCH_PAGES: what is hashed and written (trap T4) */
    struct span window[WINDOW];   /* the sender's thread */
    unsigned next;                /* in `window` */
    _Atomic uint64_t undelivered; /* relaxed: a counter, written by the sender's thread */
    atomic_bool aborted;          /* relaxed: ends send sooner */
};

/* ---- rounds ---- */

int haul_file_rounds_new(struct haul_snapshot_writer *writer, unsigned channels,
                         struct haul_file_rounds **rounds, struct haul_error *error)
{
    *rounds = calloc(1, sizeof **rounds);
    if (!*rounds) {
        return haul_error_set(error, ENOMEM, "no memory for the channels of a file");
    }
    (*rounds)->writer = writer;
    (*rounds)->channels = channels;
    pthread_mutex_init(&(*rounds)->lock, NULL);
    pthread_cond_init(&(*rounds)->moved, NULL);
    return 0;
}

void haul_file_rounds_free(struct haul_file_rounds *rounds)
{
    if (rounds) {
        pthread_cond_destroy(&rounds->moved);
        pthread_mutex_destroy(&rounds->lock);
        free(rounds);
    }
}

uint32_t haul_file_rounds_done(const struct haul_file_rounds *rounds)
{
    /* Acquire, pairs with the release in end_round: the round's pages were put. */
    return atomic_load_explicit(&((struct haul_file_rounds *)rounds)->done, memory_order_acquire);
}

void haul_file_rounds_hurry(struct haul_file_rounds *rounds)
{
    atomic_store_explicit(&rounds->hurry, true, memory_order_relaxed);
}

void haul_file_rounds_settled(struct haul_file_rounds *rounds)
{
    atomic_store_explicit(&rounds->settled, true, memory_order_relaxed);
}

/* ---- one carrier ---- */

static bool is_aborted(struct file_carrier *own)
{
    return atomic_load_explicit(&own->aborted, memory_order_relaxed);
}

/* The last to reach a mark ends the round. */
static int end_round(struct haul_file_rounds *rounds, uint32_t round, struct haul_error *error)
{
    int rc = atomic_load_explicit(&rounds->hurry, memory_order_relaxed)
                 ? 0
                 : haul_snapshot_flush(rounds->writer, error);
    if (rc < 0) {
        return rc; /* the others wait on, and are aborted */
    }
    pthread_mutex_lock(&rounds->lock);
    rounds->at_mark = 0;
    /* Release, pairs with the acquire in haul_file_rounds_done. */
    atomic_store_explicit(&rounds->done, round, memory_order_release);
    pthread_cond_broadcast(&rounds->moved);
    pthread_mutex_unlock(&rounds->lock);
    return 0;
}

/*
 * Waits until every carrier has reached the mark, so that no page of the next round is written before one of
 * this round (rule R2).
 */
static int reach_mark(struct file_carrier *own, uint32_t round, struct haul_error *error)
{
    struct haul_file_rounds *rounds = own->rounds;
    pthread_mutex_lock(&rounds->lock);
    bool last = ++rounds->at_mark == rounds->channels;
    while (!last && haul_file_rounds_done(rounds) < round && !is_aborted(own)) {
        pthread_cond_wait(&rounds->moved, &rounds->lock);
    }
    pthread_mutex_unlock(&rounds->lock);
    if (is_aborted(own)) {
        return haul_error_set(error, ECANCELED, "aborted");
    }
    return last ? end_round(rounds, round, error) : 0;
}

/* Waits until the oldest span of the window is on the disk, so that its bytes count as delivered. */
static int settle_oldest(struct file_carrier *own, struct haul_error *error)
{
    struct span *span = &own->window[own->next];
    int rc = span->count == 0 ? 0
                              : haul_snapshot_write_out(own->rounds->writer, span->block, span->first,
                                                        span->count, true, error);
    uint64_t left = atomic_load_explicit(&own->undelivered, memory_order_relaxed);
    atomic_store_explicit(&own->undelivered, left - span->bytes, memory_order_relaxed);
    *span = (struct span){0};
    return rc;
}

/* Copies one run, page by page: a page is hashed while it is still in the nearest cache. */
static int put_run(struct file_carrier *own, uint32_t block, const struct haul_run *run,
                   const unsigned char *host, struct haul_error *error)
{
    uint64_t sums[HAUL_BATCH_PAGES];
    for (uint64_t i = 0; i < run->count; i++) {
        unsigned char *copy = own->copy + i * HAUL_PAGE_SIZE;
        HAUL_LIVE_READ_BEGIN();
        memcpy(copy, host + (run->first + i) * HAUL_PAGE_SIZE, HAUL_PAGE_SIZE);
        HAUL_LIVE_READ_END();
        sums[i] = haul_snapshot_page_sum(copy);
    }
    return haul_snapshot_put(own->rounds->writer, block, run->first, (uint32_t)run->count, own->copy, sums,
                             error);
}

static int put_pages(struct file_carrier *own, const struct haul_packet *packet,
                     const struct haul_block_view *view, struct haul_error *error)
{
    uint64_t first = UINT64_MAX;
    uint64_t end = 0;
    int rc = settle_oldest(own, error);
    for (uint32_t i = 0; rc == 0 && i < packet->data_runs; i++) {
        const struct haul_run *run = &packet->runs[i];
        first = run->first < first ? run->first : first;
        end = run->first + run->count > end ? run->first + run->count : end;
        rc = is_aborted(own) ? haul_error_set(error, ECANCELED, "aborted")
                             : put_run(own, packet->block, run, view->host, error);
    }
    if (rc < 0 || packet->data_runs == 0) {
        return rc;
    }
    own->window[own->next] = (struct span){.block = packet->block,
                                           .first = first,
                                           .count = end - first,
                                           .bytes = packet->data_pages * HAUL_PAGE_SIZE};
    own->next = (own->next + 1) % WINDOW;
    uint64_t left = atomic_load_explicit(&own->undelivered, memory_order_relaxed);
    atomic_store_explicit(&own->undelivered, left + packet->data_pages * HAUL_PAGE_SIZE,
                          memory_order_relaxed);
    return haul_snapshot_write_out(own->rounds->writer, packet->block, first, end - first, false, error);
}

/* A mark: what this channel wrote is on the disk before the round may be done. */
static int pass_mark(struct file_carrier *own, uint32_t round, struct haul_error *error)
{
    int rc = 0;
    bool hurry = atomic_load_explicit(&own->rounds->hurry, memory_order_relaxed);
    for (unsigned i = 0; rc == 0 && !hurry && i < WINDOW; i++) {
        rc = settle_oldest(own, error);
        own->next = (own->next + 1) % WINDOW;
    }
    return rc == 0 ? reach_mark(own, round, error) : rc;
}

static int file_send(struct haul_carrier *carrier, struct haul_pack *pack,
                     const struct haul_block_view *block, uint64_t *written, struct haul_error *error)
{
    struct file_carrier *own = (struct file_carrier *)carrier;
    const struct haul_packet *packet = &pack->packet;
    if (packet->type == HAUL_PACKET_ROUND) {
        return pass_mark(own, packet->round, error);
    }
    int rc = put_pages(own, packet, block, error);
    for (uint32_t i = 0; rc == 0 && i < packet->zero_runs; i++) {
        const struct haul_run *run = &packet->runs[packet->data_runs + i];
        rc = haul_snapshot_put_zero(own->rounds->writer, packet->block, run->first, run->count, error);
    }
    *written = packet->data_pages * HAUL_PAGE_SIZE;
    return rc;
}

static uint64_t file_undelivered(struct haul_carrier *carrier)
{
    struct file_carrier *own = (struct file_carrier *)carrier;
    bool settled = atomic_load_explicit(&own->rounds->settled, memory_order_relaxed);
    return settled ? 0 : atomic_load_explicit(&own->undelivered, memory_order_relaxed);
}

static void file_abort(struct haul_carrier *carrier)
{
    struct file_carrier *own = (struct file_carrier *)carrier;
    /* Under the lock, so that no carrier that is about to wait at a mark misses it. */
    pthread_mutex_lock(&own->rounds->lock);
    atomic_store_explicit(&own->aborted, true, memory_order_relaxed);
    pthread_cond_broadcast(&own->rounds->moved);
    pthread_mutex_unlock(&own->rounds->lock);
}

static void file_close(struct haul_carrier *carrier)
{
    haul_placement_free(((struct file_carrier *)carrier)->copy, HAUL_PACKET_PAYLOAD_MAX);
    free(carrier);
}

static const struct haul_carrier_ops file_ops = {
    .send = file_send, .undelivered = file_undelivered, .abort = file_abort, .close = file_close};

int haul_carrier_file_new(struct haul_file_rounds *rounds, int node, struct haul_carrier **carrier,
                          struct haul_error *error)
{
    struct file_carrier *made = calloc(1, sizeof *made);
    unsigned char *copy = haul_placement_alloc(HAUL_PACKET_PAYLOAD_MAX, node);
    if (!made || !copy) {
        haul_placement_free(copy, HAUL_PACKET_PAYLOAD_MAX);
        free(made);
        return haul_error_set(error, ENOMEM, "no memory for a channel");
    }
    made->carrier.ops = &file_ops;
    snprintf(made->carrier.peer, sizeof made->carrier.peer, "file"); /* the writer names it */
    made->rounds = rounds;
    made->copy = copy;
    *carrier = &made->carrier;
    return 0;
}
