/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/destination/populate.h"

#include "engine/clock.h"
#include "engine/fault_around.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define STAT_BLOCK_SIZE 512 /* the unit of st_blocks */
#define HOLD_NS 500000000u  /* at most: a source may take long to connect its channels */

struct range {
    unsigned char *host;
    uint64_t length;
    uint64_t chunk_size; /* HAUL_POPULATE_CHUNK, or the block's page size where that is larger */
    uint64_t first_chunk;
    uint64_t chunks;
    bool present; /* the pages are there and only have to be mapped */
};

struct haul_populate {
    /* Written once at creation. */
    struct range *ranges;
    uint32_t range_count;
    uint64_t chunk_count;
    unsigned threads;
    pthread_t *thread;
    struct haul_thread_list *list;

    pthread_mutex_t lock;    /* of held_until_ns */
    pthread_cond_t released; /* by the clock of haul_now_ns */
    uint64_t held_until_ns;  /* no chunk begins before it; 0: not held */

    _Atomic uint64_t next; /* the next chunk to claim; relaxed: only the claim itself matters */
    _Atomic bool stop;     /* relaxed: a hint, the join orders everything */
    _Atomic int failure;   /* first negative errno, relaxed */
    _Atomic uint8_t *skip; /* one per chunk, set by the loader; relaxed: a late reader only populates more */
};

static const struct range *range_of(const struct haul_populate *populate, uint64_t chunk)
{
    uint32_t i = 0;
    while (chunk >= populate->ranges[i].first_chunk + populate->ranges[i].chunks) {
        i++;
    }
    return &populate->ranges[i];
}

/*
 * Pages that the file has already only have to be mapped. One read fault maps its neighbours too, and makes
 * them writable, as the mapping is shared; asking for each page would make the kernel count each as used
 * again, at three times the cost.
 */
static int map_present(unsigned char *host, size_t length)
{
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < length; at += HAUL_FAULT_AROUND) {
        rc = haul_fault_around(host + at);
    }
    return rc;
}

static void populate_chunk(struct haul_populate *populate, uint64_t chunk)
{
    const struct range *range = range_of(populate, chunk);
    uint64_t offset = (chunk - range->first_chunk) * range->chunk_size;
    uint64_t left = range->length - offset;
    size_t length = left < range->chunk_size ? left : range->chunk_size;
    unsigned char *host = range->host + offset;
    int rc = range->present ? map_present(host, length) : madvise(host, length, MADV_POPULATE_WRITE);
    if (rc == 0) {
        return;
    }
    int expected = 0;
    atomic_compare_exchange_strong_explicit(&populate->failure, &expected, -errno, memory_order_relaxed,
                                            memory_order_relaxed);
    atomic_store_explicit(&populate->stop, true, memory_order_relaxed);
}

/*
 * Until the source is ready to send, populating takes only time that nobody else wants (or is held, see
 * haul_populate_hold): every step of the set-up, here and in the guest's processes, would otherwise wait for
 * a slice of these threads.
 */
static void run_when_idle(pthread_t thread, bool idle)
{
    const struct sched_param none = {0};
    pthread_setschedparam(thread, idle ? SCHED_IDLE : SCHED_OTHER, &none); /* a matter of speed only */
}

static void run_all_when_idle(struct haul_populate *populate, bool idle)
{
    for (unsigned i = 0; i < populate->threads; i++) {
        run_when_idle(populate->thread[i], idle);
    }
}

static void wait_while_held(struct haul_populate *populate)
{
    pthread_mutex_lock(&populate->lock);
    while (populate->held_until_ns > 0) {
        if (haul_now_ns() >= populate->held_until_ns) { /* whoever connects is slow: only idle time again */
            run_all_when_idle(populate, true);
            populate->held_until_ns = 0;
            break;
        }
        struct timespec until = {.tv_sec = (time_t)(populate->held_until_ns / 1000000000u),
                                 .tv_nsec = (long)(populate->held_until_ns % 1000000000u)};
        pthread_cond_timedwait(&populate->released, &populate->lock, &until);
    }
    pthread_mutex_unlock(&populate->lock);
}

static void hold_until(struct haul_populate *populate, uint64_t until_ns)
{
    pthread_mutex_lock(&populate->lock);
    populate->held_until_ns = until_ns;
    pthread_cond_broadcast(&populate->released);
    pthread_mutex_unlock(&populate->lock);
}

static void *populate_main(void *argument)
{
    struct haul_populate *populate = argument;
    struct haul_thread_entry entry;
    haul_thread_enter(populate->list, &entry, "populate", HAUL_THREAD_ALONE);
    for (;;) {
        wait_while_held(populate);
        if (atomic_load_explicit(&populate->stop, memory_order_relaxed)) {
            break;
        }
        uint64_t chunk = atomic_fetch_add_explicit(&populate->next, 1, memory_order_relaxed);
        if (chunk >= populate->chunk_count) {
            break;
        }
        if (!atomic_load_explicit(&populate->skip[chunk], memory_order_relaxed)) {
            populate_chunk(populate, chunk);
        }
    }
    haul_thread_leave(populate->list, &entry);
    return NULL;
}

/* Whether the file behind `block` has all of its (small) pages, being preallocated or used before. */
static bool is_present(const struct haul_block *block)
{
    struct stat file;
    return block->page_size == HAUL_PAGE_SIZE && block->fd >= 0 && fstat(block->fd, &file) == 0 &&
           (uint64_t)file.st_blocks * STAT_BLOCK_SIZE >= (uint64_t)file.st_size;
}

static int layout(struct haul_populate *populate, const struct haul_migration *migration)
{
    populate->ranges = calloc(migration->block_count, sizeof *populate->ranges);
    if (!populate->ranges) {
        return -ENOMEM;
    }
    populate->range_count = migration->block_count;
    for (uint32_t i = 0; i < migration->block_count; i++) {
        const struct haul_block *block = &migration->blocks[i];
        struct range *range = &populate->ranges[i];
        range->host = block->host;
        range->length = block->length;
        range->chunk_size = block->page_size > HAUL_POPULATE_CHUNK ? block->page_size : HAUL_POPULATE_CHUNK;
        range->present = is_present(block);
        range->first_chunk = populate->chunk_count;
        range->chunks = (block->length + range->chunk_size - 1) / range->chunk_size;
        populate->chunk_count += range->chunks;
    }
    populate->skip = calloc(populate->chunk_count, sizeof *populate->skip);
    return populate->skip ? 0 : -ENOMEM;
}

/* Whether the kernel knows how: Linux 5.14. Whoever only tried on the guest's memory could not tell why not.
 */
static bool supported(void)
{
    void *page = mmap(NULL, HAUL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return true; /* what is wrong then shows elsewhere */
    }
    bool knows = madvise(page, HAUL_PAGE_SIZE, MADV_POPULATE_WRITE) == 0 || errno != EINVAL;
    munmap(page, HAUL_PAGE_SIZE);
    return knows;
}

int haul_populate_start(struct haul_migration *migration, unsigned threads, struct haul_populate **populate,
                        struct haul_error *error)
{
    *populate = NULL;
    if (!supported()) {
        haul_migration_say(migration,
                           "memory is not populated ahead of the data, which Linux 5.14 and later can: "
                           "pages that are new here take longer to arrive");
        return 0;
    }
    struct haul_populate *made = calloc(1, sizeof *made);
    if (made) {
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&made->released, &monotonic);
        pthread_condattr_destroy(&monotonic);
        pthread_mutex_init(&made->lock, NULL);
    }
    if (!made || layout(made, migration) < 0 || !(made->thread = calloc(threads, sizeof *made->thread))) {
        haul_populate_stop(made);
        return haul_error_set(error, ENOMEM, "no memory for populating");
    }
    made->list = &migration->threads;
    for (unsigned i = 0; i < threads; i++) {
        int rc = haul_thread_start(&made->thread[i], populate_main, made);
        if (rc < 0) {
            haul_populate_stop(made);
            return haul_error_set(error, -rc, "cannot start a populating thread: %s", strerror(-rc));
        }
        run_when_idle(made->thread[i], true);
        made->threads++;
    }
    *populate = made;
    return 0;
}

void haul_populate_hold(struct haul_populate *populate)
{
    hold_until(populate, haul_now_ns() + HOLD_NS);
    /* One that is in a chunk holds the lock of this process's mappings: it must not wait for idle time now.
     */
    run_all_when_idle(populate, false);
}

int haul_populate_restrict(struct haul_populate *populate, const uint32_t *order, const void *payload,
                           size_t length, struct haul_error *error)
{
    hold_until(populate, 0); /* first: at its end a hold returns the threads to idle time */
    run_all_when_idle(populate, false);
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, payload, length);
    uint32_t block = haul_cursor_u32(&cursor);
    uint64_t bits = haul_cursor_u64(&cursor);
    if (cursor.failed || block >= populate->range_count) {
        return haul_error_set(error, EPROTO, "PRESENT names block %u of %u", block, populate->range_count);
    }
    const struct range *range = &populate->ranges[order[block]];
    uint64_t own_bits = (range->length + HAUL_POPULATE_CHUNK - 1) / HAUL_POPULATE_CHUNK;
    const unsigned char *bytes =
        bits == own_bits ? haul_cursor_bytes(&cursor, (size_t)((bits + 7) / 8)) : NULL;
    if (!bytes || !haul_cursor_done(&cursor)) {
        return haul_error_set(error, EPROTO, "PRESENT of block %u has %llu chunks where %llu are due", block,
                              (unsigned long long)bits, (unsigned long long)own_bits);
    }
    if (range->chunk_size != HAUL_POPULATE_CHUNK) {
        return 0; /* larger pages than the chunk: populate them all */
    }
    for (uint64_t i = 0; i < bits; i++) {
        if (!(bytes[i / 8] >> (i % 8) & 1)) {
            atomic_store_explicit(&populate->skip[range->first_chunk + i], 1, memory_order_relaxed);
        }
    }
    return 0;
}

int haul_populate_failed(const struct haul_populate *populate)
{
    return atomic_load_explicit(&populate->failure, memory_order_relaxed);
}

void haul_populate_stop(struct haul_populate *populate)
{
    if (!populate) {
        return;
    }
    atomic_store_explicit(&populate->stop, true, memory_order_relaxed);
    hold_until(populate, 0);
    for (unsigned i = 0; i < populate->threads; i++) {
        pthread_join(populate->thread[i], NULL);
    }
    pthread_cond_destroy(&populate->released);
    pthread_mutex_destroy(&populate->lock);
    free(populate->thread);
    free((void *)populate->skip);
    free(populate->ranges);
    free(populate);
}
