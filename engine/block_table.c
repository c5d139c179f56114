/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/block_table.h"

#include <errno.h>
#include <string.h>

size_t haul_block_table_encode(const struct haul_migration *migration, void *payload, size_t capacity)
{
    struct haul_writer writer;
    haul_writer_init(&writer, payload, capacity);
    haul_writer_u32(&writer, migration->block_count);
    for (uint32_t i = 0; i < migration->block_count; i++) {
        haul_writer_string(&writer, migration->blocks[i].name);
        haul_writer_u64(&writer, migration->blocks[i].length);
        haul_writer_u32(&writer, migration->blocks[i].page_size);
    }
    return haul_writer_length(&writer);
}

static int match_one(const struct haul_migration *migration, const char *name, uint64_t length,
                     uint32_t page_size, uint32_t *index, struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->block_count; i++) {
        const struct haul_block *own = &migration->blocks[i];
        if (strcmp(own->name, name) != 0) {
            continue;
        }
        if (own->length != length) {
            return haul_error_set(
                error, EINVAL,
                "RAM block %s has %llu bytes at the source and %llu at the destination; start the "
                "destination with the same memory size",
                name, (unsigned long long)length, (unsigned long long)own->length);
        }
        if (own->page_size != page_size) {
            return haul_error_set(
                error, EINVAL,
                "RAM block %s has pages of %u bytes at the source and %u at the destination; use the "
                "same huge page size on both sides",
                name, page_size, own->page_size);
        }
        *index = i;
        return 0;
    }
    return haul_error_set(
        error, EINVAL,
        "RAM block %s of the source is missing at the destination; start the destination with the "
        "same memory devices",
        name);
}

int haul_block_table_match(const struct haul_migration *migration, const void *payload, size_t length,
                           uint32_t *order, struct haul_error *error)
{
    bool seen[HAUL_BLOCKS_MAX] = {false};
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, payload, length);
    uint32_t count = haul_cursor_u32(&cursor);
    for (uint32_t i = 0; i < count && i < migration->block_count && !cursor.failed; i++) {
        char name[HAUL_NAME_MAX + 1];
        bool named = haul_cursor_string(&cursor, name, sizeof name);
        uint64_t bytes = haul_cursor_u64(&cursor);
        uint32_t page_size = haul_cursor_u32(&cursor);
        if (!named || cursor.failed) {
            break;
        }
        int rc = match_one(migration, name, bytes, page_size, &order[i], error);
        if (rc < 0) {
            return rc;
        }
        if (seen[order[i]]) {
            return haul_error_set(error, EPROTO, "the source's block table names %s twice", name);
        }
        seen[order[i]] = true;
    }
    if (!cursor.failed && count != migration->block_count) {
        return haul_error_set(
            error, EINVAL,
            "the source has %u RAM blocks, the destination %u; start the destination with the same "
            "memory devices",
            count, migration->block_count);
    }
    return haul_cursor_done(&cursor) ? 0
                                     : haul_error_set(error, EPROTO, "the source's block table is malformed");
}
