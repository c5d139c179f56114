/* SPDX-License-Identifier: Apache-2.0 */
/* The side that is connected to. */
#include "channels/socket_io.h"
#include "channels/transport/ops.h"

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

int haul_accept_failed(const struct haul_attempt *attempt, int code, struct haul_error *error)
{
    if (code == ETIMEDOUT) {
        return haul_error_set(error, code, "waiting at %s: nobody connected within %u ms", attempt->uri,
                              attempt->timeout_ms);
    }
    return haul_error_set(error, code, "waiting at %s: %s", attempt->uri,
                          code == ECANCELED ? "cancelled" : strerror(code));
}

int haul_accept_socket(struct haul_listener *listener, const struct haul_attempt *attempt, int *fd,
                       struct haul_error *error)
{
    int accepted;
    do {
        int result = haul_attempt_wait(attempt, listener->fds, listener->count, POLLIN);
        if (result < 0) {
            return haul_accept_failed(attempt, -result, error);
        }
        accepted = accept_one(listener->fds[result]);
    } while (accepted == -EAGAIN);
    if (accepted < 0) {
        return haul_error_set(error, -accepted, "accepting at %s: %s", listener->uri, strerror(-accepted));
    }
    *fd = accepted;
    return 0;
}

/* Where each connection exists once, one that was refused is missing for good: say so rather than wait. */
static int check_order(const struct haul_listener *listener, uint16_t expected, struct haul_error *error)
{
    bool control = expected == HAUL_CONTROL_CHANNEL;
    bool again = control ? listener->control_given : listener->channels_given > expected;
    if (!again || !(control || listener->end.transport->accept_in_order)) {
        return 0;
    }
    return haul_error_set(error, EPROTO, "%s: its %s does not lead to a haul send that fits", listener->uri,
                          control ? "control connection" : "latest data connection");
}

int haul_listener_accept(struct haul_listener *listener, uint16_t expected, int timeout_ms, int cancel_fd,
                         int *fd, struct haul_error *error)
{
    const struct haul_transport *transport = listener->end.transport;
    struct haul_attempt attempt = {
        .uri = listener->uri,
        .deadline_ns =
            timeout_ms < 0 ? UINT64_MAX : haul_io_now_ns() + (uint64_t)(unsigned)timeout_ms * 1000000u,
        .timeout_ms = (uint32_t)timeout_ms,
        .cancel_fd = cancel_fd,
    };
    int accepted;
    int result = transport->accept ? check_order(listener, expected, error) : 0;
    if (result == 0) {
        result = transport->accept ? transport->accept(listener, &attempt, expected, &accepted, error)
                                   : haul_accept_socket(listener, &attempt, &accepted, error);
    }
    if (result < 0) {
        return result;
    }
    if (expected == HAUL_CONTROL_CHANNEL) {
        listener->control_given = true;
    } else {
        listener->channels_given++;
    }
    result = haul_socket_prepare(accepted, &listener->end.options.limits);
    if (result < 0) {
        close(accepted);
        return haul_error_set(error, -result, "accepting at %s: setting socket options: %s", listener->uri,
                              strerror(-result));
    }
    *fd = accepted;
    return 0;
}

unsigned haul_listener_fds(const struct haul_listener *listener, uint16_t expected,
                           int fds[HAUL_LISTENER_FDS_MAX])
{
    const struct haul_transport *transport = listener->end.transport;
    if (transport->accept && (transport->accept_in_order || expected == HAUL_CONTROL_CHANNEL)) {
        return 0;
    }
    _Static_assert(HAUL_LISTENER_FDS_MAX >= HAUL_ADDRESSES_MAX, "each address has one");
    memcpy(fds, listener->fds, listener->count * sizeof *fds);
    return listener->count;
}

void haul_listener_explain(struct haul_listener *listener, struct haul_error *error)
{
    if (listener->end.transport->explain_listener) {
        listener->end.transport->explain_listener(listener, error);
    }
}

void haul_listener_stop(struct haul_listener *listener)
{
    struct stat now;
    if (!listener) {
        return;
    }
    if (listener->path && lstat(listener->path, &now) == 0 && now.st_dev == listener->made.st_dev &&
        now.st_ino == listener->made.st_ino) {
        unlink(listener->path);
    }
    free(listener->path);
    listener->path = NULL;
    for (unsigned i = 0; i < listener->count; i++) {
        close(listener->fds[i]);
    }
    listener->count = 0;
}

void haul_listener_close(struct haul_listener *listener)
{
    if (!listener) {
        return;
    }
    haul_listener_stop(listener);
    if (listener->end.transport->unlisten) {
        listener->end.transport->unlisten(listener);
    }
    free(listener->uri);
    haul_endpoint_cleanup(&listener->end);
    free(listener);
}
