/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_MOVE_FIELDS_H
#define HAUL_TOOLS_DAEMON_MOVE_FIELDS_H

/* What a move consists of, for move.c, which changes it, and query.c, which tells of it. */

#include "tools/daemon/move.h"

#include <pthread.h>
#include <stdatomic.h>

/* Where the guest is, by query-status' words (QEMU's RunState). */
enum guest { PRELAUNCH, INMIGRATE, RUNNING, FINISH_MIGRATE, POSTMIGRATE, PAUSED, GUEST_COUNT };

/* The strings of one order. */
struct texts {
    char *uri;
    char *qmp;
    char *memory;
    char *content;
    char *tracker;
    char *vcpu;
    char *disk;
};

struct haul_move {
    /* Written once at creation. */
    char name[HAUL_MOVE_NAME_SIZE];
    haul_move_event event;
    void *opaque;
    int interrupt_fd;

    /* The server's thread writes these while no move is under way; then the move's thread reads them. */
    struct texts texts;
    struct haul_machine_spec spec; /* its strings are those */
    struct haul_remote remote;
    bool source;
    struct haul_settings run; /* the settings that the move began with; its strings are our own */
    bool has_thread;
    pthread_t thread;

    /* Shared. `busy` is set by the server's thread before the move's thread starts, and cleared with release
     * by that thread when nothing is left but to say that it ended; who reads false with acquire may use all
     * of the above. The others stand for themselves: relaxed. */
    _Atomic bool busy;
    _Atomic bool held;
    _Atomic bool says_events;
    _Atomic int thread_id; /* of the move's thread while it lives, else 0 */
    _Atomic int state;     /* enum haul_state */
    _Atomic int guest;     /* enum guest */

    pthread_mutex_t lock;          /* the rest */
    struct haul_settings settings; /* only the server's thread writes them, and reads them without the lock */
    int throttle; /* percent asked for while a migration began; or HAUL_SETTINGS_NO_THROTTLE */
    struct haul_session *session;      /* NULL: none yet, or let go */
    struct haul_session_snapshot last; /* of the session that was let go */
};

#endif
