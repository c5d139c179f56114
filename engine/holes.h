/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_HOLES_H
#define HAUL_ENGINE_HOLES_H

/* Finds memory that was never touched without reading it (reading a hole of a shared object would fill it).
 */

#include "engine/migration.h"

#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* haul_holes_check: -EINVAL when the block is a private mapping of its file, whose holes then say nothing of
 * what the block holds; or that /proc cannot be read. */
int haul_holes_check(const struct haul_block *block, struct haul_error *error);

/*
 * haul_holes_next_content returns where in [at, end) of its file the block may hold content next, `end` for
 * nowhere, or -1 when there is no file or its file system does not tell.
 */
off_t haul_holes_next_content(const struct haul_block *block, off_t at, off_t end);

/*
 * haul_holes_present sets in `bitmap` (one bit per 4096-byte page) every page of `block` that may hold
 * content, by SEEK_DATA on its file; without a file, or on a file system that does not tell, every page.
 * Pages that are written meanwhile may be missed: a tracker must be running already.
 */
void haul_holes_present(const struct haul_block *block, uint64_t *bitmap);

#ifdef __cplusplus
}
#endif
#endif
