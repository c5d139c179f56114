/* SPDX-License-Identifier: Apache-2.0 */
/* The side that is connected to. */
#include "channels/socket_io.h"
#include "channels/transport_ops.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int haul_listener_open(const char *uri, const struct haul_transport_options *options,
                       struct haul_listener **listener, struct haul_error *error)
{
    struct haul_listener *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "listening on %s: out of memory", uri);
    }
    int result = haul_endpoint_init(&made->end, uri, HAUL_URI_LISTEN, options, error);
    if (result < 0) {
        free(made);
        return result;
    }
    result = made->end.transport->listen(made, error);
    if (result < 0) {
        haul_listener_close(made);
        return result;
    }
    *listener = made;
    return 0;
}

const char *haul_listener_uri(const struct haul_listener *listener)
{
    return listener->uri;
}

/* Accepts without waiting: a descriptor, or a negative errno (-EAGAIN: nobody there yet). */
static int accept_one(int listening)
{
    for (;;) {
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            return fd;
        }
        /* ECONNABORTED: the peer gave up between its connect and our accept; the next one counts. */
        if (errno != EINTR && errno != ECONNABORTED) {
            return -errno;
        }
    }
}

int haul_listener_accept(struct haul_listener *listener, int timeout_ms, int cancel_fd, int *fd,
                         struct haul_error *error)
{
    struct haul_attempt attempt = {
        .uri = listener->uri,
        .deadline_ns =
            timeout_ms < 0 ? UINT64_MAX : haul_io_now_ns() + (uint64_t)(unsigned)timeout_ms * 1000000u,
        .cancel_fd = cancel_fd,
    };
    int accepted;
    do {
        int result = haul_attempt_wait(&attempt, listener->fds, listener->count, POLLIN);
        if (result == -ETIMEDOUT) {
            return haul_error_set(error, ETIMEDOUT, "waiting at %s: nobody connected within %d ms",
                                  listener->uri, timeout_ms);
        }
        if (result < 0) {
            return haul_error_set(error, -result, "waiting at %s: %s", listener->uri,
                                  result == -ECANCELED ? "cancelled" : strerror(-result));
        }
        accepted = accept_one(listener->fds[result]);
    } while (accepted == -EAGAIN);
    if (accepted < 0) {
        return haul_error_set(error, -accepted, "accepting at %s: %s", listener->uri, strerror(-accepted));
    }
    int result = haul_socket_prepare(accepted, &listener->end.options.limits);
    if (result < 0) {
        close(accepted);
        return haul_error_set(error, -result, "accepting at %s: setting socket options: %s", listener->uri,
                              strerror(-result));
    }
    *fd = accepted;
    return 0;
}

void haul_listener_close(struct haul_listener *listener)
{
    if (!listener) {
        return;
    }
    if (listener->end.transport->unlisten) {
        listener->end.transport->unlisten(listener);
    }
    for (unsigned i = 0; i < listener->count; i++) {
        close(listener->fds[i]);
    }
    free(listener->uri);
    haul_endpoint_cleanup(&listener->end);
    free(listener);
}
