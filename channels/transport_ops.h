/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_OPS_H
#define HAUL_CHANNELS_TRANSPORT_OPS_H

/* The table behind channels/transport.h: one entry per URI scheme, one file per entry. */

#include "channels/transport.h"

#include <sys/socket.h>
#include <sys/stat.h>

#define HAUL_URI_MAX 320        /* "tcp:[", a name of 253 bytes, "]:65535", with room to spare */
#define HAUL_LISTEN_BACKLOG 256 /* both connections of HAUL_CHANNELS_MAX channels may arrive at once */

struct haul_listener {
    int fd; /* non-blocking */
    const struct haul_transport *transport;
    char uri[HAUL_URI_MAX];
    struct stat made; /* unix: the path's identity, so that close removes only what open made */
};

/* One connection attempt in progress: how long it may take and what may end it. */
struct haul_attempt {
    const char *uri;
    uint64_t deadline_ns; /* haul_io_now_ns time */
    uint32_t timeout_ms;  /* the whole limit, for messages */
    int cancel_fd;
};

struct haul_transport {
    const char *scheme; /* text before the first colon of the URI */
    /* Checks the text after the colon. -EINVAL with a message that shows the right form. */
    int (*check)(const char *uri, const char *address, struct haul_error *error);
    /* Binds and listens: sets listener->fd and listener->uri. `address` passed `check`. */
    int (*listen)(const char *uri, const char *address, struct haul_listener *listener,
                  struct haul_error *error);
    /* Connects: *fd is non-blocking. `address` passed `check`. */
    int (*connect)(const struct haul_attempt *attempt, const char *address, int *fd,
                   struct haul_error *error);
    /* Applies what is special to this kind of socket to a connected one. 0 or a negative errno. */
    int (*prepare)(int fd, const struct haul_transport_limits *limits);
    /* Undoes what listen left behind beside the socket; may be NULL. */
    void (*unlisten)(struct haul_listener *listener);
};

extern const struct haul_transport haul_transport_tcp;
extern const struct haul_transport haul_transport_unix;

/*
 * haul_attempt_connect connects the non-blocking socket `fd` before `deadline_ns` (at most the attempt's
 * own). Returns 0 or a negative errno: -ETIMEDOUT, -ECANCELED, or what connect said.
 */
int haul_attempt_connect(const struct haul_attempt *attempt, int fd, const struct sockaddr *address,
                         socklen_t length, uint64_t deadline_ns);

/* haul_attempt_sleep waits `ms` or until the deadline: 0, -ETIMEDOUT or -ECANCELED. */
int haul_attempt_sleep(const struct haul_attempt *attempt, int ms);

/* haul_attempt_failed fills `error` with the sentence for a failed connection and returns -code. */
int haul_attempt_failed(const struct haul_attempt *attempt, int code, struct haul_error *error);

#endif
