/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_SESSION_SESSION_H
#define HAUL_TOOLS_SESSION_SESSION_H

/*
 * A session is one side of a move with everything around it but a terminal: the machine, the migration, the
 * record on disk, the outcome. `haul send|receive` and the daemon both move machines through it.
 *
 * One thread owns a session and calls its functions in the order of their declarations; those that say so may
 * be called from any thread meanwhile.
 */

#include "tools/machines/machine.h"
#include "tools/session/orders.h"
#include "tools/session/outcome.h"
#include "tools/session/record.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_SESSION_CHANNELS 128

/* What is moved: exactly one of the three. */
struct haul_machine_spec {
    const char *qmp;      /* a QEMU machine, by its QMP socket */
    bool disks;           /* QEMU: with its drives */
    const char *memory;   /* a shared memory object, by its path */
    bool guest;           /* the reference guest, inside this process */
    int pid;              /* source, memory: the process that writes it, or 0 */
    uint64_t memory_size; /* destination, memory: create the file with this size; 0: it exists */
    struct haul_guest_options guest_options;
};

/* All on threads of the migration but `message`, which may also come from the owner. NULL members are left
 * out. */
struct haul_session_events {
    /* A sentence for the operator; `urgent`: also for one who wants no remarks. */
    void (*message)(void *opaque, bool urgent, const char *text);
    void (*state)(void *opaque, enum haul_state from, enum haul_state to);
    void (*pass)(void *opaque, uint32_t pass);
    void (*guest)(void *opaque, bool running);
};

struct haul_session; /* opaque */

/* haul_session_new copies `spec`, but not its strings and those of guest_options. -ENOMEM. */
int haul_session_new(bool source, const struct haul_machine_spec *spec,
                     const struct haul_session_events *events, void *opaque, struct haul_session **session,
                     struct haul_error *error);

/* haul_session_add_fd hands a descriptor over to the next haul_session_start, whose URI may be fd:NAME; see
 * haul_add_fd. Closed in any case. -ENOMEM. */
int haul_session_add_fd(struct haul_session *session, const char *name, int fd, struct haul_error *error);

/*
 * haul_session_start opens the state directory, finds the machine and starts the migration; `uri` is where to
 * send, or to listen. The failure is noted in the outcome too.
 */
int haul_session_start(struct haul_session *session, const char *uri, const struct haul_options *options,
                       struct haul_error *error);

/*
 * haul_session_renew makes a session ready for another haul_session_start after haul_session_disconnect, when
 * a move left the machine here: the machine is kept and moved anew. A cancel before it was for the former
 * move, one after it is for the next.
 */
void haul_session_renew(struct haul_session *session);

/* haul_session_migration returns the migration, or NULL before haul_session_start succeeded; the owner's, and
 * valid until haul_session_disconnect or haul_session_free. */
struct haul_migration *haul_session_migration(struct haul_session *session);

/*
 * haul_session_finish waits for the end of the move, notes the outcome, and brings the record up to it.
 * Without a migration it does nothing.
 */
void haul_session_finish(struct haul_session *session);

/*
 * Ownership was left uncertain and the paused guest lives in this process (haul_session_holds_guest):
 * haul_session_await_order waits for `haul resume` or `haul abandon` and carries it out. 0: done, the
 * outcome's ownership or `gave_up` tells; -EINTR, and nothing else: `interrupt_fd`, an eventfd, became
 * readable.
 * haul_session_give_up does what abandon does.
 */
bool haul_session_holds_guest(const struct haul_session *session);
int haul_session_await_order(struct haul_session *session, int interrupt_fd, struct haul_error *error);
int haul_session_give_up(struct haul_session *session, struct haul_error *error);

/* haul_session_self_check lets a machine that runs here prove itself for a second and notes the result in the
 * outcome. -ENOTSUP: it has no self-check; -EIO: it failed. */
int haul_session_self_check(struct haul_session *session, struct haul_error *error);

/*
 * haul_session_close ends what the process would take with it: the record of a reference guest that runs here
 * is removed, and the machine's own remarks are noted in the outcome.
 */
void haul_session_close(struct haul_session *session);

/*
 * haul_session_disconnect frees the migration of a session that was closed, and with it its connections,
 * their processes and its threads; it takes as long as haul_free. The machine and the outcome stay.
 */
void haul_session_disconnect(struct haul_session *session);

/* haul_session_runs_guest tells whether a reference guest runs in this process because of the session. */
bool haul_session_runs_guest(const struct haul_session *session);

/* haul_session_guest_paused tells whether the machine is moved as its operator paused it; the owner's, and
 * for the events. */
bool haul_session_guest_paused(const struct haul_session *session);

/* haul_session_outcome is complete after haul_session_finish; valid until the session is started again or
 * freed. */
const struct haul_outcome *haul_session_outcome(const struct haul_session *session);

/*
 * The next three may be called from any thread between haul_session_new and haul_session_free.
 *
 * haul_session_cancel ends the move as haul_cancel does, or before its migration exists, as soon as it does.
 * haul_session_use calls `use` with the migration that is under way, which cannot end before it returns;
 * -ESRCH: there is none. haul_session_snapshot copies how far the session is.
 */
int haul_session_cancel(struct haul_session *session);
int haul_session_use(struct haul_session *session, int (*use)(void *opaque, struct haul_migration *migration),
                     void *opaque);

/* An outcome with everything that it points to. It must not be copied by assignment. */
struct haul_session_snapshot {
    struct haul_outcome outcome;
    struct haul_channel_stats channels[HAUL_SESSION_CHANNELS];
    char uri[HAUL_OUTCOME_URI_SIZE];
    char compress[8];
};
void haul_session_snapshot(struct haul_session *session, struct haul_session_snapshot *snapshot);

/* haul_session_free cancels, waits, and frees the machine too. NULL is accepted. */
void haul_session_free(struct haul_session *session);

#ifdef __cplusplus
}
#endif
#endif
