/* SPDX-License-Identifier: Apache-2.0 */
/* send and receive: one migration from the machine to the report. */
#include "tools/haul/move.h"
#include "tools/haul/commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CHANNELS 128
#define KEEP_RECORDS_S (INT64_C(7) * 24 * 3600)

/* ---- the record follows the steps of ownership (rule R1) ---- */

int cli_move_record(struct cli_move *move, const char *step, struct haul_error *error)
{
    struct cli_record record = {.source = move->outcome.source, .haul_pid = getpid()};
    const struct haul_machine_ops *ops = move->machine->ops;
    haul_id(move->migration, record.id);
    snprintf(record.step, sizeof record.step, "%s", step);
    snprintf(record.peer, sizeof record.peer, "%s", move->options->uri);
    snprintf(record.machine, sizeof record.machine, "%s", ops->kind);
    snprintf(record.locator, sizeof record.locator, "%s", ops->locator ? ops->locator(move->machine) : "");
    record.haul_start = cli_process_start(record.haul_pid);
    return cli_record_write(move->store, &record, error);
}

static void forget_record(struct cli_move *move)
{
    struct haul_error error;
    char id[33];
    haul_id(move->migration, id);
    if (cli_record_remove(move->store, id, move->outcome.source, &error) < 0) {
        cli_progress_message(move->progress, true, "haul: %s", error.message);
    }
}

static int on_step(void *opaque, enum haul_step step, struct haul_error *error)
{
    struct cli_move *move = opaque;
    int status = 0;
    switch (step) {
    case HAUL_STEP_HANDOVER_SENDING:
        status = cli_move_record(move, CLI_STEP_SENDING, error);
        break;
    case HAUL_STEP_HANDOVER_RECEIVED:
        status = cli_move_record(move, CLI_STEP_RECEIVED, error);
        break;
    case HAUL_STEP_RUNNING:
        if (move->outcome.source) {
            forget_record(move);
        } else {
            /* It runs: too late to refuse. The older record stays, which only asks the operator to look. */
            struct haul_error failure;
            if (cli_move_record(move, CLI_STEP_RUNNING, &failure) < 0) {
                cli_progress_message(move->progress, true, "haul: %s", failure.message);
            }
        }
        break;
    case HAUL_STEP_RESUMED:
        forget_record(move);
        break;
    }
    return status < 0 ? haul_error_prefix(error, "no handover: ") : 0;
}

static void on_message(void *opaque, const char *text)
{
    struct cli_move *move = opaque;
    cli_progress_message(move->progress, false, "%s", text);
}

static const struct haul_events events = {.step = on_step, .message = on_message};

/* ---- setting up ---- */

static int make_machine(struct cli_move *move, struct haul_error *error)
{
    const struct cli_options *options = move->options;
    bool source = move->outcome.source;
    if (options->qmp) {
        return source ? haul_qemu_source_new(options->qmp, &move->machine, error)
                      : haul_qemu_destination_new(options->qmp, &move->machine, error);
    }
    if (options->memory) {
        return source ? haul_memory_source_new(options->memory, (int)options->pid, &move->machine, error)
                      : haul_memory_destination_new(options->memory, options->memory_size, &move->machine,
                                                    error);
    }
    return source ? haul_guest_source_new(&options->guest_options, &move->machine, error)
                  : haul_guest_destination_new(&options->guest_options, &move->machine, error);
}

static int begin(struct cli_move *move, struct haul_error *error)
{
    const struct cli_options *options = move->options;
    bool source = move->outcome.source;
    int status = cli_store_open(&move->store, error);
    if (status < 0) {
        return status;
    }
    cli_record_prune(move->store, KEEP_RECORDS_S);
    status = cli_watch_new(move->progress, &move->watch, error);
    if (status < 0 || (status = make_machine(move, error)) < 0) {
        return status;
    }
    status = source ? haul_source_new(&options->haul, &move->migration, error)
                    : haul_destination_new(&options->haul, &move->migration, error);
    if (status < 0 || (status = move->machine->ops->attach(move->machine, move->migration, error)) < 0 ||
        (status = haul_set_events(move->migration, &events, move, error)) < 0 ||
        (status = haul_start(move->migration, options->uri, error)) < 0) {
        return status;
    }
    if (!source) {
        snprintf(move->uri, sizeof move->uri, "%s", haul_local_uri(move->migration));
        move->outcome.uri = move->uri;
        cli_progress_message(move->progress, true, "listening on %s", move->uri);
    }
    move->started = true;
    return 0;
}

/* ---- the move ---- */

static void collect(struct cli_move *move)
{
    struct cli_outcome *outcome = &move->outcome;
    outcome->stats.size = sizeof outcome->stats;
    haul_get_stats(move->migration, &outcome->stats);
    outcome->status = haul_state_name(outcome->stats.state);
    haul_id(move->migration, outcome->id);
    if (strspn(outcome->id, "0") == 32) {
        outcome->id[0] = '\0'; /* no source came */
    }
    unsigned count = 0;
    for (; count < MAX_CHANNELS; count++) {
        move->channels[count].size = sizeof move->channels[count];
        if (haul_get_channel_stats(move->migration, count, &move->channels[count]) < 0) {
            break;
        }
    }
    outcome->channels = move->channels;
    outcome->channel_count = count;
}

static void wait_for_end(struct cli_move *move)
{
    struct cli_outcome *outcome = &move->outcome;
    cli_watch_set_migration(move->watch, move->migration,
                            outcome->source ? "the guest goes on here" : "the guest stays with the source");
    outcome->code = haul_wait(move->migration, &outcome->error);
    cli_watch_set_migration(move->watch, NULL, NULL);
    cli_progress_clear(move->progress);
    collect(move);
}

/* Says where the guest is, once ownership is known, and brings the record up to that. */
static void settle(struct cli_move *move)
{
    struct cli_outcome *outcome = &move->outcome;
    if (outcome->code < 0) {
        cli_complain(0, "%s", outcome->error.message);
    }
    if (!move->started) {
        return;
    }
    if (outcome->stats.ownership == HAUL_OWNER_UNCERTAIN) {
        cli_move_hold(move);
    } else if (outcome->stats.ownership == HAUL_OWNER_SOURCE && outcome->id[0]) {
        forget_record(move);
    }
    bool here = outcome->stats.ownership == (outcome->source ? HAUL_OWNER_SOURCE : HAUL_OWNER_DESTINATION);
    if (here) {
        cli_move_self_check(move);
    }
    /* The reference guest ends with this process, so a record that it runs here would be wrong from now on.
     */
    if (!outcome->source && outcome->stats.ownership == HAUL_OWNER_DESTINATION && move->options->guest) {
        forget_record(move);
    }
    const struct haul_machine_ops *ops = move->machine->ops;
    if (ops->summary) {
        ops->summary(move->machine, outcome->summary, sizeof outcome->summary);
    }
}

static void end(struct cli_move *move)
{
    cli_watch_free(move->watch);
    haul_free(move->migration);
    if (move->machine) {
        move->machine->ops->free(move->machine);
    }
    cli_progress_free(move->progress);
    cli_store_close(move->store);
}

static enum cli_progress_style choose_style(const struct cli_options *options)
{
    const char *terminal = getenv("TERM");
    if (options->quiet) {
        return CLI_PROGRESS_NONE;
    }
    return isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0 ? CLI_PROGRESS_REDRAW
                                                                              : CLI_PROGRESS_LINES;
}

int cli_move(const struct cli_options *options)
{
    bool source = options->command == CLI_SEND;
    struct haul_channel_stats channels[MAX_CHANNELS] = {0};
    struct cli_move move = {
        .options = options,
        .channels = channels,
        .outcome = {.source = source,
                    .status = "failed",
                    .uri = options->uri,
                    .machine = options->qmp      ? "qemu"
                               : options->memory ? "memory"
                                                 : "guest",
                    .compress = source ? options->haul.compress : NULL,
                    .verify = options->haul.verify},
    };
    move.progress = cli_progress_new(stderr, choose_style(options), source);
    if (!move.progress) {
        return cli_complain(CLI_EXIT_FAILED, "no memory");
    }
    move.outcome.code = begin(&move, &move.outcome.error);
    if (move.started) {
        wait_for_end(&move);
    }
    settle(&move);
    if (options->json) {
        if (cli_json_print(&move.outcome, stdout) < 0) {
            cli_complain(0, "the JSON object could not be written");
        }
    } else {
        cli_report_print(&move.outcome, stdout);
    }
    end(&move);
    return cli_outcome_exit(&move.outcome);
}
