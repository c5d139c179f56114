/* SPDX-License-Identifier: Apache-2.0 */
/* The connecting side: one connector per migration, and the waits that its transports share. */
#include "channels/socket_io.h"
#include "channels/transport/ops.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- waiting ---- */

int haul_attempt_wait(const struct haul_attempt *attempt, const int *fds, unsigned count, short events)
{
    struct pollfd polled[HAUL_WAIT_MAX + 1];
    for (unsigned i = 0; i < count; i++) {
        polled[i] = (struct pollfd){.fd = fds[i], .events = events};
    }
    polled[count] = (struct pollfd){.fd = attempt->cancel_fd, .events = POLLIN};
    for (;;) {
        int wait_ms = -1;
        if (attempt->deadline_ns != UINT64_MAX) {
            uint64_t now = haul_io_now_ns();
            uint64_t left = attempt->deadline_ns > now ? attempt->deadline_ns - now : 0;
            wait_ms = (int)((left + 999999) / 1000000);
        }
        int ready = poll(polled, count + 1, wait_ms);
        if (ready < 0 && errno != EINTR) {
            return -errno;
        }
        if (ready == 0) {
            return -ETIMEDOUT;
        }
        if (ready > 0 && polled[count].revents) {
            return -ECANCELED;
        }
        for (unsigned i = 0; ready > 0 && i < count; i++) {
            if (polled[i].revents) {
                return (int)i;
            }
        }
    }
}

struct haul_attempt haul_attempt_until(const struct haul_attempt *attempt, uint64_t deadline_ns)
{
    struct haul_attempt shorter = *attempt;
    if (deadline_ns < shorter.deadline_ns) {
        shorter.deadline_ns = deadline_ns;
    }
    return shorter;
}

int haul_attempt_connect(const struct haul_attempt *attempt, int fd, const struct sockaddr *address,
                         socklen_t length)
{
    if (connect(fd, address, length) == 0) {
        return 0;
    }
    if (errno != EINPROGRESS && errno != EINTR) {
        return -errno;
    }
    int result = haul_attempt_wait(attempt, &fd, 1, POLLOUT);
    if (result < 0) {
        return result;
    }
    int code = 0;
    socklen_t size = sizeof code;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0) {
        return -errno;
    }
    return -code;
}

int haul_attempt_sleep(const struct haul_attempt *attempt, int ms)
{
    uint64_t until = haul_io_now_ns() + (uint64_t)ms * 1000000u;
    bool last = until >= attempt->deadline_ns;
    struct haul_attempt nap = haul_attempt_until(attempt, until);
    int result = haul_attempt_wait(&nap, NULL, 0, 0);
    return result == -ETIMEDOUT && !last ? 0 : result;
}

int haul_attempt_failed(const struct haul_attempt *attempt, int code, struct haul_error *error)
{
    switch (code) {
    case ECANCELED:
        return haul_error_set(error, code, "connecting to %s: cancelled", attempt->uri);
    case ETIMEDOUT:
        return haul_error_set(
            error, code,
            "connecting to %s: no answer within %u ms; check that the host is up and that no "
            "firewall drops the port",
            attempt->uri, attempt->timeout_ms);
    case ECONNREFUSED:
        return haul_error_set(error, code,
                              "connecting to %s: connection refused; start `haul receive` there first",
                              attempt->uri);
    case ENOENT:
        return haul_error_set(error, code, "connecting to %s: no such path; start `haul receive` there first",
                              attempt->uri);
    default:
        return haul_error_set(error, code, "connecting to %s: %s", attempt->uri, strerror(code));
    }
}

/* ---- the connector ---- */

int haul_connector_open(const char *uri, const struct haul_transport_options *options,
                        struct haul_connector **connector, struct haul_error *error)
{
    struct haul_connector *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", uri);
    }
    int result = haul_endpoint_init(&made->end, uri, HAUL_URI_CONNECT, options, error);
    if (result < 0) {
        free(made);
        return result;
    }
    if (made->end.transport->open) {
        result = made->end.transport->open(made, error);
    }
    if (result == 0 && made->end.options.bind && !made->end.transport->binds) {
        result = haul_error_set(error, EINVAL, "%.100s: a source address to bind to is for tcp: only", uri);
    }
    if (result < 0) {
        haul_connector_close(made);
        return result;
    }
    *connector = made;
    return 0;
}

int haul_connector_connect(struct haul_connector *connector, uint16_t channel, int cancel_fd, int *fd,
                           struct haul_error *error)
{
    const struct haul_endpoint *end = &connector->end;
    uint32_t timeout_ms = end->options.limits.connect_timeout_ms;
    struct haul_attempt attempt = {.uri = end->uri,
                                   .deadline_ns = haul_io_now_ns() + (uint64_t)timeout_ms * 1000000u,
                                   .timeout_ms = timeout_ms,
                                   .cancel_fd = cancel_fd};
    int connected;
    int result = end->transport->connect(connector, &attempt, channel, &connected, error);
    if (result < 0) {
        return result;
    }
    result = haul_socket_prepare(connected, &end->options.limits);
    if (result < 0) {
        close(connected);
        return haul_error_set(error, -result, "connecting to %s: setting socket options: %s", end->uri,
                              strerror(-result));
    }
    *fd = connected;
    return 0;
}

bool haul_connector_again(struct haul_connector *connector, uint16_t channel)
{
    return connector->end.transport->again && connector->end.transport->again(connector, channel);
}

void haul_connector_explain(struct haul_connector *connector, struct haul_error *error)
{
    if (connector->end.transport->explain) {
        connector->end.transport->explain(connector, error);
    }
}

void haul_connector_close(struct haul_connector *connector)
{
    if (!connector) {
        return;
    }
    if (connector->end.transport->close) {
        connector->end.transport->close(connector);
    }
    haul_endpoint_cleanup(&connector->end);
    free(connector);
}
