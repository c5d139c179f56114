/* SPDX-License-Identifier: Apache-2.0 */
/* resume and abandon: the operator's decision after an uncertain move (rule R1). */
#include "engine/snapshot.h"
#include "tools/haul/commands.h"
#include "tools/session/orders.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_SIZE 400

struct recovery {
    const struct cli_options *options;
    struct haul_store *store;
    struct haul_record *records;
    size_t count;
};

static bool is_running(const struct haul_record *record)
{
    return !strcmp(record->step, HAUL_RECORDED_RUNNING);
}

/* `name` is an ID, or its beginning, with or without ".source" or ".destination". */
static bool is_named(const struct haul_record *record, const char *name)
{
    const char *dot = strchr(name, '.');
    size_t length = dot ? (size_t)(dot - name) : strlen(name);
    return !strncmp(record->id, name, length) &&
           (!dot || !strcmp(dot + 1, record->source ? "source" : "destination"));
}

static const char *qmp_path(const char *qmp)
{
    return strncmp(qmp, "unix:", 5) ? qmp : qmp + 5;
}

static bool is_wanted(const struct recovery *recovery, const struct haul_record *record)
{
    const struct cli_options *options = recovery->options;
    if (options->qmp) {
        return !strcmp(record->machine, "qemu") && !strcmp(qmp_path(record->locator), qmp_path(options->qmp));
    }
    return !options->id || is_named(record, options->id);
}

static void append(char *list, const struct haul_record *record)
{
    size_t used = strlen(list);
    snprintf(list + used, LIST_SIZE - used, "%s%s.%s (%s, %s, %s)", used ? "; " : "", record->id,
             record->source ? "source" : "destination", record->machine, record->step, record->time);
}

/* One uncertain record must remain; *chosen stays NULL when there is none but --qemu named a machine. */
static int choose(const struct recovery *recovery, const struct haul_record **chosen,
                  struct haul_error *error)
{
    const struct cli_options *options = recovery->options;
    char uncertain[LIST_SIZE] = "", running[LIST_SIZE] = "";
    size_t matches = 0;
    *chosen = NULL;
    for (size_t i = 0; i < recovery->count; i++) {
        const struct haul_record *record = &recovery->records[i];
        if (is_wanted(recovery, record)) {
            append(is_running(record) ? running : uncertain, record);
            if (!is_running(record)) {
                *chosen = record;
                matches++;
            }
        }
    }
    if (matches == 1) {
        return 0;
    }
    *chosen = NULL;
    if (matches > 1) {
        return haul_error_set(error, EINVAL, "%s; uncertain moves: %s",
                              options->id ? "that ID names more than one" : "no ID given", uncertain);
    }
    if (running[0]) {
        return haul_error_set(error, EALREADY, "nothing is uncertain here; moves whose guest runs here: %s",
                              running);
    }
    if (options->qmp) {
        return 0;
    }
    return haul_error_set(error, ENOENT, "no uncertain move%s%s is recorded in %s", options->id ? " " : "",
                          options->id ? options->id : "", haul_store_path(recovery->store));
}

/*
 * A guest that was saved is the file's: whoever restores it runs the guest a second time. Only a file that is
 * certainly not the one that was saved (gone, another one, damaged) lets the guest run here again.
 */
static int check_file(const struct haul_record *record, struct haul_error *error)
{
    const char *path = haul_file_path(record->peer);
    if (!path || !record->source) {
        return 0;
    }
    struct haul_snapshot *snapshot = NULL;
    struct haul_error why = {0};
    int rc = haul_snapshot_open(path, &snapshot, &why);
    if (rc == -ENOENT || rc == -ENOTDIR || rc == -EPROTO || rc == -EPROTONOSUPPORT || rc == -EINVAL) {
        return 0;
    }
    if (rc < 0) {
        return haul_error_set(error, -rc, "whether move %s saved its guest cannot be seen: %.300s",
                              record->id, why.message);
    }
    struct haul_snapshot_info info;
    haul_snapshot_get_info(snapshot, &info);
    haul_snapshot_close(snapshot);
    if (strcmp(info.id, record->id) != 0) {
        return 0;
    }
    return haul_error_set(
        error, EPERM,
        "the guest of move %s is in %.300s, complete: abandon this copy and restore the file, "
        "or remove the file and resume again",
        record->id, path);
}

/* Refuses what the records themselves show to be wrong. */
static int check_safe(const struct recovery *recovery, const struct haul_record *record,
                      struct haul_error *error)
{
    if (strcmp(record->step, HAUL_RECORDED_UNCERTAIN) != 0 &&
        strcmp(record->step, HAUL_RECORDED_STOPPED) != 0 &&
        haul_record_process_alive(record->haul_pid, record->haul_start)) {
        return haul_error_set(error, EBUSY,
                              "move %s is still being handed over by process %d: wait for it to end",
                              record->id, record->haul_pid);
    }
    for (size_t i = 0; i < recovery->count && recovery->options->command == CLI_RESUME; i++) {
        const struct haul_record *other = &recovery->records[i];
        if (!strcmp(other->id, record->id) && other->source != record->source && is_running(other)) {
            return haul_error_set(
                error, EPERM,
                "the guest of move %s runs already, at the %s on this same host: abandon this copy, "
                "do not resume it",
                record->id, other->source ? "source" : "destination");
        }
    }
    return recovery->options->command == CLI_RESUME ? check_file(record, error) : 0;
}

static int act_on_machine(struct haul_machine *machine, enum cli_command command, struct haul_error *error)
{
    int status =
        command == CLI_RESUME ? machine->ops->resume(machine, error) : machine->ops->abandon(machine, error);
    machine->ops->free(machine);
    return status;
}

/* Without a record: --qemu alone. */
static int act_on_qemu(const char *qmp, enum cli_command command, char *text, size_t size,
                       struct haul_error *error)
{
    struct haul_machine *machine = NULL;
    int status = haul_qemu_attach_existing(qmp, &machine, error);
    if (status < 0 || (status = act_on_machine(machine, command, error)) < 0) {
        return status;
    }
    snprintf(text, size, "the QEMU machine at %s %s", qmp,
             command == CLI_RESUME ? "runs" : "was given up and will not run again");
    return 0;
}

/* At a destination the memory lies complete in its file and nothing of ours runs: there is nobody to tell. */
static int act_on_memory(const struct haul_record *record, enum cli_command command, char *text, size_t size,
                         struct haul_error *error)
{
    bool resume = command == CLI_RESUME;
    if (!record->source) {
        snprintf(text, size, "the memory in %.400s %s", record->locator,
                 resume ? "is complete and yours to use"
                        : "was given up on this side; remove the file when you like");
        return 0;
    }
    struct haul_machine *machine = NULL;
    int status = haul_memory_attach_existing(record->locator, &machine, error);
    if (status == -ESRCH && !resume) {
        snprintf(text, size, "the process that wrote the memory is gone already");
        return 0;
    }
    if (status < 0 || (status = act_on_machine(machine, command, error)) < 0) {
        return status;
    }
    snprintf(
        text, size, "%s",
        resume
            ? "the memory is this side's again; a process that haul stopped goes on"
            : "the memory was given up on this side; a process that haul stopped stays so, for you to end");
    return 0;
}

static int act_on_guest(const struct recovery *recovery, const struct haul_record *record, char *text,
                        size_t size, struct haul_error *error)
{
    bool resume = recovery->options->command == CLI_RESUME;
    int status = haul_orders_send(recovery->store, record->id, record->source,
                                  resume ? HAUL_ORDER_RESUME : HAUL_ORDER_ABANDON, text, size, error);
    if (status != -ESRCH || haul_record_process_alive(record->haul_pid, record->haul_start)) {
        return status;
    }
    if (resume) {
        return haul_error_set(
            error, ESRCH,
            "the guest of move %s ended with the process %d that held it: only haul abandon is left",
            record->id, record->haul_pid);
    }
    snprintf(text, size, "the guest had ended with the process %d that held it", record->haul_pid);
    return 0;
}

static int act(const struct recovery *recovery, const struct haul_record *record, char *text, size_t size,
               struct haul_error *error)
{
    enum cli_command command = recovery->options->command;
    if (!strcmp(record->machine, "qemu")) {
        return act_on_qemu(record->locator, command, text, size, error);
    }
    if (!strcmp(record->machine, "memory")) {
        return act_on_memory(record, command, text, size, error);
    }
    return act_on_guest(recovery, record, text, size, error);
}

static void print_list(const struct recovery *recovery)
{
    for (size_t i = 0; i < recovery->count; i++) {
        const struct haul_record *record = &recovery->records[i];
        printf("%s.%-11s  %-6s  %-17s  %s  %s\n", record->id, record->source ? "source" : "destination",
               record->machine, record->step, record->time, record->peer);
    }
    if (!recovery->count) {
        printf("no move is recorded in %s\n", haul_store_path(recovery->store));
    }
}

static int recover(struct recovery *recovery, char *text, size_t size, struct haul_error *error)
{
    const struct cli_options *options = recovery->options;
    const struct haul_record *record = NULL;
    int status = haul_store_open(&recovery->store, error);
    if (status < 0 || (status = haul_store_lock(recovery->store, error)) < 0 ||
        (status = haul_record_list(recovery->store, &recovery->records, &recovery->count, error)) < 0) {
        return status;
    }
    if (options->list) {
        print_list(recovery);
        return 0;
    }
    status = choose(recovery, &record, error);
    if (status < 0) {
        return status;
    }
    if (!record) {
        return act_on_qemu(options->qmp, options->command, text, size, error);
    }
    status = check_safe(recovery, record, error);
    if (status < 0 || (status = act(recovery, record, text, size, error)) < 0) {
        return status;
    }
    return haul_record_remove(recovery->store, record->id, record->source, error);
}

int cli_recover(const struct cli_options *options)
{
    struct recovery recovery = {.options = options};
    struct haul_error error = {0};
    char text[600] = "";
    int status = recover(&recovery, text, sizeof text, &error);
    free(recovery.records);
    haul_store_close(recovery.store);
    if (status < 0) {
        return cli_complain(CLI_EXIT_FAILED, "%s", error.message);
    }
    if (!options->list) {
        printf("%s\n", text);
    }
    return 0;
}
