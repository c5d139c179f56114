/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_REMOTE_H
#define HAUL_TOOLS_HAUL_REMOTE_H

#include "tools/haul/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * cli_remote_options writes to options->remote the options of the haul receive that haul send ssh: starts,
 * quoted for the shell there: `words`, or without any those of the machine that moves. -EINVAL: disks move
 * along, and `words` have no place for them; -E2BIG.
 */
int cli_remote_options(struct cli_options *options, int count, char **words, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
