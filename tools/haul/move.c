/* SPDX-License-Identifier: Apache-2.0 */
/* send, receive, restore and snapshot: one session on a terminal, from the options to the report. */
#include "tools/haul/move.h"
#include "tools/haul/commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void on_message(void *opaque, bool urgent, const char *text)
{
    struct cli_move *move = opaque;
    cli_progress_message(move->progress, urgent, "%s", text);
}

static const struct haul_session_events events = {.message = on_message};

static int begin(struct cli_move *move, bool source, struct haul_error *error)
{
    const struct cli_options *options = move->options;
    struct haul_machine_spec spec = {
        .qmp = options->qmp,
        .disks = options->disks,
        .memory = options->memory,
        .guest = options->guest,
        .pid = (int)options->pid,
        .memory_size = options->memory_size,
        .guest_options = options->guest_options,
    };
    int status = cli_watch_new(move->progress, &move->watch, error);
    return status < 0 ? status : haul_session_new(source, &spec, &events, move, &move->session, error);
}

static int cancel_start(void *opaque)
{
    return haul_session_cancel(opaque);
}

static void wait_for_end(struct cli_move *move, bool source)
{
    struct haul_migration *migration = haul_session_migration(move->session);
    if (migration) {
        cli_watch_set_migration(move->watch, migration,
                                source                                  ? "the guest goes on here"
                                : move->options->command == CLI_RESTORE ? "no guest runs here"
                                                                        : "the guest stays with the source");
        haul_session_finish(move->session);
        cli_watch_set_migration(move->watch, NULL, NULL);
        cli_progress_clear(move->progress);
    }
}

/* Says where the guest is, once ownership is known. */
static void settle(struct cli_move *move)
{
    const struct haul_outcome *outcome = haul_session_outcome(move->session);
    if (outcome->code < 0) {
        cli_complain(0, "%s", outcome->error.message);
    }
    if (!haul_session_migration(move->session)) {
        return;
    }
    if (outcome->stats.ownership == HAUL_OWNER_UNCERTAIN || haul_outcome_undecided(outcome)) {
        cli_move_hold(move);
    }
    if (!haul_outcome_stands_still(outcome) &&
        outcome->stats.ownership == (outcome->source ? HAUL_OWNER_SOURCE : HAUL_OWNER_DESTINATION)) {
        cli_move_self_check(move);
    }
    haul_session_close(move->session);
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

static void report(const struct cli_options *options, const struct haul_outcome *outcome)
{
    if (!options->json) {
        cli_report_print(outcome, stdout);
    } else if (cli_json_print(outcome, stdout) < 0) {
        cli_complain(0, "the JSON object could not be written");
    }
}

int cli_move(const struct cli_options *options)
{
    bool source = options->command == CLI_SEND || options->command == CLI_SNAPSHOT;
    struct cli_move move = {.options = options};
    struct haul_error error = {0};
    int status = CLI_EXIT_FAILED;
    move.progress = cli_progress_new(stderr, choose_style(options), source);
    if (!move.progress) {
        return cli_complain(CLI_EXIT_FAILED, "no memory");
    }
    if (begin(&move, source, &error) < 0) {
        cli_complain(0, "%s", error.message);
        if (options->json) {
            cli_json_print_failure(-error.code, error.message, stdout);
        }
    } else {
        cli_watch_set_start(move.watch, cancel_start, move.session);
        haul_session_start(move.session, options->uri, &options->haul, &error);
        cli_watch_set_start(move.watch, NULL, NULL);
        wait_for_end(&move, source);
        settle(&move);
        report(options, haul_session_outcome(move.session));
        status = cli_outcome_exit(haul_session_outcome(move.session));
    }
    cli_watch_free(move.watch);
    haul_session_free(move.session);
    cli_progress_free(move.progress);
    return status;
}
