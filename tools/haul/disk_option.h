/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_DISK_OPTION_H
#define HAUL_TOOLS_HAUL_DISK_OPTION_H

#include "tools/haul/options.h"

/* cli_disk_parse reads options->disk, PATH[,size=SIZE][,rate=RATE], into guest_options. -EINVAL. */
int cli_disk_parse(struct cli_options *options, struct haul_error *error);

#endif
