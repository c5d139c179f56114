/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/snapshot/reader.h"

#include "channels/snapshot/file_io.h"
#include "channels/snapshot/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define PIECE ((size_t)256 << 10)

int haul_snapshot_named(const struct haul_snapshot_reader *reader, struct haul_error *error)
{
    return haul_error_prefix(error, "%s: ", reader->path);
}

/* ---- opening ---- */

static int open_file(struct haul_snapshot_reader *reader, uint64_t *length, struct haul_error *error)
{
    struct stat status;
    /* Not blocking: a FIFO of that name must not keep us. */
    reader->fd = open(reader->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (reader->fd < 0 || fstat(reader->fd, &status) < 0) {
        return haul_error_set(error, errno, "opening it: %s", strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return haul_error_set(error, EINVAL, "it is not a regular file");
    }
    *length = (uint64_t)status.st_size;
    reader->allocated = (uint64_t)status.st_blocks * 512;
    return 0;
}

static int read_header(struct haul_snapshot_reader *reader, uint64_t length, struct haul_error *error)
{
    unsigned char bytes[HAUL_SNAPSHOT_HEADER_SIZE];
    if (length < sizeof bytes) {
        return haul_error_set(error, EPROTO,
                              "it is no haul snapshot, or was cut in its header: it has only %llu bytes",
                              (unsigned long long)length);
    }
    int rc = haul_file_read(reader->fd, bytes, sizeof bytes, 0, error);
    if (rc == 0) {
        rc = haul_snapshot_header_decode(bytes, &reader->header, error);
    }
    if (rc == 0 && length > reader->header.file_length) {
        rc = haul_error_set(error, EPROTO,
                            "it has %llu bytes and was written with %llu: something was added at its end",
                            (unsigned long long)length, (unsigned long long)reader->header.file_length);
    }
    return rc;
}

static int cut(const struct haul_snapshot_reader *reader, uint64_t length, const char *where,
               struct haul_error *error)
{
    return haul_error_set(error, EPROTO, "it has %llu bytes and was written with %llu: it was cut in %s",
                          (unsigned long long)length, (unsigned long long)reader->header.file_length, where);
}

static int read_block_table(struct haul_snapshot_reader *reader, uint64_t file_length,
                            struct haul_error *error)
{
    size_t length = (size_t)reader->header.table_length;
    if (file_length < HAUL_SNAPSHOT_HEADER_SIZE + length) {
        return cut(reader, file_length, "its block table", error);
    }
    unsigned char *table = malloc(length);
    int rc = table ? 0 : haul_error_set(error, ENOMEM, "no memory for the block table");
    if (rc == 0) {
        rc = haul_file_read(reader->fd, table, length, HAUL_SNAPSHOT_HEADER_SIZE, error);
    }
    if (rc == 0 && XXH3_64bits(table, length) != reader->header.table_checksum) {
        rc = haul_error_set(error, EPROTO, "the block table (offset %zu) does not match its checksum",
                            HAUL_SNAPSHOT_HEADER_SIZE);
    }
    if (rc == 0) {
        rc = haul_snapshot_layout_init(&reader->layout, table, length, error);
    }
    free(table);
    return rc;
}

static int check_layout(const struct haul_snapshot_reader *reader, struct haul_error *error)
{
    const struct haul_snapshot_header *header = &reader->header;
    const struct haul_snapshot_layout *layout = &reader->layout;
    if (header->memory_at != layout->memory_at || header->state_at != layout->state_at) {
        return haul_error_set(error, EPROTO,
                              "the header has memory at %llu and device state at %llu, the block table means "
                              "%llu and %llu",
                              (unsigned long long)header->memory_at, (unsigned long long)header->state_at,
                              (unsigned long long)layout->memory_at, (unsigned long long)layout->state_at);
    }
    if (header->file_length < layout->state_at ||
        header->file_length - layout->state_at != header->state_length) {
        return haul_error_set(error, EPROTO,
                              "the header has %llu bytes of device state at %llu in a file of %llu",
                              (unsigned long long)header->state_length, (unsigned long long)header->state_at,
                              (unsigned long long)header->file_length);
    }
    return 0;
}

/* A file that ends too early: in which section, or block of memory, and how far into it. */
static int check_length(const struct haul_snapshot_reader *reader, uint64_t length, struct haul_error *error)
{
    const struct haul_snapshot_layout *layout = &reader->layout;
    const struct haul_snapshot_block *block = &layout->blocks[layout->block_count - 1];
    char where[sizeof block->name + 64];
    if (length == reader->header.file_length) {
        return 0;
    }
    if (length < layout->memory_at) {
        return cut(reader, length, length < layout->tables_at ? "its leaf checksums" : "its page tables",
                   error);
    }
    if (length >= layout->state_at) {
        snprintf(where, sizeof where, "its device state, at %llu of it",
                 (unsigned long long)(length - layout->state_at));
        return cut(reader, length, where, error);
    }
    while (length < block->memory_at) {
        block--;
    }
    uint64_t at = length - block->memory_at;
    snprintf(where, sizeof where, "RAM block %s, at %#llx of it", block->name,
             (unsigned long long)(at < block->length ? at : block->length));
    return cut(reader, length, where, error);
}

/* Reads [from, to) in pieces and returns its XXH3-64 in *sum. */
static int sum_range(const struct haul_snapshot_reader *reader, uint64_t from, uint64_t to, uint64_t *sum,
                     struct haul_error *error)
{
    XXH3_state_t *state = XXH3_createState();
    unsigned char *piece = malloc(PIECE);
    int rc = state && piece ? 0 : haul_error_set(error, ENOMEM, "no memory to check it");
    if (rc == 0) {
        XXH3_64bits_reset(state);
    }
    for (uint64_t at = from; rc == 0 && at < to;) {
        size_t length = to - at < PIECE ? (size_t)(to - at) : PIECE;
        rc = haul_file_read(reader->fd, piece, length, at, error);
        if (rc == 0) {
            XXH3_64bits_update(state, piece, length);
            at += length;
        }
    }
    *sum = rc == 0 ? XXH3_64bits_digest(state) : 0;
    free(piece);
    XXH3_freeState(state);
    return rc;
}

static int check_leaf_sums(const struct haul_snapshot_reader *reader, struct haul_error *error)
{
    const struct haul_snapshot_layout *layout = &reader->layout;
    uint64_t sum;
    int rc =
        sum_range(reader, layout->sums_at, layout->sums_at + layout->leaves * sizeof(uint64_t), &sum, error);
    if (rc == 0 && sum != reader->header.sums_checksum) {
        rc = haul_error_set(error, EPROTO, "the leaf checksums (offset %llu) do not match their checksum",
                            (unsigned long long)layout->sums_at);
    }
    return rc;
}

/* ---- what is between the sections ---- */

static int check_zero(const struct haul_snapshot_reader *reader, unsigned char *piece, uint64_t from,
                      uint64_t to, const char *before, struct haul_error *error)
{
    for (uint64_t at = from; at < to;) {
        size_t length = to - at < PIECE ? (size_t)(to - at) : PIECE;
        int rc = haul_file_read(reader->fd, piece, length, at, error);
        if (rc < 0) {
            return rc;
        }
        if (piece[0] != 0 || memcmp(piece, piece + 1, length - 1) != 0) {
            size_t i = 0;
            while (piece[i] == 0) {
                i++;
            }
            return haul_error_set(error, EPROTO, "the byte at offset %llu, before %s, is not zero",
                                  (unsigned long long)(at + i), before);
        }
        at += length;
    }
    return 0;
}

/* No byte of the file may go unchecked, not even one that nobody reads. */
static int check_padding(const struct haul_snapshot_reader *reader, struct haul_error *error)
{
    const struct haul_snapshot_layout *layout = &reader->layout;
    const struct {
        uint64_t from;
        uint64_t to;
        const char *before;
    } gaps[] = {
        {HAUL_SNAPSHOT_HEADER_SIZE + layout->table_length, layout->sums_at, "the leaf checksums"},
        {layout->sums_at + layout->leaves * sizeof(uint64_t), layout->tables_at, "the page tables"},
        {layout->tables_at + layout->leaves * HAUL_SNAPSHOT_LEAF_SIZE, layout->memory_at, "the memory"},
    };
    unsigned char *piece = malloc(PIECE);
    int rc = piece ? 0 : haul_error_set(error, ENOMEM, "no memory to check it");
    for (size_t i = 0; rc == 0 && i < sizeof gaps / sizeof *gaps; i++) {
        rc = check_zero(reader, piece, gaps[i].from, gaps[i].to, gaps[i].before, error);
    }
    for (uint32_t i = 0; rc == 0 && i < layout->block_count; i++) {
        const struct haul_snapshot_block *block = &layout->blocks[i];
        bool last = i + 1 == layout->block_count;
        rc = check_zero(reader, piece, block->memory_at + block->length,
                        last ? layout->state_at : block[1].memory_at,
                        last ? "the device state" : block[1].name, error);
    }
    free(piece);
    return rc;
}

/* ---- life ---- */

int haul_snapshot_reader_new(const char *path, struct haul_snapshot_reader **reader, struct haul_error *error)
{
    struct haul_snapshot_reader *made = calloc(1, sizeof *made);
    if (!made || !(made->path = strdup(path))) {
        free(made);
        return haul_error_set(error, ENOMEM, "no memory to read a snapshot");
    }
    made->fd = -1;
    uint64_t length = 0;
    int rc = open_file(made, &length, error);
    if (rc == 0) {
        rc = read_header(made, length, error);
    }
    if (rc == 0) {
        rc = read_block_table(made, length, error);
    }
    if (rc == 0) {
        rc = check_layout(made, error);
    }
    if (rc == 0) {
        rc = check_length(made, length, error);
    }
    if (rc == 0) {
        rc = check_leaf_sums(made, error);
    }
    if (rc == 0) {
        rc = check_padding(made, error);
    }
    if (rc < 0) {
        haul_snapshot_named(made, error);
        haul_snapshot_reader_free(made);
        return rc;
    }
    *reader = made;
    return 0;
}

void haul_snapshot_reader_free(struct haul_snapshot_reader *reader)
{
    if (!reader) {
        return;
    }
    if (reader->fd >= 0) {
        close(reader->fd);
    }
    haul_snapshot_layout_cleanup(&reader->layout);
    free(reader->path);
    free(reader);
}

const struct haul_snapshot_layout *haul_snapshot_reader_layout(const struct haul_snapshot_reader *reader)
{
    return &reader->layout;
}

const struct haul_snapshot_header *haul_snapshot_reader_header(const struct haul_snapshot_reader *reader)
{
    return &reader->header;
}

const char *haul_snapshot_reader_path(const struct haul_snapshot_reader *reader)
{
    return reader->path;
}

uint64_t haul_snapshot_reader_allocated(const struct haul_snapshot_reader *reader)
{
    return reader->allocated;
}

/* ---- device state ---- */

static int read_frame(struct haul_snapshot_reader *reader, uint64_t left, uint64_t at,
                      enum haul_frame_type *type, void *payload, size_t *length, struct haul_error *error)
{
    unsigned char header[HAUL_FRAME_HEADER_SIZE];
    if (left < sizeof header) {
        return haul_error_set(error, EPROTO, "%llu bytes are left, too few for a frame",
                              (unsigned long long)left);
    }
    left -= sizeof header;
    int rc = haul_file_read(reader->fd, header, sizeof header, at, error);
    if (rc == 0) {
        rc = haul_frame_header_decode(header, left < HAUL_FRAME_MAX ? (size_t)left : HAUL_FRAME_MAX, type,
                                      length, error);
    }
    if (rc == 0) {
        rc = haul_file_read(reader->fd, payload, *length, at + sizeof header, error);
    }
    if (rc == 0 && !haul_frame_intact(header, payload, *length)) {
        rc = haul_error_set(error, EPROTO, "%s does not match its checksum", haul_frame_name(*type));
    }
    return rc;
}

int haul_snapshot_read_state(struct haul_snapshot_reader *reader, struct haul_snapshot_state *state,
                             unsigned *type, void *payload, size_t *length, struct haul_error *error)
{
    uint64_t left = reader->header.state_length - state->at;
    uint64_t at = reader->layout.state_at + state->at;
    *type = 0;
    if (left == 0) {
        return 0;
    }
    enum haul_frame_type frame = HAUL_FRAME_STATE;
    int rc = read_frame(reader, left, at, &frame, payload, length, error);
    if (rc < 0) {
        haul_error_prefix(error, "device state at offset %llu: ", (unsigned long long)at);
        return haul_snapshot_named(reader, error);
    }
    *type = frame;
    state->at += HAUL_FRAME_HEADER_SIZE + *length;
    return 0;
}

int haul_snapshot_check_state(struct haul_snapshot_reader *reader, struct haul_error *error)
{
    struct haul_snapshot_state state = {0};
    unsigned char *payload = malloc(HAUL_FRAME_MAX);
    unsigned type = 1;
    size_t length = 0;
    int rc = payload ? 0 : haul_error_set(error, ENOMEM, "no memory to check the device state");
    /* Frame by frame first: that finds the place of a damage. */
    while (rc == 0 && type != 0) {
        rc = haul_snapshot_read_state(reader, &state, &type, payload, &length, error);
    }
    free(payload);
    uint64_t from = reader->layout.state_at;
    uint64_t sum = 0;
    if (rc < 0) {
        return rc;
    }
    rc = sum_range(reader, from, from + reader->header.state_length, &sum, error);
    if (rc == 0 && sum != reader->header.state_checksum) {
        rc = haul_error_set(error, EPROTO, "the device state (offset %llu) does not match its checksum",
                            (unsigned long long)from);
    }
    return rc < 0 ? haul_snapshot_named(reader, error) : 0;
}
