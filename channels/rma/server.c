/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/rma/server.h"

#include "channels/thread_list.h"
#include "channels/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct haul_rma_server {
    struct haul_rma *rma;
    unsigned index;
    int fd; /* the receiver's */
    struct haul_thread_list *threads;
    pthread_t thread;
    bool joined;
    pthread_mutex_t lock;               /* everything below */
    struct haul_rma_endpoint *endpoint; /* the thread makes it; NULL before */
    bool aborted;
    struct haul_error error; /* why the thread ended; code 0: it did not, or was asked to */
};

static int send_port(const struct haul_rma_server *server, struct haul_error *error)
{
    unsigned char payload[2];
    struct haul_writer writer;
    haul_writer_init(&writer, payload, sizeof payload);
    haul_writer_u16(&writer, haul_rma_endpoint_port(server->endpoint));
    return haul_frame_send(server->fd, HAUL_FRAME_RDMA_PORT, payload, sizeof payload, error);
}

static int serve(struct haul_rma_server *server, struct haul_error *error)
{
    struct haul_rma_endpoint *made = NULL;
    int rc = haul_rma_endpoint_open(server->rma, server->index, &made, error);
    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&server->lock);
    server->endpoint = made;
    if (server->aborted) {
        haul_rma_endpoint_abort(made);
    }
    pthread_mutex_unlock(&server->lock);
    rc = send_port(server, error);
    rc = rc < 0 ? rc : haul_rma_serve(made, error);
    /* Here and not in free: the channels of a move end side by side. */
    haul_rma_endpoint_shut(made);
    return rc;
}

static void *run(void *opaque)
{
    struct haul_rma_server *server = opaque;
    struct haul_thread_entry entry;
    struct haul_error error = {0};
    haul_thread_enter(server->threads, &entry, "multifdrma", (int)server->index);
    if (serve(server, &error) < 0) {
        pthread_mutex_lock(&server->lock);
        if (!server->aborted) {
            server->error = error;
        }
        pthread_mutex_unlock(&server->lock);
        shutdown(server->fd, SHUT_RDWR); /* the receiver learns it, and the source before its silence limit */
    }
    haul_thread_leave(server->threads, &entry);
    return NULL;
}

int haul_rma_server_new(struct haul_rma *rma, unsigned index, int fd, struct haul_thread_list *threads,
                        struct haul_rma_server **server, struct haul_error *error)
{
    struct haul_rma_server *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "rdma: no memory for an endpoint");
    }
    made->rma = rma;
    made->index = index;
    made->fd = fd;
    made->threads = threads;
    pthread_mutex_init(&made->lock, NULL);
    int rc = haul_thread_start(&made->thread, run, made);
    if (rc < 0) {
        pthread_mutex_destroy(&made->lock);
        free(made);
        return haul_error_set(error, -rc, "rdma: starting a thread: %s", strerror(-rc));
    }
    *server = made;
    return 0;
}

int haul_rma_server_failure(struct haul_rma_server *server, struct haul_error *error)
{
    pthread_mutex_lock(&server->lock);
    int code = server->error.code;
    if (code != 0) {
        *error = server->error;
    }
    pthread_mutex_unlock(&server->lock);
    return -code;
}

void haul_rma_server_abort(struct haul_rma_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->aborted = true;
    if (server->endpoint) {
        haul_rma_endpoint_abort(server->endpoint);
    }
    pthread_mutex_unlock(&server->lock);
}

void haul_rma_server_stop(struct haul_rma_server *server)
{
    if (server && !server->joined) {
        haul_rma_server_abort(server);
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
    pthread_mutex_destroy(&server->lock);
    free(server);
}
