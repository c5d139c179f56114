/* SPDX-License-Identifier: Apache-2.0 */
/* haul watch: a migration of a daemon, looked at again and again until it ends. */
#include "tools/haul/commands.h"
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

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void sleep_ms(unsigned ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

/* A line of a drawing, cut to the width, with what stood there erased. */
static void draw_line(struct screen *screen, unsigned columns, const char *text)
{
    printf("%.*s\033[K\n", (int)columns - 1, text);
    screen->drawn++;
}

typedef void (*row_writer)(const struct cli_view *view, size_t index, char text[CLI_VIEW_LINE]);

/* As many of `count` rows as there is room for, under their heading. */
static void draw_table(struct screen *screen, unsigned columns, const struct cli_view *view,
                       const char *heading, size_t count, size_t room, row_writer row)
{
    char line[CLI_VIEW_LINE];
    size_t shown = count < room ? count : room;
    if (shown) {
        draw_line(screen, columns, heading);
    }
    for (size_t i = 0; i < shown; i++) {
        row(view, i, line);
        draw_line(screen, columns, line);
    }
    if (shown && shown < count) {
        snprintf(line, sizeof line, "  and %zu more", count - shown);
        draw_line(screen, columns, line);
    }
}

static void draw(struct screen *screen, const struct cli_view *view)
{
    struct winsize window = {.ws_row = 24, .ws_col = 80};
    char line[CLI_VIEW_LINE];
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &window);
    unsigned columns = window.ws_col >= 20 ? window.ws_col : 80;
    /* Without the headline, a heading, "and more", and the line where the cursor rests. */
    size_t room = window.ws_row > 5 ? window.ws_row - 4U : 1;
    if (screen->drawn) {
        printf("\033[%uA", screen->drawn);
    }
    screen->drawn = 0;
    cli_view_headline(view, line);
    draw_line(screen, columns, line);
    draw_table(screen, columns, view, cli_view_drive_heading, cli_view_drives(view), room / 2,
               cli_view_drive);
    size_t used = screen->drawn - 1;
    draw_table(screen, columns, view, cli_view_channel_heading, cli_view_channels(view),
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
        uint64_t at_ns = now_ns();
        const char *shown = name ? name : cli_view_text(now, "name");
        struct cli_view view = {shown, now, before, at_ns - before_ns};
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
