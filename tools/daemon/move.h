/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_MOVE_H
#define HAUL_TOOLS_DAEMON_MOVE_H

/*
 * One named migration of the daemon: its settings, and a session on a thread of its own while it moves. The
 * functions are called by the QMP server's thread, and none of them waits; those for any thread say so.
 */

#include "tools/daemon/descriptors.h"
#include "tools/daemon/settings.h"
#include "tools/session/remote.h"
#include "tools/session/session.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_MOVE_NAME_SIZE 65 /* 1 to 64 letters, digits, '.', '_' and '-' */

#define HAUL_MOVE_URI_SIZE 4096

struct haul_move; /* opaque */

/* Raises an event with `data` (taken over); from any thread. */
typedef void (*haul_move_event)(void *opaque, const char *event, json_t *data);

/* haul_move_new: -EINVAL for a bad name; -ENOMEM; and what eventfd(2) says. */
int haul_move_new(const char *name, haul_move_event event, void *opaque, struct haul_move **move,
                  struct haul_error *error);

/* haul_move_free waits for the thread; cancel first. NULL is accepted. */
void haul_move_free(struct haul_move *move);

const char *haul_move_name(const struct haul_move *move);

/* What to move, and where. The strings are copied by haul_move_start. */
struct haul_move_order {
    bool source;
    const char *uri;
    char channel_uri[HAUL_MOVE_URI_SIZE]; /* what `uri` may point to */
    struct haul_descriptors *descriptors; /* what an fd: URI may name */
    bool keeps_machine;                   /* no machine was named: move the reference guest that is here */
    struct haul_machine_spec spec;
    struct haul_remote remote; /* what an ssh: URI starts there; nothing: the same machine as here */
};

/*
 * haul_move_start starts the thread, which finds the machine and moves it with the settings of now. -EBUSY:
 * it is moving already, or holds a guest that another order names anew; -EINVAL: nothing to move; -EAGAIN.
 */
int haul_move_start(struct haul_move *move, const struct haul_move_order *order, struct haul_error *error);

/* haul_move_busy tells whether a move is under way, or an uncertain one waits for the operator. Any thread.
 */
bool haul_move_busy(const struct haul_move *move);

/* haul_move_settle waits for the last event of a move that is not busy any more. */
void haul_move_settle(struct haul_move *move);

/* haul_move_held tells whether the paused reference guest of an uncertain move waits for the operator. Any
 * thread. */
bool haul_move_held(const struct haul_move *move);

/* haul_move_cancel ends a move that is under way. -EALREADY: the guest is being handed over. Any thread. */
int haul_move_cancel(struct haul_move *move);

/* haul_move_interrupt ends the wait of an uncertain move: its guest will end with this process. Any thread.
 */
void haul_move_interrupt(struct haul_move *move);

/* haul_move_continue: -EINVAL when it is not held in pre-switchover. */
int haul_move_continue(struct haul_move *move);

/* haul_move_settings is for reading. haul_move_change replaces them and brings into effect what a running
 * move may change; on failure all stays as it was. */
const struct haul_settings *haul_move_settings(const struct haul_move *move);
int haul_move_change(struct haul_move *move, const struct haul_settings *settings, struct haul_error *error);

/* The state that query-migrate and the events show: one that is final comes when the machine is let go. */
enum haul_state haul_move_state(const struct haul_move *move);

/* haul_move_guest returns query-status' word for where the guest is. */
const char *haul_move_guest(const struct haul_move *move);

/* New objects for query-migrate and query-migrationthreads; NULL without memory. */
json_t *haul_move_json(struct haul_move *move);
json_t *haul_move_threads_json(struct haul_move *move);
uint32_t haul_move_throttle(struct haul_move *move);

#ifdef __cplusplus
}
#endif
#endif
