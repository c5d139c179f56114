/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_BLOCK_TABLE_H
#define HAUL_ENGINE_BLOCK_TABLE_H

/* The BLOCKS frame: the source's block table, checked against the destination's own. */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

/* haul_block_table_encode writes the payload of BLOCKS; returns its length, or 0 when it does not fit. */
size_t haul_block_table_encode(const struct haul_migration *migration, void *payload, size_t capacity);

/*
 * haul_block_table_match checks a BLOCKS payload against `migration`'s blocks: every block on both sides, of
 * the same length and page size. On success order[i] is the destination's index of the source's block i
 * (block_count entries, the caller's). -EPROTO: malformed; -EINVAL: the tables differ; the message names the
 * block and what to change.
 */
int haul_block_table_match(const struct haul_migration *migration, const void *payload, size_t length,
                           uint32_t *order, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
