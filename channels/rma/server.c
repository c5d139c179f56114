/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/rma/server.h"

#include "channels/channel_thread.h"
#include "channels/thread_list.h"
#include "channels/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct haul_rma_server {
    struct haul_rma_endpoint *endpoint;
    unsigned index;
    int fd; /* the receiver's */
    struct haul_thread_list *threads;
    pthread_t thread;
    bool joined;
};

static void *run(void *opaque)
{
    struct haul_rma_server *server = opaque;
    struct haul_thread_entry entry;
    haul_thread_enter(server->threads, &entry, "multifdrma", (int)server->index);
    if (haul_rma_serve(server->endpoint, NULL) < 0) {
        shutdown(server->fd, SHUT_RDWR); /* the source would wait for its silence limit */
    }
    /* Here and not in free: the channels of a move end side by side. */
    haul_rma_endpoint_shut(server->endpoint);
    haul_thread_leave(server->threads, &entry);
    return NULL;
}

static int send_port(const struct haul_rma_server *server, struct haul_error *error)
{
    unsigned char payload[2];
    struct haul_writer writer;
    haul_writer_init(&writer, payload, sizeof payload);
    haul_writer_u16(&writer, haul_rma_endpoint_port(server->endpoint));
    return haul_frame_send(server->fd, HAUL_FRAME_RDMA_PORT, payload, sizeof payload, error);
}

int haul_rma_server_new(struct haul_rma *rma, unsigned index, int fd, struct haul_thread_list *threads,
                        struct haul_rma_server **server, struct haul_error *error)
{
    struct haul_rma_server *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "rdma: no memory for an endpoint");
    }
    made->index = index;
    made->fd = fd;
    made->threads = threads;
    int rc = haul_rma_endpoint_open(rma, index, &made->endpoint, error);
    if (rc < 0) {
        goto free_server;
    }
    rc = send_port(made, error);
    if (rc < 0) {
        goto close_endpoint;
    }
    rc = haul_channel_thread_start(&made->thread, run, made);
    if (rc < 0) {
        haul_error_set(error, -rc, "rdma: starting a thread: %s", strerror(-rc));
        goto close_endpoint;
    }
    *server = made;
    return 0;

close_endpoint:
    haul_rma_endpoint_close(made->endpoint);
free_server:
    free(made);
    return rc;
}

void haul_rma_server_abort(struct haul_rma_server *server)
{
    haul_rma_endpoint_abort(server->endpoint);
}

void haul_rma_server_stop(struct haul_rma_server *server)
{
    if (server && !server->joined) {
        haul_rma_endpoint_abort(server->endpoint);
        pthread_join(server->thread, NULL);
        server->joined = true;
    }
}

void haul_rma_server_free(struct haul_rma_server *server)
{
    if (!server) {
        return;
    }
    haul_rma_server_stop(server);
    haul_rma_endpoint_close(server->endpoint);
    free(server);
}
