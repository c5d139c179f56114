/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_DAEMON_H
#define HAUL_TOOLS_DAEMON_DAEMON_H

/* Any number of named migrations, steered over a control socket that speaks QMP. */

#include "channels/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_daemon; /* opaque */

/*
 * haul_daemon_new listens at `address` ("unix:PATH" or a path). SIGINT, SIGTERM and SIGHUP must be blocked in
 * every thread of the process. Errors as haul_qmp_server_new.
 */
int haul_daemon_new(const char *address, struct haul_daemon **daemon, struct haul_error *error);

/* haul_daemon_path returns the path of the control socket. */
const char *haul_daemon_path(const struct haul_daemon *daemon);

/*
 * haul_daemon_run serves until the command `quit` or one of those signals; then it cancels what moves and
 * waits for it. While the paused guest of an uncertain move lives in this process, the first signal only
 * says so.
 */
int haul_daemon_run(struct haul_daemon *daemon, struct haul_error *error);

/* haul_daemon_free removes the socket and ends the reference guests that live here. NULL is accepted. */
void haul_daemon_free(struct haul_daemon *daemon);

#ifdef __cplusplus
}
#endif
#endif
