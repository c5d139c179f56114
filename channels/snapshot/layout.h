/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SNAPSHOT_LAYOUT_H
#define HAUL_CHANNELS_SNAPSHOT_LAYOUT_H

/* Where everything lies in a snapshot file (docs/file.md), and its header: shared by writer and reader. */

#include "channels/batch.h"
#include "channels/error.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_SNAPSHOT_VERSION 1
#define HAUL_SNAPSHOT_HEADER_SIZE ((size_t)4096)
#define HAUL_SNAPSHOT_BLOCK_TABLE_MAX ((size_t)1 << 20)
#define HAUL_SNAPSHOT_BLOCKS_MAX 1024
#define HAUL_SNAPSHOT_MEMORY_MAX ((uint64_t)1 << 46)
#define HAUL_SNAPSHOT_LEAF_SIZE ((size_t)4096)
#define HAUL_SNAPSHOT_LEAF_PAGES 512
#define HAUL_SNAPSHOT_ID_SIZE 16

struct haul_snapshot_block {
    char name[256];
    uint64_t length;
    uint32_t page_size;
    uint64_t pages; /* of HAUL_PAGE_SIZE */
    uint64_t leaves;
    uint64_t first_leaf; /* of all leaves of the file */
    uint64_t memory_at;  /* offset of its first page */
};

struct haul_snapshot_layout {
    unsigned char *table; /* the block table as it is in the file */
    size_t table_length;
    struct haul_snapshot_block *blocks;
    uint32_t block_count;
    uint64_t leaves;
    uint64_t sums_at;
    uint64_t tables_at;
    uint64_t memory_at;
    uint64_t state_at;
};

struct haul_snapshot_header {
    unsigned char id[HAUL_SNAPSHOT_ID_SIZE];
    uint64_t created_s;
    uint64_t table_length;
    uint64_t table_checksum;
    uint64_t sums_checksum;
    uint64_t memory_at;
    uint64_t state_at;
    uint64_t state_length;
    uint64_t state_checksum;
    uint64_t file_length;
};

/*
 * haul_snapshot_layout_init reads a block table of `length` bytes (any bytes: it may be hostile) and works
 * out the layout. -EPROTO with a message that names the field; -ENOMEM. A zeroed layout may be cleaned up.
 */
int haul_snapshot_layout_init(struct haul_snapshot_layout *layout, const void *table, size_t length,
                              struct haul_error *error);
void haul_snapshot_layout_cleanup(struct haul_snapshot_layout *layout);

/* haul_snapshot_header_encode writes HAUL_SNAPSHOT_HEADER_SIZE bytes. */
void haul_snapshot_header_encode(const struct haul_snapshot_header *header, void *bytes);

/*
 * haul_snapshot_header_decode reads HAUL_SNAPSHOT_HEADER_SIZE bytes. -EPROTO with a message that names the
 * field; -EPROTONOSUPPORT for another version. The numbers are checked for what needs no context only.
 */
int haul_snapshot_header_decode(const void *bytes, struct haul_snapshot_header *header,
                                struct haul_error *error);

/* haul_snapshot_page_sum is the entry of a page with content; haul_snapshot_leaf_sum the checksum of a leaf.
 */
uint64_t haul_snapshot_page_sum(const void *page);
uint64_t haul_snapshot_leaf_sum(const void *leaf);

#ifdef __cplusplus
}
#endif
#endif
