/* SPDX-License-Identifier: Apache-2.0 */
/* One channel's endpoint; declared in channels/rma/rma.h. */
#include "channels/live_read.h"
#include "channels/rma/internal.h"
#include "channels/socket_io.h"

#include <errno.h>
#include <poll.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define WINDOW 256 /* writes in flight: a batch of single pages */
#define COMPLETIONS 32
/* Providers make connections outside of the completion queue: look after them often until one stands. */
#define CONNECTING_POLL_MS 5
#define CONNECTED_POLL_MS 100

struct haul_rma_endpoint {
    /* Written once, at opening. */
    struct haul_rma *rma;
    unsigned index;
    struct fid_av *addresses;
    struct fid_cq *completions;
    struct fid_ep *endpoint;
    int wait_fd;  /* libfabric's: readable when the queue may have something */
    int abort_fd; /* eventfd, readable for good after haul_rma_endpoint_abort */
    uint16_t port;
    /* The channel thread's alone. */
    fi_addr_t peer;
    bool connected; /* something completed */
    struct fi_context2 contexts[WINDOW];
    unsigned idle[WINDOW]; /* indices of the contexts that no operation uses */
    unsigned idle_count;
    unsigned ticket_of[WINDOW];               /* the ticket of each context that is used */
    unsigned under_way[HAUL_RMA_TICKETS + 1]; /* operations of each ticket; the last is of what has none */
};

static int own_port(struct haul_rma_endpoint *made, struct haul_error *error)
{
    struct sockaddr_storage name = {0};
    size_t length = sizeof name;
    int rc = fi_getname(&made->endpoint->fid, &name, &length);
    if (rc < 0) {
        return haul_rma_fail(error, made->rma, rc, "rdma: asking for the endpoint's address");
    }
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    memcpy(&v4, &name, sizeof v4);
    memcpy(&v6, &name, sizeof v6);
    made->port = ntohs(name.ss_family == AF_INET ? v4.sin_port : v6.sin6_port);
    return 0;
}

static int open_queue(struct haul_rma_endpoint *made, struct haul_error *error)
{
    struct fi_av_attr addresses = {.type = FI_AV_UNSPEC, .count = 1};
    struct fi_cq_attr completions = {.size = WINDOW, .format = FI_CQ_FORMAT_CONTEXT, .wait_obj = FI_WAIT_FD};
    int rc = fi_av_open(made->rma->domain, &addresses, &made->addresses, NULL);
    if (rc == 0) {
        rc = fi_cq_open(made->rma->domain, &completions, &made->completions, NULL);
    }
    if (rc == 0) {
        rc = fi_control(&made->completions->fid, FI_GETWAIT, &made->wait_fd);
    }
    return rc < 0 ? haul_rma_fail(error, made->rma, rc, "rdma: making a completion queue to sleep on") : 0;
}

static int open_endpoint(struct haul_rma_endpoint *made, struct haul_error *error)
{
    int rc = fi_endpoint(made->rma->domain, made->rma->info, &made->endpoint, NULL);
    if (rc == 0) {
        rc = fi_ep_bind(made->endpoint, &made->addresses->fid, 0);
    }
    if (rc == 0) {
        rc = fi_ep_bind(made->endpoint, &made->completions->fid, FI_TRANSMIT | FI_RECV);
    }
    if (rc == 0) {
        rc = fi_enable(made->endpoint);
    }
    return rc < 0 ? haul_rma_fail(error, made->rma, rc, "rdma: making an endpoint") : own_port(made, error);
}

int haul_rma_endpoint_open(struct haul_rma *rma, unsigned index, struct haul_rma_endpoint **endpoint,
                           struct haul_error *error)
{
    struct haul_rma_endpoint *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "rdma: no memory for an endpoint");
    }
    made->rma = rma;
    made->index = index;
    made->peer = FI_ADDR_NOTAVAIL;
    for (unsigned i = 0; i < WINDOW; i++) {
        made->idle[made->idle_count++] = i;
    }
    int rc = 0;
    made->abort_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made->abort_fd < 0) {
        rc = haul_error_set(error, errno, "rdma: making an eventfd: %s", strerror(errno));
    }
    if (rc == 0) {
        rc = open_queue(made, error);
    }
    if (rc == 0) {
        rc = open_endpoint(made, error);
    }
    if (rc < 0) {
        haul_rma_endpoint_close(made);
        return rc;
    }
    *endpoint = made;
    return 0;
}

uint16_t haul_rma_endpoint_port(const struct haul_rma_endpoint *endpoint)
{
    return endpoint->port;
}

int haul_rma_endpoint_reach(struct haul_rma_endpoint *endpoint, int fd, uint16_t port,
                            struct haul_error *error)
{
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof peer;
    if (port == 0) {
        return haul_error_set(error, EPROTO, "rdma: the destination names port 0");
    }
    if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0) {
        return haul_error_set(error, errno, "rdma: asking for the destination's address: %s",
                              strerror(errno));
    }
    haul_rma_plain_address(&peer);
    if (peer.ss_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, &peer, sizeof v4);
        v4.sin_port = htons(port);
        memcpy(&peer, &v4, sizeof v4);
    } else {
        struct sockaddr_in6 v6;
        memcpy(&v6, &peer, sizeof v6);
        v6.sin6_port = htons(port);
        memcpy(&peer, &v6, sizeof v6);
    }
    int rc = fi_av_insert(endpoint->addresses, &peer, 1, &endpoint->peer, 0, NULL);
    if (rc != 1) {
        return haul_rma_fail(error, endpoint->rma, rc < 0 ? rc : -FI_EINVAL,
                             "rdma: taking the destination's address");
    }
    return 0;
}

/* ---- completions ---- */

static bool aborted(const struct haul_rma_endpoint *endpoint)
{
    struct pollfd polled = {.fd = endpoint->abort_fd, .events = POLLIN};
    return poll(&polled, 1, 0) > 0;
}

/* Why an operation failed, off the queue. */
static int failed_operation(struct haul_rma_endpoint *endpoint, struct haul_error *error)
{
    struct fi_cq_err_entry entry = {0};
    ssize_t rc = fi_cq_readerr(endpoint->completions, &entry, 0);
    if (rc < 0) {
        return haul_rma_fail(error, endpoint->rma, rc, "rdma: reading why a write failed");
    }
    return haul_rma_fail(error, endpoint->rma, entry.err ? -entry.err : -EIO,
                         "rdma: writing the destination's memory");
}

/* Takes completions off the queue: how many, or a negative errno. Lets the provider make progress. */
static int collect(struct haul_rma_endpoint *endpoint, struct haul_error *error)
{
    struct fi_cq_entry entries[COMPLETIONS];
    HAUL_LIVE_READ_BEGIN();
    ssize_t count = fi_cq_read(endpoint->completions, entries, COMPLETIONS);
    HAUL_LIVE_READ_END();
    if (count == -FI_EAGAIN) {
        return 0;
    }
    if (count == -FI_EAVAIL) {
        return failed_operation(endpoint, error);
    }
    if (count < 0) {
        return haul_rma_fail(error, endpoint->rma, count, "rdma: waiting for a write");
    }
    for (ssize_t i = 0; i < count; i++) {
        struct fi_context2 *context = entries[i].op_context;
        unsigned index = (unsigned)(context - endpoint->contexts);
        endpoint->under_way[endpoint->ticket_of[index]]--;
        endpoint->idle[endpoint->idle_count++] = index;
    }
    endpoint->connected = true;
    return (int)count;
}

/* Sleeps until the queue may have something, at most `ms`. */
static void doze(const struct haul_rma_endpoint *endpoint, int ms)
{
    struct fid *fid = &endpoint->completions->fid;
    if (fi_trywait(endpoint->rma->fabric, &fid, 1) != 0) {
        return; /* something came already */
    }
    struct pollfd polled[2] = {{.fd = endpoint->wait_fd, .events = POLLIN},
                               {.fd = endpoint->abort_fd, .events = POLLIN}};
    poll(polled, 2, ms);
}

/* Waits for at least one completion. */
static int await_progress(struct haul_rma_endpoint *endpoint, struct haul_error *error)
{
    uint32_t silence_ms = endpoint->rma->options.silence_timeout_ms;
    uint64_t deadline = haul_io_now_ns() + (uint64_t)silence_ms * 1000000u;
    for (;;) {
        if (aborted(endpoint)) {
            return haul_error_set(error, ECANCELED, "rdma: aborted");
        }
        int count = collect(endpoint, error);
        if (count != 0) {
            return count < 0 ? count : 0;
        }
        if (haul_io_now_ns() > deadline) {
            return haul_error_set(error, ETIMEDOUT, "rdma: no write reached the destination for %u ms",
                                  silence_ms);
        }
        doze(endpoint, endpoint->connected ? CONNECTED_POLL_MS : CONNECTING_POLL_MS);
    }
}

/* ---- the initiator ---- */

/* What fi_writemsg or fi_readmsg is to do. */
struct operation {
    ssize_t (*start)(struct fid_ep *endpoint, const struct fi_msg_rma *message, uint64_t flags);
    void *bytes;
    size_t length;
    const struct haul_rma_region *region;
    uint64_t offset; /* within the region */
    unsigned ticket;
};

/*
 * Starts one operation. A provider says "again" when its queue is full, and while it connects, when there is
 * nothing to complete yet.
 */
static int start_operation(struct haul_rma_endpoint *endpoint, const struct operation *operation,
                           struct haul_error *error)
{
    uint64_t deadline = haul_io_now_ns() + (uint64_t)endpoint->rma->options.silence_timeout_ms * 1000000u;
    void *descriptor = operation->region->descriptor;
    struct iovec local = {operation->bytes, operation->length};
    struct fi_rma_iov remote = {.addr = operation->region->base + operation->offset,
                                .len = operation->length,
                                .key = operation->region->key};
    struct fi_msg_rma message = {.msg_iov = &local,
                                 .desc = &descriptor,
                                 .iov_count = 1,
                                 .addr = endpoint->peer,
                                 .rma_iov = &remote,
                                 .rma_iov_count = 1};
    for (;;) {
        if (endpoint->idle_count == 0) {
            int rc = await_progress(endpoint, error);
            if (rc < 0) {
                return rc;
            }
        }
        message.context = &endpoint->contexts[endpoint->idle[endpoint->idle_count - 1]];
        HAUL_LIVE_READ_BEGIN();
        ssize_t rc = operation->start(endpoint->endpoint, &message, FI_DELIVERY_COMPLETE | FI_COMPLETION);
        HAUL_LIVE_READ_END();
        if (rc == 0) {
            unsigned index = endpoint->idle[--endpoint->idle_count];
            endpoint->ticket_of[index] = operation->ticket;
            endpoint->under_way[operation->ticket]++;
            return 0;
        }
        if (rc != -FI_EAGAIN) {
            return haul_rma_fail(error, endpoint->rma, rc, "rdma: writing the destination's memory");
        }
        if (aborted(endpoint)) {
            return haul_error_set(error, ECANCELED, "rdma: aborted");
        }
        if (haul_io_now_ns() > deadline) {
            return haul_error_set(error, ETIMEDOUT, "rdma: the destination let nothing be written for %u ms",
                                  endpoint->rma->options.silence_timeout_ms);
        }
        int count = collect(endpoint, error);
        if (count < 0) {
            return count;
        }
        if (count == 0) {
            doze(endpoint, CONNECTING_POLL_MS);
        }
    }
}

int haul_rma_write(struct haul_rma_endpoint *endpoint, unsigned ticket, uint32_t block, uint64_t first,
                   uint64_t pages, struct haul_error *error)
{
    const struct haul_rma *rma = endpoint->rma;
    uint64_t region_bytes = (uint64_t)1 << rma->region_shift;
    uint64_t most = rma->info->ep_attr->max_msg_size;
    uint64_t offset = first * HAUL_PAGE_SIZE;
    uint64_t left = pages * HAUL_PAGE_SIZE;
    while (left > 0) {
        uint64_t within = offset & (region_bytes - 1);
        uint64_t length = left < region_bytes - within ? left : region_bytes - within;
        length = length < most ? length : most;
        struct operation operation = {
            .start = fi_writemsg,
            .bytes = rma->options.blocks[block].host + offset,
            .length = length,
            .region = &rma->regions[rma->first[block] + (offset >> rma->region_shift)],
            .offset = within,
            .ticket = ticket,
        };
        int rc = start_operation(endpoint, &operation, error);
        if (rc < 0) {
            return rc;
        }
        offset += length;
        left -= length;
    }
    return 0;
}

int haul_rma_progress(struct haul_rma_endpoint *endpoint, struct haul_error *error)
{
    int count = collect(endpoint, error);
    return count < 0 ? count : 0;
}

bool haul_rma_delivered(const struct haul_rma_endpoint *endpoint, unsigned ticket)
{
    return endpoint->under_way[ticket] == 0;
}

int haul_rma_await(struct haul_rma_endpoint *endpoint, unsigned ticket, struct haul_error *error)
{
    int rc = 0;
    while (rc == 0 && !haul_rma_delivered(endpoint, ticket)) {
        rc = await_progress(endpoint, error);
    }
    return rc;
}

int haul_rma_complete(struct haul_rma_endpoint *endpoint, struct haul_error *error)
{
    int rc = 0;
    while (rc == 0 && endpoint->idle_count < WINDOW) {
        rc = await_progress(endpoint, error);
    }
    return rc;
}

int haul_rma_flush(struct haul_rma_endpoint *endpoint, struct haul_error *error)
{
    int rc = haul_rma_complete(endpoint, error);
    if (rc < 0 || !endpoint->connected) {
        return rc; /* nothing was ever written: no connection is made for it */
    }
    const struct haul_rma *rma = endpoint->rma;
    struct operation operation = {
        .start = fi_readmsg,
        .bytes = rma->flush_page + endpoint->index * HAUL_RMA_FLUSH_SLOT,
        .length = HAUL_RMA_FLUSH_SLOT,
        .region = &rma->flush,
        .ticket = HAUL_RMA_TICKETS,
    };
    rc = start_operation(endpoint, &operation, error);
    return rc < 0 ? rc : haul_rma_complete(endpoint, error);
}

/* ---- the target ---- */

int haul_rma_serve(struct haul_rma_endpoint *endpoint, struct haul_error *error)
{
    while (!aborted(endpoint)) {
        struct fi_cq_entry entry;
        ssize_t count = fi_cq_read(endpoint->completions, &entry, 1);
        if (count == -FI_EAVAIL) {
            /* A target starts no operations: an error here is of a connection that is gone. */
            struct fi_cq_err_entry ended = {0};
            fi_cq_readerr(endpoint->completions, &ended, 0);
        } else if (count == -FI_EAGAIN) {
            doze(endpoint, CONNECTED_POLL_MS);
        } else if (count < 0) {
            return haul_rma_fail(error, endpoint->rma, count, "rdma: serving the source's writes");
        }
    }
    return 0;
}

/* ---- the end ---- */

void haul_rma_endpoint_abort(struct haul_rma_endpoint *endpoint)
{
    uint64_t one = 1;
    ssize_t written = write(endpoint->abort_fd, &one, sizeof one);
    (void)written; /* fails only when it is readable already */
}

void haul_rma_endpoint_shut(struct haul_rma_endpoint *endpoint)
{
    if (endpoint->endpoint) {
        fi_close(&endpoint->endpoint->fid);
        endpoint->endpoint = NULL;
    }
    if (endpoint->completions) {
        fi_close(&endpoint->completions->fid);
        endpoint->completions = NULL;
    }
    if (endpoint->addresses) {
        fi_close(&endpoint->addresses->fid);
        endpoint->addresses = NULL;
    }
}

void haul_rma_endpoint_close(struct haul_rma_endpoint *endpoint)
{
    if (!endpoint) {
        return;
    }
    haul_rma_endpoint_shut(endpoint);
    if (endpoint->abort_fd >= 0) {
        close(endpoint->abort_fd);
    }
    free(endpoint);
}
