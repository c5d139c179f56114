/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_CARRIER_H
#define HAUL_CHANNELS_CARRIER_H

/*
 * A carrier takes packed batches where they belong: into a socket (haul_carrier_stream_new), into a file, or
 * into the destination's memory. Each sender has one; the sender keeps threads, rings and counters. An
 * implementation embeds struct haul_carrier as its first member.
 */

#include "channels/batch.h"
#include "channels/error.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_pack;
struct haul_carrier;

struct haul_carrier_ops {
    /*
     * Sender's thread, once, before the first send: what takes a while and channels can do side by side. As
     * send. NULL: nothing.
     */
    int (*prepare)(struct haul_carrier *carrier, struct haul_error *error);
    /*
     * Sender's thread, one call at a time, never again after one failed. Carries pack->packet: its type
     * (pages or the round mark), its zero runs, its data runs, whose content is pack->parts[1..] (guest
     * memory itself when the codec is raw, scratch of the pack otherwise), ready for a stream with the
     * header and table in pack->parts[0]. The parts may be used up. `block` is what packet.block stands for,
     * NULL for a mark. Guest memory may be written by the guest meanwhile (trap T4): what is hashed has to be
     * what is carried, so hash only a copy; reads are bracketed as channels/live_read.h says.
     *
     * On return everything in `pack` may be reused. Pages may still be on their way, but never past a mark
     * (rule R2): the mark must not be seen by the other end before every page that this carrier took before
     * it is in place; and where no other end waits for the marks of all channels, this call does.
     *
     * *written gets the bytes that the call put on their way, headers included. 0, or a negative errno with a
     * message that starts with the step ("sending round 3: ..."); the sender prefixes channel and peer.
     * -ETIMEDOUT when the peer took nothing for its silence timeout. Must return soon after abort.
     */
    int (*send)(struct haul_carrier *carrier, struct haul_pack *pack, const struct haul_block_view *block,
                uint64_t *written, struct haul_error *error);
    /*
     * Sender's thread, whenever it has nothing to send: brings to its end what send left under way. As send;
     * `pack` is free for use. NULL: nothing.
     */
    int (*rest)(struct haul_carrier *carrier, struct haul_pack *pack, struct haul_error *error);
    /*
     * Any thread, at any time until close: of all bytes that send reported as written, those that did not
     * leave this host yet (not acknowledged; rule R7). NULL: none.
     */
    uint64_t (*undelivered)(struct haul_carrier *carrier);
    /*
     * Any thread, at any time until close: from now on let no more than `bytes` of what send took wait in
     * this host to be sent; 0: as much as the kernel likes. NULL: send takes what goes out at once.
     */
    void (*keep_short)(struct haul_carrier *carrier, uint32_t bytes);
    /* Any thread, at any time until close: for how long in all the link had bytes of ours to deliver, by the
     * kernel's own count, in steps of some milliseconds; 0: not known. NULL: never known. */
    uint64_t (*link_busy_ns)(struct haul_carrier *carrier);
    /* Any thread, at any time until close, also twice and during send: makes send fail soon. Never blocks. */
    void (*abort)(struct haul_carrier *carrier);
    /* After the sender's thread ended: frees the carrier and what it holds. Called once. */
    void (*close)(struct haul_carrier *carrier);
};

struct haul_carrier {
    const struct haul_carrier_ops *ops;
    char peer[128]; /* for messages: "channel 3 to PEER: ..."; set before the sender is made */
};

/* haul_carrier_stream_new makes the carrier of a connected stream socket, which is the carrier's from now on.
 * -ENOMEM; then `fd` is closed. */
int haul_carrier_stream_new(int fd, struct haul_carrier **carrier, struct haul_error *error);

/*
 * haul_carrier_rma_new makes the carrier of channel `index` of rdma: raw pages go into the memory that `rma`
 * knows, the rest through the connected socket, which is the carrier's from now on. Its `prepare` opens the
 * endpoint and waits `timeout_ms` for the destination's RDMA_PORT. On failure `fd` is closed. `rma` outlives
 * the carrier.
 */
struct haul_rma;
int haul_carrier_rma_new(int fd, struct haul_rma *rma, unsigned index, int timeout_ms,
                         struct haul_carrier **carrier, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
