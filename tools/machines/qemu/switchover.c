/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's switchover: QEMU stops the machine by `migrate` with pause-before-switchover, haul takes what
 * QEMU itself has to say (device state, private memory) from a socket pair, and can take it all back until
 * the handover.
 */
#include "tools/clock.h"
#include "tools/machines/qemu/adopt.h"
#include "tools/machines/qemu/preamble.h"
#include "tools/machines/qemu/process.h"
#include "tools/machines/qemu/source.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STREAM_LIMIT ((size_t)256 << 20)
#define STREAM_NAME "haul-state"
#define ENDING_NS 30000000000u
#define HANDING_NS                                                                                           \
    5000000u /* loading, which no round of memory hides, and a call that QEMU makes for haul                 \
              */

/* query-migrate's status, and its error-desc in `reason`. */
static int migrate_status(struct haul_qmp *qmp, char *status, size_t size, char *reason, size_t reason_size,
                          struct haul_error *error)
{
    json_t *reply = NULL;
    int result = haul_qmp_execute(qmp, "query-migrate", NULL, &reply, error);
    if (!result) {
        const char *text = json_string_value(json_object_get(reply, "status"));
        const char *desc = json_string_value(json_object_get(reply, "error-desc"));
        snprintf(status, size, "%s", text ? text : "none");
        snprintf(reason, reason_size, "%s", desc ? desc : "QEMU gives no reason, see its standard error");
        json_decref(reply);
    }
    return result;
}

static bool is_one_of(const char *text, const char *const *list)
{
    for (; *list; list++) {
        if (strcmp(text, *list) == 0) {
            return true;
        }
    }
    return false;
}

static const char *const ended[] = {"none", "completed", "failed", "cancelled", NULL};

/* Waits for a status of QEMU's migration. Events make it quick, the query makes it certain. */
static int wait_for(struct haul_qemu_source *source, const char *wanted, struct haul_error *error)
{
    uint64_t deadline = haul_clock_ns() + (uint64_t)HAUL_QEMU_QMP_TIMEOUT_MS * 1000000;
    for (;;) {
        char status[32];
        char reason[256];
        bool seen;
        int result = migrate_status(source->qmp, status, sizeof status, reason, sizeof reason, error);
        if (result || strcmp(status, wanted) == 0) {
            return result;
        }
        if (is_one_of(status, ended)) {
            return haul_error_set(error, EREMOTEIO, "QEMU's part of the move is \"%s\" instead of \"%s\": %s",
                                  status, wanted, reason);
        }
        if (haul_qemu_stream_full(source->stream)) {
            char byte;
            size_t length;
            while ((result = haul_qemu_stream_read(source->stream, &byte, 1, &length, 0, error)) == 0) {
            }
            return result;
        }
        if (haul_clock_ns() > deadline) {
            return haul_error_set(error, ETIMEDOUT,
                                  "QEMU did not reach \"%s\" within %d s, it is still \"%s\"", wanted,
                                  HAUL_QEMU_QMP_TIMEOUT_MS / 1000, status);
        }
        result = haul_qmp_wait_event(source->qmp, "MIGRATION", 20, &seen, error);
        if (result) {
            return result;
        }
    }
}

/* What was looked at when the move began may have been plugged since: its writes would have been missed. */
static int recheck(struct haul_qemu_source *source, struct haul_error *error)
{
    char direct_io[192];
    struct haul_qemu_writers writers;
    int result = haul_process_refuse_passthrough(source->inspection.pid, error);
    result = result ? result : haul_qemu_recheck_backends(source->qmp, &source->inspection, error);
    if (result || source->hands_over) {
        return result; /* nothing is tracked, and the stop drains all I/O */
    }
    result = haul_qemu_query_direct_io(source->qmp, direct_io, sizeof direct_io, error);
    result = result ? result : haul_qemu_find_writers(&source->inspection, &writers, error);
    if (result) {
        return result;
    }
    /* A write guard sees direct I/O when it begins, and the stop has waited for all that began before. */
    if (direct_io[0] && !source->bracket_why && !source->snapshots) {
        return haul_error_set(
            error, EAGAIN, "%s, a drive with direct I/O, was plugged during the move: move again", direct_io);
    }
    /* It may have been plugged since, too. A snapshot takes what it wrote along. */
    if (haul_qmp_unplugs(source->qmp) != source->unplugs && !source->snapshots) {
        return haul_error_set(error, EAGAIN,
                              "a device was unplugged during the move, and may have written memory unseen: "
                              "move again, to a destination without it");
    }
    for (unsigned i = 0; i < writers.count; i++) {
        bool tracked = false;
        for (unsigned k = 0; k < source->writers.count; k++) {
            tracked = tracked || writers.pids[i] == source->writers.pids[k];
        }
        if (!tracked) {
            char name[32];
            haul_process_name(writers.pids[i], name, sizeof name);
            return haul_error_set(
                error, EAGAIN,
                "process %d (%s) began to map the machine's memory during the move: move again",
                writers.pids[i], name);
        }
    }
    return 0;
}

static int give_stream(struct haul_qemu_source *source, struct haul_error *error)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return haul_error_set(error, errno, "cannot make a socket for QEMU's device state: %s",
                              strerror(errno));
    }
    int result = haul_qmp_give_fd(source->qmp, pair[1], STREAM_NAME, error);
    close(pair[1]);
    if (result) {
        close(pair[0]);
        return result;
    }
    return haul_qemu_stream_new(pair[0], STREAM_LIMIT, &source->stream, error);
}

/*
 * What the guardian does if haul dies from here on. Where QEMU still has the stream, `migrate` was not
 * carried out: the machine was not stopped, and a migration that there may be is somebody else's.
 */
#define CLOSE_STREAM "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"" STREAM_NAME "\"}}\n"
#define CANCEL "?{\"execute\":\"migrate_cancel\"}\n"
#define CONTINUE "{\"execute\":\"cont\"}\n"

/* Cancels QEMU's migration, and waits for its end. */
static int cancel(struct haul_qemu_source *source, struct haul_error *error)
{
    char status[32] = "";
    char reason[256];
    uint64_t deadline = haul_clock_ns() + ENDING_NS;
    int result = haul_qmp_execute(source->qmp, "migrate_cancel", NULL, NULL, error);
    while (!result && !is_one_of(status, ended)) {
        if (haul_clock_ns() > deadline) {
            return haul_error_set(error, ETIMEDOUT,
                                  "QEMU does not end its part of the move, it is still \"%s\"", status);
        }
        if (status[0]) {
            poll(NULL, 0, 2);
        }
        result = migrate_status(source->qmp, status, sizeof status, reason, sizeof reason, error);
    }
    return result;
}

/* Undoes a switchover at whatever point it is: QEMU's migration ends, and the machine runs if it ran before.
 */
static int undo(struct haul_qemu_source *source, struct haul_error *error)
{
    int result = source->switching ? cancel(source, error) : 0;
    bool is_over = !result && source->switching;
    if (is_over) { /* a migration that begins from here on is somebody else's */
        haul_qemu_source_rearm(source, source->was_running ? CONTINUE : "", NULL);
    }
    haul_qemu_stream_free(source->stream);
    source->stream = NULL;
    if (is_over && source->was_running) {
        result = haul_qemu_continue(source->qmp, error);
    }
    if (!result) {
        source->switching = false;
    }
    return result;
}

static int begin(struct haul_qemu_source *source, struct haul_error *error)
{
    int result = give_stream(source, error);
    result = result ? result
                    : haul_qemu_source_rearm(source,
                                             source->was_running ? "2" CLOSE_STREAM CANCEL CONTINUE
                                                                 : "1" CLOSE_STREAM CANCEL,
                                             error);
    if (result) {
        return result;
    }
    result =
        haul_qmp_execute(source->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" STREAM_NAME), NULL, error);
    /* Where it was refused, the migration that there may be is somebody else's. */
    source->switching = result != -EREMOTEIO;
    return result ? result : wait_for(source, "pre-switchover", error);
}

static int stop_guest(void *opaque, uint64_t *stopped_ns, struct haul_error *error)
{
    struct haul_qemu_source *source = opaque;
    int result = haul_qemu_source_check_state(source, error);
    result = result ? result : recheck(source, error);
    if (result) {
        return result;
    }
    /* A stop that was taken back before restored them. */
    result = haul_qemu_source_set_up(source, error);
    result = result ? result : begin(source, error);
    if (result) {
        struct haul_error ignored;
        undo(source, &ignored);
        if (!source->switching) {
            if (result == -EREMOTEIO) { /* `migrate` did not take the stream */
                haul_qemu_source_rearm(source, "?" CLOSE_STREAM, NULL);
                haul_qmp_execute(source->qmp, "closefd", json_pack("{s:s}", "fdname", STREAM_NAME), NULL,
                                 &ignored);
            }
            haul_qemu_source_rearm(source, "", NULL);
        }
        return haul_error_prefix(error, "stopping the machine: ");
    }
    if (source->snapshots) {
        haul_qemu_memory_note(source->qmp, &source->memory);
    }
    uint64_t stopped = haul_qmp_stopped_at_ns(source->qmp);
    if (source->was_running && stopped > *stopped_ns) {
        source->lead_ns = stopped - *stopped_ns;
        *stopped_ns = stopped;
    }
    return 0;
}

static int restore_settings(struct haul_qemu_source *source, struct haul_error *error)
{
    char text[512];
    struct haul_error reason = {0};
    int result = haul_qemu_source_restore(source, &reason);
    if (result == -EREMOTEIO) {
        snprintf(
            text, sizeof text,
            "warning: %.160s. QEMU keeps settings of haul's, which a process that haul leaves tries to take "
            "back for 30 s more: until then its own migrations leave shared memory out and wait in "
            "pre-switchover. Cancel one that "
            "began meanwhile, and look at query-migrate-capabilities before the next",
            reason.message);
        haul_say(source->migration, text);
        return 0;
    }
    return result ? haul_error_set(error, -result, "%s", reason.message) : 0;
}

static int resume_guest(void *opaque, struct haul_error *error)
{
    struct haul_qemu_source *source = opaque;
    int pid = (int)source->inspection.pid;
    int result = 0;
    if (haul_machine_process_ended(pid, -1)) {
        return haul_error_set(error, ESRCH, "QEMU, process %d, has ended", pid);
    }
    if (source->switching) {
        result = undo(source, error);
    } else if (source->bracket_open) {
        result = haul_qemu_continue(source->qmp, error);
        source->bracket_open = result != 0;
    }
    if (result) {
        return result; /* the guardian stays armed: it tries again if haul dies */
    }
    struct haul_error failure = {0};
    if (restore_settings(source, &failure) < 0) {
        haul_say(source->migration, failure.message); /* the machine runs all the same */
    }
    return 0;
}

/*
 * QEMU's own times, as seen with QEMU 7.2: it reaches pre-switchover so long after it stopped the vCPUs, and
 * saves, loads and starts a small machine so fast.
 */
#define STOP_NS 1400000u
#define DEVICE_NS 4600000u
#define START_NS 1200000u
#define DISKS_NS 4000000u /* flushing or opening disks past the page cache, at each end */

static void estimate(void *opaque, struct haul_guest_costs *costs)
{
    const struct haul_qemu_source *source = opaque;
    costs->lead_ns = source->lead_ns;
    /* Direct I/O is drained at the stop, and once more before the state is saved. */
    uint64_t disks = source->inspection.direct_io[0] ? DISKS_NS : 0;
    costs->stop_ns = STOP_NS + source->drain_ns + haul_qemu_mirror_stop_ns(&source->mirror);
    costs->device_ns = DEVICE_NS + source->drain_ns + disks + haul_qemu_mirror_cost_ns(&source->mirror);
    costs->start_ns = START_NS + disks + (source->hands_over ? HANDING_NS : 0);
    costs->state_bytes = source->state_bytes ? source->state_bytes : (uint64_t)256 << 10;
    if (source->scan_ns) {
        costs->sync_ns = source->scan_ns; /* without the bracket that the stopped machine needs no more */
    }
}

static int handing_over(void *opaque, struct haul_error *error)
{
    return haul_qemu_source_rearm(opaque, "", error);
}

static void handed_over(void *opaque)
{
    struct haul_qemu_source *source = opaque;
    source->switching = false;
    restore_settings(source, NULL);
    if (source->hands_over) {
        /* The memory is the destination's: a `cont` or a reset here must end this QEMU rather than write it.
         */
        haul_qemu_lock_memory(&source->inspection, false, NULL);
    }
}

/* Passes QEMU's stream on until its end. */
static int pump(struct haul_qemu_source *source, struct haul_state_writer *writer, struct haul_error *error)
{
    char bytes[65536];
    source->state_bytes = 0;
    for (;;) {
        size_t length;
        int result = haul_qemu_stream_read(source->stream, bytes, sizeof bytes, &length,
                                           HAUL_QEMU_QMP_TIMEOUT_MS, error);
        if (result || length == 0) {
            return result;
        }
        source->state_bytes += length;
        result = haul_state_write(writer, bytes, length, error);
        if (result) {
            return result;
        }
    }
}

static int save(void *opaque, struct haul_state_writer *writer, struct haul_error *error)
{
    struct haul_qemu_source *source = opaque;
    struct haul_qemu_preamble preamble = {.running = source->was_running};
    uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE];
    snprintf(preamble.machine_type, sizeof preamble.machine_type, "%s", source->inspection.machine_type);
    snprintf(preamble.version, sizeof preamble.version, "%s", source->inspection.version);
    haul_qemu_preamble_write(&preamble, bytes);
    /* The destination takes the preamble as the word that its drives are complete. */
    int result = source->mirror.started ? haul_qemu_mirror_finish(&source->mirror, source->qmp, error) : 0;
    result = result ? result : haul_state_write(writer, bytes, sizeof bytes, error);
    result = result ? result
                    : haul_qmp_execute(source->qmp, "migrate-continue",
                                       json_pack("{s:s}", "state", "pre-switchover"), NULL, error);
    result = result ? result : pump(source, writer, error);
    return result ? result : wait_for(source, "completed", error);
}

static int setup(void *opaque, struct haul_error *error)
{
    return haul_qemu_disks_warn(opaque, error);
}

static int ready(void *opaque, struct haul_error *error)
{
    return haul_qemu_disks_ready(opaque, error);
}

static int saved(void *opaque, struct haul_error *error)
{
    struct haul_qemu_source *source = opaque;
    return haul_qemu_memory_check(source->qmp, &source->memory, error);
}

const struct haul_guest_ops *haul_qemu_switchover_guest_ops(void)
{
    static const struct haul_guest_ops ops = {
        .stop = stop_guest,
        .resume = resume_guest,
        .estimate = estimate,
        .ready = ready,
        .saved = saved,
        .handing_over = handing_over,
        .handed_over = handed_over,
    };
    return &ops;
}

const struct haul_state_ops *haul_qemu_switchover_state_ops(void)
{
    static const struct haul_state_ops ops = {.name = HAUL_QEMU_STATE_NAME, .setup = setup, .save = save};
    return &ops;
}
