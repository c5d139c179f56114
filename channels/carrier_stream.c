/* SPDX-License-Identifier: Apache-2.0 */
/* The carrier of a stream socket: packets as docs/protocol.md has them, raw pages straight from memory. */
#include "channels/carrier.h"

#include "channels/live_read.h"
#include "channels/pack.h"
#include "channels/socket_io.h"
#include "channels/transport/transport.h"

#include <errno.h>
#include <linux/tcp.h> /* the C library's struct tcp_info is older */
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct stream {
    struct haul_carrier carrier;
    int fd;
};

static int stream_send(struct haul_carrier *carrier, struct haul_pack *pack,
                       const struct haul_block_view *block, uint64_t *written, struct haul_error *error)
{
    (void)block; /* the parts say it all */
    HAUL_LIVE_READ_BEGIN();
    int result = haul_io_send(((struct stream *)carrier)->fd, pack->parts, pack->part_count);
    HAUL_LIVE_READ_END();
    if (result == -ETIMEDOUT) {
        return haul_error_set(error, ETIMEDOUT, "sending round %u: the peer took nothing for too long",
                              pack->packet.round);
    }
    if (result < 0) {
        return haul_error_set(error, -result, "sending round %u: %s", pack->packet.round, strerror(-result));
    }
    *written = pack->total_bytes;
    return 0;
}

static uint64_t stream_undelivered(struct haul_carrier *carrier)
{
    return haul_unacknowledged_bytes(((struct stream *)carrier)->fd);
}

static void stream_keep_short(struct haul_carrier *carrier, uint32_t bytes)
{
    /* Refused by sockets that are no TCP; their buffers are small. */
    setsockopt(((struct stream *)carrier)->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);
}

static uint64_t stream_link_busy_ns(struct haul_carrier *carrier)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    bool known = getsockopt(((struct stream *)carrier)->fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
                 size >= offsetof(struct tcp_info, tcpi_busy_time) + sizeof info.tcpi_busy_time;
    return known ? info.tcpi_busy_time * 1000 : 0;
}

static void stream_abort(struct haul_carrier *carrier)
{
    shutdown(((struct stream *)carrier)->fd, SHUT_RDWR);
}

static void stream_close(struct haul_carrier *carrier)
{
    close(((struct stream *)carrier)->fd);
    free(carrier);
}

static const struct haul_carrier_ops stream_ops = {
    .send = stream_send,
    .undelivered = stream_undelivered,
    .keep_short = stream_keep_short,
    .link_busy_ns = stream_link_busy_ns,
    .abort = stream_abort,
    .close = stream_close,
};

int haul_carrier_stream_new(int fd, struct haul_carrier **carrier, struct haul_error *error)
{
    struct stream *made = calloc(1, sizeof *made);
    if (!made) {
        close(fd);
        return haul_error_set(error, ENOMEM, "no memory for a channel");
    }
    made->carrier.ops = &stream_ops;
    made->fd = fd;
    haul_peer_name(fd, made->carrier.peer, sizeof made->carrier.peer);
    *carrier = &made->carrier;
    return 0;
}
