/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_CLIENT_H
#define HAUL_TOOLS_QMP_CLIENT_H

/*
 * A client of one QMP server (QEMU's monitor, the haul daemon) over a unix socket. Calls on one object come
 * from one thread at a time.
 */

#include "channels/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_qmp; /* opaque */

/* struct haul_qmp_program is what messages call the other side. It outlives the client. */
struct haul_qmp_program {
    const char *name;        /* "QEMU": "QEMU's monitor /run/x does not answer" */
    const char *socket;      /* "monitor" */
    const char *when_absent; /* what to do when nobody listens */
    const char *when_silent; /* why it may accept but not greet, and what to do */
};

/*
 * haul_qmp_connect connects to `address` ("PATH" or "unix:PATH"), reads the greeting and leaves negotiation
 * mode. `timeout_ms` bounds each wait, here and in later calls. -EBUSY: connected, but no greeting, which is
 * what a monitor does that serves another client; -ECONNREFUSED, -ENOENT and others of connect(2); -EPROTO:
 * not a QMP socket.
 */
int haul_qmp_connect(const struct haul_qmp_program *program, const char *address, int timeout_ms,
                     struct haul_qmp **qmp, struct haul_error *error);
void haul_qmp_close(struct haul_qmp *qmp);

/* haul_qmp_peer returns the process that listens on the socket (SO_PEERCRED); 0 where it is in another PID
 * namespace. */
pid_t haul_qmp_peer(const struct haul_qmp *qmp);

/* haul_qmp_path returns the socket's path, without "unix:". */
const char *haul_qmp_path(const struct haul_qmp *qmp);

/*
 * haul_qmp_execute runs one command. `arguments` (may be NULL) is taken over. *reply, unless NULL, gets the
 * "return" member, the caller's to json_decref. -EREMOTEIO: the server refused, the message carries its desc;
 * -ETIMEDOUT; -EPIPE: it closed the connection; -EMSGSIZE: a reply over 8 MiB; -EPROTO.
 */
int haul_qmp_execute(struct haul_qmp *qmp, const char *command, json_t *arguments, json_t **reply,
                     struct haul_error *error);

/* haul_qmp_give_fd hands `fd` (stays the caller's) over under `name`, for "fd:NAME" addresses (getfd). */
int haul_qmp_give_fd(struct haul_qmp *qmp, int fd, const char *name, struct haul_error *error);

/*
 * haul_qmp_wait_event waits for the next event called `name` that haul_qmp_wait_event has not returned yet;
 * other events are dropped. *seen says whether it came within `timeout_ms` (which is no error).
 */
int haul_qmp_wait_event(struct haul_qmp *qmp, const char *name, int timeout_ms, bool *seen,
                        struct haul_error *error);

/* haul_qmp_stopped_at_ns: when the server last stopped the machine (event STOP), on CLOCK_MONOTONIC; 0: never
 * seen.
 */
uint64_t haul_qmp_stopped_at_ns(const struct haul_qmp *qmp);

/* haul_qmp_ran tells whether the server was seen to start or resume the machine (event RESUME). */
bool haul_qmp_ran(const struct haul_qmp *qmp);

/* haul_qmp_memory_changes counts how often the balloon or virtio-mem was seen to change the machine's memory
 * (events BALLOON_CHANGE and MEMORY_DEVICE_SIZE_CHANGE). */
uint64_t haul_qmp_memory_changes(const struct haul_qmp *qmp);

/* haul_qmp_unplugs counts the devices that were seen to leave the machine (event DEVICE_DELETED). */
uint64_t haul_qmp_unplugs(const struct haul_qmp *qmp);

/* haul_qmp_set_timeout replaces the timeout of haul_qmp_connect for the calls to come. */
void haul_qmp_set_timeout(struct haul_qmp *qmp, int timeout_ms);

#ifdef __cplusplus
}
#endif
#endif
