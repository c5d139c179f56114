/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/session.h"

#include "engine/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEEP_RECORDS_S (INT64_C(7) * 24 * 3600)

struct fd_entry {
    struct fd_entry *next;
    int fd;
    char name[];
};

struct haul_session {
    /* Written once at creation. */
    bool source;
    struct haul_machine_spec spec;
    struct haul_session_events events;
    void *opaque;

    /* The owner's. */
    struct fd_entry *fds; /* for the next start */
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

static void say(struct haul_session *session, bool urgent, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void say(struct haul_session *session, bool urgent, const char *format, ...)
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

/* ---- the record follows the steps of ownership (rule R1) ---- */

static int write_record(struct haul_session *session, const char *step, struct haul_error *error)
{
    struct haul_record record = {.source = session->source, .haul_pid = getpid()};
    const struct haul_machine_ops *ops = session->machine->ops;
    haul_id(session->migration, record.id);
    snprintf(record.step, sizeof record.step, "%s", step);
    snprintf(record.peer, sizeof record.peer, "%s", session->peer);
    snprintf(record.machine, sizeof record.machine, "%s", ops->kind);
    snprintf(record.locator, sizeof record.locator, "%s", ops->locator ? ops->locator(session->machine) : "");
    record.haul_start = haul_record_process_start(record.haul_pid);
    return haul_record_write(session->store, &record, error);
}

static void forget_record(struct haul_session *session)
{
    struct haul_error error;
    char id[33];
    haul_id(session->migration, id);
    if (haul_record_remove(session->store, id, session->source, &error) < 0) {
        say(session, true, "haul: %s", error.message);
    }
}

static int on_step(void *opaque, enum haul_step step, struct haul_error *error)
{
    struct haul_session *session = opaque;
    int status = 0;
    switch (step) {
    case HAUL_STEP_HANDOVER_SENDING:
        status = write_record(session, HAUL_RECORDED_SENDING, error);
        break;
    case HAUL_STEP_HANDOVER_RECEIVED:
        status = write_record(session, HAUL_RECORDED_RECEIVED, error);
        break;
    case HAUL_STEP_RUNNING:
        if (session->source) {
            forget_record(session);
        } else {
            /* It runs: too late to refuse. The older record stays, which only asks the operator to look. */
            struct haul_error failure;
            if (write_record(session, HAUL_RECORDED_RUNNING, &failure) < 0) {
                say(session, true, "haul: %s", failure.message);
            }
        }
        break;
    case HAUL_STEP_NOT_STARTED: {
        char id[33];
        haul_id(session->migration, id);
        status = haul_record_remove(session->store, id, session->source, error);
        break;
    }
    case HAUL_STEP_RESUMED:
        forget_record(session);
        break;
    case HAUL_STEP_TRIAL:
        status = haul_record_try(session->store, error);
        break;
    }
    return status < 0 ? haul_error_prefix(error, "no handover: ") : 0;
}

static void on_message(void *opaque, const char *text)
{
    say(opaque, false, "%s", text);
}

static void on_state(void *opaque, enum haul_state from, enum haul_state to)
{
    struct haul_session *session = opaque;
    if (session->events.state) {
        session->events.state(session->opaque, from, to);
    }
}

static void on_pass(void *opaque, uint32_t pass)
{
    struct haul_session *session = opaque;
    if (session->events.pass) {
        session->events.pass(session->opaque, pass);
    }
}

static void on_guest(void *opaque, bool running)
{
    struct haul_session *session = opaque;
    if (session->events.guest) {
        session->events.guest(session->opaque, running);
    }
}

static const struct haul_events migration_events = {
    .state = on_state, .pass = on_pass, .guest = on_guest, .step = on_step, .message = on_message};

/* ---- setting up ---- */

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

/* What the outcome says of a move that has not come to anything yet. */
static void reset_outcome(struct haul_session *session, const char *uri, const struct haul_options *options)
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
    reset_outcome(made, "", &none);
    *session = made;
    return 0;
}

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

/* Hands all descriptors to `migration`, or, without one or after a failure, closes them. */
static int give_fds(struct haul_session *session, struct haul_migration *migration, struct haul_error *error)
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

static int make_machine(struct haul_session *session, struct haul_error *error)
{
    const struct haul_machine_spec *spec = &session->spec;
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
    return source ? haul_guest_source_new(&spec->guest_options, &session->machine, error)
                  : haul_guest_destination_new(&spec->guest_options, &session->machine, error);
}

static bool machine_ended(const struct haul_session *session)
{
    struct haul_machine *machine = session->machine;
    return machine && machine->ops->ended && machine->ops->ended(machine);
}

/* A migration ready to start, published so that it can be cancelled. */
static int make_migration(struct haul_session *session, const struct haul_options *options,
                          struct haul_error *error)
{
    struct haul_migration *made = NULL;
    int status = session->source ? haul_source_new(options, &made, error)
                                 : haul_destination_new(options, &made, error);
    if (status < 0 || (status = give_fds(session, made, error)) < 0 ||
        (status = session->machine->ops->attach(session->machine, made, error)) < 0 ||
        (status = haul_set_events(made, &migration_events, session, error)) < 0) {
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
        say(session, true, "listening on %s", session->uri);
    }
    return 0;
}

int haul_session_start(struct haul_session *session, const char *uri, const struct haul_options *options,
                       struct haul_error *error)
{
    struct haul_error failure = {0};
    pthread_mutex_lock(&session->lock);
    reset_outcome(session, uri, options);
    pthread_mutex_unlock(&session->lock);
    int status = start(session, uri, options, &failure);
    give_fds(session, NULL, NULL); /* those that it did not come to */
    if (status < 0) {
        bool gone = session->source && machine_ended(session);
        pthread_mutex_lock(&session->lock);
        session->outcome.code = status;
        session->outcome.error = failure;
        session->outcome.machine_ended = gone;
        session->outcome.stats.resume_error = gone ? -ESRCH : 0;
        pthread_mutex_unlock(&session->lock);
        *error = failure;
    }
    return status;
}

void haul_session_renew(struct haul_session *session)
{
    give_fds(session, NULL, NULL); /* of a start that never came */
    pthread_mutex_lock(&session->lock);
    session->started = false;
    session->cancelled = false;
    pthread_mutex_unlock(&session->lock);
}

struct haul_migration *haul_session_migration(struct haul_session *session)
{
    return session->started ? session->migration : NULL;
}

/* ---- the end ---- */

/* Under the lock. */
static void collect(struct haul_session *session, struct haul_outcome *outcome,
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

void haul_session_finish(struct haul_session *session)
{
    struct haul_outcome *outcome = &session->outcome;
    struct haul_error failure = {0};
    if (!session->started) {
        return;
    }
    int code = haul_wait(session->migration, &failure);
    pthread_mutex_lock(&session->lock);
    outcome->code = code;
    outcome->error = failure;
    outcome->ended = true;
    collect(session, outcome, session->channels);
    bool uncertain = outcome->stats.ownership == HAUL_OWNER_UNCERTAIN;
    bool to_be_here = uncertain || haul_outcome_stands_still(outcome) || haul_outcome_is_snapshot(outcome);
    outcome->machine_ended = to_be_here && machine_ended(session);
    pthread_mutex_unlock(&session->lock);
    if (uncertain || haul_outcome_undecided(outcome)) {
        struct haul_error error;
        if (write_record(session, uncertain ? HAUL_RECORDED_UNCERTAIN : HAUL_RECORDED_STOPPED, &error) < 0) {
            say(session, true, "haul: %s", error.message);
        }
    } else if (outcome->stats.ownership == HAUL_OWNER_SOURCE && outcome->id[0]) {
        forget_record(session);
    }
}

/* ---- for any thread ---- */

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
        collect(session, outcome, snapshot->channels);
    }
    pthread_mutex_unlock(&session->lock);
}

/* ---- after an uncertain end ---- */

bool haul_session_runs_guest(const struct haul_session *session)
{
    enum haul_ownership here = session->source ? HAUL_OWNER_SOURCE : HAUL_OWNER_DESTINATION;
    return session->machine && session->spec.guest && session->outcome.stats.ownership == here &&
           !haul_outcome_stands_still(&session->outcome);
}

bool haul_session_holds_guest(const struct haul_session *session)
{
    return session->started && session->spec.guest && haul_outcome_undecided(&session->outcome);
}

bool haul_session_guest_paused(const struct haul_session *session)
{
    struct haul_machine *machine = session->machine;
    return machine && machine->ops->paused && machine->ops->paused(machine);
}

static int obey(struct haul_session *session, enum haul_order order, char *text, size_t size,
                struct haul_error *error)
{
    struct haul_outcome *outcome = &session->outcome;
    const struct haul_machine_ops *ops = session->machine->ops;
    bool resume = order == HAUL_ORDER_RESUME;
    int (*act)(struct haul_machine *, struct haul_error *) = resume ? ops->resume : ops->abandon;
    int status = act ? act(session->machine, error) : 0;
    if (status < 0) {
        return status;
    }
    haul_record_remove(session->store, outcome->id, session->source, NULL);
    pthread_mutex_lock(&session->lock);
    if (resume) {
        outcome->stats.ownership = session->source ? HAUL_OWNER_SOURCE : HAUL_OWNER_DESTINATION;
        outcome->stats.resume_error = 0;
    }
    outcome->gave_up = !resume;
    pthread_mutex_unlock(&session->lock);
    if (resume) {
        snprintf(text, size, "the guest runs again in process %d", (int)getpid());
    } else {
        snprintf(text, size, "the guest of process %d was given up", (int)getpid());
    }
    say(session, true, "%s", text);
    return 0;
}

/* The guest may be the only one there is, and stays however long nobody can give orders for it. */
static int open_orders(struct haul_session *session, int interrupt_fd, struct haul_error *error)
{
    const struct haul_outcome *outcome = &session->outcome;
    for (bool told = false;
         haul_orders_open(session->store, outcome->id, session->source, &session->orders, error) < 0;
         told = true) {
        if (!told) {
            say(session, true,
                "the paused guest stays in this process (%d), but haul resume and haul abandon cannot reach "
                "it: %s; tried again every second",
                (int)getpid(), error->message);
        }
        struct pollfd interrupt = {.fd = interrupt_fd, .events = POLLIN};
        if (poll(&interrupt, 1, 1000) > 0) {
            return haul_error_set(error, EINTR, "interrupted while waiting for haul resume");
        }
    }
    say(session, true,
        "the paused guest stays in this process (%d) and waits for 'haul resume %s' or 'haul abandon %s'",
        (int)getpid(), outcome->id, outcome->id);
    return 0;
}

int haul_session_await_order(struct haul_session *session, int interrupt_fd, struct haul_error *error)
{
    int opened = session->orders ? 0 : open_orders(session, interrupt_fd, error);
    if (opened < 0) {
        return opened;
    }
    for (;;) {
        enum haul_order order;
        int client;
        int status = haul_orders_wait(session->orders, interrupt_fd, &order, &client, error);
        if (status < 0) {
            return status;
        }
        char text[128];
        struct haul_error failure = {0};
        status = obey(session, order, text, sizeof text, &failure);
        haul_orders_answer(client, status < 0 ? &failure : NULL, text);
        if (status == 0) {
            haul_orders_close(session->orders); /* it has the name of this move */
            session->orders = NULL;
            return 0;
        }
    }
}

int haul_session_give_up(struct haul_session *session, struct haul_error *error)
{
    char text[128];
    return obey(session, HAUL_ORDER_ABANDON, text, sizeof text, error);
}

/* ---- the machine ---- */

int haul_session_self_check(struct haul_session *session, struct haul_error *error)
{
    struct haul_outcome *outcome = &session->outcome;
    const struct haul_machine_ops *ops = session->machine ? session->machine->ops : NULL;
    if (!ops || !ops->self_check) {
        return -ENOTSUP;
    }
    outcome->self_check_code =
        ops->self_check(session->machine, 1, outcome->self_check, sizeof outcome->self_check, error);
    if (outcome->self_check_code < 0) {
        snprintf(outcome->self_check, sizeof outcome->self_check, "self-check failed: %.200s",
                 error->message);
    }
    return outcome->self_check_code;
}

void haul_session_close(struct haul_session *session)
{
    struct haul_outcome *outcome = &session->outcome;
    if (!session->started) {
        return;
    }
    if (!session->source && outcome->stats.ownership == HAUL_OWNER_DESTINATION && session->spec.guest) {
        forget_record(session);
    }
    const struct haul_machine_ops *ops = session->machine->ops;
    if (ops->summary) {
        pthread_mutex_lock(&session->lock);
        ops->summary(session->machine, outcome->summary, sizeof outcome->summary);
        pthread_mutex_unlock(&session->lock);
    }
}

void haul_session_disconnect(struct haul_session *session)
{
    pthread_mutex_lock(&session->lock);
    struct haul_migration *migration = session->migration;
    session->migration = NULL;
    pthread_mutex_unlock(&session->lock);
    haul_free(migration);
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
    give_fds(session, NULL, NULL);
    haul_orders_close(session->orders);
    haul_free(session->migration);
    if (session->machine) {
        session->machine->ops->free(session->machine);
    }
    haul_store_close(session->store);
    pthread_mutex_destroy(&session->lock);
    free(session);
}
