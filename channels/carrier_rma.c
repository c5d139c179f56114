/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The carrier of rdma: raw pages are written into the destination's memory, and then their packet goes over
 * the socket without payload. Everything else (zero runs, compressed pages, pages of disks, marks) goes over
 * the socket as it always does.
 */
#include "channels/carrier.h"

#include "channels/pack.h"
#include "channels/rma/rma.h"
#include "channels/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rma_carrier {
    struct haul_carrier carrier;
    struct haul_carrier *stream; /* of the socket */
    struct haul_rma_endpoint *endpoint;
};

/* Writes the data pages and leaves in the pack what the socket is to carry. */
static int place(struct rma_carrier *own, struct haul_pack *pack, struct haul_error *error)
{
    struct haul_packet *packet = &pack->packet;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < packet->data_runs; i++) {
        rc =
            haul_rma_write(own->endpoint, packet->block, packet->runs[i].first, packet->runs[i].count, error);
    }
    if (rc == 0) {
        rc = haul_rma_complete(own->endpoint, error);
    }
    packet->placed = true;
    pack->parts[0] = (struct iovec){pack->head, haul_packet_encode(packet, pack->head, sizeof pack->head)};
    pack->part_count = 1;
    return rc;
}

static int rma_send(struct haul_carrier *carrier, struct haul_pack *pack, const struct haul_block_view *block,
                    uint64_t *written, struct haul_error *error)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    const struct haul_packet *packet = &pack->packet;
    int rc = 0;
    if (packet->type == HAUL_PACKET_ROUND) {
        rc = haul_rma_flush(own->endpoint, error); /* rule R2: the mark comes after all that was written */
    } else if (packet->codec == HAUL_CODEC_RAW && packet->data_pages > 0 && !block->io) {
        rc = place(own, pack, error);
    }
    return rc < 0 ? haul_error_prefix(error, "sending round %u: ", packet->round)
                  : own->stream->ops->send(own->stream, pack, block, written, error);
}

static uint64_t rma_undelivered(struct haul_carrier *carrier)
{
    /* A write is counted once it is complete, and then it was delivered. */
    struct haul_carrier *stream = ((struct rma_carrier *)carrier)->stream;
    return stream->ops->undelivered(stream);
}

static void rma_abort(struct haul_carrier *carrier)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    own->stream->ops->abort(own->stream);
    haul_rma_endpoint_abort(own->endpoint);
}

static void rma_close(struct haul_carrier *carrier)
{
    struct rma_carrier *own = (struct rma_carrier *)carrier;
    haul_rma_endpoint_close(own->endpoint);
    own->stream->ops->close(own->stream);
    free(own);
}

static const struct haul_carrier_ops rma_ops = {
    .send = rma_send, .undelivered = rma_undelivered, .abort = rma_abort, .close = rma_close};

/* Learns at which port the other end's endpoint is. */
static int receive_port(int fd, int timeout_ms, uint16_t *port, struct haul_error *error)
{
    unsigned char payload[16];
    enum haul_frame_type type;
    size_t length;
    int rc = haul_frame_recv(fd, &type, payload, sizeof payload, &length, timeout_ms, error);
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

int haul_carrier_rma_new(int fd, struct haul_rma *rma, unsigned index, int timeout_ms,
                         struct haul_carrier **carrier, struct haul_error *error)
{
    struct rma_carrier *made = calloc(1, sizeof *made);
    if (!made) {
        close(fd);
        return haul_error_set(error, ENOMEM, "no memory for a channel");
    }
    made->carrier.ops = &rma_ops;
    int rc = haul_carrier_stream_new(fd, &made->stream, error); /* closes `fd` when it fails */
    if (rc < 0) {
        free(made);
        return rc;
    }
    memcpy(made->carrier.peer, made->stream->peer, sizeof made->carrier.peer);
    uint16_t port = 0;
    rc = receive_port(fd, timeout_ms, &port, error);
    if (rc == 0) {
        rc = haul_rma_endpoint_open(rma, index, &made->endpoint, error);
    }
    if (rc == 0) {
        rc = haul_rma_endpoint_reach(made->endpoint, fd, port, error);
    }
    if (rc < 0) {
        rma_close(&made->carrier);
        return rc;
    }
    *carrier = &made->carrier;
    return 0;
}
