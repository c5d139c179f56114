/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SOURCE_PACE_H
#define HAUL_ENGINE_SOURCE_PACE_H

/*
 * How fast each channel is, so that all come to the end of their queues at the same time: a channel over a
 * slow link that holds as many batches as one over a fast link still works on them when the other has nothing
 * left. The migration_thread's; no threads, no clocks.
 */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_pace {
    double bytes_per_ns; /* smoothed; 0: not known yet */
    unsigned depth;      /* batches that it may hold, at least HAUL_PACE_LEAST */
};

/* What keeps a channel busy however slow it is: one on its way and the next one. */
#define HAUL_PACE_LEAST 2

/* haul_pace_measure takes in what one channel delivered in a time in which it had work for `busy_ns`. */
void haul_pace_measure(struct haul_pace *pace, uint64_t delivered_bytes, uint64_t busy_ns);

/* haul_pace_share sets every depth: `most` for the fastest channel and those about as fast, for others in
 * proportion. */
void haul_pace_share(struct haul_pace *paces, unsigned count, unsigned most);

/* haul_pace_before returns whether a channel with room, `load` batches in flight, comes before one with
 * `other_load`: its share is less full. */
static inline int haul_pace_before(const struct haul_pace *pace, unsigned load, const struct haul_pace *other,
                                   unsigned other_load)
{
    return load * other->depth < other_load * pace->depth;
}

#ifdef __cplusplus
}
#endif
#endif
