/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SOURCE_SOURCE_H
#define HAUL_ENGINE_SOURCE_SOURCE_H

/*
 * The source's end. source.c sets up and tears down, migration_thread.c runs the rounds, dispatch.c hands
 * batches to the senders, switchover.c stops the guest and hands it over.
 */

#include "channels/sender.h"
#include "engine/migration.h"
#include "engine/source/estimate.h"
#include "engine/source/pace.h"
#include "engine/source/rate_limit.h"

struct haul_source {
    /* ---- under migration->lock, for statistics of other threads ---- */
    struct haul_sender **senders; /* options.channels entries, filled one by one; `sender_count` are there */
    unsigned sender_count;
    struct haul_background *background; /* mode background-snapshot, from setup on */

    /* ---- the migration_thread's own ---- */
    struct haul_doorbell bell;        /* rung by senders, the control reader and haul_cancel */
    uint64_t **bitmaps;               /* dirty pages, one bitmap per block, then per disk */
    uint64_t **present;               /* pages that may hold content when round 1 is planned; NULL after it */
    struct haul_map_ahead *map_ahead; /* reads `present`; in round 1, else NULL */
    uint64_t dirty_pages;             /* set bits over all bitmaps */
    uint64_t dirty_disk_pages;        /* of these, on disks */
    bool several_nodes;               /* ask where memory lies only when it matters */
    unsigned next_channel;            /* where the next tie between equally loaded channels is broken */
    struct haul_rate_limit limit;
    struct haul_file_source *file; /* file:PATH, else NULL: there is a destination */
    bool unlimited;                /* the last pass ignores max-bandwidth */
    bool kept_short;               /* the kernel's queues are, because of max-bandwidth */
    uint32_t round;                /* of the pages being sent, from 1 */
    uint32_t passes;               /* over memory: rounds but for those that only measure */
    uint32_t rounds_done;          /* latest ROUND_DONE */
    bool tracking;
    bool stopped;          /* the stop hook was called and not undone */
    uint64_t last_sync_ns; /* when the tracker was read last */
    double dirty_pages_per_s;
    double dirty_disk_pages_per_s;
    uint64_t flush_ns;      /* that the destination needed for its disks in the round confirmed last */
    uint64_t flush_cost_ns; /* what such a flush is reckoned to take */
    bool late_flush_seen;   /* of a round with little to flush */
    struct haul_estimate estimate;
    struct haul_channel_counters *window_base; /* counters when the bandwidth window began */
    struct haul_pace *paces;                   /* one per channel */
    uint64_t *link_base_ns;                    /* how long each link was busy by then */
    uint64_t *carrying_ns;                     /* how long each channel carried by then */
    uint64_t window_started_ns;
    unsigned slow_rounds; /* consecutive rounds that did not come closer to the limit */
    unsigned throttle_percent;
    bool advised;
    bool told_beyond;          /* that the guest is stopped beyond the limit, see tell_beyond */
    uint32_t knobs_generation; /* of the knobs that were taken last */
    bool reconsider;           /* a knob changed: haul_source_cut_short may end the round early */
    uint64_t round_pages;      /* dirty pages when the round began */
    unsigned verify_samples;   /* taken of what hashing will take */
    unsigned latency_samples;  /* taken of a round without pages */
    bool said_stopped;         /* the guest event told that it stands still */
    bool channel_broke;        /* the destination may know why */
    uint64_t decided_pages;    /* dirty when the guest was to be stopped */
    uint64_t late_pages;       /* more than these were dirty when it stood still: too many, so it went on */
};

/* ---- source.c ---- */

/* haul_source_setup_handlers asks the guest for its costs, and lets the state handlers set up. */
int haul_source_setup_handlers(struct haul_migration *migration, struct haul_error *error);

/* haul_source_plan_placement fills options.channels slots. */
int haul_source_plan_placement(struct haul_migration *migration, struct haul_placement_slot *slots,
                               struct haul_error *error);

/* haul_source_connect opens the connection of `channel` and shakes hands on it. */
int haul_source_connect(struct haul_migration *migration, uint16_t channel, int *fd,
                        struct haul_error *error);

/* ---- dispatch.c ---- */

/*
 * haul_dispatch_pages sends every set bit of the bitmaps and clears it, or stops early where `reconsider`
 * says so; haul_dispatch_holes sends as zero every clear bit of `present`; haul_dispatch_mark sends the mark
 * of the current round on every channel. All three wait for room, and return a negative errno as soon as a
 * channel or the control connection fails or the move is cancelled.
 */
int haul_dispatch_pages(struct haul_migration *migration, struct haul_error *error);
int haul_dispatch_holes(struct haul_migration *migration, struct haul_error *error);
int haul_dispatch_mark(struct haul_migration *migration, struct haul_error *error);

/* haul_source_check returns 0 while nothing failed and nobody cancelled; takes ROUND_DONE frames in. */
int haul_source_check(struct haul_migration *migration, struct haul_error *error);

/* What all channels did so far. */
struct haul_source_sum {
    uint64_t written;   /* bytes, headers included */
    uint64_t delivered; /* of these, bytes that left this host */
    uint64_t content;   /* pages that were not sent as zero */
};

/* haul_source_add_up reads the counters of all channels. migration_thread. */
struct haul_source_sum haul_source_add_up(const struct haul_source *source);

/* haul_source_rate_limit returns max-bandwidth as it is now; 0: none. */
uint64_t haul_source_rate_limit(const struct haul_migration *migration);

/* haul_source_wait_round waits for ROUND_DONE of `round`. */
int haul_source_wait_round(struct haul_migration *migration, uint32_t round, struct haul_error *error);

/* ---- connect.c ---- */
/*
 * haul_source_meet opens the control connection and agrees with the destination on the blocks;
 * haul_source_open_channels opens the channels and starts their senders. Only in setup.
 */
int haul_source_meet(struct haul_migration *migration, struct haul_error *error);
int haul_source_open_channels(struct haul_migration *migration, struct haul_error *error);

/* ---- source.c ---- */
void haul_source_forget_present(struct haul_migration *migration);

/* ---- migration_thread.c ---- */
int haul_source_rounds(struct haul_migration *migration, struct haul_error *error);
/* haul_source_predict stands in its place where memory is not copied: only the prediction is made. */
int haul_source_predict(struct haul_migration *migration, struct haul_error *error);
/* Counts the next pass over memory and tells the event. */
void haul_source_begin_pass(struct haul_migration *migration);
/* Reads the tracker into the bitmaps; keeps dirty_pages, the dirty rate and sync_ns. */
int haul_source_sync(struct haul_migration *migration, struct haul_error *error);
/* Counts the set bits of the bitmaps into dirty_pages and dirty_disk_pages. */
void haul_source_count_dirty(struct haul_migration *migration);
/* haul_source_ask_costs lets the guest correct what is assumed of its own costs. */
void haul_source_ask_costs(struct haul_migration *migration);
/* Takes the channels' counters into the bandwidth estimate, at most every 100 ms unless `force`. */
void haul_source_measure(struct haul_migration *migration, bool force);
/* Publishes numbers of the migration_thread in migration->stats. */
void haul_source_publish(struct haul_migration *migration);

/*
 * haul_source_cut_short tells, after a knob changed, whether the round that is under way should end here
 * because the guest may be stopped now; what it leaves goes in the next one, or in the last pass.
 */
bool haul_source_cut_short(struct haul_migration *migration);

/* ---- throttle.c ---- */

/* haul_source_take_throttle brings what the caller set about the throttle into effect;
 * haul_source_throttle_more slows the guest down by one more step. */
void haul_source_take_throttle(struct haul_migration *migration);
void haul_source_throttle_more(struct haul_migration *migration);

/* ---- knobs.c ---- */

/* haul_source_take_knobs brings what haul_set_ functions set since into effect; true when there was anything.
 */
bool haul_source_take_knobs(struct haul_migration *migration);

/* ---- switchover.c ---- */

/* haul_source_save_state sends the state of the handlers that are early, or of those that are not. */
int haul_source_save_state(struct haul_migration *migration, bool early, struct haul_error *error);

/*
 * haul_source_switchover stops the guest and hands it over. 0: RUNNING was confirmed. 1: the last scan no
 * longer fit the limit and the guest runs again; go on with rounds. Negative: failed; `*uncertain` tells
 * whether HANDOVER was sent before.
 */
int haul_source_switchover(struct haul_migration *migration, bool *uncertain, struct haul_error *error);

/* haul_source_stop stops the guest and tells the guest event. Downtime counts from *stopped_ns, the hook had
 * returned at *done_ns. */
int haul_source_stop(struct haul_migration *migration, uint64_t *stopped_ns, uint64_t *done_ns,
                     struct haul_error *error);

/* haul_source_resume undoes a stop, if there was one, and tells the guest event. After an error it can be
 * tried again. */
int haul_source_resume(struct haul_migration *migration, struct haul_error *error);

/* haul_source_give_back is the last such try, in the end of a migration that failed. False: the guest does
 * not run, as stats.resume_error says from now on and `failure` explains. */
bool haul_source_give_back(struct haul_migration *migration, struct haul_error *failure);

/* haul_source_blame_resume has the migration's error begin with that failure. */
void haul_source_blame_resume(struct haul_migration *migration, const struct haul_error *failure);

#endif
