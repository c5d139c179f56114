/* SPDX-License-Identifier: Apache-2.0 */
/* What is left to do with the machine once the migration ended: the self-check, and waiting while it is
 * uncertain whose it is. */
#include "tools/haul/move.h"

#include "tools/haul/commands.h"
#include "tools/haul/orders.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void cli_move_self_check(struct cli_move *move)
{
    struct cli_outcome *outcome = &move->outcome;
    const struct haul_machine_ops *ops = move->machine->ops;
    uint32_t seconds = move->options->run_for_s;
    if (!ops->self_check || !seconds) {
        return;
    }
    cli_progress_message(move->progress, false, "the guest runs here; it checks itself for %u s", seconds);
    cli_watch_sleep(move->watch, -1, 0); /* the signal that cancelled the move is no answer to this */
    /* A second at a time, so that a signal need not wait for the whole of it. */
    for (uint32_t i = 0; i < seconds && cli_watch_sleep(move->watch, -1, 0) != -EINTR; i++) {
        struct haul_error error = {0};
        outcome->self_check_code =
            ops->self_check(move->machine, 1, outcome->self_check, sizeof outcome->self_check, &error);
        if (outcome->self_check_code < 0) {
            snprintf(outcome->self_check, sizeof outcome->self_check, "self-check failed: %.200s",
                     error.message);
            cli_complain(0, "the guest's self-check failed: %s", error.message);
            return;
        }
    }
}

/* Carries out one order; true when the waiting is over. */
static bool obey(struct cli_move *move, enum cli_order order, int client)
{
    struct cli_outcome *outcome = &move->outcome;
    const struct haul_machine_ops *ops = move->machine->ops;
    bool resume = order == CLI_ORDER_RESUME;
    int (*act)(struct haul_machine *, struct haul_error *) = resume ? ops->resume : ops->abandon;
    struct haul_error error = {0};
    int status = act ? act(move->machine, &error) : 0;
    char text[128];
    if (status < 0) {
        if (client >= 0) {
            cli_orders_answer(client, &error, NULL);
        }
        return false;
    }
    cli_record_remove(move->store, outcome->id, outcome->source, NULL);
    if (resume) {
        outcome->stats.ownership = outcome->source ? HAUL_OWNER_SOURCE : HAUL_OWNER_DESTINATION;
        snprintf(text, sizeof text, "the guest runs again in process %d", (int)getpid());
    } else {
        outcome->gave_up = true;
        snprintf(text, sizeof text, "the guest of process %d was given up; the process ends", (int)getpid());
    }
    cli_progress_message(move->progress, true, "%s", text);
    if (client >= 0) {
        cli_orders_answer(client, NULL, text);
    }
    return true;
}

static void wait_for_orders(struct cli_move *move)
{
    struct cli_orders *orders = NULL;
    struct haul_error error = {0};
    const char *id = move->outcome.id;
    if (cli_orders_open(move->store, id, move->outcome.source, &orders, &error) < 0) {
        cli_complain(0, "%s", error.message);
        return;
    }
    cli_progress_message(
        move->progress, true,
        "the paused guest stays in this process (%d) and waits for 'haul resume %s' or 'haul abandon "
        "%s'",
        (int)getpid(), id, id);
    cli_watch_sleep(move->watch, -1, 0); /* signals from before the question do not answer it */
    for (bool warned = false, over = false; !over;) {
        enum cli_order order;
        int client = -1;
        int status = cli_orders_wait(orders, move->watch, &order, &client, &error);
        if (status == 0) {
            over = obey(move, order, client);
        } else if (!warned) {
            warned = true;
            cli_progress_message(
                move->progress, true,
                "this process holds the only copy on this side; once more gives it up, as haul "
                "abandon does");
        } else {
            over = obey(move, CLI_ORDER_ABANDON, -1);
        }
    }
    cli_orders_close(orders);
}

void cli_move_hold(struct cli_move *move)
{
    struct haul_error error = {0};
    if (cli_move_record(move, CLI_STEP_UNCERTAIN, &error) < 0) {
        cli_complain(0, "%s", error.message);
    }
    cli_complain(
        0,
        "the connection was lost in the middle of the handover of move %s, so this side's copy stays "
        "paused: look at the other side, then see 'haul help resume'",
        move->outcome.id);
    if (move->options->guest) {
        wait_for_orders(move);
    }
}
