/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_CONTROL_H
#define HAUL_TOOLS_HAUL_CONTROL_H

/* A command's conversation with a daemon. */

#include "tools/haul/options.h"
#include "tools/qmp/client.h"

/* cli_control_open connects to the daemon of --qmp, or to the default one. */
int cli_control_open(const struct cli_options *options, struct haul_qmp **daemon, struct haul_error *error);

/*
 * cli_control_call runs a command about migration `name` (NULL: the only one, or the command is about none)
 * with further `arguments` (taken over; NULL: none). *reply (unless NULL) is the caller's to json_decref.
 */
int cli_control_call(struct haul_qmp *daemon, const char *command, const char *name, json_t *arguments,
                     json_t **reply, struct haul_error *error);

/* cli_control_fail tells what went wrong, with --json also on standard output; returns the exit status. */
int cli_control_fail(const struct cli_options *options, int status, const struct haul_error *error);

#endif
