/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_PROGRESS_H
#define HAUL_TOOLS_HAUL_PROGRESS_H

/*
 * Progress on standard error: one line redrawn on a terminal, one line a second elsewhere, nothing when
 * quiet. Messages that come in between never tear the line. All calls from any thread.
 */

#include "engine/haul.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cli_progress_style {
    CLI_PROGRESS_NONE,
    CLI_PROGRESS_LINES, /* a new line each time */
    CLI_PROGRESS_REDRAW /* the same line of a terminal */
};

struct cli_progress; /* opaque */

/* cli_progress_new returns NULL without memory. `out` stays the caller's; `source`: which side this is. */
struct cli_progress *cli_progress_new(FILE *out, enum cli_progress_style style, bool source);

/* cli_progress_interval_ms returns how often cli_progress_show wants to be called. */
unsigned cli_progress_interval_ms(const struct cli_progress *progress);

/* cli_progress_show shows where the move is; `now_ns` is a monotonic clock, for the rate. */
void cli_progress_show(struct cli_progress *progress, const struct haul_stats *stats, uint64_t now_ns);

/* cli_progress_message writes one whole line of text, above the redrawn line. Not shown when quiet unless
 * `always`. */
void cli_progress_message(struct cli_progress *progress, bool always, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* cli_progress_clear takes the redrawn line away; the next show draws it again. */
void cli_progress_clear(struct cli_progress *progress);
void cli_progress_free(struct cli_progress *progress);

/*
 * cli_progress_line writes the line itself: at most 79 columns for anything under a petabyte.
 * `rate_bytes_per_s` is what left the host since the last line.
 */
void cli_progress_line(const struct haul_stats *stats, bool source, uint64_t rate_bytes_per_s, char *text,
                       size_t size);

#ifdef __cplusplus
}
#endif
#endif
