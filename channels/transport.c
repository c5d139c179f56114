/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport.h"

#include "channels/socket_io.h"
#include "channels/transport_ops.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT_MS 30000

static const struct haul_transport *const transports[] = {&haul_transport_tcp, &haul_transport_unix};

/* Finds the transport of `uri` and checks the rest, which *address points to afterwards. */
static int parse_uri(const char *uri, const struct haul_transport **transport, const char **address,
                     struct haul_error *error)
{
    for (size_t i = 0; i < sizeof transports / sizeof *transports; i++) {
        size_t length = strlen(transports[i]->scheme);
        if (strncmp(uri, transports[i]->scheme, length) == 0 && uri[length] == ':') {
            *transport = transports[i];
            *address = uri + length + 1;
            return transports[i]->check(uri, *address, error);
        }
    }
    return haul_error_set(error, EINVAL,
                          "\"%.100s\" is not an address: use tcp:HOST:PORT, tcp:[V6]:PORT or unix:PATH", uri);
}

int haul_uri_check(const char *uri, struct haul_error *error)
{
    const struct haul_transport *transport;
    const char *address;
    return parse_uri(uri, &transport, &address, error);
}

/* ---- waiting ---- */

/*
 * Waits for `events` on `fd` (-1: only for the clock). 0, -ETIMEDOUT, -ECANCELED or what poll said.
 */
static int wait_for(int fd, short events, uint64_t deadline_ns, int cancel_fd)
{
    for (;;) {
        int wait_ms = -1;
        if (deadline_ns != UINT64_MAX) {
            uint64_t now = haul_io_now_ns();
            uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
            wait_ms = (int)((left + 999999) / 1000000);
        }
        struct pollfd polled[2] = {{.fd = fd, .events = events}, {.fd = cancel_fd, .events = POLLIN}};
        int ready = poll(polled, 2, wait_ms);
        if (ready < 0 && errno != EINTR) {
            return -errno;
        }
        if (ready > 0) {
            return polled[1].revents ? -ECANCELED : 0;
        }
        if (ready == 0) {
            return -ETIMEDOUT;
        }
    }
}

int haul_attempt_connect(const struct haul_attempt *attempt, int fd, const struct sockaddr *address,
                         socklen_t length, uint64_t deadline_ns)
{
    if (connect(fd, address, length) == 0) {
        return 0;
    }
    if (errno != EINPROGRESS && errno != EINTR) {
        return -errno;
    }
    int result = wait_for(fd, POLLOUT, deadline_ns, attempt->cancel_fd);
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
    int result = wait_for(-1, 0, last ? attempt->deadline_ns : until, attempt->cancel_fd);
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

/* ---- connected sockets ---- */

/* Makes a new connection what the data path expects: blocking, close-on-exec, with its limits. */
static int prepare_connection(const struct haul_transport *transport, int fd,
                              const struct haul_transport_limits *limits)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0) {
        return -errno;
    }
    struct haul_transport_limits checked = *limits;
    if (checked.silence_timeout_ms == 0) {
        checked.silence_timeout_ms = DEFAULT_TIMEOUT_MS;
    }
    struct timeval silence = {.tv_sec = checked.silence_timeout_ms / 1000,
                              .tv_usec = (suseconds_t)(checked.silence_timeout_ms % 1000) * 1000};
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence) < 0) {
        return -errno;
    }
    return transport->prepare(fd, &checked);
}

int haul_connect(const char *uri, const struct haul_transport_limits *limits, int cancel_fd, int *fd,
                 struct haul_error *error)
{
    const struct haul_transport *transport;
    const char *address;
    int result = parse_uri(uri, &transport, &address, error);
    if (result < 0) {
        return result;
    }
    uint32_t timeout_ms = limits->connect_timeout_ms ? limits->connect_timeout_ms : DEFAULT_TIMEOUT_MS;
    struct haul_attempt attempt = {.uri = uri,
                                   .deadline_ns = haul_io_now_ns() + (uint64_t)timeout_ms * 1000000u,
                                   .timeout_ms = timeout_ms,
                                   .cancel_fd = cancel_fd};
    int connected;
    result = transport->connect(&attempt, address, &connected, error);
    if (result < 0) {
        return result;
    }
    result = prepare_connection(transport, connected, limits);
    if (result < 0) {
        close(connected);
        return haul_error_set(error, -result, "connecting to %s: setting socket options: %s", uri,
                              strerror(-result));
    }
    *fd = connected;
    return 0;
}

/* ---- listening ---- */

int haul_listener_open(const char *uri, struct haul_listener **listener, struct haul_error *error)
{
    const struct haul_transport *transport;
    const char *address;
    int result = parse_uri(uri, &transport, &address, error);
    if (result < 0) {
        return result;
    }
    struct haul_listener *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "listening on %s: out of memory", uri);
    }
    made->fd = -1;
    made->transport = transport;
    result = transport->listen(uri, address, made, error);
    if (result < 0) {
        free(made);
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
static int accept_one(const struct haul_listener *listener)
{
    for (;;) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            return fd;
        }
        /* ECONNABORTED: the peer gave up between its connect and our accept; the next one counts. */
        if (errno != EINTR && errno != ECONNABORTED) {
            return -errno;
        }
    }
}

int haul_listener_accept(struct haul_listener *listener, const struct haul_transport_limits *limits,
                         int timeout_ms, int cancel_fd, int *fd, struct haul_error *error)
{
    uint64_t deadline =
        timeout_ms < 0 ? UINT64_MAX : haul_io_now_ns() + (uint64_t)(unsigned)timeout_ms * 1000000u;
    int accepted;
    do {
        int result = wait_for(listener->fd, POLLIN, deadline, cancel_fd);
        if (result == -ETIMEDOUT) {
            return haul_error_set(error, ETIMEDOUT, "waiting at %s: nobody connected within %d ms",
                                  listener->uri, timeout_ms);
        }
        if (result < 0) {
            return haul_error_set(error, -result, "waiting at %s: %s", listener->uri,
                                  result == -ECANCELED ? "cancelled" : strerror(-result));
        }
        accepted = accept_one(listener);
    } while (accepted == -EAGAIN);
    if (accepted < 0) {
        return haul_error_set(error, -accepted, "accepting at %s: %s", listener->uri, strerror(-accepted));
    }
    int result = prepare_connection(listener->transport, accepted, limits);
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
    if (listener->transport->unlisten) {
        listener->transport->unlisten(listener);
    }
    close(listener->fd);
    free(listener);
}

/* ---- what is known of a connected socket ---- */

void haul_peer_name(int fd, char *name, size_t size)
{
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof peer;
    char host[INET6_ADDRSTRLEN] = "?";
    if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0) {
        snprintf(name, size, "a lost peer");
        return;
    }
    if (peer.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&peer;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(name, size, "%s:%u", host, ntohs(v4->sin_port));
    } else if (peer.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&peer;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(name, size, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        /* Who accepted has the path as its own name, who connected as its peer's. */
        struct sockaddr_un path = {0};
        memcpy(&path, &peer, length < sizeof path ? length : sizeof path);
        if (path.sun_path[0] == 0) {
            length = sizeof path;
            memset(&path, 0, sizeof path);
            getsockname(fd, (struct sockaddr *)&path, &length);
        }
        snprintf(name, size, "unix:%.*s", (int)sizeof path.sun_path, path.sun_path);
    }
}

uint64_t haul_unacknowledged_bytes(int fd)
{
    int queued = 0;
    if (ioctl(fd, SIOCOUTQ, &queued) < 0 || queued < 0) {
        return 0;
    }
    return (uint64_t)queued;
}
