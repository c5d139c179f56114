/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault thread: somebody waits for each thing that it does, so it only copies and releases. Hashing and
 * writing are the writers'.
 */
#include "engine/background/background.h"

#include "engine/clock.h"

#include <errno.h>
#include <string.h>

#define WRITES 32 /* taken at once */

static void copy_wanted(const struct haul_bg_block *block, struct haul_bg_slot *slot)
{
    for (uint32_t i = 0; i < slot->count; i++) {
        if (haul_bg_bit(slot->won, i)) {
            haul_bg_copy(slot->bytes + (size_t)i * HAUL_PAGE_SIZE,
                         block->host + (slot->first + i) * HAUL_PAGE_SIZE);
        }
    }
}

static bool any(const struct haul_bg_slot *slot)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < sizeof slot->won / sizeof *slot->won; i++) {
        bits |= slot->won[i];
    }
    return bits != 0;
}

/* Saves the cluster of a page, and lets its writers go on. `*spare` is a free slot, or NULL. */
static int save(struct haul_background *background, const struct haul_waiting_write *write,
                struct haul_bg_slot **spare, struct haul_error *error)
{
    struct haul_bg_pages *pages = &background->pages;
    struct haul_bg_block *block = &pages->blocks[write->block];
    uint64_t first = write->page - write->page % block->cluster;
    uint64_t left = block->pages - first;
    uint32_t count = left < block->cluster ? (uint32_t)left : block->cluster;
    struct haul_bg_slot *slot = *spare ? *spare : haul_bg_pool_get(&background->pool);
    if (!slot) {
        int ignored; /* closed: the snapshot is given up */
        haul_bg_pages_let_go(pages, write, &ignored, error);
        return 0;
    }
    *spare = slot;
    memset(slot->won, 0, sizeof slot->won);
    slot->block = write->block;
    slot->first = first;
    slot->count = count;
    if (haul_bg_pages_find(block, first, count, slot->won)) {
        int rc = haul_bg_pages_check(block, first, count, slot->won, error);
        if (rc < 0) {
            return rc;
        }
        copy_wanted(block, slot);
        haul_bg_pages_take(pages, write->block, first, count, slot->won);
    }
    int rc = haul_bg_pages_release(pages, write->block, first, count, error);
    if (any(slot)) {
        *spare = NULL;
        haul_bg_pool_put_full(&background->pool, slot);
        haul_bg_priority_hurry(background);
        haul_bg_writers_ring(background);
    }
    return rc;
}

static void serve(struct haul_background *background, const struct haul_waiting_write *write,
                  struct haul_bg_slot **spare)
{
    int rc;
    struct haul_error error;
    if (!haul_bg_pages_let_go(&background->pages, write, &rc, &error)) {
        rc = save(background, write, spare, &error);
    }
    if (rc < 0) { /* whoever waits goes on all the same, now that the snapshot has failed */
        haul_bg_fail(background, &error);
        haul_bg_pages_let_go(&background->pages, write, &rc, &error);
    }
    haul_wait_histogram_add(&background->waits, haul_now_ns() - write->since_ns);
}

static void *fault_main(void *argument)
{
    struct haul_background *background = argument;
    const struct haul_bg_pages *pages = &background->pages;
    struct haul_thread_entry entry;
    haul_thread_enter(&background->migration->threads, &entry, "bg-faults", HAUL_THREAD_ALONE);
    haul_bg_priority_faults();
    struct haul_bg_slot *spare = NULL;
    struct haul_error error;
    for (;;) {
        struct haul_waiting_write writes[WRITES];
        int count =
            pages->guard->wait(pages->guard_opaque, background->fault_stop_fd, writes, WRITES, &error);
        if (count < 0) {
            haul_bg_fail(background, &error);
        }
        for (int i = 0; i < count; i++) {
            serve(background, &writes[i], &spare);
        }
        if (count <= 0) {
            break;
        }
    }
    if (spare) {
        haul_bg_pool_put_free(&background->pool, spare);
    }
    haul_thread_leave(&background->migration->threads, &entry);
    return NULL;
}

int haul_bg_faults_start(struct haul_background *background, struct haul_error *error)
{
    int code = -haul_thread_start(&background->fault_thread, fault_main, background);
    background->fault_started = code == 0;
    return code == 0 ? 0
                     : haul_error_set(error, code, "cannot start the thread that serves writes: %s",
                                      strerror(code));
}
