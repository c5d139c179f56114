/* SPDX-License-Identifier: Apache-2.0 */
/* The start of a move: state directory, machine, migration. */
#include "tools/session/internal.h"

#include "engine/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_TO_FILL (UINT64_C(1) << 30) /* bytes of a reference guest that take a second or so */
#define KEEP_RECORDS_S (INT64_C(7) * 24 * 3600)

struct fd_entry {
    struct fd_entry *next;
    int fd;
    char name[];
};

int haul_session_add_fd(struct haul_session *session, const char *name, int fd, struct haul_error *error)
{
    struct fd_entry *entry = calloc(1, sizeof *entry + strlen(name) + 1);
    if (!entry) {
        close(fd);
        return haul_error_set(error, ENOMEM, "no memory for a descriptor");
    }
    strcpy(entry->name, name); /* NOLINT: it fits */
    entry->fd = fd;
    entry->next = session->fds;
    session->fds = entry;
    return 0;
}

int haul_session_give_fds(struct haul_session *session, struct haul_migration *migration,
                          struct haul_error *error)
{
    int status = 0;
    for (struct fd_entry *entry; (entry = session->fds);) {
        int given = migration && status == 0 ? haul_add_fd(migration, entry->name, entry->fd, error) : -1;
        if (given < 0) {
            close(entry->fd);
            status = migration && status == 0 ? given : status;
        }
        session->fds = entry->next;
        free(entry);
    }
    return status;
}

static bool start_cancelled(void *opaque)
{
    struct haul_session *session = opaque;
    pthread_mutex_lock(&session->lock);
    bool cancelled = session->cancelled;
    pthread_mutex_unlock(&session->lock);
    return cancelled;
}

static int make_machine(struct haul_session *session, struct haul_error *error)
{
    struct haul_machine_spec *spec = &session->spec;
    bool source = session->source;
    if (spec->qmp) {
        return source ? haul_qemu_source_new(spec->qmp, spec->disks, &session->machine, error)
                      : haul_qemu_destination_new(spec->qmp, spec->disks, &session->machine, error);
    }
    if (spec->memory) {
        return source
                   ? haul_memory_source_new(spec->memory, spec->pid, &session->machine, error)
                   : haul_memory_destination_new(spec->memory, spec->memory_size, &session->machine, error);
    }
    if (source && spec->guest_options.memory_bytes >= LONG_TO_FILL) {
        haul_session_say(session, false, "filling the guest's memory before it runs");
    }
    spec->guest_options.cancelled = start_cancelled;
    spec->guest_options.opaque = session;
    return source ? haul_guest_source_new(&spec->guest_options, &session->machine, error)
                  : haul_guest_destination_new(&spec->guest_options, &session->machine, error);
}

/* A migration ready to start, published so that it can be cancelled. */
static int make_migration(struct haul_session *session, const struct haul_options *options,
                          struct haul_error *error)
{
    struct haul_migration *made = NULL;
    int status = session->source ? haul_source_new(options, &made, error)
                                 : haul_destination_new(options, &made, error);
    if (status < 0 || (status = haul_session_give_fds(session, made, error)) < 0 ||
        (status = session->machine->ops->attach(session->machine, made, error)) < 0 ||
        (status = haul_set_events(made, &haul_session_migration_events, session, error)) < 0) {
        haul_free(made);
        return status;
    }
    pthread_mutex_lock(&session->lock);
    session->migration = made;
    if (session->cancelled) {
        haul_cancel(made); /* started all the same, it ends at once */
    }
    pthread_mutex_unlock(&session->lock);
    return 0;
}

static int start(struct haul_session *session, const char *uri, const struct haul_options *options,
                 struct haul_error *error)
{
    int status = session->store ? 0 : haul_store_open(&session->store, error);
    if (status < 0 || (session->spec.guest && (status = haul_orders_try(session->store, error)) < 0)) {
        return status;
    }
    haul_record_prune(session->store, KEEP_RECORDS_S);
    if (!session->machine && (status = make_machine(session, error)) < 0) {
        return status;
    }
    assert(session->machine);
    if ((status = make_migration(session, options, error)) < 0 ||
        (status = haul_start(session->migration, uri, error)) < 0) {
        return status;
    }
    pthread_mutex_lock(&session->lock);
    if (!session->source) {
        snprintf(session->uri, sizeof session->uri, "%s", haul_local_uri(session->migration));
        session->outcome.uri = session->uri;
    }
    session->started = true;
    pthread_mutex_unlock(&session->lock);
    if (!session->source && !haul_file_path(uri)) {
        haul_session_say(session, true, "listening on %s", session->uri);
    }
    return 0;
}

int haul_session_start(struct haul_session *session, const char *uri, const struct haul_options *options,
                       struct haul_error *error)
{
    struct haul_error failure = {0};
    pthread_mutex_lock(&session->lock);
    haul_session_reset_outcome(session, uri, options);
    pthread_mutex_unlock(&session->lock);
    int status = start(session, uri, options, &failure);
    haul_session_give_fds(session, NULL, NULL); /* those that it did not come to */
    if (status < 0) {
        bool gone = session->source && haul_session_machine_ended(session);
        pthread_mutex_lock(&session->lock);
        session->outcome.code = status;
        session->outcome.error = failure;
        session->outcome.machine_ended = gone;
        session->outcome.unbegun = !session->machine;
        if (status == -ECANCELED) {
            session->outcome.status = haul_state_name(HAUL_STATE_CANCELLED);
        }
        session->outcome.stats.resume_error = gone ? -ESRCH : 0;
        pthread_mutex_unlock(&session->lock);
        *error = failure;
    }
    return status;
}
