/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_VIEW_H
#define HAUL_TOOLS_HAUL_VIEW_H

/* What a daemon says of a migration (query-migrate), as lines for people. A member that is missing counts as
 * zero. */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLI_VIEW_LINE 640 /* a failure and its reason */

/* Two answers of query-migrate, for the rates between them. */
struct cli_view {
    const char *name;
    const json_t *now;
    const json_t *before; /* or NULL: rates are the mean since the start */
    uint64_t elapsed_ns;  /* from before to now */
};

/* cli_view_number and cli_view_text find a member of an object, or 0 and "". */
uint64_t cli_view_number(const json_t *object, const char *member);
const char *cli_view_text(const json_t *object, const char *member);

/* cli_view_ended: it is over, however it went. */
bool cli_view_ended(const json_t *migration);

/* cli_view_headline writes one line: name, status, and as much as the status has to tell. */
void cli_view_headline(const struct cli_view *view, char text[CLI_VIEW_LINE]);

/* The heading of the table of drives that move along, and one row of it: each drive of a QEMU machine, the
 * disks of any other machine together. A destination has none: it does not know how far they are. */
extern const char cli_view_drive_heading[];
size_t cli_view_drives(const struct cli_view *view);
void cli_view_drive(const struct cli_view *view, size_t index, char text[CLI_VIEW_LINE]);

/* The heading of the channel table, and one row of it. */
extern const char cli_view_channel_heading[];
size_t cli_view_channels(const struct cli_view *view);
void cli_view_channel(const struct cli_view *view, size_t index, char text[CLI_VIEW_LINE]);

#ifdef __cplusplus
}
#endif
#endif
