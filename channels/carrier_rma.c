/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The carrier of rdma: raw pages are written into the destination's memory, and then their packet goes over
 * the socket without payload. Everything else (zero runs, compressed pages, pages of disks, marks) goes over
 * the socket as it always does.
 *
 * Waiting for each batch would leave the link idle for a round trip per batch. So several are under way: each
 * has a slot, which keeps its packet until all of its pages are delivered, and is the ticket of its writes.
 * Packets of one round name different pages, so one that is kept back may be overtaken by any other, but for
 * the mark.
 */
#include "channels/carrier.h"

#include "channels/atomic.h"
#include "channels/pack.h"
#include "channels/rma/rma.h"
#include "channels/wire.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A batch whose pages are under way. */
struct slot {
    size_t length;  /* of head */
    uint64_t bytes; /* of head and pages */
    unsigned char head[HAUL_PACKET_HEAD_MAX];
};

struct rma_carrier {
    struct haul_carrier carrier;
    /* Written once, at creation. */
    struct haul_carrier *stream; /* of the socket */
    struct haul_rma *rma;
    int fd;
    unsigned index;
    int timeout_ms;
    /* The sender thread makes the endpoint, any thread aborts it. */
    pthread_mutex_t lock; /* `aborted`, and `endpoint` but for reading it in the sender thread */
    struct haul_rma_endpoint *endpoint; /* NULL before prepare */
    bool aborted;
    HAUL_ATOMIC(uint64_t) kept_bytes; /* of all slots that are used; relaxed, a figure of its own */
    /* The sender thread's alone: slots in use are `first` and the `used` - 1 after it. */
    unsigned first;
    unsigned used;
    struct slot slots[HAUL_RMA_TICKETS];
};

/* ---- setup ---- */

/* Learns at which port the other end's endpoint is. */
static int receive_port(const struct rma_carrier *own, uint16_t *port, struct haul_error *error)
{
    unsigned char payload[16];
    enum haul_frame_type type;
    size_t length;
    int rc = haul_frame_recv(own->fd, &type, payload, sizeof payload, &length, own->timeout_ms, error);
    if (rc < 0) {
        return rc;
    }
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, payload, length);
    *port = haul_cursor_u16(&cursor);
    return type == HAUL_FRAME_RDMA_PORT && haul_cursor_done(&cursor)
               ? 0
               : haul_error_set(error, EPROTO, "%s came where RDMA_PORT was due", haul_frame_name(type));
}

static int rma_prepare(struct haul_carrier *carrier, struct haul_error *error)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    struct haul_rma_endpoint *made = NULL;
    uint16_t port = 0;
    int rc = haul_rma_endpoint_open(own->rma, own->index, &made, error);
    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&own->lock);
    own->endpoint = made;
    if (own->aborted) {
        haul_rma_endpoint_abort(made);
    }
    pthread_mutex_unlock(&own->lock);
    rc = receive_port(own, &port, error);
    return rc < 0 ? rc : haul_rma_endpoint_reach(made, own->fd, port, error);
}

/* ---- sending ---- */

/* Sends the packet of the first slot, whose pages are delivered. Uses the pack's parts. */
static int announce(struct rma_carrier *own, struct haul_pack *pack, struct haul_error *error)
{
    struct slot *slot = &own->slots[own->first];
    uint64_t written;
    pack->parts[0] = (struct iovec){slot->head, slot->length};
    pack->part_count = 1;
    pack->total_bytes = slot->length;
    int rc = own->stream->ops->send(own->stream, pack, NULL, &written, error);
    atomic_fetch_sub_explicit(&own->kept_bytes, slot->bytes, memory_order_relaxed);
    own->first = (own->first + 1) % HAUL_RMA_TICKETS;
    own->used--;
    return rc;
}

/* Sends the packets of what was delivered meanwhile; waits until at most `most` slots are used. */
static int settle(struct rma_carrier *own, struct haul_pack *pack, unsigned most, struct haul_error *error)
{
    int rc = 0;
    while (rc == 0 && own->used > most) {
        rc = haul_rma_await(own->endpoint, own->first, error);
        rc = rc < 0 ? rc : announce(own, pack, error);
    }
    rc = rc < 0 ? rc : haul_rma_progress(own->endpoint, error);
    while (rc == 0 && own->used > 0 && haul_rma_delivered(own->endpoint, own->first)) {
        rc = announce(own, pack, error);
    }
    return rc;
}

/* Starts to write the data pages, and keeps their packet. */
static int place(struct rma_carrier *own, struct haul_pack *pack, uint64_t *written, struct haul_error *error)
{
    struct haul_packet *packet = &pack->packet;
    int rc = settle(own, pack, HAUL_RMA_TICKETS - 1, error);
    if (rc < 0) {
        return rc;
    }
    unsigned ticket = (own->first + own->used) % HAUL_RMA_TICKETS;
    struct slot *slot = &own->slots[ticket];
    packet->placed = true;
    slot->length = haul_packet_encode(packet, slot->head, sizeof slot->head);
    slot->bytes = slot->length + packet->payload_bytes;
    own->used++;
    atomic_fetch_add_explicit(&own->kept_bytes, slot->bytes, memory_order_relaxed);
    for (uint32_t i = 0; rc == 0 && i < packet->data_runs; i++) {
        const struct haul_run *run = &packet->runs[i];
        rc = haul_rma_write(own->endpoint, ticket, packet->block, run->first, run->count, error);
    }
    *written = slot->bytes;
    return rc < 0 ? rc : settle(own, pack, HAUL_RMA_TICKETS, error);
}

/* Everything is in the destination's memory and announced there; the mark may follow (rule R2). */
static int finish(struct rma_carrier *own, struct haul_pack *pack, struct haul_error *error)
{
    struct iovec head = pack->parts[0];
    size_t total = pack->total_bytes;
    int rc = haul_rma_flush(own->endpoint, error);
    rc = rc < 0 ? rc : settle(own, pack, 0, error);
    pack->parts[0] = head;
    pack->total_bytes = total;
    return rc;
}

static int rma_send(struct haul_carrier *carrier, struct haul_pack *pack, const struct haul_block_view *block,
                    uint64_t *written, struct haul_error *error)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    const struct haul_packet *packet = &pack->packet;
    bool in_memory = packet->type == HAUL_PACKET_PAGES && packet->data_pages > 0 && !block->io;
    if (in_memory && packet->codec == HAUL_CODEC_RAW) {
        int rc = place(own, pack, written, error);
        return rc < 0 ? haul_error_prefix(error, "sending round %u: ", packet->round) : 0;
    }
    if (packet->type == HAUL_PACKET_ROUND && finish(own, pack, error) < 0) {
        return haul_error_prefix(error, "sending round %u: ", packet->round);
    }
    return own->stream->ops->send(own->stream, pack, block, written, error);
}

static int rma_rest(struct haul_carrier *carrier, struct haul_pack *pack, struct haul_error *error)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    if (own->used == 0) {
        return 0;
    }
    return settle(own, pack, 0, error) < 0 ? haul_error_prefix(error, "sending: ") : 0;
}

static uint64_t rma_undelivered(struct haul_carrier *carrier)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    return atomic_load_explicit(&own->kept_bytes, memory_order_relaxed) +
           own->stream->ops->undelivered(own->stream);
}

/* ---- the end ---- */

static void rma_abort(struct haul_carrier *carrier)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    own->stream->ops->abort(own->stream);
    pthread_mutex_lock(&own->lock);
    own->aborted = true;
    if (own->endpoint) {
        haul_rma_endpoint_abort(own->endpoint);
    }
    pthread_mutex_unlock(&own->lock);
}

static void rma_close(struct haul_carrier *carrier)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    haul_rma_endpoint_close(own->endpoint);
    own->stream->ops->close(own->stream);
    pthread_mutex_destroy(&own->lock);
    free(own);
}

static const struct haul_carrier_ops rma_ops = {.prepare = rma_prepare,
                                                .send = rma_send,
                                                .rest = rma_rest,
                                                .undelivered = rma_undelivered,
                                                .abort = rma_abort,
                                                .close = rma_close};

int haul_carrier_rma_new(int fd, struct haul_rma *rma, unsigned index, int timeout_ms,
                         struct haul_carrier **carrier, struct haul_error *error)
{
    struct rma_carrier *made = calloc(1, sizeof *made);
    if (!made) {
        close(fd);
        return haul_error_set(error, ENOMEM, "no memory for a channel");
    }
    made->carrier.ops = &rma_ops;
    made->rma = rma;
    made->fd = fd;
    made->index = index;
    made->timeout_ms = timeout_ms;
    int rc = haul_carrier_stream_new(fd, &made->stream, error); /* closes `fd` when it fails */
    if (rc < 0) {
        free(made);
        return rc;
    }
    pthread_mutex_init(&made->lock, NULL);
    memcpy(made->carrier.peer, made->stream->peer, sizeof made->carrier.peer);
    *carrier = &made->carrier;
    return 0;
}
