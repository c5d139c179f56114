/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_MOVES_H
#define HAUL_TOOLS_DAEMON_MOVES_H

/* The daemon's migrations by name, and the commands on them. */

#include "tools/daemon/move.h"
#include "tools/qmp/server.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_MOVES_MAX 128
#define HAUL_MOVES_DEFAULT "default" /* the name of one that was given none */

struct haul_moves {
    /* Written once at creation. */
    haul_move_event event;
    int (*take_fd)(void *opaque); /* the descriptor beside the command that is run, or a negative errno */
    void *opaque;
    int quit_fd; /* eventfd, the command quit; the daemon's */

    /* The server's thread reads and, under the lock, changes these; others read them under the lock, or once
     * `closed` is set: then nobody changes them. */
    pthread_mutex_t lock;
    struct haul_move *list[HAUL_MOVES_MAX]; /* in the order of their beginning */
    unsigned count;
    bool closed; /* the daemon ends: nothing new starts */

    struct haul_descriptors descriptors; /* the server's thread */
};

/* haul_moves_change takes the lock for a command that begins, changes or ends a migration;
 * haul_moves_changed gives it back. -ESHUTDOWN, without the lock: the daemon ends. */
int haul_moves_change(struct haul_moves *moves, struct haul_qmp_failure *failure);
void haul_moves_changed(struct haul_moves *moves);

/* haul_moves_close ends all changes and, the first time, says so by the event SHUTDOWN with `reason`. Any
 * thread. */
void haul_moves_close(struct haul_moves *moves, const char *reason);

/*
 * haul_moves_find finds a migration. `name` NULL stands for the only one; *move stays NULL when there is none
 * at all. -ENOENT: no such name; -EINVAL: several, and no name.
 */
int haul_moves_find(const struct haul_moves *moves, const char *name, struct haul_move **move,
                    struct haul_qmp_failure *failure);

/* haul_moves_obtain finds it too, or begins it, under the lock. -ENOSPC: there are HAUL_MOVES_MAX. */
int haul_moves_obtain(struct haul_moves *moves, const char *name, struct haul_move **move,
                      struct haul_qmp_failure *failure);

/* haul_moves_forget takes it off the list and frees it, under the lock; it must not be busy. */
void haul_moves_forget(struct haul_moves *moves, struct haul_move *move);

/* haul_moves_held returns a migration that waits for the operator with a paused guest in this process, or
 * NULL. */
const struct haul_move *haul_moves_held(const struct haul_moves *moves);

/* The commands; `opaque` of the server is the struct haul_moves. */
extern const struct haul_qmp_command haul_moves_commands[];
extern const unsigned haul_moves_command_count;

/* haul_moves_order reads `migrate` and `migrate-incoming`, whose arguments the table has checked. The order's
 * strings stay the arguments'. */
extern const struct haul_qmp_argument haul_moves_send_arguments[];
extern const struct haul_qmp_argument haul_moves_receive_arguments[];
int haul_moves_order(const json_t *arguments, bool source, struct haul_move_order *order,
                     struct haul_qmp_failure *failure);

#ifdef __cplusplus
}
#endif
#endif
