/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/snapshot/layout.h"

#include "channels/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAGIC "HAULSNAP"
#define SUM_AT (HAUL_SNAPSHOT_HEADER_SIZE - 8)
#define MEMORY_ALIGNMENT ((uint64_t)2 << 20)

static uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) / alignment * alignment;
}

/* ---- the block table ---- */

static int read_block(struct haul_cursor *cursor, uint32_t index, struct haul_snapshot_block *block,
                      struct haul_error *error)
{
    bool named = haul_cursor_string(cursor, block->name, sizeof block->name);
    block->length = haul_cursor_u64(cursor);
    block->page_size = haul_cursor_u32(cursor);
    if (cursor->failed || !named || !block->name[0]) {
        return haul_error_set(error, EPROTO, "the block table is malformed at block %u", index);
    }
    bool power = block->page_size >= HAUL_PAGE_SIZE && (block->page_size & (block->page_size - 1)) == 0;
    if (!power || block->length == 0 || block->length % block->page_size != 0 ||
        block->length > HAUL_SNAPSHOT_MEMORY_MAX) {
        return haul_error_set(error, EPROTO, "RAM block %s has %llu bytes in pages of %u", block->name,
                              (unsigned long long)block->length, block->page_size);
    }
    block->pages = block->length / HAUL_PAGE_SIZE;
    block->leaves = (block->pages + HAUL_SNAPSHOT_LEAF_PAGES - 1) / HAUL_SNAPSHOT_LEAF_PAGES;
    return 0;
}

static int read_blocks(struct haul_snapshot_layout *layout, struct haul_cursor *cursor,
                       struct haul_error *error)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < layout->block_count; i++) {
        struct haul_snapshot_block *block = &layout->blocks[i];
        int rc = read_block(cursor, i, block, error);
        if (rc < 0) {
            return rc;
        }
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(layout->blocks[j].name, block->name) == 0) {
                return haul_error_set(error, EPROTO, "the block table names %s twice", block->name);
            }
        }
        total += block->length; /* each is capped, and there are few: no overflow */
        block->first_leaf = layout->leaves;
        layout->leaves += block->leaves;
    }
    if (total > HAUL_SNAPSHOT_MEMORY_MAX) {
        return haul_error_set(error, EPROTO, "the blocks have %llu bytes together, more than 64 TiB",
                              (unsigned long long)total);
    }
    return haul_cursor_done(cursor) ? 0
                                    : haul_error_set(error, EPROTO, "the block table has bytes left over");
}

static void place(struct haul_snapshot_layout *layout)
{
    layout->sums_at = align_up(HAUL_SNAPSHOT_HEADER_SIZE + layout->table_length, HAUL_PAGE_SIZE);
    layout->tables_at = align_up(layout->sums_at + layout->leaves * sizeof(uint64_t), HAUL_PAGE_SIZE);
    uint64_t at = layout->tables_at + layout->leaves * HAUL_SNAPSHOT_LEAF_SIZE;
    layout->memory_at = align_up(at, MEMORY_ALIGNMENT);
    at = layout->memory_at;
    for (uint32_t i = 0; i < layout->block_count; i++) {
        at = align_up(at, MEMORY_ALIGNMENT);
        layout->blocks[i].memory_at = at;
        at += layout->blocks[i].length;
    }
    layout->state_at = align_up(at, HAUL_PAGE_SIZE);
}

int haul_snapshot_layout_init(struct haul_snapshot_layout *layout, const void *table, size_t length,
                              struct haul_error *error)
{
    *layout = (struct haul_snapshot_layout){0};
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, table, length);
    uint32_t count = haul_cursor_u32(&cursor);
    if (cursor.failed || length > HAUL_SNAPSHOT_BLOCK_TABLE_MAX || count == 0 ||
        count > HAUL_SNAPSHOT_BLOCKS_MAX) {
        return haul_error_set(error, EPROTO, "the block table has %u blocks in %zu bytes", count, length);
    }
    layout->block_count = count;
    layout->blocks = calloc(count, sizeof *layout->blocks);
    layout->table = malloc(length);
    if (!layout->blocks || !layout->table) {
        haul_snapshot_layout_cleanup(layout);
        return haul_error_set(error, ENOMEM, "no memory for the block table");
    }
    memcpy(layout->table, table, length);
    layout->table_length = length;
    int rc = read_blocks(layout, &cursor, error);
    if (rc < 0) {
        haul_snapshot_layout_cleanup(layout);
        return rc;
    }
    place(layout);
    return 0;
}

void haul_snapshot_layout_cleanup(struct haul_snapshot_layout *layout)
{
    free(layout->table);
    free(layout->blocks);
    *layout = (struct haul_snapshot_layout){0};
}

/* ---- the header ---- */

void haul_snapshot_header_encode(const struct haul_snapshot_header *header, void *bytes)
{
    struct haul_writer writer;
    memset(bytes, 0, HAUL_SNAPSHOT_HEADER_SIZE);
    haul_writer_init(&writer, bytes, HAUL_SNAPSHOT_HEADER_SIZE);
    haul_writer_bytes(&writer, MAGIC, 8);
    haul_writer_u32(&writer, HAUL_SNAPSHOT_VERSION);
    haul_writer_u32(&writer, HAUL_PAGE_SIZE);
    haul_writer_bytes(&writer, header->id, sizeof header->id);
    haul_writer_u64(&writer, header->created_s);
    haul_writer_u64(&writer, header->table_length);
    haul_writer_u64(&writer, header->table_checksum);
    haul_writer_u64(&writer, header->sums_checksum);
    haul_writer_u64(&writer, header->memory_at);
    haul_writer_u64(&writer, header->state_at);
    haul_writer_u64(&writer, header->state_length);
    haul_writer_u64(&writer, header->state_checksum);
    haul_writer_u64(&writer, header->file_length);
    haul_writer_init(&writer, (unsigned char *)bytes + SUM_AT, 8);
    haul_writer_u64(&writer, XXH3_64bits(bytes, SUM_AT));
}

static int check_header(const unsigned char *bytes, size_t rest_at, uint32_t page_size,
                        const struct haul_snapshot_header *header, struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, bytes + SUM_AT, 8);
    if (haul_cursor_u64(&cursor) != XXH3_64bits(bytes, SUM_AT)) {
        return haul_error_set(error, EPROTO, "the header (offset 0) does not match its checksum");
    }
    if (page_size != HAUL_PAGE_SIZE) {
        return haul_error_set(error, EPROTO, "the header has a page size of %u, not %zu", page_size,
                              HAUL_PAGE_SIZE);
    }
    for (size_t i = rest_at; i < SUM_AT; i++) {
        if (bytes[i] != 0) {
            return haul_error_set(error, EPROTO, "the header's byte %zu is not zero", i);
        }
    }
    if (header->table_length == 0 || header->table_length > HAUL_SNAPSHOT_BLOCK_TABLE_MAX) {
        return haul_error_set(error, EPROTO, "the header has a block table of %llu bytes",
                              (unsigned long long)header->table_length);
    }
    return 0;
}

int haul_snapshot_header_decode(const void *bytes, struct haul_snapshot_header *header,
                                struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, bytes, HAUL_SNAPSHOT_HEADER_SIZE);
    const void *magic = haul_cursor_bytes(&cursor, 8);
    if (!magic || memcmp(magic, MAGIC, 8) != 0) {
        return haul_error_set(error, EPROTO, "it is no haul snapshot: its first bytes are not " MAGIC);
    }
    uint32_t version = haul_cursor_u32(&cursor);
    if (version != HAUL_SNAPSHOT_VERSION) {
        return haul_error_set(error, EPROTONOSUPPORT,
                              "it is a snapshot of version %u, this haul reads version %d", version,
                              HAUL_SNAPSHOT_VERSION);
    }
    uint32_t page_size = haul_cursor_u32(&cursor);
    memcpy(header->id, haul_cursor_bytes(&cursor, sizeof header->id), sizeof header->id);
    header->created_s = haul_cursor_u64(&cursor);
    header->table_length = haul_cursor_u64(&cursor);
    header->table_checksum = haul_cursor_u64(&cursor);
    header->sums_checksum = haul_cursor_u64(&cursor);
    header->memory_at = haul_cursor_u64(&cursor);
    header->state_at = haul_cursor_u64(&cursor);
    header->state_length = haul_cursor_u64(&cursor);
    header->state_checksum = haul_cursor_u64(&cursor);
    header->file_length = haul_cursor_u64(&cursor);
    size_t rest_at = (size_t)(cursor.at - (const unsigned char *)bytes);
    return check_header(bytes, rest_at, page_size, header, error);
}

/* ---- checksums ---- */

uint64_t haul_snapshot_page_sum(const void *page)
{
    uint64_t sum = XXH3_64bits(page, HAUL_PAGE_SIZE);
    return sum ? sum : 1;
}

uint64_t haul_snapshot_leaf_sum(const void *leaf)
{
    uint64_t any = 0;
    for (const uint64_t *entry = leaf; entry < (const uint64_t *)leaf + HAUL_SNAPSHOT_LEAF_PAGES; entry++) {
        any |= *entry;
    }
    if (any == 0) {
        return 0;
    }
    uint64_t sum = XXH3_64bits(leaf, HAUL_SNAPSHOT_LEAF_SIZE);
    return sum ? sum : 1;
}
