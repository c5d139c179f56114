/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_RMA_RMA_H
#define HAUL_CHANNELS_RMA_RMA_H

/*
 * Remote memory access through libfabric: the source writes pages straight into the registered guest memory
 * of the destination. A `haul_rma` is one side of a move: the provider, and the guest's memory as it is
 * registered there. A `haul_rma_endpoint` is what one channel has of it, and connects to one endpoint of the
 * other side. The destination is the *target*, which only lets writes happen; the source is the *initiator*.
 *
 * Writes go past the receiver's thread, so they know no rounds: the initiator may write pages of round n + 1
 * only after the target confirmed round n (rule R2), and it sends the mark of a round on a channel only after
 * haul_rma_flush of that channel.
 */

#include "channels/batch.h"
#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_RMA_PROVIDER_MAX 63     /* bytes of a provider's name */
#define HAUL_RMA_REGIONS_MAX 32768   /* pieces in which a guest's memory is registered */
#define HAUL_RMA_REGION_SHIFT_MIN 21 /* smallest piece: 2 MiB */
#define HAUL_RMA_REGION_SHIFT_MAX 44
#define HAUL_RMA_OFFER_MAX ((size_t)HAUL_RMA_REGIONS_MAX * 16 + 128) /* bytes that haul_rma_offer writes */

struct haul_rma;          /* opaque */
struct haul_rma_endpoint; /* opaque */

struct haul_rma_options {
    /* A connected socket to the peer: the memory is reached at its local address. The caller's. */
    int fd;
    const char *provider;                 /* "verbs", "tcp;ofi_rxm", ...; NULL or "": the best that fits */
    const struct haul_block_view *blocks; /* in the order that both sides use; outlive the haul_rma */
    uint32_t block_count;
    unsigned region_shift;       /* target: memory is registered in pieces of 2^shift bytes; 0: chosen */
    uint32_t silence_timeout_ms; /* a write that does not advance for so long fails */
};

/*
 * haul_rma_load loads libfabric and lets it look for its providers, once in a process. That takes a few
 * tenths of a second, which would otherwise be part of the first haul_rma_target or haul_rma_initiator.
 * -ENOSYS: it is not installed, or too old; -ENODEV: it has no such provider (NULL or "": any will do) for
 * this side of a move, and the message lists those that it has. Any thread.
 */
int haul_rma_load(const char *provider, bool target, struct haul_error *error);

/*
 * haul_rma_target opens the provider and registers all blocks for writing by the peer.
 * haul_rma_initiator does so with what the target offered, and registers the blocks for reading where the
 * provider demands it; the offer is the peer's and checked in every field.
 * -EINVAL: unknown provider; -ENODEV: no provider works at the address; -ENOMEM: the memory may not be locked
 * (the message names the limit and what is needed); -EPROTO: malformed offer. One thread.
 */
int haul_rma_target(const struct haul_rma_options *options, struct haul_rma **rma, struct haul_error *error);
int haul_rma_initiator(const struct haul_rma_options *options, const void *offer, size_t length,
                       struct haul_rma **rma, struct haul_error *error);

/* haul_rma_offer writes what the initiator has to know of a target; returns its length, 0 when `capacity` is
 * too small. */
size_t haul_rma_offer(const struct haul_rma *rma, void *bytes, size_t capacity);

/* haul_rma_provider returns the provider's name, valid until close. haul_rma_registered returns the bytes
 * that are registered, and in *regions the number of pieces: 0 at an initiator whose provider wants none. */
const char *haul_rma_provider(const struct haul_rma *rma);
uint64_t haul_rma_registered(const struct haul_rma *rma, uint32_t *regions);

/* haul_rma_close deregisters all memory. Every endpoint must be closed before. NULL is accepted. */
void haul_rma_close(struct haul_rma *rma);

/*
 * haul_rma_lock_limit checks that this process may lock `bytes` of memory: -ENOMEM, with a message that names
 * RLIMIT_MEMLOCK, its value and what is needed. A process with CAP_IPC_LOCK may always.
 */
int haul_rma_lock_limit(uint64_t bytes, const char *provider, struct haul_error *error);

/* ---- one channel ---- */

/* haul_rma_endpoint_open makes the endpoint of channel `index`. Several may be opened at once, by different
 * threads. */
int haul_rma_endpoint_open(struct haul_rma *rma, unsigned index, struct haul_rma_endpoint **endpoint,
                           struct haul_error *error);

/* haul_rma_endpoint_port returns the port at which the initiator finds a target's endpoint. */
uint16_t haul_rma_endpoint_port(const struct haul_rma_endpoint *endpoint);

/*
 * haul_rma_endpoint_reach names the target's endpoint: `port` at the address of the peer of `fd`. The
 * connection is made by the first write. -EPROTO for port 0.
 */
int haul_rma_endpoint_reach(struct haul_rma_endpoint *endpoint, int fd, uint16_t port,
                            struct haul_error *error);

/*
 * haul_rma_write starts to write `pages` pages from `first` of `block`, and waits only for room in the queue.
 * The pages must not be written by another thread's haul_rma_write at the same time. `ticket`, below
 * HAUL_RMA_TICKETS, is for asking about the writes that have it: haul_rma_delivered tells whether all that
 * were started were delivered, as far as haul_rma_progress, which never waits, or another call noticed.
 * haul_rma_await waits for those of a ticket, haul_rma_complete for all. haul_rma_flush does too, and then
 * reads back from the target, which pushes ahead of it what a card has acknowledged but not yet placed: after
 * it, everything is in the target's memory. All: -ECANCELED after haul_rma_endpoint_abort, -ETIMEDOUT, or
 * what the provider said. After a failure the endpoint can only be closed. The channel's thread.
 */
#define HAUL_RMA_TICKETS 8
int haul_rma_write(struct haul_rma_endpoint *endpoint, unsigned ticket, uint32_t block, uint64_t first,
                   uint64_t pages, struct haul_error *error);
int haul_rma_progress(struct haul_rma_endpoint *endpoint, struct haul_error *error);
bool haul_rma_delivered(const struct haul_rma_endpoint *endpoint, unsigned ticket);
int haul_rma_await(struct haul_rma_endpoint *endpoint, unsigned ticket, struct haul_error *error);
int haul_rma_complete(struct haul_rma_endpoint *endpoint, struct haul_error *error);
int haul_rma_flush(struct haul_rma_endpoint *endpoint, struct haul_error *error);

/*
 * haul_rma_serve lets a target's provider make progress, asleep while nothing happens, until
 * haul_rma_endpoint_abort (returns 0) or the provider fails. A thread of its own.
 */
int haul_rma_serve(struct haul_rma_endpoint *endpoint, struct haul_error *error);

/* haul_rma_endpoint_abort ends the calls above, now and later. Any thread, idempotent. */
void haul_rma_endpoint_abort(struct haul_rma_endpoint *endpoint);

/*
 * haul_rma_endpoint_shut: nothing is read or written through it any more when it returns; it can only be
 * aborted and closed. The channel's thread. haul_rma_endpoint_close does so too, and frees. NULL is accepted.
 */
void haul_rma_endpoint_shut(struct haul_rma_endpoint *endpoint);
void haul_rma_endpoint_close(struct haul_rma_endpoint *endpoint);

#ifdef __cplusplus
}
#endif
#endif
