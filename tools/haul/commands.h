/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_COMMANDS_H
#define HAUL_TOOLS_HAUL_COMMANDS_H

/* The commands, each from parsed options to the exit status (enum cli_exit). */

#include "tools/haul/options.h"
#include "tools/haul/report.h"

int cli_move(const struct cli_options *options);    /* send, receive, restore and snapshot */
int cli_recover(const struct cli_options *options); /* resume and abandon */
int cli_relay(const struct cli_options *options);
int cli_daemon(const struct cli_options *options); /* daemon */
int cli_inspect(const struct cli_options *options);
int cli_topology(const struct cli_options *options);
int cli_control(const struct cli_options *options); /* query, set, cancel, continue */
int cli_live(const struct cli_options *options);    /* watch */

/* cli_complain writes "haul: TEXT" and a newline to standard error, and returns `status`. */
int cli_complain(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
