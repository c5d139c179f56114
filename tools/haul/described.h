/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_DESCRIBED_H
#define HAUL_TOOLS_HAUL_DESCRIBED_H

/* Device state that describes itself (docs/device-state.md), as inspect shows it. */

#include "engine/snapshot.h"
#include "tools/haul/options.h"

#include <jansson.h>

/*
 * cli_describe_state prints the state of one handler, if it is a described stream: *text is the caller's, to
 * be freed with free(), NULL when the state is of another kind. With `json` it is one JSON object. Errors as
 * haul_snapshot_copy_state and haul_device_print.
 */
int cli_describe_state(struct haul_snapshot *snapshot, const struct haul_snapshot_state_info *info, bool json,
                       char **text, struct haul_error *error);

/* cli_print_json prints `json` with the member "described", whose JSON text is `described`, or without it
 * when that is NULL. It takes `json` over, NULL means that there was no memory for it. */
int cli_print_json(json_t *json, const char *described);

/* cli_is_described_file tells whether the file at `path` begins as a described stream does. */
bool cli_is_described_file(const char *path);

/* cli_inspect_described shows such a file; returns the exit status. */
int cli_inspect_described(const struct cli_options *options, const char *path);

#endif
