/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a move: its outcome, the orders of the operator after an uncertain one, and what is left of the
 * machine. */
#include "tools/session/internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

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
    haul_session_collect(session, outcome, session->channels);
    bool uncertain = outcome->stats.ownership == HAUL_OWNER_UNCERTAIN;
    bool to_be_here = uncertain || haul_outcome_stands_still(outcome) || haul_outcome_is_snapshot(outcome);
    outcome->machine_ended = to_be_here && haul_session_machine_ended(session);
    pthread_mutex_unlock(&session->lock);
    if (uncertain || haul_outcome_undecided(outcome)) {
        struct haul_error error;
        if (haul_session_write_record(session, uncertain ? HAUL_RECORDED_UNCERTAIN : HAUL_RECORDED_STOPPED,
                                      &error) < 0) {
            haul_session_say(session, true, "haul: %s", error.message);
        }
    } else if (outcome->stats.ownership == HAUL_OWNER_SOURCE && outcome->id[0]) {
        haul_session_forget_record(session);
    }
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
    haul_session_say(session, true, "%s", text);
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
            haul_session_say(
                session, true,
                "the paused guest stays in this process (%d), but haul resume and haul abandon cannot reach "
                "it: %s; tried again every second",
                (int)getpid(), error->message);
        }
        struct pollfd interrupt = {.fd = interrupt_fd, .events = POLLIN};
        if (poll(&interrupt, 1, 1000) > 0) {
            return haul_error_set(error, EINTR, "interrupted while waiting for haul resume");
        }
    }
    haul_session_say(
        session, true,
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
        haul_session_forget_record(session);
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
