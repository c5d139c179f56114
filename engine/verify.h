/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_VERIFY_H
#define HAUL_ENGINE_VERIFY_H

/* The proof of rule R3: one hash per RAM block, computed by several threads on memory that stands still. */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_HASH_SIZE 16

/*
 * haul_verify_hash writes the hash of each block, then of each disk, to `hashes` (view_count *
 * HAUL_HASH_SIZE bytes). The hash of a block is XXH3-128 (xxhash.com) over the XXH3-64 of its 2 MiB chunks, 0
 * for a chunk that is all zero; a hole counts as zero and is not read. However long that takes, the peer
 * hears that it goes on (WORKING, from a destination), and a cancel or the end of the control connection ends
 * it. -ENOMEM, -ECANCELED, why the connection ended, or what reading a disk said.
 */
int haul_verify_hash(struct haul_migration *migration, unsigned threads, unsigned char *hashes,
                     struct haul_error *error);

/*
 * haul_verify_cost_ns measures on a sample of the memory, which may be changing, what haul_verify_hash will
 * take; 0 when there is no memory to measure with.
 */
uint64_t haul_verify_cost_ns(struct haul_migration *migration, unsigned threads);

#ifdef __cplusplus
}
#endif
#endif
