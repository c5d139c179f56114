/* SPDX-License-Identifier: Apache-2.0 */
/* A session between its start (start.c) and its end (end.c), and what other threads may ask of it. */
#include "tools/session/internal.h"

#include "engine/snapshot.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void haul_session_say(struct haul_session *session, bool urgent, const char *format, ...)
{
    char text[HAUL_OUTCOME_URI_SIZE + 64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (session->events.message) {
        session->events.message(session->opaque, urgent, text);
    }
}

/* A file is noted by a path that holds from any directory: the record outlives this process. */
static void name_peer(struct haul_session *session, const char *uri)
{
    char here[sizeof session->peer / 2];
    const char *path = haul_file_path(uri);
    if (path && path[0] != '/' && getcwd(here, sizeof here)) {
        snprintf(session->peer, sizeof session->peer, "file:%s/%s", here, path);
    } else {
        snprintf(session->peer, sizeof session->peer, "%s", uri);
    }
}

void haul_session_reset_outcome(struct haul_session *session, const char *uri,
                                const struct haul_options *options)
{
    name_peer(session, uri);
    snprintf(session->compress, sizeof session->compress, "%s",
             options->compress ? options->compress : "none");
    session->started = false;
    session->outcome = (struct haul_outcome){
        .source = session->source,
        .status = "failed",
        .uri = session->peer,
        .machine = session->spec.qmp      ? "qemu"
                   : session->spec.memory ? "memory"
                                          : "guest",
        .compress = session->source ? session->compress : NULL,
        .verify = options->verify,
        .channels = session->channels,
    };
}

int haul_session_new(bool source, const struct haul_machine_spec *spec,
                     const struct haul_session_events *events, void *opaque, struct haul_session **session,
                     struct haul_error *error)
{
    struct haul_session *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for a move");
    }
    made->source = source;
    pthread_mutex_init(&made->lock, NULL);
    made->spec = *spec;
    made->events = *events;
    made->opaque = opaque;
    struct haul_options none = {0};
    haul_session_reset_outcome(made, "", &none);
    *session = made;
    return 0;
}

void haul_session_renew(struct haul_session *session)
{
    haul_session_give_fds(session, NULL, NULL); /* of a start that never came */
    pthread_mutex_lock(&session->lock);
    session->started = false;
    session->cancelled = false;
    pthread_mutex_unlock(&session->lock);
}

struct haul_migration *haul_session_migration(struct haul_session *session)
{
    return session->started ? session->migration : NULL;
}

bool haul_session_machine_ended(const struct haul_session *session)
{
    struct haul_machine *machine = session->machine;
    return machine && machine->ops->ended && machine->ops->ended(machine);
}

bool haul_session_guest_paused(const struct haul_session *session)
{
    struct haul_machine *machine = session->machine;
    return machine && machine->ops->paused && machine->ops->paused(machine);
}

const struct haul_outcome *haul_session_outcome(const struct haul_session *session)
{
    return &session->outcome;
}

void haul_session_free(struct haul_session *session)
{
    if (!session) {
        return;
    }
    haul_session_give_fds(session, NULL, NULL);
    haul_orders_close(session->orders);
    haul_free(session->migration);
    if (session->machine) {
        session->machine->ops->free(session->machine);
    }
    haul_store_close(session->store);
    pthread_mutex_destroy(&session->lock);
    free(session);
}

/* ---- for any thread ---- */

void haul_session_collect(struct haul_session *session, struct haul_outcome *outcome,
                          struct haul_channel_stats channels[HAUL_SESSION_CHANNELS])
{
    haul_get_stats(session->migration, &outcome->stats);
    outcome->status = haul_state_name(outcome->stats.state);
    outcome->mode = haul_mode_name(outcome->stats.mode);
    haul_id(session->migration, outcome->id);
    if (strspn(outcome->id, "0") == 32) {
        outcome->id[0] = '\0'; /* no source came */
    }
    unsigned count = 0;
    for (; count < HAUL_SESSION_CHANNELS; count++) {
        if (haul_get_channel_stats(session->migration, count, &channels[count]) < 0) {
            break;
        }
    }
    outcome->channel_count = count;
    for (unsigned i = 0; i < outcome->stats.streams; i++) {
        haul_get_stream_stats(session->migration, i, &outcome->streams[i]);
    }
}

int haul_session_cancel(struct haul_session *session)
{
    pthread_mutex_lock(&session->lock);
    session->cancelled = true;
    int status = session->migration ? haul_cancel(session->migration) : 0;
    pthread_mutex_unlock(&session->lock);
    return status;
}

int haul_session_use(struct haul_session *session, int (*use)(void *opaque, struct haul_migration *migration),
                     void *opaque)
{
    pthread_mutex_lock(&session->lock);
    bool under_way = session->started && !session->outcome.ended;
    int status = under_way ? use(opaque, session->migration) : -ESRCH;
    pthread_mutex_unlock(&session->lock);
    return status;
}

void haul_session_snapshot(struct haul_session *session, struct haul_session_snapshot *snapshot)
{
    struct haul_outcome *outcome = &snapshot->outcome;
    pthread_mutex_lock(&session->lock);
    *outcome = session->outcome;
    memcpy(snapshot->channels, session->channels, sizeof snapshot->channels);
    snprintf(snapshot->uri, sizeof snapshot->uri, "%s", outcome->uri ? outcome->uri : "");
    snprintf(snapshot->compress, sizeof snapshot->compress, "%s", session->compress);
    outcome->uri = snapshot->uri;
    outcome->compress = outcome->compress ? snapshot->compress : NULL;
    outcome->channels = snapshot->channels;
    if (session->started && !outcome->ended) {
        haul_session_collect(session, outcome, snapshot->channels);
    }
    pthread_mutex_unlock(&session->lock);
}
