/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp:HOST:PORT[,HOST:PORT...]. The destination listens at every place of its list. The source opens channel
 * i to place i modulo their number, from source address i modulo theirs, and so spreads over several
 * networks.
 */
#include "channels/socket_io.h"
#include "channels/transport/tcp_address.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int tcp_check(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error)
{
    struct haul_tcp_list list;
    return haul_tcp_list_parse(uri, address, role, &list, error);
}

/* ---- listening ---- */

/* Opens, binds and listens at one address, for v4 too if it is v6's for `both`: a descriptor or a negative
 * errno. */
static int listen_at(const struct addrinfo *at, bool both)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    /* A listener that ended a minute ago must not keep the next one from its port. */
    int on = 1, off = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        (both && at->ai_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) < 0) ||
        bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, HAUL_LISTEN_BACKLOG) < 0) {
        int code = errno;
        close(fd);
        return -code;
    }
    return fd;
}

static int listen_failed(const char *where, int code, struct haul_error *error)
{
    switch (code) {
    case EADDRINUSE:
        return haul_error_set(
            error, code, "listening on %s: the port is in use; choose another or stop what listens there",
            where);
    case EACCES:
        return haul_error_set(
            error, code, "listening on %s: not permitted; ports below 1024 need root, choose another", where);
    case EADDRNOTAVAIL:
        return haul_error_set(error, code,
                              "listening on %s: this host does not have that address; `ip address` lists "
                              "those it has, and tcp:0.0.0.0:PORT is all of them",
                              where);
    default:
        return haul_error_set(error, code, "listening on %s: %s", where, strerror(code));
    }
}

/* The port that the kernel chose, as text. */
static int local_port(int fd, char port[HAUL_TCP_PORT_MAX])
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } bound = {.v6 = {.sin6_family = AF_UNSPEC}};
    socklen_t length = sizeof bound;
    if (getsockname(fd, &bound.any, &length) < 0) {
        return -errno;
    }
    in_port_t number = bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port;
    snprintf(port, HAUL_TCP_PORT_MAX, "%u", ntohs(number));
    return 0;
}

/* Listens at all addresses of this host, v6 and v4 at once where there is v6, and gives `place` its name. */
static int listen_anywhere(struct haul_tcp_place *place)
{
    int fd = -EADDRNOTAVAIL;
    for (const struct addrinfo *at = place->found; at && fd < 0; at = at->ai_next) {
        fd = at->ai_family == AF_INET6 ? listen_at(at, true) : fd;
    }
    place->bracketed = fd >= 0 || fd == -EADDRINUSE;
    snprintf(place->host, sizeof place->host, "%s", place->bracketed ? "::" : "0.0.0.0");
    for (const struct addrinfo *at = place->found; at && !place->bracketed && fd < 0; at = at->ai_next) {
        fd = at->ai_family == AF_INET ? listen_at(at, false) : fd;
    }
    return fd;
}

static int listen_at_first(const struct haul_tcp_place *place)
{
    int fd = -EADDRNOTAVAIL;
    for (const struct addrinfo *at = place->found; at && fd < 0; at = at->ai_next) {
        fd = listen_at(at, false);
    }
    return fd;
}

/* Listens at the first address of `place` that can be listened at, and adds it to the listener and its URI.
 */
static int listen_at_place(struct haul_listener *listener, struct haul_tcp_place *place, FILE *uri,
                           struct haul_error *error)
{
    char where[HAUL_TCP_URI_MAX], text[HAUL_TCP_URI_MAX], port[HAUL_TCP_PORT_MAX];
    int fd = place->any ? listen_anywhere(place) : listen_at_first(place);
    haul_tcp_place_text(place, place->port, text, sizeof text);
    snprintf(where, sizeof where, "%s:%.300s", listener->end.transport->scheme, text);
    if (fd < 0) {
        return listen_failed(where, -fd, error);
    }
    listener->fds[listener->count++] = fd;
    int result = local_port(fd, port);
    if (result < 0) {
        return listen_failed(where, -result, error);
    }
    haul_tcp_place_text(place, port, text, sizeof text);
    fprintf(uri, "%s%s", listener->count > 1 ? "," : "", text);
    return 0;
}

static int tcp_listen(struct haul_listener *listener, struct haul_error *error)
{
    struct haul_tcp_list list;
    const char *uri = listener->end.uri;
    int result = haul_tcp_list_parse(uri, listener->end.address, HAUL_URI_LISTEN, &list, error);
    uint32_t timeout_ms = listener->end.options.limits.connect_timeout_ms;
    struct haul_attempt attempt = {.uri = uri,
                                   .deadline_ns = haul_io_now_ns() + (uint64_t)timeout_ms * 1000000u,
                                   .timeout_ms = timeout_ms,
                                   .cancel_fd = listener->end.options.cancel_fd};
    if (result == 0) {
        result = haul_tcp_list_look_up(&attempt, AI_PASSIVE, &list, error);
    }
    size_t size;
    FILE *text = result == 0 ? open_memstream(&listener->uri, &size) : NULL;
    if (text) {
        fprintf(text, "%s:", listener->end.transport->scheme);
        for (unsigned i = 0; result == 0 && i < list.count; i++) {
            result = listen_at_place(listener, &list.places[i], text, error);
        }
        if (fclose(text) != 0 && result == 0) {
            result = haul_error_set(error, ENOMEM, "listening on %s: out of memory", uri);
        }
    } else if (result == 0) {
        result = haul_error_set(error, ENOMEM, "listening on %s: out of memory", uri);
    }
    haul_tcp_list_cleanup(&list);
    return result;
}

/* ---- connecting ---- */

struct tcp_state {
    struct haul_tcp_list peers;
    struct haul_tcp_list sources; /* count 0: the kernel chooses */
};

static int tcp_open(struct haul_connector *connector, struct haul_error *error)
{
    const struct haul_endpoint *end = &connector->end;
    struct tcp_state *state = calloc(1, sizeof *state);
    connector->state = state;
    if (!state) {
        return haul_error_set(error, ENOMEM, "%s: out of memory", end->uri);
    }
    int result = haul_tcp_list_parse(end->uri, end->address, HAUL_URI_CONNECT, &state->peers, error);
    if (result == 0 && end->options.bind) {
        result = haul_tcp_list_parse_sources(end->options.bind, &state->sources, error);
    }
    return result;
}

static void tcp_close(struct haul_connector *connector)
{
    struct tcp_state *state = connector->state;
    if (state) {
        haul_tcp_list_cleanup(&state->peers);
        haul_tcp_list_cleanup(&state->sources);
        free(state);
    }
}

static int connect_at(const struct haul_attempt *attempt, const struct addrinfo *at,
                      const struct haul_tcp_place *source)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    int on = 1;
    int result = 0;
    /* The port is left to connect, which may use one port towards several peers. */
    if (source && (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0 ||
                   bind(fd, source->found->ai_addr, source->found->ai_addrlen) < 0)) {
        result = -errno;
    }
    if (result == 0) {
        result = haul_attempt_connect(attempt, fd, at->ai_addr, at->ai_addrlen);
    }
    if (result < 0) {
        close(fd);
        return result;
    }
    return fd;
}

static bool usable(const struct addrinfo *at, const struct haul_tcp_place *source)
{
    return !source || at->ai_family == source->found->ai_family;
}

/* Tries the addresses of one place, the one that answered before first: a descriptor or a negative errno. */
static int connect_to_place(const struct haul_attempt *attempt, struct haul_tcp_place *place,
                            const struct haul_tcp_place *source)
{
    unsigned left = 0;
    for (const struct addrinfo *at = place->found; at; at = at->ai_next) {
        left += usable(at, source);
    }
    if (place->good && usable(place->good, source)) {
        int fd = connect_at(attempt, place->good, source);
        if (fd >= 0 || left == 1) {
            return fd;
        }
    }
    int fd = -EAFNOSUPPORT;
    for (const struct addrinfo *at = place->found; at; at = at->ai_next) {
        if (!usable(at, source)) {
            continue;
        }
        /* A fair share of what is left, so that one dead address does not use up the others' time. */
        uint64_t now = haul_io_now_ns();
        uint64_t rest = attempt->deadline_ns > now ? attempt->deadline_ns - now : 0;
        struct haul_attempt share = haul_attempt_until(attempt, now + rest / left--);
        fd = connect_at(&share, at, source);
        if (fd >= 0) {
            place->good = at;
        }
        if (fd >= 0 || fd == -ECANCELED) {
            break;
        }
    }
    return fd;
}

/* Connects to one place within the attempt's time; the message names the place. */
static int try_place(const struct haul_connector *connector, const struct haul_attempt *attempt,
                     unsigned index, unsigned source_index, int *fd, struct haul_error *error)
{
    struct tcp_state *state = connector->state;
    struct haul_tcp_place *place = &state->peers.places[index];
    const struct haul_tcp_place *source =
        state->sources.count ? &state->sources.places[source_index % state->sources.count] : NULL;
    char text[HAUL_TCP_URI_MAX], uri[HAUL_TCP_URI_MAX + 8];
    haul_tcp_place_text(place, place->port, text, sizeof text);
    snprintf(uri, sizeof uri, "%s:%s", connector->end.transport->scheme, text);
    struct haul_attempt named = *attempt;
    named.uri = uri;
    int result = connect_to_place(&named, place, source);
    if (result >= 0) {
        *fd = result;
        return 0;
    }
    if (source && result == -EADDRNOTAVAIL) {
        return haul_error_set(error, EADDRNOTAVAIL,
                              "connecting to %s: this host does not have the source address %s; see ip addr",
                              uri, source->host);
    }
    if (source && result == -EAFNOSUPPORT) {
        return haul_error_set(error, EAFNOSUPPORT,
                              "connecting to %s: it has no address of the same family as the source address "
                              "%s; the lists of addresses and of source addresses go together in order",
                              uri, source->host);
    }
    return haul_attempt_failed(&named, -result, error);
}

static int tcp_connect(struct haul_connector *connector, const struct haul_attempt *attempt, uint16_t channel,
                       int *fd, struct haul_error *error)
{
    struct tcp_state *state = connector->state;
    int result = haul_tcp_list_look_up(attempt, 0, &state->peers, error);
    if (result < 0) {
        return result;
    }
    if (channel != HAUL_CONTROL_CHANNEL) {
        return try_place(connector, attempt, channel % state->peers.count, channel, fd, error);
    }
    for (unsigned i = 0; i < state->peers.count; i++) {
        uint64_t now = haul_io_now_ns();
        uint64_t rest = attempt->deadline_ns > now ? attempt->deadline_ns - now : 0;
        struct haul_attempt share = haul_attempt_until(attempt, now + rest / (state->peers.count - i));
        result = try_place(connector, &share, i, i, fd, error);
        if (result == 0 || result == -ECANCELED) {
            return result;
        }
    }
    return result;
}

const struct haul_transport haul_transport_tcp = {
    .scheme = "tcp",
    .form = "tcp:HOST:PORT[,HOST:PORT...]",
    .binds = true,
    .check = tcp_check,
    .open = tcp_open,
    .connect = tcp_connect,
    .close = tcp_close,
    .listen = tcp_listen,
};
