/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_EXPORTS_H
#define HAUL_TOOLS_MACHINES_QEMU_EXPORTS_H

/* The destination's drives as NBD exports, which the source's QEMU mirrors its own to. */

#include "tools/machines/qemu/drives.h"

/* One drive that the source announced. */
struct haul_qemu_announced {
    const char *name;
    const char *description;
};

/*
 * haul_qemu_exports_open checks each announced drive against this QEMU's, exports it, and connects: fds[i] is
 * a socket on which QEMU's NBD server speaks. Nobody else can connect to that server. -EINVAL: a drive that
 * is missing or does not fit. After a failure nothing is left.
 */
int haul_qemu_exports_open(struct haul_qmp *qmp, const struct haul_qemu_announced *announced, unsigned count,
                           int *fds, struct haul_error *error);

/* haul_qemu_exports_close ends the exports and the server; every write that the server answered is in the
 * image. */
int haul_qemu_exports_close(struct haul_qmp *qmp, struct haul_error *error);

/* haul_qemu_exports_clear removes what a haul that was killed left; nothing else. */
int haul_qemu_exports_clear(struct haul_qmp *qmp, struct haul_error *error);

/* What the guardian of a destination with exports sends first. */
#define HAUL_QEMU_EXPORTS_SCRIPT "?{\"execute\":\"nbd-server-stop\"}\n"

#endif
