/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/map_ahead.h"

#include "engine/bitmap.h"
#include "engine/fault_around.h"
#include "engine/source/source.h"

#include <errno.h>
#include <stdlib.h>

#define WINDOW_PAGES (HAUL_FAULT_AROUND / HAUL_PAGE_SIZE)
/* How far ahead: long enough for a thread that had no CPU for a moment, and little where memory is swapped
 * out. */
#define AHEAD_PAGES (uint64_t)(64u << 20 >> 12)
#define LOOK_AGAIN_NS 5000000 /* how far the senders are: 64 MiB in that time are 100 Gbit/s */

struct haul_map_ahead {
    struct haul_migration *migration;
    pthread_t thread;
    _Atomic uint64_t sent;     /* pages handed to the senders; relaxed: only how far it is counts */
    _Atomic bool stop;         /* relaxed: the join orders everything */
    struct haul_doorbell bell; /* rung when it is to stop */
};

/* False: to be stopped. */
static bool wait_for_turn(struct haul_map_ahead *ahead, uint64_t mapped)
{
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(&ahead->bell);
        if (atomic_load_explicit(&ahead->stop, memory_order_relaxed)) {
            return false;
        }
        if (mapped <= atomic_load_explicit(&ahead->sent, memory_order_relaxed) + AHEAD_PAGES) {
            return true;
        }
        haul_doorbell_wait(&ahead->bell, ticket, LOOK_AGAIN_NS);
    }
}

/* False: to be stopped, or the kernel does not know how. */
static bool map_block(struct haul_map_ahead *ahead, const struct haul_block_view *view,
                      const uint64_t *present, uint64_t *mapped)
{
    uint64_t first, count;
    for (uint64_t at = 0;
         haul_bitmap_next_run(present, view->pages, at, WINDOW_PAGES - at % WINDOW_PAGES, &first, &count);) {
        if (!wait_for_turn(ahead, *mapped)) {
            return false;
        }
        /* One page of each window brings the others. What fails is the sender's to meet: it reads the page.
         */
        if (haul_fault_around(view->host + first * HAUL_PAGE_SIZE) < 0 && errno == EINVAL) {
            return false;
        }
        at = first + count;
        *mapped += count;
    }
    return true;
}

static void *map_ahead(void *argument)
{
    struct haul_map_ahead *ahead = argument;
    const struct haul_migration *migration = ahead->migration;
    struct haul_thread_entry entry;
    haul_thread_enter(&ahead->migration->threads, &entry, "map-ahead", HAUL_THREAD_ALONE);
    uint64_t mapped = 0;
    for (uint32_t i = 0; i < migration->block_count; i++) {
        if (!map_block(ahead, &migration->views[i], migration->source->present[i], &mapped)) {
            break;
        }
    }
    haul_thread_leave(&ahead->migration->threads, &entry);
    return NULL;
}

struct haul_map_ahead *haul_map_ahead_start(struct haul_migration *migration)
{
    struct haul_map_ahead *ahead = calloc(1, sizeof *ahead);
    if (ahead) {
        ahead->migration = migration;
        haul_doorbell_init(&ahead->bell);
        if (haul_thread_start(&ahead->thread, map_ahead, ahead) == 0) {
            return ahead;
        }
        free(ahead);
    }
    return NULL;
}

void haul_map_ahead_sent(struct haul_map_ahead *ahead, uint64_t pages)
{
    if (ahead) {
        atomic_fetch_add_explicit(&ahead->sent, pages, memory_order_relaxed);
    }
}

void haul_map_ahead_stop(struct haul_map_ahead *ahead)
{
    if (ahead) {
        atomic_store_explicit(&ahead->stop, true, memory_order_relaxed);
        haul_doorbell_ring(&ahead->bell);
        pthread_join(ahead->thread, NULL);
        free(ahead);
    }
}
