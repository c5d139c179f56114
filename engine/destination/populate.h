/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DESTINATION_POPULATE_H
#define HAUL_ENGINE_DESTINATION_POPULATE_H

/*
 * Populates destination memory ahead of the data. Page faults on fresh memory cost more than the network, so
 * a thread per CPU makes the pages present, from the moment the sizes are known.
 */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_populate; /* opaque */

#define HAUL_POPULATE_CHUNK ((size_t)2 << 20) /* bytes that one claim covers, and one bit of PRESENT */

/*
 * haul_populate_start starts `threads` threads over all blocks of `migration`, which outlives them. The
 * contents of present pages are kept. *populate is NULL, and the operator told, where the kernel cannot.
 * -ENOMEM, -EAGAIN.
 */
int haul_populate_start(struct haul_migration *migration, unsigned threads, struct haul_populate **populate,
                        struct haul_error *error);

/*
 * haul_populate_hold: a source is there, and no chunk begins before haul_populate_restrict, but for no longer
 * than half a second. Setting a migration up maps memory, which would have to wait for every chunk that is
 * being populated. From the loader thread.
 */
void haul_populate_hold(struct haul_populate *populate);

/* haul_populate_restrict takes a PRESENT payload whose block index was translated by `order`: chunks whose
 * bit is clear are left alone from now on. The source is about to send: populating takes its full share of
 * the CPUs now, and no longer only idle time. -EPROTO when it does not fit the block. From the loader thread.
 */
int haul_populate_restrict(struct haul_populate *populate, const uint32_t *order, const void *payload,
                           size_t length, struct haul_error *error);

/* haul_populate_failed returns 0, or the negative errno that populating met first (out of memory). */
int haul_populate_failed(const struct haul_populate *populate);

/* haul_populate_stop ends the threads after their current chunk and frees. NULL is accepted. */
void haul_populate_stop(struct haul_populate *populate);

#ifdef __cplusplus
}
#endif
#endif
