/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_MEMORY_NODES_H
#define HAUL_ENGINE_MEMORY_NODES_H

/*
 * On which NUMA nodes guest memory lies. The kernel tells it only of pages that this process has mapped, and
 * the memory of another process is mapped here untouched when a move begins.
 */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_MEMORY_NODES_MAX 64

/*
 * haul_memory_by_node adds to `bytes` how much of the migration's memory lies on each node, as some pages of
 * every block show; what nobody touched yet counts nowhere. Maps those that are in the file behind a block
 * and not mapped here, huge pages in a mapping of their own. It makes no page. What the kernel does not allow
 * to ask (huge pages: without a userfaultfd, of Linux 5.13, or the right to write the file) counts nowhere.
 */
void haul_memory_by_node(const struct haul_migration *migration, uint64_t bytes[HAUL_MEMORY_NODES_MAX]);

/* haul_memory_node_of_content returns the node of the page at `page`, which is about to be read anyway: reads
 * a byte of it, so that it is mapped. HAUL_NODE_UNKNOWN when the kernel does not say. */
int haul_memory_node_of_content(const unsigned char *page);

#ifdef __cplusplus
}
#endif
#endif
