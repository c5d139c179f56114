/* SPDX-License-Identifier: Apache-2.0 */
/* The threads that read and check the pages of a snapshot. */
#include "channels/account.h"
#include "channels/snapshot/file_io.h"
#include "channels/snapshot/source.h"
#include "channels/socket_io.h"
#include "channels/thread_list.h"
#include "channels/unpack.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNIT_LEAVES 8  /* claimed at once: 16 MiB of memory */
#define READ_PAGES 128 /* read before they are checked, so that the check finds them in the cache */

struct loader {
    struct haul_snapshot_load *load;
    unsigned index;
    pthread_t thread;
    bool started;
    int fd;                 /* its own, so that read-ahead follows this thread */
    int table_fd;           /* the reader's */
    unsigned char *scratch; /* READ_PAGES, when there is no memory to read into */
    uint64_t sums[UNIT_LEAVES];
    uint64_t entries[UNIT_LEAVES][HAUL_SNAPSHOT_LEAF_PAGES];
    struct haul_account account;
};

struct haul_snapshot_load {
    /* Written once. */
    struct haul_snapshot_load_options options;
    struct loader *loaders[HAUL_CHANNELS_MAX];

    /* Shared. */
    _Atomic uint64_t next_unit; /* relaxed: only hands out numbers */
    atomic_bool cancelled;      /* relaxed: ends the threads sooner */
    pthread_mutex_t lock;       /* for the first failure */
    struct haul_error error;    /* code 0: none */
};

/* ---- a leaf ---- */

static int damaged(const struct haul_snapshot_reader *reader, const struct haul_snapshot_block *block,
                   uint64_t page, const char *what, uint64_t offset, struct haul_error *error)
{
    haul_error_set(
        error, EPROTO, "RAM block %s, page at %#llx: %s (offset %llu of the file): the file is damaged",
        block->name, (unsigned long long)(page * HAUL_PAGE_SIZE), what, (unsigned long long)offset);
    return haul_snapshot_named(reader, error);
}

/* Reads and checks pages [first, first + count) of `block`, all with content. */
static int load_pages(struct loader *loader, const struct haul_snapshot_block *block,
                      const struct haul_block_view *view, uint64_t first, unsigned count,
                      const uint64_t *entries, struct haul_error *error)
{
    struct haul_snapshot_reader *reader = loader->load->options.reader;
    unsigned char *to = view ? view->host + first * HAUL_PAGE_SIZE : loader->scratch;
    uint64_t at = block->memory_at + first * HAUL_PAGE_SIZE;
    int rc = haul_file_read(loader->fd, to, count * HAUL_PAGE_SIZE, at, error);
    if (rc < 0) {
        haul_error_prefix(error, "RAM block %s: ", block->name);
        return haul_snapshot_named(reader, error);
    }
    for (unsigned i = 0; i < count; i++) {
        if (haul_snapshot_page_sum(to + i * HAUL_PAGE_SIZE) != le64toh(entries[i])) {
            return damaged(reader, block, first + i, "its content does not match its checksum",
                           at + i * HAUL_PAGE_SIZE, error);
        }
    }
    haul_account_add(&loader->account.bytes, count * HAUL_PAGE_SIZE);
    haul_account_add(&loader->account.raw_pages, count);
    return 0;
}

static int load_leaf(struct loader *loader, const struct haul_snapshot_block *block,
                     const struct haul_block_view *view, uint64_t leaf, const uint64_t *entries,
                     struct haul_error *error)
{
    uint64_t first = leaf * HAUL_SNAPSHOT_LEAF_PAGES;
    uint64_t left = block->pages - first;
    unsigned pages = left < HAUL_SNAPSHOT_LEAF_PAGES ? (unsigned)left : HAUL_SNAPSHOT_LEAF_PAGES;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < pages;) {
        bool zero = entries[i] == 0;
        unsigned count = 1;
        while (i + count < pages && (entries[i + count] == 0) == zero && (zero || count < READ_PAGES)) {
            count++;
        }
        if (!zero) {
            rc = load_pages(loader, block, view, first + i, count, entries + i, error);
        } else {
            struct haul_run run = {.first = first + i, .count = count};
            if (view) {
                rc = haul_unpack_zero_run(view, &run, error);
            }
            haul_account_add(&loader->account.zero_pages, count);
        }
        i += count;
    }
    return rc;
}

/* A leaf's entries against its checksum; entries beyond the block are zero. */
static int check_leaf(const struct loader *loader, const struct haul_snapshot_block *block, uint64_t leaf,
                      const uint64_t *entries, uint64_t sum, struct haul_error *error)
{
    const struct haul_snapshot_reader *reader = loader->load->options.reader;
    uint64_t at = reader->layout.tables_at + (block->first_leaf + leaf) * HAUL_SNAPSHOT_LEAF_SIZE;
    if (haul_snapshot_leaf_sum(entries) != le64toh(sum)) {
        return damaged(reader, block, leaf * HAUL_SNAPSHOT_LEAF_PAGES,
                       "the table of it and its neighbours does not match its checksum", at, error);
    }
    for (uint64_t page = leaf * HAUL_SNAPSHOT_LEAF_PAGES + HAUL_SNAPSHOT_LEAF_PAGES; page-- > block->pages;) {
        if (entries[page % HAUL_SNAPSHOT_LEAF_PAGES] != 0) {
            return damaged(reader, block, page, "the table has an entry beyond the end of the block", at,
                           error);
        }
    }
    return 0;
}

/* ---- a unit ---- */

/* Finds the block and the leaves of unit `unit`; false beyond the last. */
static bool find_unit(const struct haul_snapshot_layout *layout, uint64_t unit, uint32_t *block,
                      uint64_t *leaf, unsigned *leaves)
{
    for (uint32_t i = 0; i < layout->block_count; i++) {
        uint64_t units = (layout->blocks[i].leaves + UNIT_LEAVES - 1) / UNIT_LEAVES;
        if (unit < units) {
            *block = i;
            *leaf = unit * UNIT_LEAVES;
            uint64_t left = layout->blocks[i].leaves - *leaf;
            *leaves = left < UNIT_LEAVES ? (unsigned)left : UNIT_LEAVES;
            return true;
        }
        unit -= units;
    }
    return false;
}

static bool is_cancelled(const struct haul_snapshot_load *load)
{
    return atomic_load_explicit(&((struct haul_snapshot_load *)load)->cancelled, memory_order_relaxed);
}

static int load_unit(struct loader *loader, uint32_t index, uint64_t leaf, unsigned leaves,
                     struct haul_error *error)
{
    const struct haul_snapshot_load *load = loader->load;
    struct haul_snapshot_reader *reader = load->options.reader;
    const struct haul_snapshot_layout *layout = &reader->layout;
    const struct haul_snapshot_block *block = &layout->blocks[index];
    const struct haul_block_view *view = load->options.views ? &load->options.views[index] : NULL;
    uint64_t number = block->first_leaf + leaf;
    int rc = haul_file_read(loader->table_fd, loader->sums, leaves * sizeof *loader->sums,
                            layout->sums_at + number * sizeof *loader->sums, error);
    if (rc == 0) {
        rc = haul_file_read(loader->table_fd, loader->entries, leaves * HAUL_SNAPSHOT_LEAF_SIZE,
                            layout->tables_at + number * HAUL_SNAPSHOT_LEAF_SIZE, error);
    }
    if (rc < 0) {
        return haul_snapshot_named(reader, error);
    }
    for (unsigned i = 0; rc == 0 && i < leaves; i++) {
        if (is_cancelled(load)) {
            return haul_error_set(error, ECANCELED, "cancelled");
        }
        rc = check_leaf(loader, block, leaf + i, loader->entries[i], loader->sums[i], error);
        if (rc == 0) {
            rc = load_leaf(loader, block, view, leaf + i, loader->entries[i], error);
        }
    }
    return rc;
}

/* ---- the thread ---- */

static void fail(struct haul_snapshot_load *load, const struct haul_error *error)
{
    pthread_mutex_lock(&load->lock);
    if (load->error.code == 0) {
        load->error = *error;
    }
    pthread_mutex_unlock(&load->lock);
    haul_snapshot_load_cancel(load);
}

static void *run(void *opaque)
{
    struct loader *loader = opaque;
    struct haul_snapshot_load *load = loader->load;
    const struct haul_snapshot_load_options *options = &load->options;
    struct haul_error error;
    struct haul_thread_entry entry;
    haul_thread_enter(options->thread_list, &entry, "multifdrecv", (int)loader->index);
    haul_account_thread(&loader->account);
    haul_account_turn(&loader->account, true, haul_io_now_ns());
    int rc = options->topology
                 ? haul_placement_apply(options->topology, &options->slots[loader->index], &error)
                 : 0;
    uint32_t block;
    uint64_t leaf;
    unsigned leaves;
    while (rc == 0 && find_unit(&options->reader->layout,
                                atomic_fetch_add_explicit(&load->next_unit, 1, memory_order_relaxed), &block,
                                &leaf, &leaves)) {
        rc = load_unit(loader, block, leaf, leaves, &error);
        haul_account_add(&loader->account.batches, 1);
    }
    if (rc < 0) {
        fail(load, &error);
    }
    haul_account_turn(&loader->account, false, haul_io_now_ns());
    haul_thread_leave(options->thread_list, &entry);
    return NULL;
}

/* ---- life ---- */

static int node_of(const struct haul_snapshot_load *load, unsigned index)
{
    return load->options.topology ? load->options.slots[index].node : HAUL_NODE_UNKNOWN;
}

static int start_loader(struct haul_snapshot_load *load, unsigned index, struct haul_error *error)
{
    const struct haul_snapshot_load_options *options = &load->options;
    struct loader *loader = haul_placement_alloc(sizeof *loader, node_of(load, index));
    if (!loader) {
        return haul_error_set(error, ENOMEM, "no memory for reader %u", index);
    }
    load->loaders[index] = loader;
    loader->load = load;
    loader->fd = -1;
    loader->index = index;
    loader->table_fd = options->reader->fd;
    haul_account_start(&loader->account);
    loader->fd = haul_file_reopen(options->reader->fd, O_RDONLY | (options->direct_io ? O_DIRECT : 0));
    if (loader->fd == -EINVAL && options->direct_io) {
        haul_error_set(error, EINVAL, "its file system has no direct I/O; leave --direct-io out");
        return haul_snapshot_named(options->reader, error);
    }
    if (loader->fd < 0) {
        haul_error_set(error, -loader->fd, "opening it again: %s", strerror(-loader->fd));
        return haul_snapshot_named(options->reader, error);
    }
    if (!options->views) {
        loader->scratch = haul_placement_alloc(READ_PAGES * HAUL_PAGE_SIZE, node_of(load, index));
        if (!loader->scratch) {
            return haul_error_set(error, ENOMEM, "no memory for reader %u", index);
        }
    }
    int rc = haul_thread_start(&loader->thread, run, loader);
    loader->started = rc == 0;
    return rc == 0 ? 0 : haul_error_set(error, -rc, "starting reader %u: %s", index, strerror(-rc));
}

int haul_snapshot_load_start(const struct haul_snapshot_load_options *options,
                             struct haul_snapshot_load **load, struct haul_error *error)
{
    if (options->threads == 0 || options->threads > HAUL_CHANNELS_MAX) {
        return haul_error_set(error, EINVAL, "%u reader threads; 1 to %d are possible", options->threads,
                              HAUL_CHANNELS_MAX);
    }
    struct haul_snapshot_load *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory to read a snapshot");
    }
    made->options = *options;
    pthread_mutex_init(&made->lock, NULL);
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < options->threads; i++) {
        rc = start_loader(made, i, error);
    }
    if (rc < 0) {
        haul_snapshot_load_free(made);
        return rc;
    }
    *load = made;
    return 0;
}

int haul_snapshot_load_wait(struct haul_snapshot_load *load, struct haul_error *error)
{
    for (unsigned i = 0; i < load->options.threads; i++) {
        if (load->loaders[i] && load->loaders[i]->started) {
            pthread_join(load->loaders[i]->thread, NULL);
            load->loaders[i]->started = false;
        }
    }
    if (load->error.code != 0 && error) {
        *error = load->error;
    }
    return -load->error.code;
}

void haul_snapshot_load_cancel(struct haul_snapshot_load *load)
{
    atomic_store_explicit(&load->cancelled, true, memory_order_relaxed);
}

void haul_snapshot_load_counters(const struct haul_snapshot_load *load, unsigned index,
                                 struct haul_channel_counters *counters)
{
    haul_account_read(&load->loaders[index]->account, NULL, counters);
    counters->node = node_of(load, index);
}

void haul_snapshot_load_free(struct haul_snapshot_load *load)
{
    if (!load) {
        return;
    }
    haul_snapshot_load_cancel(load);
    haul_snapshot_load_wait(load, NULL);
    for (unsigned i = 0; i < HAUL_CHANNELS_MAX && load->loaders[i]; i++) {
        struct loader *loader = load->loaders[i];
        if (loader->fd >= 0) {
            close(loader->fd);
        }
        if (loader->scratch) {
            haul_placement_free(loader->scratch, READ_PAGES * HAUL_PAGE_SIZE);
        }
        haul_placement_free(loader, sizeof *loader);
    }
    pthread_mutex_destroy(&load->lock);
    free(load);
}
