/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/destination/destination.h"

#include "engine/disks.h"
#include "engine/file/destination.h"
#include "engine/rdma.h"
#include "engine/state_stream.h"
#include "engine/streams.h"
#include "engine/verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- loading ---- */

/*
 * How long the source's own reason is waited for when a receiver or the control connection failed with `rc`.
 * A source that met the same broken connection asks this side first, for HAUL_ASKS_MS, and must hear what
 * failed here before that; when only the connection was lost, this side has nothing to tell and waits longer.
 */
static int patience_ms(int rc)
{
    switch (rc) {
    case -EPIPE:
    case -ECONNRESET:
        return 3 * HAUL_ASKS_MS;
    case -EPROTO:
        return HAUL_ASKS_MS /
               3; /* a source that gives up in a handshake says why on a data connection, too */
    default:
        return 0;
    }
}

/* What really ended the move: a receiver's failure, and better the source's own reason if it comes in time.
 */
static int explain(struct haul_migration *migration, int rc, struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    if (haul_migration_cancelled(migration)) {
        return haul_error_set(error, ECANCELED, "cancelled");
    }
    pthread_mutex_lock(&migration->lock);
    bool failed = destination->receiver_failed;
    struct haul_error receiver_error = destination->receiver_error;
    pthread_mutex_unlock(&migration->lock);
    if (failed) {
        *error = receiver_error;
        rc = -error->code;
    }
    bool lost = rc == -EPIPE || rc == -ECONNRESET;
    bool asks = (failed || lost) && migration->control;
    int reason = asks ? haul_control_reason(migration->control, patience_ms(rc), error) : 0;
    if ((failed || lost) && reason == 0 && migration->listener) {
        haul_listener_explain(migration->listener, error);
    }
    return reason < 0 ? reason : rc;
}

int haul_destination_find_handler(struct haul_migration *migration, const char *name, uint32_t *index,
                                  struct haul_error *error)
{
    uint32_t i = 0;
    while (i < migration->handler_count && strcmp(migration->handlers[i].ops->name, name) != 0) {
        i++;
    }
    if (i == migration->handler_count) {
        return haul_error_set(error, EINVAL,
                              "the source sends the state of %s, which this destination does not have", name);
    }
    if (migration->destination->loaded[i]) {
        return haul_error_set(error, EPROTO, "the state of %s came twice", name);
    }
    migration->destination->loaded[i] = true;
    *index = i;
    return 0;
}

int haul_destination_all_loaded(const struct haul_migration *migration, const char *before,
                                struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->handler_count; i++) {
        if (migration->handlers[i].ops->load && !migration->destination->loaded[i]) {
            return haul_error_set(error, EPROTO, "%s came and the state of %s did not", before,
                                  migration->handlers[i].ops->name);
        }
    }
    return 0;
}

/* Waits until `round` is in place: as long as making disks durable, which is part of it, gets further. */
static int await_round(struct haul_migration *migration, uint32_t round)
{
    int rc;
    uint32_t steps;
    do {
        steps = haul_disks_flush_steps(migration);
        rc = haul_barrier_wait(&migration->destination->barrier, round,
                               (int)migration->limits.silence_timeout_ms);
    } while (rc == -ETIMEDOUT && steps != haul_disks_flush_steps(migration));
    return rc;
}

static int load_state(struct haul_migration *migration, const struct haul_frame *begin,
                      struct haul_error *error)
{
    uint32_t round;
    char name[HAUL_NAME_MAX + 1];
    int rc = haul_state_begin_decode(begin, &round, name, sizeof name, error);
    if (rc < 0) {
        return rc;
    }
    uint32_t i = 0;
    rc = haul_destination_find_handler(migration, name, &i, error);
    if (rc < 0) {
        return rc;
    }
    if (!migration->handlers[i].ops->early && haul_get_state(migration) == HAUL_STATE_ACTIVE) {
        haul_migration_set_state(migration, HAUL_STATE_DEVICE);
    }
    int timeout = (int)migration->limits.silence_timeout_ms;
    bool adopts = migration->destination->adopts;
    if (adopts && round != 0) {
        return haul_error_set(error, EPROTO, "the state of %s waits for round %u of memory that is not sent",
                              name, round);
    }
    rc = adopts ? 0 : await_round(migration, round);
    if (rc < 0) {
        return haul_error_set(error, -rc, "round %u did not arrive before the state of %s", round, name);
    }
    rc = haul_state_load(migration->control, &migration->handlers[i], timeout, error);
    return rc < 0 ? haul_error_prefix(error, "loading the state of %s: ", name) : 0;
}

static int send_hashes(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    size_t size = (size_t)migration->view_count * HAUL_HASH_SIZE;
    unsigned char *own = calloc(2, size);
    if (!own) {
        return haul_error_set(error, ENOMEM, "no memory to verify");
    }
    unsigned char *ordered = own + size;
    int rc = haul_verify_hash(migration, haul_allowed_cpus(), own, error);
    for (uint32_t i = 0; rc == 0 && i < migration->view_count; i++) {
        memcpy(ordered + (size_t)i * HAUL_HASH_SIZE, own + (size_t)destination->order[i] * HAUL_HASH_SIZE,
               HAUL_HASH_SIZE);
    }
    if (rc == 0) {
        rc = haul_control_send(migration->control, HAUL_FRAME_HASHES, ordered, size, error);
    }
    free(own);
    return rc;
}

static void stop_receivers(struct haul_migration *migration)
{
    struct haul_destination *destination = migration->destination;
    if (destination->barrier_made) {
        haul_barrier_abort(&destination->barrier);
    }
    for (unsigned i = 0; i < destination->channels; i++) {
        if (destination->receivers[i]) {
            haul_receiver_abort(destination->receivers[i]);
        }
    }
    for (unsigned i = 0; i < destination->channels; i++) {
        if (destination->receivers[i]) {
            haul_receiver_stop(destination->receivers[i]);
        }
    }
}

/*
 * The source says that all is sent. From the answer on the receivers are stopped: nobody but the guest writes
 * its memory any more, and a source that dies after HANDOVER breaks no channel that could get in the guest's
 * way.
 */
static int prepare(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    if (!destination->adopts && haul_barrier_wait(&destination->barrier, 1, 0) < 0) {
        return haul_error_set(error, EPROTO, "PREPARE came before any round was complete");
    }
    int rc = haul_destination_all_loaded(migration, "PREPARE", error);
    if (rc < 0) {
        return rc;
    }
    stop_receivers(migration);
    haul_streams_stop(migration->streams);
    uint64_t took_ns; /* nothing is left to flush, unless the source sent pages behind its last mark */
    rc = haul_disks_flush(migration, &took_ns, error);
    if (rc < 0) {
        return rc;
    }
    destination->prepared = true;
    return haul_control_send(migration->control, HAUL_FRAME_PREPARED, NULL, 0, error);
}

/* The guest is ours from here: whatever the source does, it is started. */
static int take_over(struct haul_migration *migration, struct haul_error *error)
{
    if (!haul_migration_commit(migration)) {
        return haul_error_set(error, ECANCELED, "cancelled");
    }
    migration->destination->took = true;
    int rc = haul_migration_step(migration, HAUL_STEP_HANDOVER_RECEIVED, error);
    if (rc < 0) {
        return rc;
    }
    rc = haul_disks_complete(migration, error);
    if (rc < 0) {
        return rc; /* nothing ran yet: the source has its guest back */
    }
    migration->destination->handed_over = true;
    rc = migration->guest.start ? migration->guest.start(migration->guest_opaque, error) : 0;
    if (rc < 0) {
        return haul_error_prefix(error, "starting the guest: ");
    }
    /* A source that does not hear this stays paused and says so; the guest runs here either way. */
    struct haul_error unheard;
    if (migration->control &&
        haul_control_send(migration->control, HAUL_FRAME_RUNNING, NULL, 0, &unheard) < 0) {
        haul_migration_say(migration, "the guest runs here, but the source could not be told: %s",
                           unheard.message);
    }
    haul_migration_guest(migration, true);
    haul_migration_step(migration, HAUL_STEP_RUNNING, NULL);
    return 0;
}

static int take_frame(struct haul_migration *migration, const struct haul_frame *frame,
                      struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    if (destination->prepared != (frame->type == HAUL_FRAME_HANDOVER)) {
        return haul_error_set(error, EPROTO, "%s came %s", haul_frame_name(frame->type),
                              destination->prepared ? "where HANDOVER was due" : "before PREPARE");
    }
    switch (frame->type) {
    case HAUL_FRAME_PRESENT:
        return destination->populate ? haul_populate_restrict(destination->populate, destination->order,
                                                              frame->payload, frame->length, error)
                                     : 0;
    case HAUL_FRAME_STATE_BEGIN:
        return load_state(migration, frame, error);
    case HAUL_FRAME_VERIFY:
        return destination->adopts
                   ? haul_error_set(error, EPROTO, "VERIFY came where there is nothing to compare")
                   : send_hashes(migration, error);
    case HAUL_FRAME_PREPARE:
        return prepare(migration, error);
    case HAUL_FRAME_HANDOVER:
        return take_over(migration, error);
    default:
        return haul_error_set(error, EPROTO, "an unexpected %s came", haul_frame_name(frame->type));
    }
}

/* A snapshot file in place of a source: nobody to wait for. */
static int load_file(struct haul_migration *migration, int rc, struct haul_error *error)
{
    rc = rc == 0 ? haul_file_destination_load(migration, error) : rc;
    rc = rc == 0 ? take_over(migration, error) : rc;
    return rc < 0 && !migration->destination->handed_over ? explain(migration, rc, error) : rc;
}

static int load(struct haul_migration *migration, struct haul_error *error)
{
    int rc = haul_migration_set_state(migration, HAUL_STATE_SETUP) < 0 ? -EINVAL : 0;
    if (migration->destination->file) {
        return load_file(migration, rc, error);
    }
    if (rc == 0) {
        rc = haul_destination_accept(migration, error);
    }
    if (rc == 0) {
        rc = haul_migration_set_state(migration, HAUL_STATE_ACTIVE) < 0 ? -EINVAL : 0;
    }
    bool ended = false;
    while (rc == 0 && !ended) {
        struct haul_frame *frame = NULL;
        rc = haul_control_next(migration->control, -1, &frame, error);
        if (rc == 0) {
            rc = take_frame(migration, frame, error);
            ended = frame->type == HAUL_FRAME_HANDOVER;
        }
        free(frame);
        if (rc == 0 && !ended && migration->destination->populate) {
            rc = haul_populate_failed(migration->destination->populate);
            if (rc < 0) {
                haul_error_set(error, -rc, "the guest's memory cannot be populated: %s", strerror(-rc));
            }
        }
    }
    return rc < 0 && !migration->destination->handed_over ? explain(migration, rc, error) : rc;
}

static bool never_ran(struct haul_migration *migration)
{
    const struct haul_destination *destination = migration->destination;
    const struct haul_guest_ops *guest = &migration->guest;
    return !destination->handed_over ||
           (!destination->adopted && guest->never_ran && guest->never_ran(migration->guest_opaque));
}

/* A file that was to be loaded holds the guest as before, when that certainly never ran here and never will.
 */
static bool leave_to_file(struct haul_migration *migration)
{
    struct haul_error error;
    return !migration->destination->took ||
           (never_ran(migration) && haul_migration_step(migration, HAUL_STEP_NOT_STARTED, &error) == 0);
}

/*
 * A failed move whose guest certainly never ran here and never will: tells the source, which may have sent
 * HANDOVER, that the guest is its own. What the step event wrote before has to be withdrawn first, and disks
 * that look whole; memory that both sides share is never given back once the start hook may have written it.
 */
static bool decline(struct haul_migration *migration)
{
    struct haul_error error;
    if (!migration->destination->prepared || !migration->control) {
        return false;
    }
    if (!never_ran(migration) || haul_migration_step(migration, HAUL_STEP_NOT_STARTED, &error) < 0) {
        return false;
    }
    haul_disks_discard(migration);
    haul_control_decline(migration->control, &migration->error);
    haul_migration_say(migration, "the guest never ran here and never will; should the source not have heard "
                                  "that and keep its guest paused, resume it there");
    return true;
}

/* ---- the thread ---- */

void *haul_destination_loader(void *argument)
{
    struct haul_migration *migration = argument;
    struct haul_destination *destination = migration->destination;
    struct haul_thread_entry entry;
    haul_thread_enter(&migration->threads, &entry, "loader", HAUL_THREAD_ALONE);
    int rc = load(migration, &migration->error);
    if (rc == -ECANCELED && destination->took) {
        rc = -EIO; /* whatever a hook says, after HANDOVER nothing is cancelled any more */
        migration->error.code = EIO;
    }
    migration->result = rc;
    if (rc < 0 && destination->adopted && !destination->handed_over && migration->guest.disown) {
        migration->guest.disown(migration->guest_opaque); /* before the source hears that it goes on */
    }
    if (rc < 0) {
        haul_disks_abandon(migration);
    }
    bool declined = rc < 0 && (destination->file ? leave_to_file(migration) : decline(migration));
    if (rc < 0 && !declined && migration->control) {
        haul_control_fail(migration->control, &migration->error);
    }
    stop_receivers(migration);
    haul_streams_stop(migration->streams);
    if (rc < 0 && !destination->took) {
        haul_disks_discard(migration);
    }
    haul_populate_stop(destination->populate);
    destination->populate = NULL;
    pthread_mutex_lock(&migration->lock);
    if (rc == 0) {
        migration->stats.ownership = HAUL_OWNER_DESTINATION;
    } else if (destination->took && !declined) {
        migration->stats.ownership = HAUL_OWNER_UNCERTAIN;
    }
    pthread_mutex_unlock(&migration->lock);
    if (rc == -ECANCELED) {
        haul_migration_set_state(migration, HAUL_STATE_CANCELLING);
        haul_migration_set_state(migration, HAUL_STATE_CANCELLED);
    } else {
        if (rc == 0 && haul_get_state(migration) == HAUL_STATE_ACTIVE) {
            haul_migration_set_state(migration, HAUL_STATE_DEVICE); /* a guest without state handlers */
        }
        haul_migration_set_state(migration, rc == 0 ? HAUL_STATE_COMPLETED : HAUL_STATE_FAILED);
    }
    haul_rdma_end(migration);
    haul_thread_leave(&migration->threads, &entry);
    return NULL;
}
