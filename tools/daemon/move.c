/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/daemon/move_fields.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* ---- events; on the migration's threads ---- */

static void raise_event(struct haul_move *move, const char *event, json_t *data)
{
    if (!atomic_load_explicit(&move->says_events, memory_order_relaxed)) {
        json_decref(data);
        return;
    }
    json_object_set_new(data, "name", json_string(move->name));
    move->event(move->opaque, event, data);
}

static void set_state(struct haul_move *move, enum haul_state state)
{
    atomic_store_explicit(&move->state, (int)state, memory_order_relaxed);
    raise_event(move, "MIGRATION", json_pack("{s:s}", "status", haul_state_name(state)));
}

static void on_state(void *opaque, enum haul_state from, enum haul_state to)
{
    (void)from;
    bool ended = to == HAUL_STATE_COMPLETED || to == HAUL_STATE_FAILED || to == HAUL_STATE_CANCELLED;
    /* The move's thread tells of the beginning and of the end. */
    if (to != HAUL_STATE_SETUP && !ended) {
        set_state(opaque, to);
    }
}

static void on_pass(void *opaque, uint32_t pass)
{
    raise_event(opaque, "MIGRATION_PASS", json_pack("{s:i}", "pass", (int)pass));
}

static void set_guest(struct haul_move *move, enum guest guest)
{
    atomic_store_explicit(&move->guest, (int)guest, memory_order_relaxed);
}

/* A machine that its operator paused stays so, and neither stops nor runs again, whatever is done with it. */
static void on_guest(void *opaque, bool running)
{
    struct haul_move *move = opaque;
    bool paused = haul_session_guest_paused(move->session);
    set_guest(move, !running ? FINISH_MIGRATE : paused ? PAUSED : RUNNING);
    if (!paused) {
        raise_event(move, running ? "RESUME" : "STOP", json_object());
    }
}

static void on_message(void *opaque, bool urgent, const char *text)
{
    (void)urgent;
    struct haul_move *move = opaque;
    fprintf(stderr, "%s: %s\n", move->name, text);
}

static const struct haul_session_events session_events = {
    .message = on_message, .state = on_state, .pass = on_pass, .guest = on_guest};

/* ---- the move's thread ---- */

struct change {
    const struct haul_settings *settings;
    const struct haul_settings *before;
    struct haul_error *error;
};

static int apply(void *opaque, struct haul_migration *migration)
{
    struct change *change = opaque;
    return haul_settings_apply(change->settings, change->before, migration, change->error);
}

/* What was changed while there was no migration yet to change. */
static void catch_up(struct haul_move *move)
{
    struct haul_error error = {0};
    struct haul_settings now;
    struct change change = {&now, &move->run, &error};
    pthread_mutex_lock(&move->lock);
    haul_settings_copy(&now, &move->settings);
    now.throttle = move->throttle;
    if (haul_session_use(move->session, apply, &change) < 0) {
        on_message(move, true, error.message);
    }
    pthread_mutex_unlock(&move->lock);
}

/* Waits for `haul resume` or `haul abandon`, or the end of the daemon. */
static void hold(struct haul_move *move)
{
    struct haul_error error = {0};
    set_guest(move, PAUSED);
    atomic_store_explicit(&move->held, true, memory_order_relaxed);
    set_state(move, HAUL_STATE_FAILED);
    haul_session_await_order(move->session, move->interrupt_fd, &error);
    atomic_store_explicit(&move->held, false, memory_order_relaxed);
}

/* Keeps what there is to say of the session, and the session itself, without its connections, only for a
 * reference guest that runs. */
static void let_go(struct haul_move *move)
{
    struct haul_session *done = move->session;
    bool keep = haul_session_runs_guest(done);
    haul_session_close(done);
    if (keep) {
        haul_session_disconnect(done);
        return;
    }
    pthread_mutex_lock(&move->lock);
    haul_session_snapshot(done, &move->last);
    move->session = NULL;
    pthread_mutex_unlock(&move->lock);
    haul_session_free(done);
}

static enum guest guest_after(const struct haul_move *move, const struct haul_outcome *outcome)
{
    if (outcome->machine_ended) {
        return PRELAUNCH;
    }
    if (outcome->stats.ownership == HAUL_OWNER_UNCERTAIN || haul_outcome_stands_still(outcome)) {
        return PAUSED;
    }
    bool here = outcome->stats.ownership == (move->source ? HAUL_OWNER_SOURCE : HAUL_OWNER_DESTINATION);
    if (here) {
        return haul_session_guest_paused(move->session) ? PAUSED : RUNNING;
    }
    return move->source ? POSTMIGRATE : PRELAUNCH;
}

static void *run(void *opaque)
{
    struct haul_move *move = opaque;
    struct haul_error error = {0};
    pthread_setname_np(pthread_self(), "move");
    atomic_store_explicit(&move->thread_id, (int)syscall(SYS_gettid), memory_order_relaxed);
    set_state(move, HAUL_STATE_SETUP);
    int status = haul_session_start(move->session, move->texts.uri, &move->run.options, &error);
    if (status == 0) {
        int running = RUNNING; /* if it was not stopped meanwhile */
        if (haul_session_guest_paused(move->session)) {
            atomic_compare_exchange_strong_explicit(&move->guest, &running, PAUSED, memory_order_relaxed,
                                                    memory_order_relaxed);
        }
        catch_up(move);
        haul_session_finish(move->session);
    }
    const struct haul_outcome *outcome = haul_session_outcome(move->session);
    enum haul_state state = status < 0 ? HAUL_STATE_FAILED : outcome->stats.state;
    bool uncertain = haul_session_holds_guest(move->session);
    if (outcome->code < 0) {
        on_message(move, true, outcome->error.message);
    }
    if (uncertain) {
        hold(move);
    }
    char headline[HAUL_OUTCOME_HEADLINE_SIZE];
    haul_outcome_headline(outcome, headline, sizeof headline);
    on_message(move, true, headline);
    set_guest(move, guest_after(move, outcome));
    let_go(move);
    atomic_store_explicit(&move->thread_id, 0, memory_order_relaxed);
    /* Release, pairs with the acquire in haul_move_busy. */
    atomic_store_explicit(&move->busy, false, memory_order_release);
    if (!uncertain) { /* last: whoever sees that it has ended may move the machine again */
        set_state(move, state);
    }
    return NULL;
}

/* ---- orders ---- */

static char *copy(const char *text, bool *failed)
{
    char *made = text ? strdup(text) : NULL;
    *failed = *failed || (text && !made);
    return made;
}

static void free_texts(struct texts *texts)
{
    free(texts->uri);
    free(texts->qmp);
    free(texts->memory);
    free(texts->content);
    free(texts->tracker);
    free(texts->vcpu);
    free(texts->disk);
    *texts = (struct texts){0};
}

/* A spec whose strings are the move's own. */
static int copy_order(struct texts *texts, const struct haul_move_order *order,
                      struct haul_machine_spec *spec, struct haul_error *error)
{
    bool failed = false;
    const struct haul_guest_options *guest = &order->spec.guest_options;
    *texts = (struct texts){
        .uri = copy(order->uri, &failed),
        .qmp = copy(order->spec.qmp, &failed),
        .memory = copy(order->spec.memory, &failed),
        .content = copy(guest->content, &failed),
        .tracker = copy(guest->tracker, &failed),
        .vcpu = copy(guest->vcpu, &failed),
        .disk = copy(guest->disk, &failed),
    };
    if (failed) {
        free_texts(texts);
        return haul_error_set(error, ENOMEM, "no memory for a move");
    }
    *spec = order->spec;
    spec->qmp = texts->qmp;
    spec->memory = texts->memory;
    spec->guest_options.content = texts->content;
    spec->guest_options.tracker = texts->tracker;
    spec->guest_options.vcpu = texts->vcpu;
    spec->guest_options.disk = texts->disk;
    return 0;
}

static int check_order(const struct haul_move *move, const struct haul_move_order *order,
                       struct haul_error *error)
{
    if (haul_move_busy(move)) {
        return haul_error_set(error, EBUSY, "There's a migration process in progress");
    }
    if (!move->session) {
        return order->keeps_machine
                   ? haul_error_set(error, EINVAL, "say what to move: 'qemu', 'memory' or 'guest'")
                   : 0;
    }
    if (!order->keeps_machine) {
        return haul_error_set(error, EBUSY,
                              "migration '%s' keeps a reference guest that runs here: leave out what to move "
                              "to move it, or end it with migrate-forget",
                              move->name);
    }
    if (!order->source || !move->source) {
        return haul_error_set(
            error, EBUSY,
            "migration '%s' keeps a reference guest that came here, and it moves only once; "
            "end it with migrate-forget",
            move->name);
    }
    return 0;
}

/* The session for an order: the kept one with a new address, or a new one. */
static int prepare(struct haul_move *move, const struct haul_move_order *order, struct haul_error *error)
{
    if (move->session) {
        char *uri = strdup(order->uri);
        if (!uri) {
            return haul_error_set(error, ENOMEM, "no memory for a move");
        }
        free(move->texts.uri);
        move->texts.uri = uri;
        haul_session_renew(move->session);
        return 0;
    }
    free_texts(&move->texts);
    int status = copy_order(&move->texts, order, &move->spec, error);
    struct haul_session *session = NULL;
    if (status == 0) {
        status = haul_session_new(order->source, &move->spec, &session_events, move, &session, error);
    }
    pthread_mutex_lock(&move->lock);
    move->session = session;
    pthread_mutex_unlock(&move->lock);
    return status;
}

/* What the haul receive that ssh: starts is told. */
static int prepare_remote(struct haul_move *move, const struct haul_move_order *order,
                          struct haul_error *error)
{
    const struct haul_machine_spec *spec = move->session ? &move->spec : &order->spec;
    move->remote = order->remote;
    if (move->remote.length == 0 && strncmp(order->uri, "ssh:", 4) == 0) {
        haul_remote_add_machine(&move->remote, spec->qmp, spec->disks, spec->memory,
                                spec->guest_options.memory_bytes);
    }
    return haul_remote_check(&move->remote, error);
}

static int start_thread(struct haul_move *move, const struct haul_move_order *order, struct haul_error *error)
{
    enum haul_state state = haul_move_state(move);
    int guest = atomic_load_explicit(&move->guest, memory_order_relaxed);
    move->source = order->source;
    move->throttle = HAUL_SETTINGS_NO_THROTTLE;
    haul_settings_copy(&move->run, &move->settings);
    move->run.options.remote_options = move->remote.line;
    set_guest(move, order->source ? RUNNING : INMIGRATE);
    atomic_store_explicit(&move->state, HAUL_STATE_SETUP, memory_order_relaxed);
    atomic_store_explicit(&move->busy, true, memory_order_relaxed);
    int failure = pthread_create(&move->thread, NULL, run, move);
    move->has_thread = failure == 0;
    if (failure) {
        atomic_store_explicit(&move->busy, false, memory_order_relaxed);
        atomic_store_explicit(&move->state, (int)state, memory_order_relaxed);
        set_guest(move, (enum guest)guest);
        return haul_error_set(error, failure, "cannot start a thread for the move: %s", strerror(failure));
    }
    return 0;
}

/* A session that was made for a move that does not start. */
static void drop_session(struct haul_move *move)
{
    struct haul_session *session = move->session;
    pthread_mutex_lock(&move->lock);
    move->session = NULL;
    pthread_mutex_unlock(&move->lock);
    haul_session_free(session);
}

int haul_move_start(struct haul_move *move, const struct haul_move_order *order, struct haul_error *error)
{
    int status = check_order(move, order, error);
    if (status < 0 || (status = haul_check_uri(order->uri, !order->source, error)) < 0 ||
        (status = haul_descriptors_check(order->descriptors, order->uri, error)) < 0 ||
        (status = prepare_remote(move, order, error)) < 0) {
        return status;
    }
    haul_move_settle(move);
    bool kept = move->session != NULL;
    if ((status = prepare(move, order, error)) < 0 ||
        (status = haul_descriptors_give(order->descriptors, order->uri, move->session, error)) < 0 ||
        (status = start_thread(move, order, error)) < 0) {
        if (!kept) {
            drop_session(move);
        }
        return status;
    }
    return 0;
}

void haul_move_settle(struct haul_move *move)
{
    if (move->has_thread) {
        pthread_join(move->thread, NULL);
        move->has_thread = false;
    }
}

bool haul_move_busy(const struct haul_move *move)
{
    /* Acquire, pairs with the release in run. */
    return atomic_load_explicit(&move->busy, memory_order_acquire);
}

bool haul_move_held(const struct haul_move *move)
{
    return atomic_load_explicit(&move->held, memory_order_relaxed);
}

int haul_move_cancel(struct haul_move *move)
{
    pthread_mutex_lock(&move->lock);
    int status = haul_move_busy(move) && move->session ? haul_session_cancel(move->session) : 0;
    pthread_mutex_unlock(&move->lock);
    return status;
}

void haul_move_interrupt(struct haul_move *move)
{
    eventfd_write(move->interrupt_fd, 1);
}

/* ---- what may be changed at any time ---- */

static int go_on(void *opaque, struct haul_migration *migration)
{
    (void)opaque;
    return haul_continue(migration);
}

int haul_move_continue(struct haul_move *move)
{
    pthread_mutex_lock(&move->lock);
    int status = move->session ? haul_session_use(move->session, go_on, NULL) : -EINVAL;
    pthread_mutex_unlock(&move->lock);
    return status < 0 ? -EINVAL : 0;
}

const struct haul_settings *haul_move_settings(const struct haul_move *move)
{
    return &move->settings;
}

int haul_move_change(struct haul_move *move, const struct haul_settings *settings, struct haul_error *error)
{
    int status = -ESRCH;
    pthread_mutex_lock(&move->lock);
    struct change change = {settings, &move->settings, error};
    if (move->session && haul_move_busy(move)) {
        status = haul_session_use(move->session, apply, &change);
    }
    if (status == -ESRCH) { /* the values are for the next migration, or the one that is about to start */
        bool throttles = settings->throttle != HAUL_SETTINGS_NO_THROTTLE;
        bool begins = haul_move_busy(move) && !haul_move_held(move);
        status = !throttles || begins
                     ? 0
                     : haul_error_set(error, ESRCH, "cpu-throttle-percentage is for a migration that runs");
        move->throttle = throttles && begins ? settings->throttle : move->throttle;
    }
    if (status == 0) {
        haul_settings_copy(&move->settings, settings);
        move->settings.throttle = HAUL_SETTINGS_NO_THROTTLE;
        atomic_store_explicit(&move->says_events, settings->events, memory_order_relaxed);
    }
    pthread_mutex_unlock(&move->lock);
    return status;
}

/* ---- life ---- */

int haul_move_new(const char *name, haul_move_event event, void *opaque, struct haul_move **move,
                  struct haul_error *error)
{
    size_t length = strlen(name);
    if (length == 0 || length >= HAUL_MOVE_NAME_SIZE || strspn(name, NAME_CHARACTERS) != length) {
        return haul_error_set(error, EINVAL,
                              "Parameter 'name' expects 1 to %d letters, digits, '.', '_' and '-'",
                              HAUL_MOVE_NAME_SIZE - 1);
    }
    struct haul_move *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for a migration");
    }
    made->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made->interrupt_fd < 0) {
        int failure = errno;
        free(made);
        return haul_error_set(error, failure, "cannot make an eventfd: %s", strerror(failure));
    }
    memcpy(made->name, name, length + 1);
    made->event = event;
    made->opaque = opaque;
    haul_settings_default(&made->settings);
    atomic_init(&made->says_events, made->settings.events);
    pthread_mutex_init(&made->lock, NULL);
    *move = made;
    return 0;
}

void haul_move_free(struct haul_move *move)
{
    if (!move) {
        return;
    }
    haul_move_settle(move);
    haul_session_free(move->session);
    free_texts(&move->texts);
    close(move->interrupt_fd);
    pthread_mutex_destroy(&move->lock);
    free(move);
}
