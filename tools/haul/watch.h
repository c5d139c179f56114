/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_WATCH_H
#define HAUL_TOOLS_HAUL_WATCH_H

/*
 * The watch is one thread beside the move: it takes the operator's signals (SIGINT, SIGTERM, SIGHUP) from a
 * signalfd and cancels, and it keeps the progress line going. No signal handler runs any code of ours.
 */

#include "tools/haul/progress.h"

#include <stdbool.h>

struct cli_watch; /* opaque */

/* cli_watch_block_signals makes the signals wait for a watch; call it before the first thread starts. */
void cli_watch_block_signals(void);

/* cli_watch_new starts the thread; `progress` outlives it. */
int cli_watch_new(struct cli_progress *progress, struct cli_watch **watch, struct haul_error *error);

/* cli_watch_set_start says how to cancel what has no migration yet; NULL: not any more. */
void cli_watch_set_start(struct cli_watch *watch, int (*cancel_start)(void *opaque), void *opaque);

/*
 * cli_watch_set_migration says which migration to show and to cancel; a signal that came before cancels it
 * now. NULL: none, after return the thread does not touch the former one. `gist` (static) is what
 * "cancelling" promises.
 */
void cli_watch_set_migration(struct cli_watch *watch, struct haul_migration *migration, const char *gist);

/* cli_watch_interrupted tells whether any signal came so far. */
bool cli_watch_interrupted(const struct cli_watch *watch);

/*
 * cli_watch_sleep waits for `fd` (-1: none) to become readable, for at most timeout_ms (-1: for ever).
 * Returns 1 when it did, 0 for the timeout, -EINTR when a signal came since the last call that said so.
 */
int cli_watch_sleep(struct cli_watch *watch, int fd, int timeout_ms);

/* cli_watch_interrupt_fd returns an eventfd that is readable while a signal waits that cli_watch_sleep has
 * not told of. */
int cli_watch_interrupt_fd(const struct cli_watch *watch);

void cli_watch_free(struct cli_watch *watch);

#endif
