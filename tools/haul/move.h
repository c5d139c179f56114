/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_MOVE_H
#define HAUL_TOOLS_HAUL_MOVE_H

/* One run of send or receive on a terminal, shared by the files that carry it out. */

#include "tools/haul/options.h"
#include "tools/haul/progress.h"
#include "tools/haul/watch.h"
#include "tools/session/session.h"

struct cli_move {
    const struct cli_options *options;
    struct cli_progress *progress;
    struct cli_watch *watch;
    struct haul_session *session;
};

/*
 * cli_move_hold is for uncertain ownership, and for a guest that could not be resumed: it tells the operator.
 * The reference guest lives in this process, so then it waits here for haul resume or haul abandon, and the
 * outcome's ownership says what was ordered.
 */
void cli_move_hold(struct cli_move *move);

/* cli_move_self_check lets the machine prove itself for the time that the options give, or until a signal. */
void cli_move_self_check(struct cli_move *move);

#endif
