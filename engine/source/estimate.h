/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SOURCE_ESTIMATE_H
#define HAUL_ENGINE_SOURCE_ESTIMATE_H

/*
 * Bandwidth, threshold and predicted downtime (design 7), as plain arithmetic without threads or clocks.
 *
 * Bandwidth is bytes delivered over the time in which the busiest channel had work, so that neither zero
 * scanning by the coordinator nor a rate limit lowers it, smoothed by an exponentially weighted moving
 * average (EWMA). threshold_size = bandwidth per ms * downtime limit, as QEMU's migration_update_counters
 * computes it. The decision goes further: it compares the whole predicted downtime with the limit.
 */

#include "engine/haul.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_WINDOW_LEAST_BYTES 65536 /* of a window that says something */

/* What the channels did in one window; sums are over all channels. */
struct haul_window {
    uint64_t delivered_bytes;
    uint64_t busiest_ns; /* greatest busy time, encoding excluded, of any one channel */
};

/* One finished round, from its first batch to the destination's ROUND_DONE. */
struct haul_round_sample {
    uint64_t pages; /* sent with content, or found zero by reading */
    uint64_t wire_bytes;
    uint64_t elapsed_ns; /* without what flushing disks took */
    bool first;   /* the bulk round: destination memory may be fresh, so it says less of the last pass */
    bool limited; /* slowed by max-bandwidth: says nothing of the last pass, which is not limited */
};

struct haul_estimate {
    double bandwidth_bytes_per_s; /* 0: nothing measured yet */
    /* A typical round: its time and its pages, all channels together. 0: none yet. */
    double round_ns;
    double round_pages;
    double wire_bytes_per_page;
    bool late_round_seen;
    uint64_t round_latency_ns;     /* least time of a round with next to no pages; 0: none yet, a round trip
                                      stands in */
    struct haul_guest_costs costs; /* measured in this migration or given by the guest */
    uint64_t verify_ns;            /* 0 without --verify */
    uint64_t flush_ns;             /* to make disks durable after the last pass; 0: nothing to flush */
    uint64_t sending_ns;           /* the step event before HANDOVER, as tried in setup */
    uint64_t receiving_ns; /* what the destination does before it starts the guest, as tried in setup */
    uint64_t round_trip_ns;
    uint64_t switchover_bandwidth_bytes_per_s; /* the user's, or 0 */
    bool shares_memory; /* nothing is scanned or sent: no last pass, and state goes at the speed of memory */
};

void haul_estimate_init(struct haul_estimate *estimate);

/*
 * haul_estimate_carrying_ns returns for how long a channel carried since the last call, by what it was busy
 * and encoded since its start; *seen_ns is kept for it, 0 at first. Encoding is only counted at its end:
 * what an earlier call took for carrying, and was not, comes off the next ones.
 */
uint64_t haul_estimate_carrying_ns(uint64_t *seen_ns, uint64_t busy_ns, uint64_t encode_ns);

/* haul_estimate_add_window and haul_estimate_add_round take one measurement in. Windows under 64 KiB or 1 us
 * of work are left out. */
void haul_estimate_add_window(struct haul_estimate *estimate, const struct haul_window *window);
void haul_estimate_add_round(struct haul_estimate *estimate, const struct haul_round_sample *sample);

/* The bandwidth that decisions use: the user's switchover bandwidth if given, else the estimate; bytes per
 * second. */
uint64_t haul_estimate_bandwidth(const struct haul_estimate *estimate);

/* threshold_size in bytes for a downtime limit. */
uint64_t haul_estimate_threshold(const struct haul_estimate *estimate, uint64_t downtime_limit_ns);

/* haul_estimate_ns_per_page returns what a page of a round costs beyond the round's latency; 0: unknown. */
double haul_estimate_ns_per_page(const struct haul_estimate *estimate);

/* haul_estimate_downtime predicts the downtime if the guest were stopped now with `pages` dirty pages. */
void haul_estimate_downtime(const struct haul_estimate *estimate, uint64_t pages,
                            struct haul_downtime *downtime);

/* haul_estimate_longest_part names what takes longest of a predicted downtime without pages, as it goes on
 * after "N ms of it", and returns N in `ns`. */
const char *haul_estimate_longest_part(const struct haul_estimate *estimate,
                                       const struct haul_downtime *downtime, uint64_t *ns);

#ifdef __cplusplus
}
#endif
#endif
