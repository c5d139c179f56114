/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_SESSION_INTERNAL_H
#define HAUL_TOOLS_SESSION_INTERNAL_H

/* What the files behind tools/session/session.h share. The owner's, where nothing else is said. */

#include "tools/session/session.h"

#include <pthread.h>

struct haul_session {
    /* Written once at creation. */
    bool source;
    struct haul_machine_spec spec;
    struct haul_session_events events;
    void *opaque;

    /* The owner's. */
    struct fd_entry *fds; /* for the next start (start.c) */
    struct haul_store *store;
    struct haul_machine *machine;
    struct haul_orders *orders; /* while an uncertain move waits for them */

    /* Written by the owner under `lock`, read by the owner without it. */
    pthread_mutex_t lock;
    struct haul_migration *migration; /* made, and perhaps not started yet */
    bool started;
    bool cancelled; /* under `lock` for everybody: since haul_session_renew, perhaps before there was a
                       migration */
    char uri[HAUL_OUTCOME_URI_SIZE]; /* destination: what it really listens on */
    char peer[4200];                 /* as it was asked for */
    char compress[8];
    struct haul_channel_stats channels[HAUL_SESSION_CHANNELS];
    struct haul_outcome outcome;
};

/* haul_session_say gives a sentence of printf to the owner; on any thread. */
void haul_session_say(struct haul_session *session, bool urgent, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* haul_session_reset_outcome makes the outcome that of a move to or from `uri` that has not come to anything
 * yet. Under the lock. */
void haul_session_reset_outcome(struct haul_session *session, const char *uri,
                                const struct haul_options *options);

/* haul_session_give_fds hands all descriptors to `migration`, or, without one or after a failure, closes
 * them. The error of haul_add_fd. */
int haul_session_give_fds(struct haul_session *session, struct haul_migration *migration,
                          struct haul_error *error);

/* haul_session_machine_ended tells whether the process that is the machine has ended. */
bool haul_session_machine_ended(const struct haul_session *session);

/* haul_session_collect copies the counters of the migration to `outcome` and `channels`. Under the lock. */
void haul_session_collect(struct haul_session *session, struct haul_outcome *outcome,
                          struct haul_channel_stats channels[HAUL_SESSION_CHANNELS]);

/* The events of a session's migration, for haul_set_events. */
extern const struct haul_events haul_session_migration_events;

/*
 * The record on disk, from the owner or the migration's threads. haul_session_write_record notes `step`, one
 * of HAUL_RECORDED_*; a negative errno, and a message. haul_session_forget_record removes it, and says when
 * it cannot.
 */
int haul_session_write_record(struct haul_session *session, const char *step, struct haul_error *error);
void haul_session_forget_record(struct haul_session *session);

#endif
