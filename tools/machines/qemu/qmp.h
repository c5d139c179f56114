/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_QMP_H
#define HAUL_TOOLS_MACHINES_QEMU_QMP_H

/* What the QMP client has for QEMU alone. */

#include "tools/qmp/client.h"

#ifdef __cplusplus
extern "C" {
#endif

/* haul_qmp_open is haul_qmp_connect to QEMU's monitor at `address`. */
int haul_qmp_open(const char *address, int timeout_ms, struct haul_qmp **qmp, struct haul_error *error);

/* haul_qmp_hmp runs a human-monitor command; *text is the caller's to free. */
int haul_qmp_hmp(struct haul_qmp *qmp, const char *line, char **text, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
