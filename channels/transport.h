/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_H
#define HAUL_CHANNELS_TRANSPORT_H

/*
 * Connections by URI: tcp:HOST:PORT (names, v4, [v6]), unix:PATH. One file per transport behind one ops
 * table; nothing outside these files knows which kind a socket is.
 */

#include "channels/error.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_listener; /* opaque */

/* Limits of rule R6 that every connection gets; 0 means 30,000 ms. */
struct haul_transport_limits {
    uint32_t connect_timeout_ms; /* for connecting, all addresses of a name together */
    uint32_t silence_timeout_ms; /* TCP_USER_TIMEOUT, keepalive, and SO_SNDTIMEO */
};

/*
 * haul_listener_open binds and listens at `uri`. tcp port 0 takes a free port. A unix path that exists is
 * replaced only when it is a socket on which nobody listens. -EINVAL: bad URI (the message shows the right
 * form); -EADDRINUSE, -EACCES, -ENOENT: as the message says.
 */
int haul_listener_open(const char *uri, struct haul_listener **listener, struct haul_error *error);

/* haul_listener_uri returns the URI that a peer can use, with the real port; valid until close. */
const char *haul_listener_uri(const struct haul_listener *listener);

/*
 * haul_listener_accept waits for one connection. `cancel_fd` (an eventfd, or -1) becoming readable ends the
 * wait with -ECANCELED; timeout_ms (-1: none) with -ETIMEDOUT. *fd is the caller's: blocking, close-on-exec,
 * with `limits` applied.
 */
int haul_listener_accept(struct haul_listener *listener, const struct haul_transport_limits *limits,
                         int timeout_ms, int cancel_fd, int *fd, struct haul_error *error);

/* haul_listener_close closes the socket and removes a unix path that it made. NULL is accepted. */
void haul_listener_close(struct haul_listener *listener);

/*
 * haul_connect connects to `uri`, trying every address that the name has. *fd as in haul_listener_accept.
 * -ECANCELED, -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH, -ENOENT, -EINVAL; the message names the peer.
 */
int haul_connect(const char *uri, const struct haul_transport_limits *limits, int cancel_fd, int *fd,
                 struct haul_error *error);

/* haul_uri_check returns 0 when `uri` is well formed, else -EINVAL with a message that shows the form. */
int haul_uri_check(const char *uri, struct haul_error *error);

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
