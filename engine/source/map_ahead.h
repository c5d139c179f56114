/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SOURCE_MAP_AHEAD_H
#define HAUL_ENGINE_SOURCE_MAP_AHEAD_H

/*
 * Maps guest memory of another process a little ahead of the senders in the first round. A sender that reads
 * a page which is not mapped yet takes a page fault, at up to a third of the time that it has for the page.
 */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_map_ahead; /* opaque */

/*
 * haul_map_ahead_start starts the thread over the pages of source->present, which outlives it. NULL: there is
 * none, for want of memory or threads; the move is only slower. migration_thread, as the others.
 */
struct haul_map_ahead *haul_map_ahead_start(struct haul_migration *migration);

/* haul_map_ahead_sent tells that `pages` more were handed to the senders: how far ahead is reckoned from
 * there. NULL is accepted. */
void haul_map_ahead_sent(struct haul_map_ahead *ahead, uint64_t pages);

/* haul_map_ahead_stop ends the thread and frees. NULL is accepted. */
void haul_map_ahead_stop(struct haul_map_ahead *ahead);

#ifdef __cplusplus
}
#endif
#endif
