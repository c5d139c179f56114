/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writers: they store what the fault thread copied as soon as there is any, and else read memory in
 * order, a chunk at a time.
 */
#include "engine/background/background.h"

#include "compress/zero.h"
#include "engine/clock.h"

#include <errno.h>
#include <string.h>

#define IDLE_NS 100000000u
#define LIMIT_POLL_NS 20000000u /* between two looks at a max-bandwidth that may change */

static bool aborted(struct haul_background *background)
{
    return atomic_load_explicit(&background->aborted, memory_order_relaxed);
}

/* ---- to the file ---- */

/*
 * Stores the pages of `won` that are not zero, run by run; `copy` holds page first + i at i pages. Pages that
 * are never stored are zero in the file.
 */
static int store(struct haul_bg_writer *writer, uint32_t block, uint64_t first, uint32_t count,
                 const unsigned char *copy, const uint64_t *won, struct haul_error *error)
{
    struct haul_background *background = writer->background;
    uint32_t at = 0;
    while (at < count) {
        uint32_t run = 0;
        while (at + run < count && run < HAUL_SNAPSHOT_PUT_PAGES && haul_bg_bit(won, at + run)) {
            const unsigned char *page = copy + (size_t)(at + run) * HAUL_PAGE_SIZE;
            if (haul_is_zero(page, HAUL_PAGE_SIZE)) {
                break;
            }
            writer->sums[run++] = haul_snapshot_page_sum(page);
        }
        if (run == 0) {
            haul_account_add(&writer->account.zero_pages, haul_bg_bit(won, at) ? 1 : 0);
            at++;
            continue;
        }
        const unsigned char *bytes = copy + (size_t)at * HAUL_PAGE_SIZE;
        int rc = haul_snapshot_put(background->file, block, first + at, run, bytes, writer->sums, error);
        if (rc < 0) {
            return rc;
        }
        haul_account_add(&writer->account.raw_pages, run);
        haul_account_add(&writer->account.bytes, run * HAUL_PAGE_SIZE);
        at += run; /* a zero page that ended the run is looked at once more */
    }
    return 0;
}

static int store_slot(struct haul_bg_writer *writer, struct haul_bg_slot *slot, struct haul_error *error)
{
    int rc = aborted(writer->background)
                 ? 0
                 : store(writer, slot->block, slot->first, slot->count, slot->bytes, slot->won, error);
    haul_bg_pool_put_free(&writer->background->pool, slot);
    return rc;
}

/* ---- from memory ---- */

static const struct haul_bg_block *find_block(const struct haul_bg_pages *pages, uint64_t chunk,
                                              uint32_t *index)
{
    uint32_t low = 0;
    uint32_t high = pages->block_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        *(pages->blocks[middle].first_chunk <= chunk ? &low : &high) = middle;
    }
    *index = low;
    return &pages->blocks[low];
}

static void copy_wanted(struct haul_bg_writer *writer, const struct haul_bg_block *block, uint64_t first,
                        uint32_t count, const uint64_t *wanted)
{
    for (uint32_t i = 0; i < count; i++) {
        if (haul_bg_bit(wanted, i)) {
            haul_bg_copy(writer->copy + (size_t)i * HAUL_PAGE_SIZE,
                         block->host + (first + i) * HAUL_PAGE_SIZE);
        }
    }
}

static int stream_chunk(struct haul_bg_writer *writer, uint64_t chunk, struct haul_error *error)
{
    struct haul_background *background = writer->background;
    struct haul_bg_pages *pages = &background->pages;
    uint64_t wanted[HAUL_BG_HUGE_PAGES / 64];
    uint32_t index;
    const struct haul_bg_block *block = find_block(pages, chunk, &index);
    uint64_t first = (chunk - block->first_chunk) * block->chunk;
    uint64_t left = block->pages - first;
    uint32_t count = left < block->chunk ? (uint32_t)left : block->chunk;
    if (!haul_bg_pages_find(block, first, count, wanted)) {
        return 0;
    }
    int rc = haul_bg_pages_check(block, first, count, wanted, error);
    if (rc < 0) {
        return rc;
    }
    uint64_t asked = 0;
    for (uint32_t word = 0; word * 64 < count; word++) {
        asked += (uint64_t)__builtin_popcountll(wanted[word]);
    }
    copy_wanted(writer, block, first, count, wanted);
    uint64_t won = haul_bg_pages_take(pages, index, first, count, wanted);
    rc = haul_bg_pages_release(pages, index, first, count, error);
    atomic_fetch_add_explicit(&background->streamed, asked * HAUL_PAGE_SIZE, memory_order_relaxed);
    /* Holes are zero pages, too; what is stored is counted there. */
    uint64_t kept = 0;
    for (uint32_t word = 0; word * 64 < count; word++) {
        kept += (uint64_t)__builtin_popcountll(wanted[word]);
    }
    haul_account_add(&writer->account.zero_pages, won - kept);
    rc = rc < 0 ? rc : store(writer, index, first, count, writer->copy, wanted, error);
    /*
     * The disk begins early with what comes in order. Clusters that writes chose are many small pieces all
     * over the file, which would keep it busy until the pool is full: those are left to the page cache.
     */
    return rc < 0 ? rc : haul_snapshot_write_out(background->file, index, first, count, false, error);
}

/* How long max-bandwidth wants the next chunk to wait. */
static uint64_t owed_ns(struct haul_background *background)
{
    uint64_t rate = atomic_load_explicit(&background->migration->knobs.max_bandwidth, memory_order_relaxed);
    uint64_t bytes = atomic_load_explicit(&background->streamed, memory_order_relaxed);
    pthread_mutex_lock(&background->lock);
    uint64_t wait = haul_rate_limit_wait(&background->limit, rate, bytes, haul_now_ns());
    pthread_mutex_unlock(&background->lock);
    return wait;
}

/* ---- the thread ---- */

/*
 * 0: nothing to do now; 1: did something; negative: failed. Memory is read from `begun` on, when the guest
 * was told to run: that would make the stop longer. Slots are emptied from the moment on: what tells the
 * guest to run may write memory itself, or wait for somebody who does.
 */
static int step(struct haul_bg_writer *writer, bool *streaming, uint64_t *wait_ns, struct haul_error *error)
{
    struct haul_background *background = writer->background;
    /* Acquire, pairs with the release in stream. */
    bool begun = atomic_load_explicit(&background->begun, memory_order_acquire);
    struct haul_bg_slot *slot = haul_bg_pool_take_full(&background->pool);
    *wait_ns = IDLE_NS;
    if (slot) {
        int rc = store_slot(writer, slot, error);
        return rc < 0 ? rc : 1;
    }
    if (!begun || !*streaming) {
        return 0;
    }
    *wait_ns = owed_ns(background);
    if (*wait_ns > 0 && !aborted(background)) {
        *wait_ns = *wait_ns < LIMIT_POLL_NS ? *wait_ns : LIMIT_POLL_NS;
        return 0;
    }
    uint64_t chunk = atomic_fetch_add_explicit(&background->next_chunk, 1, memory_order_relaxed);
    if (chunk < background->pages.chunks && !aborted(background)) {
        int rc = stream_chunk(writer, chunk, error);
        return rc < 0 ? rc : 1;
    }
    *streaming = false;
    /* Release and acquire: the last one has seen what the others did. */
    if (atomic_fetch_sub_explicit(&background->streaming, 1, memory_order_acq_rel) == 1) {
        haul_doorbell_ring(&background->migration->source->bell);
    }
    return 1;
}

static void work(struct haul_bg_writer *writer)
{
    struct haul_background *background = writer->background;
    struct haul_error error;
    bool streaming = true;
    while (!aborted(background)) {
        uint32_t ticket = haul_doorbell_ticket(&writer->bell);
        /* Acquire, pairs with the release that set it: every slot is full or free by then. */
        bool last_look = atomic_load_explicit(&background->draining, memory_order_acquire);
        uint64_t wait_ns = IDLE_NS;
        int rc = step(writer, &streaming, &wait_ns, &error);
        if (rc < 0) {
            haul_bg_fail(background, &error);
            return;
        }
        if (rc == 0 && last_look) {
            return;
        }
        if (rc == 0) {
            haul_account_turn(&writer->account, false, haul_now_ns());
            haul_doorbell_wait(&writer->bell, ticket, wait_ns);
            haul_account_turn(&writer->account, true, haul_now_ns());
        }
    }
}

static void *writer_main(void *argument)
{
    struct haul_bg_writer *writer = argument;
    struct haul_migration *migration = writer->background->migration;
    struct haul_thread_entry entry;
    struct haul_error ignored;
    haul_thread_enter(&migration->threads, &entry, "bg-save", (int)writer->index);
    haul_account_thread(&writer->account);
    haul_placement_apply(migration->topology, &writer->slot, &ignored); /* slower where it cannot be had */
    work(writer);
    haul_thread_leave(&migration->threads, &entry);
    return NULL;
}

int haul_bg_writer_start(struct haul_bg_writer *writer, struct haul_error *error)
{
    haul_doorbell_init(&writer->bell);
    haul_account_start(&writer->account);
    int code = -haul_thread_start(&writer->thread, writer_main, writer);
    writer->started = code == 0;
    return code == 0 ? 0
                     : haul_error_set(error, code, "cannot start a thread that writes the file: %s",
                                      strerror(code));
}

void haul_bg_writers_ring(struct haul_background *background)
{
    for (unsigned i = 0; i < background->writer_count; i++) {
        haul_doorbell_ring(&background->writers[i].bell);
    }
}
