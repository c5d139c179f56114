/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/progress.h"

#include "tools/haul/number.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

struct cli_progress {
    FILE *out;
    enum cli_progress_style style;
    bool source;
    pthread_mutex_t mutex; /* guards the rest, and what is on the screen */
    bool drawn;            /* a line without its newline stands on the terminal */
    uint64_t last_ns;
    uint64_t last_transferred;
    char last_line[256];
};

struct cli_progress *cli_progress_new(FILE *out, enum cli_progress_style style, bool source)
{
    struct cli_progress *progress = calloc(1, sizeof *progress);
    if (progress) {
        progress->out = out;
        progress->style = style;
        progress->source = source;
        pthread_mutex_init(&progress->mutex, NULL);
    }
    return progress;
}

void cli_progress_free(struct cli_progress *progress)
{
    if (progress) {
        cli_progress_clear(progress);
        pthread_mutex_destroy(&progress->mutex);
        free(progress);
    }
}

unsigned cli_progress_interval_ms(const struct cli_progress *progress)
{
    return progress->style == CLI_PROGRESS_REDRAW ? 200 : 1000;
}

/* The words for states in which there is nothing to measure; NULL when there is. */
static const char *state_words(enum haul_state state, bool source)
{
    switch (state) {
    case HAUL_STATE_NONE:
        return source ? "connecting" : "waiting for the source";
    case HAUL_STATE_SETUP:
        return source ? "setting up" : "waiting for the source";
    case HAUL_STATE_CANCELLING:
        return "cancelling";
    case HAUL_STATE_ACTIVE:
    case HAUL_STATE_PRE_SWITCHOVER:
    case HAUL_STATE_DEVICE:
        return NULL;
    default:
        return "ending";
    }
}

static uint64_t stream_left(const struct haul_stats *stats)
{
    return stats->stream_length > stats->stream_offset ? stats->stream_length - stats->stream_offset : 0;
}

void cli_progress_line(const struct haul_stats *stats, bool source, uint64_t rate_bytes_per_s, char *text,
                       size_t size)
{
    const char *words = state_words(stats->state, source);
    if (words) {
        snprintf(text, size, "%s", words);
        return;
    }
    char rate[CLI_NUMBER_SIZE], left[CLI_NUMBER_SIZE], dirty[CLI_NUMBER_SIZE], downtime[CLI_NUMBER_SIZE];
    cli_format_rate(rate, rate_bytes_per_s);
    if (!source) {
        snprintf(text, size, "receiving  %s  %s so far", rate,
                 cli_format_bytes(left, stats->transferred + stats->stream_bytes));
        return;
    }
    uint64_t total = stats->total + stats->disk.total + stats->stream_length;
    uint64_t remaining = stats->remaining + stats->disk.remaining + stream_left(stats);
    uint64_t done = total > remaining ? total - remaining : 0;
    unsigned percent = total ? (unsigned)((double)done * 100 / (double)total) : 0;
    if (stats->mode == HAUL_MODE_BACKGROUND_SNAPSHOT) {
        snprintf(text, size, "%3u%%  %s  left %s  writes held %" PRIu64, percent, rate,
                 cli_format_bytes(left, stats->remaining), stats->write_faults);
        return;
    }
    if (stats->streams && stats->streams_ready < stats->streams) {
        snprintf(text, size, "%3u%%  %s  left %s, of drives %s  drives ready %" PRIu32 " of %" PRIu32,
                 percent, rate, cli_format_bytes(left, remaining),
                 cli_format_bytes(dirty, stream_left(stats)), stats->streams_ready, stats->streams);
        return;
    }
    const char *stage = stats->state == HAUL_STATE_ACTIVE ? "" : " (switchover)";
    snprintf(
        text, size, "%3u%%  %s  left %s  dirty %s  round %" PRIu64 "  downtime %s%s", percent, rate,
        cli_format_bytes(left, remaining),
        cli_format_rate(dirty, (stats->dirty_pages_rate + stats->disk.dirty_pages_rate) * stats->page_size),
        stats->dirty_sync_count, cli_format_duration(downtime, stats->expected.total_ns), stage);
}

static int terminal_columns(FILE *out)
{
    struct winsize window;
    if (ioctl(fileno(out), TIOCGWINSZ, &window) < 0 || window.ws_col < 20) {
        return 80;
    }
    return window.ws_col;
}

/* With the mutex held. \r and "erase to the end of the line" are all that this asks of a terminal. */
static void erase(struct cli_progress *progress)
{
    if (progress->drawn) {
        fputs("\r\033[K", progress->out);
        progress->drawn = false;
    }
}

void cli_progress_show(struct cli_progress *progress, const struct haul_stats *stats, uint64_t now_ns)
{
    if (progress->style == CLI_PROGRESS_NONE) {
        return;
    }
    pthread_mutex_lock(&progress->mutex);
    /* The first line has no line before it: then it is the mean since the start. */
    uint64_t elapsed = progress->last_ns ? now_ns - progress->last_ns : stats->total_time_ns;
    uint64_t transferred = stats->transferred + stats->stream_bytes;
    uint64_t bytes = transferred > progress->last_transferred ? transferred - progress->last_transferred : 0;
    uint64_t rate = elapsed ? (uint64_t)((double)bytes * 1e9 / (double)elapsed) : 0;
    progress->last_ns = now_ns;
    progress->last_transferred = transferred;

    char line[sizeof progress->last_line] = "";
    cli_progress_line(stats, progress->source, rate, line, sizeof line);
    if (progress->style == CLI_PROGRESS_REDRAW) {
        fprintf(progress->out, "\r%.*s\033[K", terminal_columns(progress->out) - 1, line);
        progress->drawn = true;
    } else if (!state_words(stats->state, progress->source) || strcmp(line, progress->last_line) != 0) {
        /* A log needs no second line that says "waiting for the source"; but a move that stands still shows.
         */
        fprintf(progress->out, "%s\n", line);
    }
    memcpy(progress->last_line, line, sizeof line);
    fflush(progress->out);
    pthread_mutex_unlock(&progress->mutex);
}

void cli_progress_message(struct cli_progress *progress, bool always, const char *format, ...)
{
    if (progress->style == CLI_PROGRESS_NONE && !always) {
        return;
    }
    pthread_mutex_lock(&progress->mutex);
    erase(progress);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(progress->out, format, arguments);
    va_end(arguments);
    fputc('\n', progress->out);
    fflush(progress->out);
    pthread_mutex_unlock(&progress->mutex);
}

void cli_progress_clear(struct cli_progress *progress)
{
    pthread_mutex_lock(&progress->mutex);
    erase(progress);
    fflush(progress->out);
    pthread_mutex_unlock(&progress->mutex);
}
