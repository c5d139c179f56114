/* SPDX-License-Identifier: Apache-2.0 */
/* haul watch: a migration of a daemon, looked at again and again until it ends. */
#include "tools/haul/commands.h"

#include "tools/clock.h"
#include "tools/haul/control.h"
#include "tools/haul/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define REDRAW_MS 250
#define LINE_MS 1000

enum style { STYLE_REDRAW, STYLE_LINES, STYLE_JSON };

struct screen {
    enum style style;
    unsigned drawn;           /* lines of the last drawing, to be drawn over */
    char last[CLI_VIEW_LINE]; /* line written */
};

static void sleep_ms(unsigned ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

/* A line of a drawing, cut to the width, with what stood there erased. */
static void draw_line(struct screen *screen, size_t width, const char *text)
{
    printf("%.*s\033[K\n", (int)width, text);
    screen->drawn++;
}

/* Where a line that is too long is to be broken: between two of its parts, which have two spaces between
 * them, or between words. */
static size_t break_of(const char *text, size_t width)
{
    size_t part = 0;
    size_t word = 0;
    for (size_t i = 1; i <= width; i++) {
        if (text[i - 1] != ' ' && text[i] == ' ') {
            word = i;
            part = text[i + 1] == ' ' ? i : part;
        }
    }
    return part ? part : word;
}

/* Up to `most` lines, of which the last is cut. */
static void draw_wrapped(struct screen *screen, size_t width, const char *text, size_t most)
{
    size_t at = 1;
    for (; most > 1 && at > 0 && strlen(text) > width; most--) {
        at = break_of(text, width);
        if (at > 0) {
            draw_line(screen, at, text);
            text += at;
        }
    }
    draw_line(screen, width, text);
}

/* How much of a table fits whose longest line has `longest`: a column that does not is left out, and not cut
 * to half a number. */
static size_t table_width(const char *heading, size_t longest, size_t width)
{
    if (longest <= width) {
        return width;
    }
    size_t length = strlen(heading);
    size_t end = width < length ? width : length - 1;
    /* Two spaces: one may be part of a column's name. */
    while (end > 0 && !(heading[end - 1] != ' ' && heading[end] == ' ' && heading[end + 1] == ' ')) {
        end--;
    }
    return end ? end : width;
}

typedef void (*row_writer)(const struct cli_view *view, size_t index, char text[CLI_VIEW_LINE]);

/* As many of `count` rows as there is room for, under their heading. */
static void draw_table(struct screen *screen, size_t width, const struct cli_view *view, const char *heading,
                       size_t count, size_t room, row_writer row)
{
    char line[CLI_VIEW_LINE];
    size_t shown = count < room ? count : room;
    size_t longest = strlen(heading);
    for (size_t i = 0; i < shown; i++) {
        row(view, i, line);
        longest = strlen(line) > longest ? strlen(line) : longest;
    }
    width = table_width(heading, longest, width);
    if (shown) {
        draw_line(screen, width, heading);
    }
    for (size_t i = 0; i < shown; i++) {
        row(view, i, line);
        draw_line(screen, width, line);
    }
    if (shown && shown < count) {
        snprintf(line, sizeof line, "  and %zu more", count - shown);
        draw_line(screen, width, line);
    }
}

static void draw(struct screen *screen, const struct cli_view *view)
{
    struct winsize window = {.ws_row = 24, .ws_col = 80};
    char line[CLI_VIEW_LINE];
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &window);
    size_t width = (window.ws_col >= 20 ? window.ws_col : 80) - 1;
    if (screen->drawn) {
        printf("\033[%uA", screen->drawn);
    }
    screen->drawn = 0;
    cli_view_headline(view, line);
    /* Beside the headline: a heading, a row, "and more", and the line where the cursor rests. */
    draw_wrapped(screen, width, line, window.ws_row > 5 ? window.ws_row - 4U : 1);
    unsigned headline = screen->drawn;
    size_t room = window.ws_row > headline + 4 ? window.ws_row - headline - 3 : 1;
    draw_table(screen, width, view, cli_view_drive_heading, cli_view_drives(view), room / 2, cli_view_drive);
    size_t used = screen->drawn - headline;
    draw_table(screen, width, view, cli_view_channel_heading, cli_view_channels(view),
               room > used ? room - used : 0, cli_view_channel);
    printf("\033[J"); /* below it nothing is left of a longer drawing */
}

static void show(struct screen *screen, const struct cli_view *view)
{
    char line[CLI_VIEW_LINE];
    char *json;
    switch (screen->style) {
    case STYLE_REDRAW:
        draw(screen, view);
        break;
    case STYLE_LINES:
        cli_view_headline(view, line);
        if (strcmp(line, screen->last) != 0) { /* a log needs no second line that says "none" */
            printf("%s\n", line);
            memcpy(screen->last, line, sizeof line);
        }
        break;
    case STYLE_JSON:
        json = json_dumps(view->now, JSON_REAL_PRECISION(12));
        printf("%s\n", json ? json : "");
        free(json);
        break;
    }
    fflush(stdout);
}

static int exit_status(const json_t *migration)
{
    if (!strcmp(cli_view_text(migration, "ownership"), "uncertain") || *cli_view_text(migration, "guest")) {
        return CLI_EXIT_UNCERTAIN;
    }
    return strcmp(cli_view_text(migration, "status"), "completed") != 0 ? CLI_EXIT_FAILED : CLI_EXIT_MOVED;
}

/* Until the migration ends, or nobody reads any more. */
static int follow(struct haul_qmp *daemon, const char *name, struct screen *screen, struct haul_error *error)
{
    json_t *before = NULL;
    uint64_t before_ns = 0;
    for (;;) {
        json_t *now = NULL;
        int status = cli_control_call(daemon, "query-migrate", name, NULL, &now, error);
        if (status < 0) {
            json_decref(before);
            return status;
        }
        uint64_t at_ns = haul_clock_ns();
        const char *shown = name ? name : cli_view_text(now, "name");
        /* Of one that has ended, what it came to: the last moment's rates tell nothing. A destination's time
         * began with the wait for its source. */
        bool whole = cli_view_ended(now) && strcmp(cli_view_text(now, "side"), "destination") != 0;
        struct cli_view view = {shown, now, whole ? NULL : before, at_ns - before_ns};
        show(screen, &view);
        json_decref(before);
        if (cli_view_ended(now) || ferror(stdout)) {
            status = cli_view_ended(now) ? exit_status(now) : CLI_EXIT_FAILED;
            json_decref(now);
            return status;
        }
        before = now;
        before_ns = at_ns;
        sleep_ms(screen->style == STYLE_REDRAW ? REDRAW_MS : LINE_MS);
    }
}

int cli_live(const struct cli_options *options)
{
    struct haul_error error = {0};
    struct haul_qmp *daemon = NULL;
    struct screen screen = {.style = options->json           ? STYLE_JSON
                                     : isatty(STDOUT_FILENO) ? STYLE_REDRAW
                                                             : STYLE_LINES};
    int status = cli_control_open(options, &daemon, &error);
    if (!status) {
        status = follow(daemon, options->migration, &screen, &error);
    }
    haul_qmp_close(daemon);
    return status < 0 ? cli_control_fail(options, status, &error) : status;
}
