/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/source.h"

#include "engine/clock.h"
#include "engine/disks.h"
#include "engine/file/source.h"
#include "engine/state_stream.h"
#include "engine/streams.h"
#include "engine/verify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HOLD_POLL_NS 100000000u /* at most, between two looks at a held migration */

struct times {
    uint64_t stopped_ns; /* downtime counts from here */
    uint64_t stop_done_ns;
    uint64_t held_ns;     /* spent waiting for haul_continue */
    uint64_t device_ns;   /* spent in the state handlers, on both sides */
    uint64_t handover_ns; /* HANDOVER was sent */
    uint64_t running_ns;  /* RUNNING came */
};

static int timeout_ms(const struct haul_migration *migration)
{
    return (int)migration->limits.silence_timeout_ms;
}

int haul_source_stop(struct haul_migration *migration, uint64_t *stopped_ns, uint64_t *done_ns,
                     struct haul_error *error)
{
    struct haul_source *source = migration->source;
    *stopped_ns = haul_now_ns();
    source->stopped = true;
    int rc = migration->guest.stop ? migration->guest.stop(migration->guest_opaque, stopped_ns, error) : 0;
    *done_ns = haul_now_ns();
    if (*stopped_ns > *done_ns) {
        *stopped_ns = *done_ns; /* the hook's clock is another one */
    }
    source->estimate.costs.stop_ns = *done_ns - *stopped_ns;
    if (rc < 0) {
        return haul_error_prefix(error, "stopping the guest: ");
    }
    source->said_stopped = true;
    haul_migration_guest(migration, false);
    return 0;
}

int haul_source_resume(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    int rc = migration->guest.resume ? migration->guest.resume(migration->guest_opaque, error) : 0;
    if (rc < 0) {
        return haul_error_prefix(error, "the guest does not run at the source: ");
    }
    source->stopped = false;
    if (source->said_stopped) {
        source->said_stopped = false;
        haul_migration_guest(migration, true);
    }
    return 0;
}

bool haul_source_give_back(struct haul_migration *migration, struct haul_error *failure)
{
    int rc = haul_source_resume(migration, failure);
    if (rc < 0) {
        pthread_mutex_lock(&migration->lock);
        migration->stats.resume_error = rc;
        pthread_mutex_unlock(&migration->lock);
    }
    return rc == 0;
}

void haul_source_blame_resume(struct haul_migration *migration, const struct haul_error *failure)
{
    /* The first try to resume it may be what ended the migration. */
    if (!strstr(migration->error.message, failure->message)) {
        haul_error_prefix(&migration->error, "%s; before that: ", failure->message);
    }
}

/* True when the pages that the last scan found take longer than the limit, and giving up the stop can help.
 */
static bool no_longer_fits(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    uint64_t limit = (uint64_t)haul_knobs_downtime_limit_ms(migration) * 1000000;
    struct haul_downtime expected;
    haul_estimate_downtime(&source->estimate, source->dirty_pages, &expected);
    return source->dirty_pages > source->decided_pages && expected.total_ns > limit &&
           migration->guest.resume;
}

/* A single stop that was slow must not keep the guest from being stopped again: it counts for a quarter. */
static void blend_stop(struct haul_source *source, uint64_t usual_ns)
{
    uint64_t *stop_ns = &source->estimate.costs.stop_ns;
    *stop_ns = *stop_ns > usual_ns ? usual_ns + (*stop_ns - usual_ns) / 4 : *stop_ns;
}

/* Takes the step to pre-switchover, and stays there until haul_continue where the options ask for that. */
static int hold(struct haul_migration *migration, struct times *times, struct haul_error *error)
{
    bool wanted = migration->options.pause_before_switchover;
    if (wanted) {
        /* Before the state can be seen, so that whoever sees it can continue. Pairs with haul_continue. */
        atomic_store(&migration->hold, HAUL_HOLD_HELD);
    }
    if (haul_migration_set_state(migration, HAUL_STATE_PRE_SWITCHOVER) < 0) {
        return haul_error_set(error, EINVAL, "the migration is not in a state to switch over");
    }
    uint64_t begun = haul_now_ns();
    while (wanted) {
        uint32_t ticket = haul_doorbell_ticket(&migration->source->bell);
        int rc = haul_source_check(migration, error);
        if (rc < 0) {
            atomic_store(&migration->hold, HAUL_HOLD_NONE);
            return rc;
        }
        if (atomic_load(&migration->hold) == HAUL_HOLD_RELEASED) {
            break;
        }
        haul_doorbell_wait(&migration->source->bell, ticket, HOLD_POLL_NS);
    }
    times->held_ns = wanted ? haul_now_ns() - begun : 0;
    return 0;
}

int haul_source_save_state(struct haul_migration *migration, bool early, struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->handler_count; i++) {
        const struct haul_handler *handler = &migration->handlers[i];
        struct haul_source *source = migration->source;
        if (handler->ops->early != early) {
            continue;
        }
        int rc = source->file ? haul_file_source_save(source->file, handler, error)
                              : haul_state_save(migration->control, handler, source->round, error);
        if (rc < 0) {
            return haul_error_prefix(error, "state handler %s: ", handler->ops->name);
        }
    }
    return 0;
}

/* The round after `sync`: pages and marks, without waiting for the destination. */
static int send_last(struct haul_migration *migration, struct haul_error *error)
{
    haul_source_begin_pass(migration);
    int rc = haul_dispatch_pages(migration, error);
    return rc < 0 ? rc : haul_dispatch_mark(migration, error);
}

static int verify(struct haul_migration *migration, struct haul_error *error)
{
    size_t size = (size_t)migration->view_count * HAUL_HASH_SIZE;
    unsigned char *hashes = calloc(1, size);
    struct haul_frame *frame = NULL;
    int rc = hashes ? 0 : haul_error_set(error, ENOMEM, "no memory to verify");
    if (rc == 0) {
        rc = haul_control_send(migration->control, HAUL_FRAME_VERIFY, NULL, 0, error);
    }
    if (rc == 0) {
        rc = haul_verify_hash(migration, haul_allowed_cpus(), hashes, error);
    }
    if (rc == 0) {
        rc = haul_control_expect(migration->control, HAUL_FRAME_HASHES, timeout_ms(migration), &frame, error);
    }
    if (rc == 0 && frame->length != size) {
        rc = haul_error_set(error, EPROTO, "HASHES has %zu bytes where %zu are due", frame->length, size);
    }
    for (uint32_t i = 0; rc == 0 && i < migration->view_count; i++) {
        size_t at = (size_t)i * HAUL_HASH_SIZE;
        if (memcmp(hashes + at, frame->payload + at, HAUL_HASH_SIZE) != 0) {
            bool memory = i < migration->block_count;
            rc = haul_error_set(
                error, EBADMSG,
                "verify: %s %s differs at the destination; the move is given up before the hand-over",
                memory ? "RAM block" : "disk",
                memory ? migration->blocks[i].name : migration->disks->disk[i - migration->block_count].name);
        }
    }
    free(frame);
    free(hashes);
    return rc;
}

/* What saving the device state wrote (trap T9), up to all memory being there. */
static int send_what_saving_wrote(struct haul_migration *migration, struct haul_error *error)
{
    int rc = haul_source_sync(migration, error);
    if (rc == 0 && migration->rma) {
        /* What is written by rdma would overtake the last pass, and a zero page of it then clear it (R2). */
        rc = haul_source_wait_round(migration, migration->source->round, error);
    }
    if (rc == 0) {
        rc = send_last(migration, error);
    }
    if (rc == 0) {
        rc = haul_source_wait_round(migration, migration->source->round, error);
    }
    if (rc == 0 && migration->options.verify && !migration->source->file) {
        rc = verify(migration, error);
    }
    return rc;
}

/* The last pass and device state, up to the destination being ready. */
static int send_the_rest(struct haul_migration *migration, struct times *times, struct haul_error *error)
{
    bool copies = migration->mode == HAUL_MODE_NORMAL;
    struct haul_file_source *file = migration->source->file;
    if (file) {
        haul_file_source_stopped(file);
    }
    int rc = copies ? send_last(migration, error) : 0;
    if (rc < 0) {
        return rc;
    }
    if (haul_migration_set_state(migration, HAUL_STATE_DEVICE) < 0) {
        return haul_error_set(error, EINVAL, "the migration is not in a state to send device state");
    }
    uint64_t begun = haul_now_ns();
    rc = haul_source_save_state(migration, false, error);
    times->device_ns = haul_now_ns() - begun;
    if (rc == 0 && copies) {
        rc = send_what_saving_wrote(migration, error);
    }
    if (rc == 0 && file) {
        return haul_file_source_complete(migration, error);
    }
    begun = haul_now_ns();
    struct haul_frame *frame = NULL;
    if (rc == 0) {
        rc = haul_control_send(migration->control, HAUL_FRAME_PREPARE, NULL, 0, error);
    }
    if (rc == 0) {
        rc = haul_control_expect(migration->control, HAUL_FRAME_PREPARED, timeout_ms(migration), &frame,
                                 error);
    }
    free(frame);
    times->device_ns += haul_now_ns() - begun; /* the destination loads */
    return rc;
}

/* From the last moment at which the source owns the guest to the destination's confirmation. */
static int hand_over(struct haul_migration *migration, struct times *times, bool *uncertain,
                     struct haul_error *error)
{
    int rc = haul_migration_step(migration, HAUL_STEP_HANDOVER_SENDING, error);
    if (rc == 0 && migration->guest.handing_over) {
        rc = migration->guest.handing_over(migration->guest_opaque, error);
    }
    if (rc == 0 && migration->control) {
        /* A destination that is known to have failed gets no HANDOVER: the guest is still the source's. */
        rc = haul_control_check_peer(migration->control, error);
    }
    if (rc < 0) {
        return rc;
    }
    if (!haul_migration_commit(migration)) {
        return haul_error_set(error, ECANCELED, "cancelled");
    }
    times->handover_ns = haul_now_ns();
    if (migration->source->file) {
        rc = haul_file_source_publish(migration->source->file, uncertain, error);
        times->running_ns = haul_now_ns();
        return rc;
    }
    *uncertain = true;
    rc = haul_control_send(migration->control, HAUL_FRAME_HANDOVER, NULL, 0, error);
    struct haul_frame *frame = NULL;
    if (rc == 0) {
        rc =
            haul_control_expect(migration->control, HAUL_FRAME_RUNNING, timeout_ms(migration), &frame, error);
    }
    free(frame);
    times->running_ns = haul_now_ns();
    if (rc < 0) {
        /* Whatever broke first: a destination that is certain says so before it closes the connection. */
        int reason = haul_migration_reason(migration, error);
        rc = reason < 0 ? reason : rc;
    }
    *uncertain = rc < 0 && !haul_control_declined(migration->control);
    return rc;
}

static void report(struct haul_migration *migration, const struct times *times)
{
    struct haul_downtime actual = {
        .total_ns = times->running_ns - times->stopped_ns,
        .stop_ns = times->stop_done_ns - times->stopped_ns,
        .device_ns = times->device_ns,
        .start_ns = times->running_ns - times->handover_ns,
        .held_ns = times->held_ns,
    };
    actual.last_pass_ns =
        actual.total_ns - actual.stop_ns - actual.held_ns - actual.device_ns - actual.start_ns;
    pthread_mutex_lock(&migration->lock);
    migration->ended_ns = times->running_ns; /* what follows is tidying up */
    migration->stats.actual = actual;
    pthread_mutex_unlock(&migration->lock);
}

int haul_source_switchover(struct haul_migration *migration, bool *uncertain, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    struct times times = {0};
    *uncertain = false;
    bool copies = migration->mode == HAUL_MODE_NORMAL;
    uint64_t usual_stop_ns = source->estimate.costs.stop_ns;
    int rc = haul_source_stop(migration, &times.stopped_ns, &times.stop_done_ns, error);
    if (rc == 0 && copies) {
        rc = haul_source_sync(migration, error);
    }
    if (rc == 0 && copies && no_longer_fits(migration)) {
        source->late_pages = source->dirty_pages - source->decided_pages;
        blend_stop(source, usual_stop_ns);
        rc = haul_source_resume(migration, error);
        return rc < 0 ? rc : 1;
    }
    if (rc == 0) {
        rc = hold(migration, &times, error);
    }
    source->unlimited = true;
    haul_streams_set_share(migration->streams, HAUL_STREAMS_UNLIMITED);
    if (rc == 0) {
        rc = send_the_rest(migration, &times, error);
    }
    if (rc == 0) {
        rc = hand_over(migration, &times, uncertain, error);
    }
    if (rc == 0) {
        report(migration, &times);
    }
    return rc;
}
