/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_TRANSPORT_H
#define HAUL_CHANNELS_TRANSPORT_TRANSPORT_H

/*
 * Connections by URI. One file per transport behind one ops table (transport_ops.h); nothing outside these
 * files knows which kind a connection is: each is one blocking stream socket.
 */

#include "channels/error.h"
#include "channels/wire.h" /* HAUL_CONTROL_CHANNEL */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_LISTENER_FDS_MAX 16
#define HAUL_FD_NAME_MAX 63 /* bytes of a descriptor's name */

struct haul_thread_list;

struct haul_connector; /* opaque: the connecting side of one migration */
struct haul_listener;  /* opaque: the side that is connected to */

/* Limits of rule R6 that every connection gets; 0 means 30,000 ms. */
struct haul_transport_limits {
    uint32_t connect_timeout_ms; /* for connecting, all addresses of a name together */
    uint32_t silence_timeout_ms; /* TCP_USER_TIMEOUT, keepalive, and SO_SNDTIMEO */
};

/* What a URI does not say. A zeroed struct is all defaults; what it points to must outlive connector or
 * listener. */
struct haul_transport_options {
    struct haul_transport_limits limits;
    const char *bind; /* connector, tcp: comma list of own addresses, channel i takes i mod n; NULL: any */
    const char *ssh;  /* connector, ssh: the command to use, with options; NULL: "ssh" */
    const char *remote_haul;    /* connector, ssh: the program there; NULL: "haul" */
    const char *remote_options; /* connector, ssh: options of the haul receive there, for its shell */
    int cancel_fd; /* listener: an eventfd that ends haul_listener_open when it becomes readable; 0: none */
    struct haul_named_fd *fds; /* fd: descriptors by name; one that is taken over becomes -1 */
    unsigned fd_count;
    struct haul_thread_list *threads; /* where threads that bridge pipes enter themselves; NULL: nowhere */
};

/* A descriptor that was handed to this process under a name. */
struct haul_named_fd {
    char name[HAUL_FD_NAME_MAX + 1];
    int fd;
};

/* What the caller wants to do with a URI. */
enum haul_uri_role { HAUL_URI_CONNECT, HAUL_URI_LISTEN };

/*
 * haul_uri_check returns 0 when `uri` is well formed for `role`, else -EINVAL with a message that shows the
 * right form; for an unknown scheme, those of all transports.
 */
int haul_uri_check(const char *uri, enum haul_uri_role role, struct haul_error *error);

/*
 * haul_connector_open checks `uri` and `options` and keeps copies; it does not connect or look anything up.
 * The connector holds what the connections of one migration share: addresses looked up once, children,
 * descriptors. One thread at a time. -EINVAL with a message that shows the right form; -ENOMEM.
 */
int haul_connector_open(const char *uri, const struct haul_transport_options *options,
                        struct haul_connector **connector, struct haul_error *error);

/*
 * haul_connector_connect opens the connection of `channel`: HAUL_CONTROL_CHANNEL (first), or from 0.
 * `cancel_fd` (an eventfd, or -1) becoming readable ends the wait. *fd is the caller's: blocking,
 * close-on-exec, with the limits applied. -ECANCELED, -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH, -ENOENT; the
 * message names the peer.
 */
int haul_connector_connect(struct haul_connector *connector, uint16_t channel, int cancel_fd, int *fd,
                           struct haul_error *error);

/*
 * haul_connector_again tells whether the connection of `channel`, which ended before anything came back, may
 * be asked for once more: ssh: connects channels without asking the user anything at first, because several
 * do so at the same time. May wait a moment.
 */
bool haul_connector_again(struct haul_connector *connector, uint16_t channel);

/*
 * haul_connector_explain puts before the message of a failed connection what the transport knows of it: that
 * a child of exec: or ssh: ended, and how. May wait a moment for it.
 */
void haul_connector_explain(struct haul_connector *connector, struct haul_error *error);

/*
 * haul_connector_close ends children and bridges and frees the connector. The connections of exec:, ssh: and
 * bridged pipes end with it, others stay open. NULL is accepted.
 */
void haul_connector_close(struct haul_connector *connector);

/*
 * haul_listener_open binds and listens at `uri`. `options` may be NULL. tcp port 0 takes a free port. A unix
 * path that exists is replaced only when it is a socket on which nobody listens. -EINVAL: bad URI (the
 * message shows the right form); -EADDRINUSE, -EACCES, -ENOENT: as the message says. Waits for the resolver
 * when `uri` has a name, for connect_timeout_ms at most: -ETIMEDOUT, -ECANCELED.
 */
int haul_listener_open(const char *uri, const struct haul_transport_options *options,
                       struct haul_listener **listener, struct haul_error *error);

/* haul_listener_uri returns the URI that a peer can use, with the real port; valid until close. */
const char *haul_listener_uri(const struct haul_listener *listener);

/*
 * haul_listener_accept waits for one connection: the control connection, for which `expected` is
 * HAUL_CONTROL_CHANNEL, or a data connection, when `expected` have come. `cancel_fd` (an eventfd, or -1)
 * becoming readable ends the wait with -ECANCELED; timeout_ms (-1: none) with -ETIMEDOUT. *fd as in
 * haul_connector_connect.
 */
int haul_listener_accept(struct haul_listener *listener, uint16_t expected, int timeout_ms, int cancel_fd,
                         int *fd, struct haul_error *error);

/*
 * haul_listener_fds writes the descriptors that become readable when somebody connects, and returns their
 * number; 0 where connections exist once and are accepted one by one.
 */
unsigned haul_listener_fds(const struct haul_listener *listener, uint16_t expected,
                           int fds[HAUL_LISTENER_FDS_MAX]);

/* haul_listener_stop lets nobody else in, and removes a unix path that it made. NULL is accepted. */
void haul_listener_stop(struct haul_listener *listener);

/* haul_listener_explain and haul_listener_close: see the connector's. Close also stops. */
void haul_listener_explain(struct haul_listener *listener, struct haul_error *error);
void haul_listener_close(struct haul_listener *listener);

/* haul_peer_name writes "10.0.0.2:7000" or "unix:/run/x" of a connected socket to `name`. */
void haul_peer_name(int fd, char *name, size_t size);

/*
 * haul_unacknowledged_bytes returns the bytes written to `fd` that the peer's kernel has not acknowledged
 * (tcp) or the peer has not read (unix), or 0 when the kernel does not say. Rule R7 subtracts them.
 */
uint64_t haul_unacknowledged_bytes(int fd);

#ifdef __cplusplus
}
#endif
#endif
