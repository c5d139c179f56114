/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/source.h"

#include "tools/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int haul_qemu_continue(struct haul_qmp *qmp, struct haul_error *error)
{
    return haul_qemu_continue_within(qmp, 30, error);
}

int haul_qemu_continue_within(struct haul_qmp *qmp, int seconds, struct haul_error *error)
{
    for (int i = 0;; i++) {
        int result = haul_qmp_execute(qmp, "cont", NULL, NULL, error);
        if (result != -EREMOTEIO || i == 10 * seconds) {
            return result ? haul_error_prefix(error, "the machine stays stopped: ") : 0;
        }
        poll(NULL, 0, 100);
    }
}

/* -ENOTSUP unless the machine's `status` is one in which it can be moved. */
static int check_movable(const char *status, struct haul_error *error)
{
    static const char *const movable[] = {"running", "paused", "prelaunch", "postmigrate"};
    for (unsigned i = 0; i < sizeof movable / sizeof movable[0]; i++) {
        if (strcmp(status, movable[i]) == 0) {
            return 0;
        }
    }
    return haul_error_set(error, ENOTSUP,
                          "the machine is \"%s\": only a running or a paused machine can be moved", status);
}

int haul_qemu_source_rearm(struct haul_qemu_source *source, const char *first, struct haul_error *error)
{
    char script[sizeof source->restore_script + (size_t)2 * HAUL_QEMU_MIRROR_SCRIPT_SIZE + 256];
    char ending[HAUL_QEMU_MIRROR_SCRIPT_SIZE];
    char removing[HAUL_QEMU_MIRROR_SCRIPT_SIZE];
    haul_qemu_mirror_script(&source->mirror, ending, removing, sizeof ending);
    snprintf(script, sizeof script, "%s%s%s%s", first, ending, source->restore_script, removing);
    return haul_guardian_arm(source->guardian, script, error);
}

int haul_qemu_source_restore(struct haul_qemu_source *source, struct haul_error *error)
{
    int result = haul_qemu_settings_restore(source->qmp, &source->settings, error);
    source->settings_applied = false;
    haul_qemu_settings_script(&source->settings, source->restore_script, sizeof source->restore_script);
    int armed = haul_qemu_source_rearm(source, "", result ? NULL : error);
    return result ? result : armed;
}

/* Leaves QEMU as it was found; what attach made goes. */
static void detach(struct haul_qemu_source *source)
{
    haul_qemu_disks_detach(source);
    if (source->guardian) {
        haul_qemu_source_restore(source, NULL);
    }
    haul_tracker_free(source->tracker);
    source->tracker = NULL;
    haul_write_guard_free(source->guard);
    source->guard = NULL;
    haul_qemu_stream_free(source->stream);
    source->stream = NULL;
    haul_qemu_inspection_cleanup(&source->inspection);
    source->bracket_why = NULL;
    source->brackets = 0;
    source->bracket_total_ns = source->bracket_longest_ns = 0;
    source->scan_ns = source->drain_ns = 0;
}

/* What QEMU says of migrations of its own. */
static int refuse_migrated(const json_t *answer, bool is_postmigrate, struct haul_error *error)
{
    const char *text = json_string_value(json_object_get(answer, "status"));
    /* QEMU itself would refuse only at the switchover, when all the memory has gone. */
    const char *blocker = json_string_value(json_array_get(json_object_get(answer, "blocked-reasons"), 0));
    static const char *const fresh[] = {"none", "failed", "cancelled", "completed"};
    bool known = !text;
    for (unsigned i = 0; text && i < sizeof fresh / sizeof fresh[0]; i++) {
        known = known || strcmp(text, fresh[i]) == 0;
    }
    if (blocker) {
        return haul_error_set(error, ENOTSUP, "QEMU cannot move this machine: %s", blocker);
    }
    if (is_postmigrate && text && strcmp(text, "completed") == 0) {
        return haul_error_set(
            error, EALREADY,
            "the machine was already moved away from this QEMU; if it does not run elsewhere, "
            "`cont` it first");
    }
    return known ? 0
                 : haul_error_set(error, EBUSY,
                                  "somebody else migrates this machine: QEMU's migration is \"%s\"", text);
}

int haul_qemu_source_check_state(struct haul_qemu_source *source, struct haul_error *error)
{
    char status[32];
    json_t *answer = NULL;
    int result = haul_qemu_status(source->qmp, status, sizeof status, error);
    result = result ? result : haul_qmp_execute(source->qmp, "query-migrate", NULL, &answer, error);
    result = result ? result : refuse_migrated(answer, strcmp(status, "postmigrate") == 0, error);
    json_decref(answer);
    result = result ? result : check_movable(status, error);
    source->was_running = result == 0 && strcmp(status, "running") == 0;
    return result;
}

static int register_with(struct haul_qemu_source *source, struct haul_migration *migration,
                         struct haul_error *error)
{
    for (unsigned i = 0; i < source->inspection.count; i++) {
        const struct haul_qemu_block *block = &source->inspection.blocks[i];
        struct haul_ram_block ram = {
            .name = block->name,
            .host = block->host,
            .length = block->length,
            .page_size = block->page_size,
            .fd = block->fd,
            .fd_offset = block->fd_offset,
        };
        int result = haul_add_ram(migration, &ram, error);
        if (result) {
            return result;
        }
    }
    int result = 0;
    if (source->snapshots) {
        result = haul_set_write_guard(migration, haul_write_guard_get_ops(source->guard),
                                      haul_write_guard_get_opaque(source->guard), error);
    } else if (!source->hands_over) {
        haul_qemu_bracket_tracker_init(source);
        result = haul_set_tracker(migration, &source->tracker_ops, source, error);
    }
    result = result ? result : haul_add_state(migration, haul_qemu_switchover_state_ops(), source, error);
    return result ? result : haul_set_guest(migration, haul_qemu_switchover_guest_ops(), source, error);
}

/* QEMU would empty such a backend's file when it exits, and the destination runs on it. */
static int refuse_discarding(struct haul_qemu_source *source, struct haul_error *error)
{
    for (unsigned i = 0; i < source->inspection.count; i++) {
        const char *id = source->inspection.blocks[i].name;
        char path[320];
        json_t *reply = NULL;
        snprintf(path, sizeof path, "/objects/%s", id);
        /* Only file backends have this property. */
        int result =
            haul_qmp_execute(source->qmp, "qom-get",
                             json_pack("{s:s, s:s}", "path", path, "property", "discard-data"), &reply, NULL);
        bool discards = result == 0 && json_is_true(reply);
        json_decref(reply);
        if (result && result != -EREMOTEIO) {
            return haul_error_set(error, -result, "QEMU's monitor does not answer: %s", strerror(-result));
        }
        if (discards) {
            return haul_error_set(
                error, ENOTSUP,
                "memory backend \"%s\" has discard-data=on, with which this QEMU would empty "
                "the memory that it hands over when it exits: qom-set it to false first",
                id);
        }
    }
    return 0;
}

/* What only a copy needs: who writes the memory, and a tracker for each. */
static int watch_writers(struct haul_qemu_source *source, struct haul_error *error)
{
    uint64_t begun = haul_clock_ns();
    int result = haul_qemu_find_writers(&source->inspection, &source->writers, error);
    source->lead_ns = haul_clock_ns() - begun; /* the stop hook does this once more */
    if (!result && source->snapshots) {
        return haul_qemu_guard_new(&source->inspection, &source->writers, &source->guard, error);
    }
    result =
        result ? result : haul_qemu_watch_new(&source->inspection, &source->writers, &source->tracker, error);
    if (!result && source->inspection.direct_io[0]) {
        source->bracket_why = source->inspection.direct_io;
    } else if (!result && source->writers.count > 1) {
        source->bracket_why = "another process that maps the memory";
    }
    return result;
}

int haul_qemu_source_set_up(struct haul_qemu_source *source, struct haul_error *error)
{
    if (source->settings_applied) {
        return 0;
    }
    int result = haul_qemu_settings_apply(source->qmp, true, &source->settings, error);
    if (!result) {
        source->settings_applied = true;
        haul_qemu_settings_script(&source->settings, source->restore_script, sizeof source->restore_script);
        result = haul_qemu_source_rearm(source, "", error);
    }
    return result;
}

static int attach(struct haul_machine *machine, struct haul_migration *migration, struct haul_error *error)
{
    struct haul_qemu_source *source = (struct haul_qemu_source *)machine;
    detach(source);
    source->migration = migration;
    source->hands_over = haul_get_mode(migration) == HAUL_MODE_CPR_TRANSFER;
    source->snapshots = haul_get_mode(migration) == HAUL_MODE_BACKGROUND_SNAPSHOT;
    int result = haul_qemu_source_check_state(source, error);
    source->unplugs = haul_qmp_unplugs(source->qmp);
    result = result ? result : haul_qemu_refuse_hints(source->qmp, error);
    if (!result && source->snapshots) {
        result = haul_qemu_refuse_reporting(source->qmp, error);
    }
    /* Who gets a descriptor must be able to write by it. */
    result = result ? result : haul_qemu_inspect(source->qmp, source->hands_over, &source->inspection, error);
    if (!result) {
        result = source->hands_over ? refuse_discarding(source, error) : watch_writers(source, error);
    }
    result = result ? result : haul_qemu_disks_attach(source, error);
    result = result ? result : register_with(source, migration, error);
    result = result ? result : haul_qemu_source_set_up(source, error);
    if (result) {
        goto fail;
    }
    return 0;
fail:
    detach(source);
    return result;
}

static void summary(struct haul_machine *machine, char *text, size_t size)
{
    struct haul_qemu_source *source = (struct haul_qemu_source *)machine;
    haul_qemu_disks_summary(source, text, size);
    size_t used = strlen(text);
    if (source->brackets) {
        snprintf(text + used, size - used,
                 "%sguest stopped for %u scans because of %.128s: %.1f ms each, %.1f ms the longest",
                 used ? "; " : "", source->brackets, source->bracket_why ? source->bracket_why : "direct I/O",
                 (double)source->bracket_total_ns / source->brackets / 1e6,
                 (double)source->bracket_longest_ns / 1e6);
    }
}

static const char *locator(struct haul_machine *machine)
{
    return ((struct haul_qemu_source *)machine)->path;
}

static void free_source(struct haul_machine *machine)
{
    struct haul_qemu_source *source = (struct haul_qemu_source *)machine;
    if (!source) {
        return;
    }
    detach(source);
    haul_qmp_close(source->qmp);
    if (haul_qemu_settings_changed(&source->settings)) {
        haul_guardian_leave(source->guardian);
    } else {
        haul_guardian_free(source->guardian);
    }
    haul_qemu_settings_cleanup(&source->settings);
    free(source);
}

static int resume(struct haul_machine *machine, struct haul_error *error)
{
    return haul_qemu_continue(((struct haul_qemu_source *)machine)->qmp, error);
}

static int abandon(struct haul_machine *machine, struct haul_error *error)
{
    return haul_qemu_quit(((struct haul_qemu_source *)machine)->qmp, error);
}

static bool ended(struct haul_machine *machine)
{
    return haul_machine_process_ended((int)((struct haul_qemu_source *)machine)->inspection.pid, -1);
}

static bool paused(struct haul_machine *machine)
{
    return !((struct haul_qemu_source *)machine)->was_running;
}

int haul_qemu_source_new(const char *qmp, bool disks, struct haul_machine **machine, struct haul_error *error)
{
    static const struct haul_machine_ops ops = {
        .kind = "qemu",
        .attach = attach,
        .summary = summary,
        .locator = locator,
        .resume = resume,
        .abandon = abandon,
        .paused = paused,
        .ended = ended,
        .free = free_source,
    };
    struct haul_qemu_source *source = haul_machine_alloc(sizeof *source, &ops, error);
    if (!source) {
        return -ENOMEM;
    }
    source->disks = disks;
    haul_qemu_mirror_init(&source->mirror);
    int result = haul_qemu_open_monitor(qmp, &source->qmp, source->path, sizeof source->path, error);
    /* Before any memory is mapped or thread started, so that the guardian holds nothing of it. */
    result = result ? result : haul_guardian_new(source->path, &source->guardian, error);
    return haul_machine_finish(&source->machine, result, machine);
}
