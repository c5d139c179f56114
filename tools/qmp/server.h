/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_SERVER_H
#define HAUL_TOOLS_QMP_SERVER_H

/*
 * A server that speaks QEMU's QMP on a unix socket, for the commands of a table. One thread serves every
 * client and runs every handler; no client can hold up another one, or that thread.
 *
 * The server itself answers qmp_capabilities, query-commands and query-version.
 */

#include "channels/error.h"
#include "tools/qmp/arguments.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_qmp_server; /* opaque */

/*
 * A handler runs one command, on the server's thread, one at a time: it must not wait for anything.
 * `arguments` is an object (empty when the client sent none), has passed the command's table, and stays the
 * server's. *result may be left NULL, for an empty object, or set to a new reference, which the server takes
 * over. A failure is a negative errno with `failure` filled in (haul_qmp_fail, or any function of ours given
 * &failure->error).
 */
typedef int (*haul_qmp_handler)(void *opaque, json_t *arguments, json_t **result,
                                struct haul_qmp_failure *failure);

struct haul_qmp_command {
    const char *name;
    const struct haul_qmp_argument *arguments; /* ends with a NULL name; NULL: the command takes none */
    haul_qmp_handler handler;
};

struct haul_qmp_server_options {
    size_t size;                             /* sizeof this struct */
    const char *address;                     /* "unix:PATH" or "PATH"; not kept */
    const char *package;                     /* the greeting's "package": "haul 1.0"; not kept */
    const struct haul_qmp_command *commands; /* kept: outlives the server */
    unsigned command_count;
    void *opaque;           /* for the handlers */
    unsigned clients;       /* the most at once, 1 to 1024 */
    size_t message_bytes;   /* the longest message of a client, from 1 KiB */
    size_t backlog_bytes;   /* the most that waits for a client that does not read, from 4 KiB: then it is
                               closed */
    unsigned queued_events; /* the most that wait for the server's thread, 1 to 65536 */
};

/* haul_qmp_server_defaults: 32 clients, 1 MiB a message, 4 MiB of backlog, 1024 events; the rest is NULL. */
void haul_qmp_server_defaults(struct haul_qmp_server_options *options);

/*
 * haul_qmp_server_new makes the socket with mode 0600 and listens; nobody is answered before
 * haul_qmp_server_start. A socket left over by a server that ended without removing it is replaced.
 * -EADDRINUSE: a server listens there; -EEXIST: something that is no socket is there; -EINVAL: options;
 * others of bind(2).
 */
int haul_qmp_server_new(const struct haul_qmp_server_options *options, struct haul_qmp_server **server,
                        struct haul_error *error);

/* haul_qmp_server_start starts the thread: call it once. */
int haul_qmp_server_start(struct haul_qmp_server *server, struct haul_error *error);

/*
 * haul_qmp_server_free ends the thread, closes all clients and removes the socket. Events raised and answers
 * given before are still sent, for at most half a second. Takes NULL. Not from a handler.
 */
void haul_qmp_server_free(struct haul_qmp_server *server);

/* haul_qmp_server_path returns the socket's path. */
const char *haul_qmp_server_path(const struct haul_qmp_server *server);

/*
 * haul_qmp_server_event raises an event, from any thread, without waiting for the server or any client: every
 * client that has negotiated gets it, stamped with the time of this call. `data` (an object, or NULL) is
 * taken over, also by a failure. Raised by a handler, it is sent before that command's answer. When events
 * come faster than they are sent the oldest is dropped, and -ENOBUFS says so; the new one is still sent.
 * -ENOMEM: it is lost.
 */
int haul_qmp_server_event(struct haul_qmp_server *server, const char *name, json_t *data);

/*
 * haul_qmp_server_take_fd, from a handler only, returns the first descriptor that the client sent beside its
 * latest message that had any (SCM_RIGHTS) and that was not taken yet, now the caller's; -EBADF: there is
 * none. Those of earlier messages are closed.
 */
int haul_qmp_server_take_fd(struct haul_qmp_server *server);

#ifdef __cplusplus
}
#endif
#endif
