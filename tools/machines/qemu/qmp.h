/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_QMP_H
#define HAUL_TOOLS_MACHINES_QEMU_QMP_H

/*
 * A client of one QEMU monitor (QMP) over a unix socket. Calls on one object come from one thread at a time.
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

/*
 * haul_qmp_open connects to `address` ("PATH" or "unix:PATH"), reads the greeting and leaves negotiation
 * mode. `timeout_ms` bounds each wait, here and in later calls. -EBUSY: connected, but no greeting, which is
 * what a monitor does that serves another client; -ECONNREFUSED, -ENOENT and others of connect(2); -EPROTO:
 * not a QMP socket.
 */
int haul_qmp_open(const char *address, int timeout_ms, struct haul_qmp **qmp, struct haul_error *error);
void haul_qmp_close(struct haul_qmp *qmp);

/* haul_qmp_peer returns the process that listens on the socket (SO_PEERCRED); 0 where it is in another PID
 * namespace. */
pid_t haul_qmp_peer(const struct haul_qmp *qmp);

/* haul_qmp_path returns the socket's path, without "unix:". */
const char *haul_qmp_path(const struct haul_qmp *qmp);

/*
 * haul_qmp_execute runs one command. `arguments` (may be NULL) is taken over. *reply, unless NULL, gets the
 * "return" member, the caller's to json_decref. -EREMOTEIO: QEMU refused, the message carries its desc;
 * -ETIMEDOUT; -EPIPE: QEMU closed the monitor; -EMSGSIZE: a reply over 8 MiB; -EPROTO.
 */
int haul_qmp_execute(struct haul_qmp *qmp, const char *command, json_t *arguments, json_t **reply,
                     struct haul_error *error);

/* haul_qmp_give_fd hands `fd` (stays the caller's) to QEMU under `name`, for "fd:NAME" addresses (getfd). */
int haul_qmp_give_fd(struct haul_qmp *qmp, int fd, const char *name, struct haul_error *error);

/*
 * haul_qmp_wait_event waits for the next event called `name` that haul_qmp_wait_event has not returned yet;
 * other events are dropped. *seen says whether it came within `timeout_ms` (which is no error).
 */
int haul_qmp_wait_event(struct haul_qmp *qmp, const char *name, int timeout_ms, bool *seen,
                        struct haul_error *error);

/* haul_qmp_stopped_at_ns: when QEMU last stopped the machine (event STOP), on CLOCK_MONOTONIC; 0: never seen.
 */
uint64_t haul_qmp_stopped_at_ns(const struct haul_qmp *qmp);

/* haul_qmp_set_timeout replaces the timeout of haul_qmp_open for the calls to come. */
void haul_qmp_set_timeout(struct haul_qmp *qmp, int timeout_ms);

/* haul_qmp_hmp runs a human-monitor command; *text is the caller's to free. */
int haul_qmp_hmp(struct haul_qmp *qmp, const char *line, char **text, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
