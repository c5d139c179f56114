/* SPDX-License-Identifier: Apache-2.0 */
/* What a migration tells while it runs: its steps of ownership go into the record on disk (rule R1), the
 * rest to the owner of the session. */
#include "tools/session/internal.h"

#include <stdio.h>
#include <unistd.h>

int haul_session_write_record(struct haul_session *session, const char *step, struct haul_error *error)
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

void haul_session_forget_record(struct haul_session *session)
{
    struct haul_error error;
    char id[33];
    haul_id(session->migration, id);
    if (haul_record_remove(session->store, id, session->source, &error) < 0) {
        haul_session_say(session, true, "haul: %s", error.message);
    }
}

static int on_step(void *opaque, enum haul_step step, struct haul_error *error)
{
    struct haul_session *session = opaque;
    int status = 0;
    switch (step) {
    case HAUL_STEP_HANDOVER_SENDING:
        status = haul_session_write_record(session, HAUL_RECORDED_SENDING, error);
        break;
    case HAUL_STEP_HANDOVER_RECEIVED:
        status = haul_session_write_record(session, HAUL_RECORDED_RECEIVED, error);
        break;
    case HAUL_STEP_RUNNING:
        if (session->source) {
            haul_session_forget_record(session);
        } else {
            /* It runs: too late to refuse. The older record stays, which only asks the operator to look. */
            struct haul_error failure;
            if (haul_session_write_record(session, HAUL_RECORDED_RUNNING, &failure) < 0) {
                haul_session_say(session, true, "haul: %s", failure.message);
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
        haul_session_forget_record(session);
        break;
    case HAUL_STEP_TRIAL:
        status = haul_record_try(session->store, error);
        break;
    }
    return status < 0 ? haul_error_prefix(error, "no handover: ") : 0;
}

static void on_message(void *opaque, const char *text)
{
    haul_session_say(opaque, false, "%s", text);
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

const struct haul_events haul_session_migration_events = {
    .state = on_state, .pass = on_pass, .guest = on_guest, .step = on_step, .message = on_message};
