/* SPDX-License-Identifier: Apache-2.0 */
/* What is left to do with the machine once the migration ended: the self-check, and waiting while it is
 * uncertain whose it is. */
#include "tools/haul/move.h"

#include "engine/snapshot.h"
#include "tools/haul/commands.h"

#include <errno.h>

void cli_move_self_check(struct cli_move *move)
{
    uint32_t seconds = move->options->run_for_s;
    if (!move->options->guest || !seconds) {
        return;
    }
    cli_progress_message(move->progress, false, "the guest runs here; it checks itself for %u s", seconds);
    cli_watch_sleep(move->watch, -1, 0); /* the signal that cancelled the move is no answer to this */
    /* A second at a time, so that a signal need not wait for the whole of it. */
    for (uint32_t i = 0; i < seconds && cli_watch_sleep(move->watch, -1, 0) != -EINTR; i++) {
        struct haul_error error = {0};
        if (haul_session_self_check(move->session, &error) < 0) {
            cli_complain(0, "the guest's self-check failed: %s", error.message);
            return;
        }
    }
}

static void wait_for_orders(struct cli_move *move)
{
    struct haul_error error = {0};
    cli_watch_sleep(move->watch, -1, 0); /* signals from before the question do not answer it */
    for (bool warned = false; haul_session_holds_guest(move->session);) {
        if (haul_session_await_order(move->session, cli_watch_interrupt_fd(move->watch), &error) == 0) {
            return;
        }
        cli_watch_sleep(move->watch, -1, 0);
        if (warned) {
            haul_session_give_up(move->session, &error);
        } else {
            warned = true;
            cli_progress_message(
                move->progress, true,
                "this process holds the only copy on this side; once more gives it up, as haul "
                "abandon does");
        }
    }
}

void cli_move_hold(struct cli_move *move)
{
    const struct haul_outcome *outcome = haul_session_outcome(move->session);
    const char *other = haul_file_path(move->options->uri) ? "file" : "other side";
    if (haul_outcome_stands_still(outcome)) {
        cli_complain(0,
                     "the other side does not run it either: 'haul resume %s' tries again to run this copy",
                     outcome->id);
    } else if (outcome->machine_ended) {
        cli_complain(
            0,
            "this side's copy is not paused, its process has ended: look at the %s; 'haul abandon %s' "
            "ends the record of the move",
            other, outcome->id);
    } else if (haul_file_path(move->options->uri)) {
        cli_complain(
            0,
            "this side's copy stays paused: look at the file and at the error, then see 'haul help resume'");
    } else {
        cli_complain(
            0,
            "the connection was lost in the middle of the handover of move %s, so this side's copy stays "
            "paused: look at the other side, then see 'haul help resume'",
            outcome->id);
    }
    wait_for_orders(move);
}
