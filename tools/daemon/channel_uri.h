/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_CHANNEL_URI_H
#define HAUL_TOOLS_DAEMON_CHANNEL_URI_H

#include "tools/qmp/arguments.h"

#include <stddef.h>

/* What the elements of QEMU's list of MigrationChannel (since 8.2) have. */
extern const struct haul_qmp_argument haul_channel_members[];

/*
 * haul_channel_uri writes the address of the only channel in `channels`, which the table has checked, as a
 * URI. -EINVAL: not one channel, or an address that the schema does not have; -ENOTSUP: one that haul cannot
 * do; -E2BIG: more than `size` bytes.
 */
int haul_channel_uri(const json_t *channels, char *uri, size_t size, struct haul_qmp_failure *failure);

#endif
