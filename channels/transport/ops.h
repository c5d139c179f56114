/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_OPS_H
#define HAUL_CHANNELS_TRANSPORT_OPS_H

/* The table behind channels/transport/transport.h: one entry per URI scheme, one file per entry. */

#include "channels/batch.h" /* HAUL_CHANNELS_MAX */
#include "channels/transport/transport.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define HAUL_LISTEN_BACKLOG 256 /* both connections of HAUL_CHANNELS_MAX channels may arrive at once */
#define HAUL_ADDRESSES_MAX 16   /* of one tcp URI or one list of source addresses */
#define HAUL_WAIT_MAX (HAUL_CHANNELS_MAX + 1)
#define HAUL_TIMEOUT_MS 30000 /* where a limit is 0 */

/* What both ends know of their URI. */
struct haul_endpoint {
    const struct haul_transport *transport;
    char *uri;
    const char *address;                   /* the part of `uri` after the first colon */
    struct haul_transport_options options; /* limits are not 0 */
};

struct haul_connector {
    struct haul_endpoint end;
    void *state; /* the transport's own; freed by its `close` */
};

struct haul_listener {
    struct haul_endpoint end;
    char *uri;                   /* for the peer */
    int fds[HAUL_ADDRESSES_MAX]; /* listening sockets, non-blocking */
    unsigned count;
    char *path;       /* a unix socket that listening made, to be removed, or NULL */
    struct stat made; /* its identity, so that nothing else is removed */
    bool control_given;
    unsigned channels_given;
    void *state; /* the transport's own; freed by its `unlisten` */
};

/* One wait for a connection: how long it may take and what may end it. */
struct haul_attempt {
    const char *uri;
    uint64_t deadline_ns; /* haul_io_now_ns time; UINT64_MAX: none */
    uint32_t timeout_ms;  /* the whole limit, for messages */
    int cancel_fd;
};

struct haul_transport {
    const char *scheme; /* text before the first colon of the URI */
    const char *form;   /* "unix:PATH", for messages */
    /* Checks the text after the colon. -EINVAL with a message that shows the right form. */
    int (*check)(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error);
    bool binds; /* takes options.bind */
    /* Checks options and makes state; may be NULL. The URI passed `check`. */
    int (*open)(struct haul_connector *connector, struct haul_error *error);
    /* Opens the connection of `channel`: *fd is a stream socket, of any blocking mode. NULL: does not
     * connect. */
    int (*connect)(struct haul_connector *connector, const struct haul_attempt *attempt, uint16_t channel,
                   int *fd, struct haul_error *error);
    /* See haul_connector_again; NULL: never. */
    bool (*again)(struct haul_connector *connector, uint16_t channel);
    /* See haul_connector_explain; may be NULL. */
    void (*explain)(struct haul_connector *connector, struct haul_error *error);
    /* Frees connector->state, also after `open` failed; may be NULL. */
    void (*close)(struct haul_connector *connector);
    /*
     * Fills listener->fds, uri and path; what it made before a failure is closed by the caller, and
     * `unlisten` is called. The URI passed `check`. NULL: does not listen.
     */
    int (*listen)(struct haul_listener *listener, struct haul_error *error);
    /* haul_listener_accept without preparing the socket. NULL: haul_accept_socket. */
    int (*accept)(struct haul_listener *listener, const struct haul_attempt *attempt, uint16_t expected,
                  int *fd, struct haul_error *error);
    /* With `accept`: each connection exists once, and one that was refused will not come again. */
    bool accept_in_order;
    void (*explain_listener)(struct haul_listener *listener, struct haul_error *error); /* may be NULL */
    /* Frees listener->state and what it holds, also after `listen` failed; may be NULL. */
    void (*unlisten)(struct haul_listener *listener);
};

extern const struct haul_transport haul_transport_exec;
extern const struct haul_transport haul_transport_fd;
extern const struct haul_transport haul_transport_rdma;
extern const struct haul_transport haul_transport_ssh;
extern const struct haul_transport haul_transport_stdio;
extern const struct haul_transport haul_transport_tcp;
extern const struct haul_transport haul_transport_unix;
extern const struct haul_transport haul_transport_vsock;

/* haul_channel_position counts connections: 0 for the control connection, 1 for channel 0, and so on. */
static inline unsigned haul_channel_position(uint16_t channel)
{
    return channel == HAUL_CONTROL_CHANNEL ? 0 : channel + 1u;
}

/* haul_unix_check and haul_unix_listen are the unix transport's, for whatever has a path after its scheme. */
int haul_unix_check(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error);
int haul_unix_listen(struct haul_listener *listener, struct haul_error *error);

/* haul_accept_socket waits for a connection to one of listener->fds. */
int haul_accept_socket(struct haul_listener *listener, const struct haul_attempt *attempt, int *fd,
                       struct haul_error *error);

/* haul_accept_failed fills `error` with the sentence for a wait that ended without a connection. */
int haul_accept_failed(const struct haul_attempt *attempt, int code, struct haul_error *error);

/* haul_endpoint_init finds the transport of `uri` and checks and copies; haul_endpoint_cleanup frees. */
int haul_endpoint_init(struct haul_endpoint *end, const char *uri, enum haul_uri_role role,
                       const struct haul_transport_options *options, struct haul_error *error);
void haul_endpoint_cleanup(struct haul_endpoint *end);

/*
 * haul_socket_prepare makes a new connection what the data path expects: blocking, close-on-exec, with its
 * limits, and with the options of its kind of socket. 0 or a negative errno.
 */
int haul_socket_prepare(int fd, const struct haul_transport_limits *limits);

/*
 * haul_attempt_wait waits for `events` on one of `count` (at most HAUL_WAIT_MAX) descriptors and returns
 * the index of the first that has them, or -ETIMEDOUT, -ECANCELED, or what poll said. No descriptors: only
 * for the clock and the cancel.
 */
int haul_attempt_wait(const struct haul_attempt *attempt, const int *fds, unsigned count, short events);

/* haul_attempt_until returns `attempt` with a deadline that is no later than `deadline_ns`. */
struct haul_attempt haul_attempt_until(const struct haul_attempt *attempt, uint64_t deadline_ns);

/*
 * haul_attempt_connect connects the non-blocking socket `fd`. Returns 0 or a negative errno: -ETIMEDOUT,
 * -ECANCELED, or what connect said.
 */
int haul_attempt_connect(const struct haul_attempt *attempt, int fd, const struct sockaddr *address,
                         socklen_t length);

/* haul_attempt_sleep waits `ms` or until the deadline: 0, -ETIMEDOUT or -ECANCELED. */
int haul_attempt_sleep(const struct haul_attempt *attempt, int ms);

/* haul_attempt_failed fills `error` with the sentence for a failed connection and returns -code. */
int haul_attempt_failed(const struct haul_attempt *attempt, int code, struct haul_error *error);

#endif
