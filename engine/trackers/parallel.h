/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_PARALLEL_H
#define HAUL_ENGINE_TRACKERS_PARALLEL_H

/* The same step over many pieces of a large memory, on several CPUs: a stopped guest waits for the last. */

#include "engine/trackers.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_PARALLEL_MAX 8 /* threads, the caller's among them */

/* One step: `item` counts from 0; `worker` says which of the threads runs it, so that each can have its own
 * scratch. Returns 0 or a negative errno with `error` set. */
typedef int haul_parallel_step(void *opaque, unsigned item, unsigned worker, struct haul_error *error);

/*
 * haul_parallel_workers returns how many threads are worth having for `items` steps: at most one per item and
 * per CPU that the calling thread may use, and HAUL_PARALLEL_MAX.
 */
unsigned haul_parallel_workers(unsigned items);

/*
 * haul_parallel_run takes `items` steps on `workers` threads (1 to HAUL_PARALLEL_MAX), the caller's among
 * them, and returns when all have ended. After a failure no further step begins; the first one's code and
 * message are returned. Threads that cannot be started only make it slower.
 */
int haul_parallel_run(unsigned items, unsigned workers, haul_parallel_step *step, void *opaque,
                      struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
