/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_RECEIVER_H
#define HAUL_CHANNELS_RECEIVER_H

/*
 * A receiver is one multifd thread with its own socket and scratch. It trusts nothing that it reads (rule
 * R4) and writes only page ranges inside the block table, raw pages straight from the socket into guest
 * memory.
 */

#include "channels/batch.h"
#include "channels/error.h"
#include "channels/placement/placement.h"
#include "channels/sender.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_receiver; /* opaque */
struct haul_rma;

struct haul_receiver_options {
    unsigned index;
    int fd;                               /* connected, hello already exchanged; the receiver's from now on */
    const struct haul_topology *topology; /* may be NULL */
    struct haul_placement_slot slot;
    const struct haul_block_view *blocks; /* outlives the receiver */
    uint32_t block_count;
    struct haul_thread_list *threads; /* where the thread enters itself; may be NULL */
    struct haul_rma *rma; /* rdma: what the peer may write by itself, outlives the receiver; else NULL */
    void *opaque;
    /*
     * Called on the receiver's thread when it reads the mark of `round`; returns when every channel has
     * reached it (the barrier of rule R2), or a negative errno to end the receiver. Marks count up by one
     * from 1.
     */
    int (*round)(void *opaque, unsigned index, uint32_t round, struct haul_error *error);
    /*
     * Called once on the receiver's thread when it ends by an error or by the peer closing its socket, unless
     * haul_receiver_abort came first.
     */
    void (*failed)(void *opaque, unsigned index, const struct haul_error *error);
};

/* haul_receiver_new starts the thread (named "multifdrecv_N"). On failure `fd` is closed. */
int haul_receiver_new(const struct haul_receiver_options *options, struct haul_receiver **receiver,
                      struct haul_error *error);

/* haul_receiver_counters reads the counters; what was written and delivered is what was read. Any thread. */
void haul_receiver_counters(const struct haul_receiver *receiver, struct haul_channel_counters *counters);

/* haul_receiver_abort shuts the socket down, so that a blocked read returns. Any thread, idempotent. */
void haul_receiver_abort(struct haul_receiver *receiver);

/*
 * haul_receiver_stop aborts and waits: once it returned nothing writes the blocks through this channel any
 * more. Its counters can still be read. Idempotent; one thread at a time.
 */
void haul_receiver_stop(struct haul_receiver *receiver);

/* haul_receiver_free aborts, joins the thread, closes the socket. NULL is accepted. */
void haul_receiver_free(struct haul_receiver *receiver);

#ifdef __cplusplus
}
#endif
#endif
