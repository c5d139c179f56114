/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/memory_nodes.h"

#include "channels/live_read.h"

#include <unistd.h>

#define SAMPLES 256 /* pages per block that are asked for their node */

int haul_memory_node_of_content(const unsigned char *page)
{
    HAUL_LIVE_READ_BEGIN();
    (void)*(const volatile unsigned char *)page;
    HAUL_LIVE_READ_END();
    return haul_memory_node(page);
}

/* Whether the file behind the block has the page, so that reading it makes none. */
static bool is_in_file(const struct haul_block *block, uint64_t page)
{
    off_t at = (off_t)(block->fd_offset + page * HAUL_PAGE_SIZE);
    return block->fd >= 0 && block->page_size == HAUL_PAGE_SIZE && lseek(block->fd, at, SEEK_DATA) == at;
}

void haul_memory_by_node(const struct haul_migration *migration, uint64_t bytes[HAUL_MEMORY_NODES_MAX])
{
    for (uint32_t i = 0; i < migration->block_count; i++) {
        const struct haul_block *block = &migration->blocks[i];
        uint64_t pages = block->length / HAUL_PAGE_SIZE;
        uint64_t step = pages / SAMPLES + 1;
        for (uint64_t page = 0; page < pages; page += step) {
            const unsigned char *at = block->host + page * HAUL_PAGE_SIZE;
            int node = haul_memory_node(at);
            if (node == HAUL_NODE_UNKNOWN && is_in_file(block, page)) {
                node = haul_memory_node_of_content(at);
            }
            if (node >= 0 && node < HAUL_MEMORY_NODES_MAX) {
                bytes[node] += step * HAUL_PAGE_SIZE;
            }
        }
    }
}
