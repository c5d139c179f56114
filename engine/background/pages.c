/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/background/background.h"

#include "channels/live_read.h"
#include "engine/bitmap.h"
#include "engine/holes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORD_BITS 64u
#define FEW_CLUSTERS 64 /* protected within a millisecond */

static uint64_t clusters(const struct haul_bg_block *block)
{
    return (block->pages + block->cluster - 1) / block->cluster;
}

static uint64_t chunks(const struct haul_bg_block *block)
{
    return (block->pages + block->chunk - 1) / block->chunk;
}

static enum haul_bg_phase phase_of(struct haul_bg_pages *pages)
{
    /* Acquire, pairs with the releases that change it: who sees SAVING sees `present` as it is from then on.
     */
    return (enum haul_bg_phase)atomic_load_explicit(&pages->phase, memory_order_acquire);
}

/* ---- life ---- */

static uint32_t at_least(uint32_t pages, uint32_t huge)
{
    return pages > huge ? pages : huge;
}

static int block_init(struct haul_bg_block *own, const struct haul_block *block, struct haul_error *error)
{
    uint32_t huge = block->page_size / HAUL_PAGE_SIZE;
    if (huge > HAUL_BG_HUGE_PAGES) {
        return haul_error_set(error, ENOTSUP,
                              "RAM block %s has pages of %u MiB, each of which a write would wait for whole: "
                              "a background snapshot takes pages of 2 MiB at most",
                              block->name, block->page_size >> 20);
    }
    own->ram = block;
    own->host = block->host;
    own->pages = block->length / HAUL_PAGE_SIZE;
    own->cluster = at_least(HAUL_BG_CLUSTER_PAGES, huge);
    own->chunk = at_least(HAUL_BG_CHUNK_PAGES, huge);
    own->taken = calloc(haul_bits_words(own->pages), sizeof *own->taken);
    own->present = calloc(haul_bits_words(own->pages), sizeof *own->present);
    own->armed = calloc(clusters(own), sizeof *own->armed);
    return own->taken && own->present && own->armed
               ? 0
               : haul_error_set(error, ENOMEM, "no memory for the bitmaps of a snapshot");
}

int haul_bg_pages_init(struct haul_bg_pages *pages, struct haul_migration *migration,
                       struct haul_error *error)
{
    pages->guard = migration->guard;
    pages->guard_opaque = migration->guard_opaque;
    pthread_mutex_init(&pages->lock, NULL);
    pages->blocks = calloc(migration->block_count, sizeof *pages->blocks);
    if (!pages->blocks) {
        return haul_error_set(error, ENOMEM, "no memory for the bitmaps of a snapshot");
    }
    for (uint32_t i = 0; i < migration->block_count; i++) {
        pages->block_count = i + 1;
        int rc = block_init(&pages->blocks[i], &migration->blocks[i], error);
        if (rc < 0) {
            return rc;
        }
        pages->blocks[i].first_chunk = pages->chunks;
        pages->chunks += chunks(&pages->blocks[i]);
        pages->total += pages->blocks[i].pages;
    }
    return 0;
}

void haul_bg_pages_cleanup(struct haul_bg_pages *pages)
{
    for (uint32_t i = 0; i < pages->block_count; i++) {
        free((void *)pages->blocks[i].taken);
        free(pages->blocks[i].present);
        free((void *)pages->blocks[i].armed);
    }
    free(pages->blocks);
    pthread_mutex_destroy(&pages->lock);
}

/* ---- up to the moment ---- */

/* Acquire, pairs with the release in let_go: who protects a cluster again does so after it was released. */
static bool is_armed(const struct haul_bg_block *block, uint64_t cluster)
{
    return atomic_load_explicit(&block->armed[cluster], memory_order_acquire);
}

static void set_armed(struct haul_bg_block *block, uint64_t cluster)
{
    atomic_store_explicit(&block->armed[cluster], true, memory_order_relaxed);
}

/*
 * The first page from `page` on that has content, or where the block ends. It passes over holes only: to look
 * for the end of content (SEEK_HOLE), the kernel would visit each page of it, however far it goes.
 */
static uint64_t next_content(const struct haul_bg_block *block, uint64_t page)
{
    off_t origin = (off_t)block->ram->fd_offset;
    off_t at = origin + (off_t)(page * HAUL_PAGE_SIZE);
    off_t end = origin + (off_t)(block->pages * HAUL_PAGE_SIZE);
    off_t data = haul_holes_next_content(block->ram, at, end);
    return data < 0 ? page : (uint64_t)(data - origin) / HAUL_PAGE_SIZE;
}

/* Adds to `present` what has content by now. */
static void find_content(struct haul_bg_block *block, uint64_t first, uint64_t count)
{
    uint64_t page = first;
    uint64_t length;
    if (count == block->pages) {
        haul_holes_present(block->ram, block->present);
        return;
    }
    while (haul_bitmap_next_gap(block->present, first + count, page, &page, &length)) {
        uint64_t content = next_content(block, page);
        if (content < page + length) {
            haul_bitmap_set(block->present, content, 1);
        }
        page = content < page + length ? content + 1 : page + length;
    }
}

/*
 * Protects the clusters of one block that were let go since they were protected, neighbours in one call.
 * Returns how many, or a negative errno. What was written may have filled holes.
 */
static int64_t arm_again(struct haul_bg_pages *pages, uint32_t index, struct haul_error *error)
{
    struct haul_bg_block *block = &pages->blocks[index];
    uint64_t end = 0;
    uint64_t armed = 0;
    for (uint64_t cluster = 0; cluster < clusters(block); cluster = end + 1) {
        /* Before the protection: a write that hits it says again that it is not armed. */
        for (end = cluster; end < clusters(block) && !is_armed(block, end); end++) {
            set_armed(block, end);
        }
        if (end == cluster) {
            continue;
        }
        uint64_t first = cluster * block->cluster;
        uint64_t past = end * block->cluster < block->pages ? end * block->cluster : block->pages;
        int rc = pages->guard->protect(pages->guard_opaque, index, first, past - first, error);
        if (rc < 0) {
            return rc;
        }
        find_content(block, first, past - first);
        armed += end - cluster;
    }
    return (int64_t)armed;
}

static int64_t arm_all_again(struct haul_bg_pages *pages, struct haul_error *error)
{
    int64_t sum = 0;
    for (uint32_t i = 0; i < pages->block_count; i++) {
        int64_t armed = arm_again(pages, i, error);
        if (armed < 0) {
            return armed;
        }
        sum += armed;
    }
    return sum;
}

int haul_bg_pages_arm(struct haul_bg_pages *pages, struct haul_error *error)
{
    int64_t before = INT64_MAX;
    for (;;) { /* the first time, all is to be armed */
        int64_t armed = arm_all_again(pages, error);
        if (armed < 0) {
            return (int)armed;
        }
        if (armed < FEW_CLUSTERS || armed > before / 2) {
            return 0;
        }
        before = armed;
    }
}

int haul_bg_pages_moment(struct haul_bg_pages *pages, struct haul_error *error)
{
    /* Whoever writes meanwhile (there should be nobody) waits for the lock, and then for being saved. */
    pthread_mutex_lock(&pages->lock);
    int64_t armed = arm_all_again(pages, error);
    if (armed >= 0 && phase_of(pages) == HAUL_BG_ARMING) {
        atomic_store_explicit(&pages->phase, HAUL_BG_SAVING, memory_order_release);
    }
    pthread_mutex_unlock(&pages->lock);
    return armed < 0 ? (int)armed : 0;
}

void haul_bg_pages_give_up(struct haul_bg_pages *pages)
{
    pthread_mutex_lock(&pages->lock);
    atomic_store_explicit(&pages->phase, HAUL_BG_ENDING, memory_order_release);
    pthread_mutex_unlock(&pages->lock);
}

/* Lets a whole cluster go: its other pages are likely to be written, too. */
static int let_go(struct haul_bg_pages *pages, const struct haul_waiting_write *write,
                  struct haul_error *error)
{
    struct haul_bg_block *block = &pages->blocks[write->block];
    uint64_t first = write->page - write->page % block->cluster;
    uint64_t count = block->pages - first < block->cluster ? block->pages - first : block->cluster;
    int rc = pages->guard->release(pages->guard_opaque, write->block, first, count, error);
    /* Release, pairs with the acquire in is_armed. */
    atomic_store_explicit(&block->armed[first / block->cluster], false, memory_order_release);
    return rc;
}

bool haul_bg_pages_let_go(struct haul_bg_pages *pages, const struct haul_waiting_write *write, int *result,
                          struct haul_error *error)
{
    *result = 0;
    if (phase_of(pages) == HAUL_BG_SAVING) {
        return false;
    }
    pthread_mutex_lock(&pages->lock);
    bool mine = phase_of(pages) != HAUL_BG_SAVING; /* else the moment came in between */
    if (mine) {
        *result = let_go(pages, write, error);
    }
    pthread_mutex_unlock(&pages->lock);
    return mine;
}

/* ---- from the moment on ---- */

/* Reads `count` bits from `first` on that lie within one word where count is less than a word, else whole
 * words: clusters and chunks are aligned. */
static uint64_t shifted(uint64_t bits, uint64_t first)
{
    return bits >> (first % WORD_BITS);
}

bool haul_bg_pages_find(const struct haul_bg_block *block, uint64_t first, uint32_t count, uint64_t *wanted)
{
    bool any = false;
    for (uint32_t word = 0; word * WORD_BITS < count; word++) {
        uint64_t at = first / WORD_BITS + word;
        /* Acquire, pairs with the release in haul_bg_pages_take: what is not taken is not released yet, and
         * what is read after this look is either protected or thrown away. */
        uint64_t taken = atomic_load_explicit(&block->taken[at], memory_order_acquire);
        uint64_t mask = haul_bits_mask(word, 0, count);
        wanted[word] = shifted(block->present[at] & ~taken, first) & mask;
        any = any || (~shifted(taken, first) & mask) != 0;
    }
    return any;
}

int haul_bg_pages_check(const struct haul_bg_block *block, uint64_t first, uint32_t count,
                        const uint64_t *wanted, struct haul_error *error)
{
    unsigned char resident[HAUL_BG_HUGE_PAGES] = {0};
    if (block->ram->fd < 0 || block->ram->page_size > HAUL_PAGE_SIZE) {
        return 0; /* a file of huge pages says of none that it is a hole */
    }
    /* This says of most pages that they are there, without the file's lock. */
    if (mincore((void *)(uintptr_t)(block->host + first * HAUL_PAGE_SIZE), count * HAUL_PAGE_SIZE, resident) <
        0) {
        memset(resident, 0, sizeof resident);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (haul_bg_bit(wanted, i) && !(resident[i] & 1) && next_content(block, first + i) != first + i) {
            return haul_error_set(error, ENODATA,
                                  "RAM block %s lost the content of page %llu before it was saved: leave the "
                                  "balloon alone during a snapshot, and QEMU's free-page-reporting off",
                                  block->ram->name, (unsigned long long)(first + i));
        }
    }
    return 0;
}

uint64_t haul_bg_pages_take(struct haul_bg_pages *pages, uint32_t index, uint64_t first, uint32_t count,
                            uint64_t *wanted)
{
    struct haul_bg_block *block = &pages->blocks[index];
    uint64_t won = 0;
    for (uint32_t word = 0; word * WORD_BITS < count; word++) {
        uint64_t mask = haul_bits_mask(word, 0, count);
        /*
         * Release: the copies were made before. Acquire: pairs with the same of whoever was first, so that a
         * release of the page that follows here comes after its copy.
         */
        uint64_t before = atomic_fetch_or_explicit(&block->taken[first / WORD_BITS + word],
                                                   mask << (first % WORD_BITS), memory_order_acq_rel);
        uint64_t fresh = ~shifted(before, first) & mask;
        wanted[word] &= fresh;
        won += (uint64_t)__builtin_popcountll(fresh);
    }
    atomic_fetch_add_explicit(&pages->taken_pages, won, memory_order_relaxed);
    return won;
}

int haul_bg_pages_release(struct haul_bg_pages *pages, uint32_t block, uint64_t first, uint32_t count,
                          struct haul_error *error)
{
    return pages->guard->release(pages->guard_opaque, block, first, count, error);
}

void haul_bg_copy(unsigned char *to, const unsigned char *page)
{
    HAUL_LIVE_READ_BEGIN();
    memcpy(to, page, HAUL_PAGE_SIZE);
    HAUL_LIVE_READ_END();
}
