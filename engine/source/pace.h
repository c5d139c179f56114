/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SOURCE_PACE_H
#define HAUL_ENGINE_SOURCE_PACE_H

/*
 * How fast each channel is, so that all come to the end of their queues at the same time: a channel over a
 * slow link that holds as many batches as one over a fast link still works on them when the other has nothing
 * left. And none shall hold more than some tens of milliseconds of work: a round that is cut short, and a
 * lower max-bandwidth, wait for what the channels hold. The migration_thread's; no threads, no clocks.
 */

#include "channels/batch.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a channel did in a time in which it had work for `busy_ns`. */
struct haul_pace_sample {
    uint64_t delivered_bytes;
    uint64_t pages;
    uint64_t busy_ns;
};

struct haul_pace {
    struct haul_pace_sample pending; /* what was not worth measuring so far */
    double bytes_per_ns;             /* smoothed; 0: not known yet */
    double ns_per_page;              /* the same, zero pages counted; 0: not known yet */
    unsigned depth;                  /* batches that it may hold, at least HAUL_PACE_LEAST */
    uint32_t unsent_bytes;           /* that may wait in the kernel; 0: as many as it likes */
    uint32_t batch_pages;            /* of each of them, HAUL_PACE_LEAST_PAGES to HAUL_BATCH_PAGES */
};

/* What keeps a channel busy however slow it is: one on its way and the next one. */
#define HAUL_PACE_LEAST 2
#define HAUL_PACE_LEAST_PAGES 16

/* haul_pace_measure takes one measurement of one channel in. */
void haul_pace_measure(struct haul_pace *pace, const struct haul_pace_sample *sample);

/*
 * haul_pace_share sets every depth: `most` for the fastest channel and those about as fast, for others in
 * proportion; fewer, and smaller batches, where these would take too long or nothing is known yet.
 */
void haul_pace_share(struct haul_pace *paces, unsigned count, unsigned most);

/*
 * haul_pace_unsent sets unsent_bytes, and returns whether it changed: some milliseconds' worth for a slow
 * channel, next to nothing under a limit (`limited`), where a queue would also hide how fast the link is.
 */
int haul_pace_unsent(struct haul_pace *pace, int limited);

/* What there is to choose from for the next batch: `count` channels. */
struct haul_pace_choice {
    const struct haul_pace *paces;
    const unsigned *loads; /* batches in flight */
    const int *nodes;      /* NUMA nodes that they run on; negative: none in particular */
    unsigned count;
    unsigned first; /* whose turn it is */
    int node;       /* where the batch's memory lies; negative: not known */
};

/*
 * haul_pace_pick returns the channel that takes the next batch: of those with room the one whose share is
 * least full, among equals one on the memory's node, then in turn from `first` on. Negative while all are
 * full.
 */
int haul_pace_pick(const struct haul_pace_choice *choice);

#ifdef __cplusplus
}
#endif
#endif
