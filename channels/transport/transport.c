/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport/transport.h"

#include "channels/transport/ops.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static const struct haul_transport *const transports[] = {
    &haul_transport_tcp, &haul_transport_unix,  &haul_transport_ssh,   &haul_transport_exec,
    &haul_transport_fd,  &haul_transport_vsock, &haul_transport_stdio, &haul_transport_rdma,
};
#define TRANSPORT_COUNT (sizeof transports / sizeof *transports)

/*
 * SO_SNDBUF within a host, in bytes; the kernel allows twice as much, its own book-keeping included. Of 64
 * KiB to 1 MiB the best: 4 GiB over 1 to 8 connections took 5 to 25 % less time than with autotuning, less
 * than half of this slowed one connection down.
 */
#define LOCAL_SEND_BUFFER (512 * 1024)
/*
 * TCP_CONGESTION within a host, where nothing is congested: every kernel has it, and leave for everybody. One
 * that paces, as BBR does, sets a timer for every few packets; 4 GiB over one connection took half as long
 * again with it.
 */
#define LOCAL_CONGESTION_CONTROL "reno"

/* ---- URIs ---- */

/* "tcp:HOST:PORT, unix:PATH or ...": the forms that `role` can use. */
static void list_forms(enum haul_uri_role role, char *text, size_t size)
{
    const char *forms[TRANSPORT_COUNT];
    size_t count = 0;
    for (size_t i = 0; i < TRANSPORT_COUNT; i++) {
        if (role == HAUL_URI_CONNECT ? (bool)transports[i]->connect : (bool)transports[i]->listen) {
            forms[count++] = transports[i]->form;
        }
    }
    size_t used = 0;
    for (size_t i = 0; i < count && used < size; i++) {
        const char *between = i == 0 ? "" : i + 1 < count ? ", " : " or ";
        used += (size_t)snprintf(text + used, size - used, "%s%s", between, forms[i]);
    }
}

/* Finds the transport of `uri` and checks the rest, which *address points to afterwards. */
static int parse_uri(const char *uri, enum haul_uri_role role, const struct haul_transport **transport,
                     const char **address, struct haul_error *error)
{
    char forms[256];
    list_forms(role, forms, sizeof forms);
    for (size_t i = 0; i < TRANSPORT_COUNT; i++) {
        size_t length = strlen(transports[i]->scheme);
        if (strncmp(uri, transports[i]->scheme, length) != 0 || uri[length] != ':') {
            continue;
        }
        if (role == HAUL_URI_CONNECT ? !transports[i]->connect : !transports[i]->listen) {
            return haul_error_set(error, EINVAL, "\"%.100s\": one cannot %s %s:; use %s", uri,
                                  role == HAUL_URI_CONNECT ? "connect to" : "wait at", transports[i]->scheme,
                                  forms);
        }
        *transport = transports[i];
        *address = uri + length + 1;
        return transports[i]->check(uri, *address, role, error);
    }
    /* file: is no transport, and the engine's; but who may send anywhere may mean it. */
    return haul_error_set(error, EINVAL, "\"%.100s\" is not an address: use %s%s", uri, forms,
                          role == HAUL_URI_CONNECT ? "; file:PATH saves into a file" : "");
}

int haul_uri_check(const char *uri, enum haul_uri_role role, struct haul_error *error)
{
    const struct haul_transport *transport;
    const char *address;
    return parse_uri(uri, role, &transport, &address, error);
}

int haul_endpoint_init(struct haul_endpoint *end, const char *uri, enum haul_uri_role role,
                       const struct haul_transport_options *options, struct haul_error *error)
{
    const char *address;
    int result = parse_uri(uri, role, &end->transport, &address, error);
    if (result < 0) {
        return result;
    }
    if (options) {
        end->options = *options;
    }
    end->uri = strdup(uri);
    if (!end->uri) {
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", uri);
    }
    end->address = end->uri + (address - uri);
    end->options.cancel_fd = end->options.cancel_fd ? end->options.cancel_fd : -1;
    struct haul_transport_limits *limits = &end->options.limits;
    limits->connect_timeout_ms = limits->connect_timeout_ms ? limits->connect_timeout_ms : HAUL_TIMEOUT_MS;
    limits->silence_timeout_ms = limits->silence_timeout_ms ? limits->silence_timeout_ms : HAUL_TIMEOUT_MS;
    return 0;
}

void haul_endpoint_cleanup(struct haul_endpoint *end)
{
    free(end->uri);
}

/* ---- connected sockets ---- */

static int set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

/* Both ends have the same address: the connection does not leave this host. */
static bool is_local(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } own = {0}, peer = {0};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    if (getsockname(fd, &own.any, &own_size) < 0 || getpeername(fd, &peer.any, &peer_size) < 0 ||
        own.any.sa_family != peer.any.sa_family) {
        return false;
    }
    if (own.any.sa_family == AF_INET) {
        return own.v4.sin_addr.s_addr == peer.v4.sin_addr.s_addr;
    }
    return own.any.sa_family == AF_INET6 &&
           memcmp(&own.v6.sin6_addr, &peer.v6.sin6_addr, sizeof own.v6.sin6_addr) == 0;
}

/* Only for speed: what the host refuses stays as it is. */
static void prepare_local(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, LOCAL_CONGESTION_CONTROL,
               sizeof LOCAL_CONGESTION_CONTROL - 1);
    set_option(fd, SOL_SOCKET, SO_SNDBUF, LOCAL_SEND_BUFFER);
}

/*
 * Buffers stay with the kernel's autotuning: a fixed SO_SNDBUF or SO_RCVBUF switches it off and is capped by
 * net.core.*mem_max, which is lower than what autotuning may reach (net.ipv4.tcp_*mem). Congestion
 * control is the host's choice. The exception is a connection within the host: it has no queue to be careful
 * with, needs no more in flight than keeps the receiver busy, and what the receiver still finds in a cache
 * it copies faster.
 */
static int prepare_tcp(int fd, const struct haul_transport_limits *limits)
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
    if (is_local(fd)) {
        prepare_local(fd);
    }
    return 0;
}

int haul_socket_prepare(int fd, const struct haul_transport_limits *limits)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        return -errno;
    }
    struct timeval silence = {.tv_sec = limits->silence_timeout_ms / 1000,
                              .tv_usec = (suseconds_t)(limits->silence_timeout_ms % 1000) * 1000};
    int domain = 0;
    socklen_t size = sizeof domain;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) {
        return -errno;
    }
    return domain == AF_INET || domain == AF_INET6 ? prepare_tcp(fd, limits) : 0;
}

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
    } else if (peer.ss_family == AF_VSOCK) {
        const struct sockaddr_vm *vm = (const struct sockaddr_vm *)&peer;
        snprintf(name, size, "vsock:%u:%u", vm->svm_cid, vm->svm_port);
    } else {
        /* Who accepted has the path as its own name, who connected as its peer's. */
        struct sockaddr_un path = {0};
        memcpy(&path, &peer, length < sizeof path ? length : sizeof path);
        if (path.sun_path[0] == 0) {
            length = sizeof path;
            memset(&path, 0, sizeof path);
            getsockname(fd, (struct sockaddr *)&path, &length);
        }
        if (path.sun_path[0] == 0) {
            snprintf(name, size, "the peer"); /* one end of a pair has no name */
            return;
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
