/* SPDX-License-Identifier: Apache-2.0 */
/* tcp:HOST:PORT, where HOST is a name, a v4 address or a v6 address in brackets. */
#include "channels/socket_io.h"
#include "channels/transport_ops.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST_MAX 254 /* a DNS name and its NUL */
#define PORT_MAX 6   /* "65535" and its NUL */

static int bad_uri(const char *uri, struct haul_error *error)
{
    return haul_error_set(
        error, EINVAL,
        "\"%.100s\" is not a tcp address: use tcp:HOST:PORT or tcp:[V6]:PORT with a port from 0 "
        "to 65535",
        uri);
}

/* A port of one to five digits, at most 65535. */
static bool is_port(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits >= 1 && digits < PORT_MAX && text[digits] == 0 && strtoul(text, NULL, 10) <= 65535;
}

/* Splits HOST:PORT; false when it has another form. */
static bool split(const char *address, char host[HOST_MAX], char port[PORT_MAX])
{
    const char *from = address;
    const char *colon = strrchr(address, ':');
    if (!colon) {
        return false;
    }
    const char *to = colon;
    if (*from == '[') {
        from++;
        if (to == address || to[-1] != ']') {
            return false;
        }
        to--;
    }
    bool bracketed = from != address;
    size_t length = to > from ? (size_t)(to - from) : 0;
    if (length == 0 || length >= HOST_MAX || memchr(from, ']', length) || !is_port(colon + 1)) {
        return false;
    }
    /* A v6 address without brackets would be ambiguous. */
    if (!bracketed && memchr(from, ':', length)) {
        return false;
    }
    memcpy(host, from, length);
    host[length] = 0;
    snprintf(port, PORT_MAX, "%s", colon + 1);
    return true;
}

static int tcp_check(const char *uri, const char *address, struct haul_error *error)
{
    char host[HOST_MAX], port[PORT_MAX];
    return split(address, host, port) ? 0 : bad_uri(uri, error);
}

/*
 * Looks the host up. A name that is not numeric goes to the system's resolver, whose own timeouts bound the
 * wait (resolv.conf).
 */
static int look_up(const char *uri, const char *address, int flags, struct addrinfo **list,
                   struct haul_error *error)
{
    char host[HOST_MAX], port[PORT_MAX];
    if (!split(address, host, port)) {
        return bad_uri(uri, error);
    }
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    int result = getaddrinfo(host, port, &hints, list);
    if (result == 0) {
        return 0;
    }
    if (result == EAI_SYSTEM) {
        return haul_error_set(error, errno, "%s: looking up \"%s\": %s", uri, host, strerror(errno));
    }
    return haul_error_set(error, EHOSTUNREACH, "%s: the host \"%s\" is not known: %s", uri, host,
                          gai_strerror(result));
}

/* Opens, binds and listens at one address: a descriptor or a negative errno. */
static int listen_at(const struct addrinfo *at)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    /* A listener that ended a minute ago must not keep the next one from its port. */
    int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, HAUL_LISTEN_BACKLOG) < 0) {
        int code = errno;
        close(fd);
        return -code;
    }
    return fd;
}

/* Writes the URI with the port that the kernel chose, host as the user wrote it. */
static int local_uri(int fd, const char *address, char *uri, size_t size)
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
    unsigned port = ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
    snprintf(uri, size, "tcp:%.*s:%u", (int)(strrchr(address, ':') - address), address, port);
    return 0;
}

static int tcp_listen(const char *uri, const char *address, struct haul_listener *listener,
                      struct haul_error *error)
{
    struct addrinfo *list;
    int result = look_up(uri, address, AI_PASSIVE, &list, error);
    if (result < 0) {
        return result;
    }
    int fd = -EADDRNOTAVAIL;
    for (const struct addrinfo *at = list; at && fd < 0; at = at->ai_next) {
        fd = listen_at(at);
    }
    freeaddrinfo(list);
    switch (fd) {
    case -EADDRINUSE:
        return haul_error_set(
            error, EADDRINUSE,
            "listening on %s: the port is in use; choose another or stop what listens there", uri);
    case -EACCES:
        return haul_error_set(
            error, EACCES, "listening on %s: not permitted; ports below 1024 need root, choose another", uri);
    case -EADDRNOTAVAIL:
        return haul_error_set(error, EADDRNOTAVAIL, "listening on %s: this host does not have that address",
                              uri);
    default:
        break;
    }
    if (fd >= 0) {
        result = local_uri(fd, address, listener->uri, sizeof listener->uri);
        if (result == 0) {
            listener->fd = fd;
            return 0;
        }
        close(fd);
        fd = result;
    }
    return haul_error_set(error, -fd, "listening on %s: %s", uri, strerror(-fd));
}

static int connect_at(const struct haul_attempt *attempt, const struct addrinfo *at, uint64_t deadline_ns)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    int result = haul_attempt_connect(attempt, fd, at->ai_addr, at->ai_addrlen, deadline_ns);
    if (result < 0) {
        close(fd);
        return result;
    }
    return fd;
}

static int tcp_connect(const struct haul_attempt *attempt, const char *address, int *fd,
                       struct haul_error *error)
{
    struct addrinfo *list;
    int result = look_up(attempt->uri, address, 0, &list, error);
    if (result < 0) {
        return result;
    }
    unsigned left = 0;
    for (const struct addrinfo *at = list; at; at = at->ai_next) {
        left++;
    }
    result = -EHOSTUNREACH;
    for (const struct addrinfo *at = list; at; at = at->ai_next, left--) {
        /* A fair share of what is left, so that one dead address does not use up the others' time. */
        uint64_t now = haul_io_now_ns();
        uint64_t rest = attempt->deadline_ns > now ? attempt->deadline_ns - now : 0;
        result = connect_at(attempt, at, now + rest / left);
        if (result >= 0 || result == -ECANCELED) {
            break;
        }
    }
    freeaddrinfo(list);
    if (result < 0) {
        return haul_attempt_failed(attempt, -result, error);
    }
    *fd = result;
    return 0;
}

static int set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

/*
 * Buffers stay with the kernel's autotuning: a fixed SO_SNDBUF or SO_RCVBUF switches it off and is capped by
 * net.core.*mem_max, which is lower than what autotuning may reach (net.ipv4.tcp_*mem).
 */
static int tcp_prepare(int fd, const struct haul_transport_limits *limits)
{
    /* Keepalive probes start after a third of the silence limit; TCP_USER_TIMEOUT ends them. */
    int idle_s = (int)(limits->silence_timeout_ms / 3000);
    const struct {
        int level, option, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, (int)limits->silence_timeout_ms},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, idle_s > 0 ? idle_s : 1},
        {IPPROTO_TCP, TCP_KEEPINTVL, idle_s > 0 ? idle_s : 1},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        int result = set_option(fd, options[i].level, options[i].option, options[i].value);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

const struct haul_transport haul_transport_tcp = {
    .scheme = "tcp",
    .check = tcp_check,
    .listen = tcp_listen,
    .connect = tcp_connect,
    .prepare = tcp_prepare,
};
