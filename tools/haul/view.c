/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/view.h"

#include "tools/haul/number.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_MS 1000000ULL

uint64_t cli_view_number(const json_t *object, const char *member)
{
    double value = json_number_value(json_object_get(object, member));
    return value > 0 && value < 1.8e19 ? (uint64_t)value : 0;
}

const char *cli_view_text(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));
    return text ? text : "";
}

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words; words++) {
        if (!strcmp(text, *words)) {
            return true;
        }
    }
    return false;
}

static const char *const final_states[] = {"completed", "failed", "cancelled", NULL};
static const char *const moving_states[] = {"active", "pre-switchover", "device", "completed", NULL};

bool cli_view_ended(const json_t *migration)
{
    return is_one_of(cli_view_text(migration, "status"), final_states);
}

/* Per second, from two counts of the same thing; since the start when there is no earlier one. */
static uint64_t rate(const struct cli_view *view, uint64_t now, uint64_t before)
{
    uint64_t elapsed_ns =
        view->before ? view->elapsed_ns : cli_view_number(view->now, "total-time") * NS_PER_MS;
    return elapsed_ns && now > before ? (uint64_t)((double)(now - before) * 1e9 / (double)elapsed_ns) : 0;
}

/* ---- drives ---- */

/* One that QEMU mirrors, or all disks that the engine moves together. */
struct drive {
    char name[64];
    uint64_t total;
    uint64_t left;
    uint64_t carried; /* bytes */
    bool mirrored;
    bool copied; /* all of it once; what is left was written since */
};

static bool is_source(const struct cli_view *view)
{
    return strcmp(cli_view_text(view->now, "side"), "destination") != 0;
}

static bool find_drive(const json_t *migration, size_t index, struct drive *drive)
{
    const json_t *jobs = json_object_get(migration, "block-jobs");
    const json_t *disk = json_object_get(migration, "disk");
    if (index < json_array_size(jobs)) {
        const json_t *job = json_array_get(jobs, index);
        uint64_t offset = cli_view_number(job, "offset");
        *drive = (struct drive){.total = cli_view_number(job, "len"),
                                .carried = cli_view_number(job, "bytes"),
                                .mirrored = true,
                                .copied = json_is_true(json_object_get(job, "ready"))};
        drive->left = drive->total > offset ? drive->total - offset : 0;
        snprintf(drive->name, sizeof drive->name, "%s", cli_view_text(job, "device"));
        return true;
    }
    uint64_t disks = cli_view_number(disk, "disks");
    if (disks == 0 || index > json_array_size(jobs)) {
        return false;
    }
    *drive =
        (struct drive){.total = cli_view_number(disk, "total"),
                       .left = cli_view_number(disk, "remaining"),
                       .carried = cli_view_number(disk, "transferred"),
                       .copied = cli_view_number(json_object_get(migration, "ram"), "dirty-sync-count") > 1};
    snprintf(drive->name, sizeof drive->name, disks == 1 ? "disk" : "%" PRIu64 " disks", disks);
    return true;
}

const char cli_view_drive_heading[] = "  Drive                 Done        Rate       Left    To copy  Pass";

size_t cli_view_drives(const struct cli_view *view)
{
    size_t count = 0;
    struct drive drive;
    while (is_source(view) && find_drive(view->now, count, &drive)) {
        count++;
    }
    return count;
}

static unsigned percent(uint64_t total, uint64_t left)
{
    return total > left ? (unsigned)((double)(total - left) * 100 / (double)total) : 0;
}

void cli_view_drive(const struct cli_view *view, size_t index, char text[CLI_VIEW_LINE])
{
    struct drive now, before = {0};
    char speed[CLI_NUMBER_SIZE], left[CLI_NUMBER_SIZE], total[CLI_NUMBER_SIZE];
    *text = '\0';
    if (find_drive(view->now, index, &now)) {
        find_drive(view->before, index, &before);
        snprintf(text, CLI_VIEW_LINE, "  %-20.20s %4u%% %11s %10s %10s  %s", now.name,
                 percent(now.total, now.left),
                 cli_format_rate(speed, rate(view, now.carried, before.carried)),
                 cli_format_bytes(left, now.left), cli_format_bytes(total, now.total),
                 now.copied ? "new writes" : "first copy");
    }
}

/* ---- the headline ---- */

/* What memory, disks and drives come to together. */
struct sums {
    uint64_t total;
    uint64_t left;
    uint64_t mirrors_left;
    size_t mirrors;
    size_t ready; /* of `mirrors` */
};

static struct sums add_up(const struct cli_view *view)
{
    const json_t *ram = json_object_get(view->now, "ram");
    struct sums sums = {.total = cli_view_number(ram, "total"), .left = cli_view_number(ram, "remaining")};
    struct drive drive;
    for (size_t i = 0; find_drive(view->now, i, &drive); i++) {
        sums.total += drive.total;
        sums.left += drive.left;
        sums.mirrors_left += drive.mirrored ? drive.left : 0;
        sums.mirrors += drive.mirrored;
        sums.ready += drive.mirrored && drive.copied;
    }
    return sums;
}

static uint64_t carried(const json_t *migration)
{
    return cli_view_number(json_object_get(migration, "ram"), "transferred") +
           cli_view_number(json_object_get(migration, "disk"), "transferred") +
           cli_view_number(json_object_get(migration, "streams"), "bytes");
}

static void headline_of_source(const struct cli_view *view, char *text, size_t size)
{
    const json_t *ram = json_object_get(view->now, "ram");
    char speed[CLI_NUMBER_SIZE], left[CLI_NUMBER_SIZE], dirty[CLI_NUMBER_SIZE], downtime[CLI_NUMBER_SIZE],
        limit[CLI_NUMBER_SIZE];
    struct sums sums = add_up(view);
    uint64_t dirty_pages = cli_view_number(ram, "dirty-pages-rate") +
                           cli_view_number(json_object_get(view->now, "disk"), "dirty-pages-rate");
    bool completed = !strcmp(cli_view_text(view->now, "status"), "completed");
    cli_format_rate(speed, rate(view, carried(view->now), carried(view->before)));
    cli_format_bytes(left, sums.left);
    if (sums.ready < sums.mirrors) {
        snprintf(text, size, "%3u%%  %s  left %s, of drives %s  drives ready %zu of %zu",
                 percent(sums.total, sums.left), speed, left, cli_format_bytes(dirty, sums.mirrors_left),
                 sums.ready, sums.mirrors);
        return;
    }
    snprintf(text, size, "%3u%%  %s  left %s  dirty %s  round %" PRIu64 "  downtime %s of %s",
             percent(sums.total, sums.left), speed, left,
             cli_format_rate(dirty, dirty_pages * cli_view_number(ram, "page-size")),
             cli_view_number(ram, "dirty-sync-count"),
             cli_format_duration(downtime,
                                 cli_view_number(view->now, completed ? "downtime" : "expected-downtime") *
                                     NS_PER_MS),
             cli_format_duration(limit, cli_view_number(view->now, "downtime-limit") * NS_PER_MS));
}

static void headline_of_destination(const struct cli_view *view, char *text, size_t size)
{
    char speed[CLI_NUMBER_SIZE], bytes[CLI_NUMBER_SIZE];
    bool completed = !strcmp(cli_view_text(view->now, "status"), "completed");
    snprintf(text, size, completed ? "%s  %s received" : "%s  %s so far",
             cli_format_rate(speed, rate(view, carried(view->now), carried(view->before))),
             cli_format_bytes(bytes, carried(view->now)));
}

void cli_view_headline(const struct cli_view *view, char text[CLI_VIEW_LINE])
{
    const char *status = cli_view_text(view->now, "status");
    const char *reason = cli_view_text(json_object_get(view->now, "error"), "desc");
    char detail[CLI_VIEW_LINE - 100] = "";
    if (!*reason) {
        reason = cli_view_text(view->now, "error-desc"); /* QEMU's own member for it */
    }
    if (*reason) {
        snprintf(detail, sizeof detail, "%s", reason);
    } else if (is_one_of(status, moving_states)) {
        (is_source(view) ? headline_of_source : headline_of_destination)(view, detail, sizeof detail);
    }
    snprintf(text, CLI_VIEW_LINE, "%.40s%s%.40s%s%s", view->name, *view->name ? ": " : "",
             *status ? status : "no migration yet", *detail ? "  " : "", detail);
}

const char cli_view_channel_heading[] =
    "  Channel  CPU Node        Rate      Bytes     Pages      Zero   Encoded      Busy   Stalled";

size_t cli_view_channels(const struct cli_view *view)
{
    return json_array_size(json_object_get(view->now, "channels"));
}

static const char *place(char text[16], const json_t *channel, const char *member)
{
    const json_t *value = json_object_get(channel, member);
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return "any";
    }
    snprintf(text, 16, "%" PRIu64, cli_view_number(channel, member));
    return text;
}

void cli_view_channel(const struct cli_view *view, size_t index, char text[CLI_VIEW_LINE])
{
    const json_t *now = json_array_get(json_object_get(view->now, "channels"), index);
    const json_t *before = json_array_get(json_object_get(view->before, "channels"), index);
    char cpu[16], node[16], speed[CLI_NUMBER_SIZE], bytes[CLI_NUMBER_SIZE], busy[CLI_NUMBER_SIZE],
        stalled[CLI_NUMBER_SIZE];
    uint64_t sent = cli_view_number(now, "bytes");
    snprintf(text, CLI_VIEW_LINE, "  %7zu %4s %4s %11s %10s %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %9s %9s",
             index, place(cpu, now, "cpu"), place(node, now, "node"),
             cli_format_rate(speed, rate(view, sent, cli_view_number(before, "bytes"))),
             cli_format_bytes(bytes, sent), cli_view_number(now, "pages"), cli_view_number(now, "zero"),
             cli_view_number(now, "compressed"),
             cli_format_duration(busy, cli_view_number(now, "busy-time") * NS_PER_MS),
             cli_format_duration(stalled, cli_view_number(now, "stalled-time") * NS_PER_MS));
}
