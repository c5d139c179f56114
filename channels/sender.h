/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SENDER_H
#define HAUL_CHANNELS_SENDER_H

/*
 * A sender is one multifd thread with its own carrier, its own codec scratch and two SPSC rings: batches out
 * (migration_thread -> sender) and completions back. Functions are called by the migration_thread (the one
 * producer) unless they say otherwise.
 */

#include "channels/batch.h"
#include "channels/carrier.h"
#include "channels/doorbell.h"
#include "channels/error.h"
#include "channels/placement/placement.h"
#include "channels/thread_list.h"
#include "compress/choice.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_sender; /* opaque */

struct haul_sender_options {
    unsigned index;                       /* channel number, 0-based */
    struct haul_carrier *carrier;         /* ready to send (hellos are exchanged); the sender's from now on */
    int compress;                         /* a mode of compress/choice.h */
    const struct haul_topology *topology; /* may be NULL: no placement */
    struct haul_placement_slot slot;
    const struct haul_block_view *blocks; /* outlives the sender */
    uint32_t block_count;
    struct haul_doorbell *completion_bell; /* the migration_thread's; see HAUL_SENDER_LOW */
    struct haul_thread_list *threads;      /* where the thread enters itself; may be NULL */
};

/* Counters of one channel since it started; read from any thread at any time. */
struct haul_channel_counters {
    uint64_t bytes_written;   /* by the carrier, headers included */
    uint64_t bytes_delivered; /* of these, acknowledged (rule R7) */
    uint64_t pages;           /* all pages handled: zero + raw + compressed */
    uint64_t zero_pages;
    uint64_t raw_pages;
    uint64_t compressed_pages;
    uint64_t compressed_bytes; /* wire bytes of the compressed pages */
    /* Of all of the above, what belongs to disks. */
    uint64_t disk_bytes_written;
    uint64_t disk_data_pages; /* raw or compressed */
    uint64_t disk_zero_pages;
    uint64_t batches;
    uint64_t busy_ns;    /* had work: encoding or in the carrier */
    uint64_t encode_ns;  /* of busy_ns, zero detection and codec */
    uint64_t stalled_ns; /* waited for work: the coordinator had nothing ready */
    int cpu;             /* where the thread last ran */
    int node;            /* its slot's node, or HAUL_NODE_UNKNOWN */
    int tid;             /* kernel thread id, 0 before it runs */
};

/* haul_sender_new starts the thread (named "multifdsend_N"). On failure the carrier is closed. -ENOMEM,
 * -EAGAIN. */
int haul_sender_new(const struct haul_sender_options *options, struct haul_sender **sender,
                    struct haul_error *error);

/*
 * haul_sender_acquire returns a free batch (collecting completed ones first), or NULL while all of the
 * channel's HAUL_SENDER_DEPTH batches are in flight. The caller fills it and submits it, or keeps it for its
 * next submit to this channel. haul_sender_submit never fails and never blocks.
 */
#define HAUL_SENDER_DEPTH 8
/*
 * The completion bell rings for a completed batch only once at most HAUL_SENDER_LOW others wait in the ring:
 * waking the migration_thread for each would cost more than it hands out. It always rings for a mark and for
 * an error.
 */
#define HAUL_SENDER_LOW (HAUL_SENDER_DEPTH / 2)
struct haul_batch *haul_sender_acquire(struct haul_sender *sender);
void haul_sender_submit(struct haul_sender *sender, struct haul_batch *batch);

/* haul_sender_in_flight returns the batches submitted and not yet completed: at 0 everything was written. */
unsigned haul_sender_in_flight(struct haul_sender *sender);

/* haul_sender_pages_in_flight returns the sum of their page_count. */
uint64_t haul_sender_pages_in_flight(struct haul_sender *sender);

/* haul_sender_node returns the NUMA node that the sender prefers batches from. */
int haul_sender_node(const struct haul_sender *sender);

/* haul_sender_keep_short bounds what waits in the kernel to be sent, as the carrier's keep_short. */
void haul_sender_keep_short(struct haul_sender *sender, uint32_t bytes);

/* haul_sender_link_busy_ns asks the carrier for its link_busy_ns. */
uint64_t haul_sender_link_busy_ns(const struct haul_sender *sender);

/* haul_sender_counters reads the counters; any thread. */
void haul_sender_counters(const struct haul_sender *sender, struct haul_channel_counters *counters);

/* haul_sender_error returns 0, or the negative errno that ended the sender, with its message; after an error
 * submitted batches are completed unsent. Any thread. */
int haul_sender_error(const struct haul_sender *sender, struct haul_error *error);

/* haul_sender_abort aborts the carrier so that a blocked send returns at once. Any thread, idempotent. */
void haul_sender_abort(struct haul_sender *sender);

/* haul_sender_free sends what is in flight (unless aborted), joins the thread, closes the carrier. NULL
 * is accepted. */
void haul_sender_free(struct haul_sender *sender);

#ifdef __cplusplus
}
#endif
#endif
