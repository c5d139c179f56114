/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_HOLES_H
#define HAUL_ENGINE_HOLES_H

/* Finds memory that was never touched without reading it (reading a hole of a shared object would fill it).
 */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * haul_holes_present sets in `bitmap` (one bit per 4096-byte page) every page of `block` that may hold
 * content, by SEEK_DATA on its file; without a file, or on a file system that does not tell, every page.
 * Returns the number of pages set. Pages that are written meanwhile may be missed: a tracker must be running
 * already.
 */
uint64_t haul_holes_present(const struct haul_block *block, uint64_t *bitmap);

#ifdef __cplusplus
}
#endif
#endif
