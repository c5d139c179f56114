/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/snapshot/writer.h"

#include "channels/bits.h"
#include "channels/snapshot/file_io.h"
#include "channels/snapshot/place.h"
#include "compress/zero.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

/*
 * The page cache takes memory in pieces as large as a write. On a virtual machine writes of 1 MiB were
 * measured to take up to ten times as long as those of 512 KiB or less: pieces of that size are what free
 * page reporting gives back to the host.
 */
#define CACHED_WRITE ((size_t)256 << 10)
#define WORD_BITS 64
#define LEAVES_PER_READ 32

struct haul_snapshot_writer {
    /* Written once. */
    struct haul_snapshot_layout layout;
    struct haul_snapshot_place place; /* the file and its name */
    int direct_fd;                    /* for pages, or -1: the place's */

    /* Shared: bits of pages that have content in the file, per block, and of leaves whose checksum is old. */
    _Atomic uint64_t **stored;
    _Atomic uint64_t *stale;
    atomic_bool cannot_punch; /* the file system has no holes; relaxed, it only spares useless calls */

    /* One thread's at a time, see the header. */
    uint64_t *sums; /* per leaf, little-endian */
    unsigned char *leaf_buffer;
    XXH3_state_t *state_sum;
    uint64_t state_length;
};

static int named(struct haul_snapshot_writer *writer, struct haul_error *error)
{
    return haul_error_prefix(error, "%s: ", writer->place.path);
}

/* ---- life ---- */

static int make_bitmaps(struct haul_snapshot_writer *writer)
{
    const struct haul_snapshot_layout *layout = &writer->layout;
    writer->stored = calloc(layout->block_count, sizeof *writer->stored);
    writer->stale = calloc(haul_bits_words(layout->leaves), sizeof *writer->stale);
    writer->sums = calloc(layout->leaves, sizeof *writer->sums);
    writer->leaf_buffer = malloc(LEAVES_PER_READ * HAUL_SNAPSHOT_LEAF_SIZE);
    writer->state_sum = XXH3_createState();
    if (!writer->stored || !writer->stale || !writer->sums || !writer->leaf_buffer || !writer->state_sum) {
        return -ENOMEM;
    }
    XXH3_64bits_reset(writer->state_sum);
    for (uint32_t i = 0; i < layout->block_count; i++) {
        writer->stored[i] = calloc(haul_bits_words(layout->blocks[i].pages), sizeof **writer->stored);
        if (!writer->stored[i]) {
            return -ENOMEM;
        }
    }
    return 0;
}

int haul_snapshot_writer_new(const char *path, const void *block_table, size_t length, bool direct_io,
                             struct haul_snapshot_writer **writer, struct haul_error *error)
{
    struct haul_snapshot_writer *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for a snapshot");
    }
    made->direct_fd = -1;
    made->place.fd = -1;
    made->place.directory = -1;
    int rc = haul_snapshot_layout_init(&made->layout, block_table, length, error);
    if (rc == 0 && make_bitmaps(made) < 0) {
        rc = haul_error_set(error, ENOMEM, "no memory for the bitmaps of a snapshot");
    }
    if (rc == 0) {
        rc = haul_snapshot_place_open(&made->place, path, made->layout.state_at, error);
    }
    if (rc == 0 && direct_io) {
        made->direct_fd = haul_file_reopen(made->place.fd, O_WRONLY | O_DIRECT);
        if (made->direct_fd < 0) {
            rc = haul_error_set(error, -made->direct_fd,
                                "%s: its file system takes no direct I/O (%s); leave --direct-io out", path,
                                strerror(-made->direct_fd));
        }
    }
    if (rc < 0) {
        haul_snapshot_writer_free(made);
        return rc;
    }
    *writer = made;
    return 0;
}

const struct haul_snapshot_layout *haul_snapshot_writer_layout(const struct haul_snapshot_writer *writer)
{
    return &writer->layout;
}

void haul_snapshot_discard(struct haul_snapshot_writer *writer)
{
    haul_snapshot_place_discard(&writer->place);
}

void haul_snapshot_writer_free(struct haul_snapshot_writer *writer)
{
    if (!writer) {
        return;
    }
    if (writer->direct_fd >= 0) {
        close(writer->direct_fd);
    }
    haul_snapshot_place_close(&writer->place);
    for (uint32_t i = 0; writer->stored && i < writer->layout.block_count; i++) {
        free((void *)writer->stored[i]);
    }
    free((void *)writer->stored);
    free((void *)writer->stale);
    free(writer->sums);
    free(writer->leaf_buffer);
    XXH3_freeState(writer->state_sum);
    haul_snapshot_layout_cleanup(&writer->layout);
    free(writer);
}

/* ---- pages ---- */

static int check_range(const struct haul_snapshot_writer *writer, uint32_t block, uint64_t first,
                       uint64_t count, struct haul_error *error)
{
    const struct haul_snapshot_layout *layout = &writer->layout;
    if (block < layout->block_count && count > 0 && first < layout->blocks[block].pages &&
        count <= layout->blocks[block].pages - first) {
        return 0;
    }
    return haul_error_set(error, EINVAL, "%s: %llu pages from %llu are not in block %u", writer->place.path,
                          (unsigned long long)count, (unsigned long long)first, block);
}

/*
 * Relaxed: different threads put different pages, and who puts a page next was told so by its owner. The
 * leaves' bits are set after the entry was written; see refresh_sums.
 */
static void set_bits(_Atomic uint64_t *bits, uint64_t first, uint64_t count, memory_order order)
{
    for (uint64_t word = first / WORD_BITS; word <= (first + count - 1) / WORD_BITS; word++) {
        atomic_fetch_or_explicit(&bits[word], haul_bits_mask(word, first, first + count), order);
    }
}

/* Writes the entries of pages that are put; `sums` NULL: zeros. */
static int put_entries(struct haul_snapshot_writer *writer, const struct haul_snapshot_block *block,
                       uint64_t first, uint32_t count, const uint64_t *sums, struct haul_error *error)
{
    uint64_t entries[HAUL_SNAPSHOT_PUT_PAGES] = {0};
    for (uint32_t i = 0; sums && i < count; i++) {
        entries[i] = htole64(sums[i]);
    }
    uint64_t table = writer->layout.tables_at + block->first_leaf * HAUL_SNAPSHOT_LEAF_SIZE;
    int rc = haul_file_write(writer->place.fd, entries, count * sizeof *entries,
                             table + first * sizeof *entries, error);
    uint64_t leaf = first / HAUL_SNAPSHOT_LEAF_PAGES;
    uint64_t last = (first + count - 1) / HAUL_SNAPSHOT_LEAF_PAGES;
    /* Release, pairs with the acquire in refresh_sums: who clears the bit reads the entries. */
    set_bits(writer->stale, block->first_leaf + leaf, last - leaf + 1, memory_order_release);
    return rc < 0 ? named(writer, error) : 0;
}

static int write_pages(const struct haul_snapshot_writer *writer, const unsigned char *bytes, size_t length,
                       uint64_t at, struct haul_error *error)
{
    bool direct = writer->direct_fd >= 0;
    int rc = 0;
    for (size_t done = 0; rc == 0 && done < length;) {
        size_t piece = direct || length - done < CACHED_WRITE ? length - done : CACHED_WRITE;
        rc = haul_file_write(direct ? writer->direct_fd : writer->place.fd, bytes + done, piece, at + done,
                             error);
        done += piece;
    }
    return rc;
}

int haul_snapshot_put(struct haul_snapshot_writer *writer, uint32_t block, uint64_t first, uint32_t count,
                      const void *bytes, const uint64_t *sums, struct haul_error *error)
{
    int rc = check_range(writer, block, first, count, error);
    if (rc < 0 || count > HAUL_SNAPSHOT_PUT_PAGES) {
        return rc < 0 ? rc : haul_error_set(error, EINVAL, "%u pages at once", count);
    }
    const struct haul_snapshot_block *to = &writer->layout.blocks[block];
    set_bits(writer->stored[block], first, count, memory_order_relaxed);
    rc = write_pages(writer, bytes, count * HAUL_PAGE_SIZE, to->memory_at + first * HAUL_PAGE_SIZE, error);
    if (rc < 0) {
        return named(writer, error);
    }
    return put_entries(writer, to, first, count, sums, error);
}

/* Pages that have content no longer: their entries say so, and their room goes back. */
static int drop(struct haul_snapshot_writer *writer, const struct haul_snapshot_block *block, uint64_t first,
                uint32_t count, struct haul_error *error)
{
    if (!atomic_load_explicit(&writer->cannot_punch, memory_order_relaxed) &&
        fallocate(writer->place.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(block->memory_at + first * HAUL_PAGE_SIZE), (off_t)(count * HAUL_PAGE_SIZE)) < 0) {
        /* What stays there means nothing: the entry is what counts. */
        atomic_store_explicit(&writer->cannot_punch, true, memory_order_relaxed);
    }
    return put_entries(writer, block, first, count, NULL, error);
}

int haul_snapshot_put_zero(struct haul_snapshot_writer *writer, uint32_t block, uint64_t first,
                           uint64_t count, struct haul_error *error)
{
    int rc = check_range(writer, block, first, count, error);
    if (rc < 0) {
        return rc;
    }
    _Atomic uint64_t *stored = writer->stored[block];
    for (uint64_t word = first / WORD_BITS; rc == 0 && word <= (first + count - 1) / WORD_BITS; word++) {
        uint64_t mask = haul_bits_mask(word, first, first + count);
        uint64_t bits = atomic_load_explicit(&stored[word], memory_order_relaxed) & mask;
        if (bits) {
            atomic_fetch_and_explicit(&stored[word], ~bits, memory_order_relaxed);
        }
        while (rc == 0 && bits) { /* a contiguous group at a time */
            unsigned at;
            unsigned length;
            bits = haul_bits_take_run(bits, WORD_BITS, &at, &length);
            rc = drop(writer, &writer->layout.blocks[block], word * WORD_BITS + at, length, error);
        }
    }
    return rc;
}

/* ---- to the disk ---- */

int haul_snapshot_write_out(struct haul_snapshot_writer *writer, uint32_t block, uint64_t first,
                            uint64_t count, bool wait, struct haul_error *error)
{
    int rc = check_range(writer, block, first, count, error);
    if (rc < 0 || writer->direct_fd >= 0) {
        return rc;
    }
    unsigned flags = SYNC_FILE_RANGE_WRITE;
    if (wait) {
        flags |= SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER;
    }
    uint64_t offset = writer->layout.blocks[block].memory_at + first * HAUL_PAGE_SIZE;
    if (sync_file_range(writer->place.fd, (off_t)offset, (off_t)(count * HAUL_PAGE_SIZE), flags) < 0 &&
        errno != ENOSYS && errno != EINVAL) {
        return haul_error_set(error, errno, "%s: writing to the disk at offset %llu: %s", writer->place.path,
                              (unsigned long long)offset, strerror(errno));
    }
    return 0;
}

/* Reads the leaves [first, first + count) and works out their checksums. */
static int refresh_run(struct haul_snapshot_writer *writer, uint64_t first, uint64_t count,
                       struct haul_error *error)
{
    int rc = haul_file_read(writer->place.fd, writer->leaf_buffer, count * HAUL_SNAPSHOT_LEAF_SIZE,
                            writer->layout.tables_at + first * HAUL_SNAPSHOT_LEAF_SIZE, error);
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        writer->sums[first + i] =
            htole64(haul_snapshot_leaf_sum(writer->leaf_buffer + i * HAUL_SNAPSHOT_LEAF_SIZE));
    }
    return rc < 0 ? named(writer, error) : 0;
}

/* Brings the checksums of all stale leaves up to date. A leaf that is written meanwhile is stale again. */
static int refresh_sums(struct haul_snapshot_writer *writer, struct haul_error *error)
{
    for (uint64_t word = 0; word < haul_bits_words(writer->layout.leaves); word++) {
        /* Acquire, pairs with the release in put_entries. */
        uint64_t bits = atomic_exchange_explicit(&writer->stale[word], 0, memory_order_acquire);
        while (bits) {
            unsigned at;
            unsigned length;
            bits = haul_bits_take_run(bits, LEAVES_PER_READ, &at, &length);
            int rc = refresh_run(writer, word * WORD_BITS + at, length, error);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

int haul_snapshot_flush(struct haul_snapshot_writer *writer, struct haul_error *error)
{
    int rc = refresh_sums(writer, error);
    if (rc == 0 && fdatasync(writer->place.fd) < 0) {
        rc = haul_error_set(error, errno, "%s: writing to the disk: %s", writer->place.path, strerror(errno));
    }
    return rc;
}

int haul_snapshot_compare(struct haul_snapshot_writer *writer, uint32_t block, uint64_t leaf,
                          const unsigned char *host, struct haul_error *error)
{
    const struct haul_snapshot_block *own = &writer->layout.blocks[block];
    uint64_t entries[HAUL_SNAPSHOT_LEAF_PAGES];
    int rc =
        haul_file_read(writer->place.fd, entries, sizeof entries,
                       writer->layout.tables_at + (own->first_leaf + leaf) * HAUL_SNAPSHOT_LEAF_SIZE, error);
    if (rc < 0) {
        return named(writer, error);
    }
    for (unsigned i = 0; i < HAUL_SNAPSHOT_LEAF_PAGES; i++) {
        uint64_t page = leaf * HAUL_SNAPSHOT_LEAF_PAGES + i;
        if (page >= own->pages) {
            break;
        }
        const unsigned char *bytes = host + page * HAUL_PAGE_SIZE;
        uint64_t sum = le64toh(entries[i]);
        if (sum ? haul_snapshot_page_sum(bytes) != sum : !haul_is_zero(bytes, HAUL_PAGE_SIZE)) {
            return haul_error_set(error, EBADMSG, "%s: page %llu of RAM block %s is not as in memory",
                                  writer->place.path, (unsigned long long)page, own->name);
        }
    }
    return 0;
}

/* ---- the end ---- */

int haul_snapshot_add_state(struct haul_snapshot_writer *writer, enum haul_frame_type type,
                            const void *payload, size_t length, struct haul_error *error)
{
    unsigned char header[HAUL_FRAME_HEADER_SIZE];
    haul_frame_header_encode(header, type, payload, length);
    XXH3_64bits_update(writer->state_sum, header, sizeof header);
    uint64_t at = writer->layout.state_at + writer->state_length;
    int rc = haul_file_write(writer->place.fd, header, sizeof header, at, error);
    if (rc == 0 && length > 0) {
        XXH3_64bits_update(writer->state_sum, payload, length);
        rc = haul_file_write(writer->place.fd, payload, length, at + sizeof header, error);
    }
    writer->state_length += sizeof header + length;
    return rc < 0 ? named(writer, error) : 0;
}

static int write_sums(struct haul_snapshot_writer *writer, struct haul_error *error)
{
    size_t piece = (size_t)1 << 20;
    size_t total = (size_t)(writer->layout.leaves * sizeof *writer->sums);
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < total; at += piece) {
        const unsigned char *bytes = (const unsigned char *)writer->sums + at;
        size_t length = total - at < piece ? total - at : piece;
        rc = haul_file_write(writer->place.fd, bytes, length, writer->layout.sums_at + at, error);
    }
    return rc;
}

int haul_snapshot_complete(struct haul_snapshot_writer *writer, const unsigned char id[HAUL_SNAPSHOT_ID_SIZE],
                           struct haul_error *error)
{
    const struct haul_snapshot_layout *layout = &writer->layout;
    int rc = refresh_sums(writer, error);
    if (rc < 0) {
        return rc;
    }
    struct haul_snapshot_header header = {
        .created_s = (uint64_t)time(NULL),
        .table_length = layout->table_length,
        .table_checksum = XXH3_64bits(layout->table, layout->table_length),
        .sums_checksum = XXH3_64bits(writer->sums, layout->leaves * sizeof *writer->sums),
        .memory_at = layout->memory_at,
        .state_at = layout->state_at,
        .state_length = writer->state_length,
        .state_checksum = XXH3_64bits_digest(writer->state_sum),
        .file_length = layout->state_at + writer->state_length,
    };
    memcpy(header.id, id, sizeof header.id);
    unsigned char bytes[HAUL_SNAPSHOT_HEADER_SIZE];
    haul_snapshot_header_encode(&header, bytes);
    rc = write_sums(writer, error);
    if (rc == 0) {
        rc = haul_file_write(writer->place.fd, layout->table, layout->table_length, HAUL_SNAPSHOT_HEADER_SIZE,
                             error);
    }
    if (rc == 0) {
        rc = haul_file_write(writer->place.fd, bytes, sizeof bytes, 0, error);
    }
    if (rc == 0 && fsync(writer->place.fd) < 0) {
        rc = haul_error_set(error, errno, "writing to the disk: %s", strerror(errno));
    }
    return rc < 0 ? named(writer, error) : 0;
}

int haul_snapshot_publish(struct haul_snapshot_writer *writer, bool *published, struct haul_error *error)
{
    return haul_snapshot_place_publish(&writer->place, published, error);
}
