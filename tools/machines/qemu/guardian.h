/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_GUARDIAN_H
#define HAUL_TOOLS_MACHINES_QEMU_GUARDIAN_H

/*
 * A guardian is a small forked process that does nothing as long as this one lives. When this process dies,
 * also by SIGKILL, the guardian connects to QEMU's monitor, which is then free, and sends what it was last
 * armed with: QEMU stays stopped in pre-switchover, and after `stop`, until somebody tells it to go on.
 */

#include "channels/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_GUARDIAN_SCRIPT_MAX 16384

struct haul_guardian; /* opaque */

/* haul_guardian_new forks the guardian of the monitor at `qmp_path` (relative paths: from the current
 * folder). */
int haul_guardian_new(const char *qmp_path, struct haul_guardian **guardian, struct haul_error *error);

/*
 * haul_guardian_arm replaces the script, atomically also if this process dies meanwhile: QMP commands, one
 * JSON object a line, sent in order. QEMU's refusal is answered by trying again for half a minute, or, on a
 * line that starts with '?', by going on; on one that starts with '+', by trying again only while QEMU says
 * that what it names is still busy. A line that starts with a digit from 1 on is tried once, and if QEMU
 * accepts it, so many lines behind it are left out.
 * "" disarms. -E2BIG: over HAUL_GUARDIAN_SCRIPT_MAX - 1 bytes; -EPIPE: the guardian is gone.
 */
int haul_guardian_arm(struct haul_guardian *guardian, const char *script, struct haul_error *error);

/* haul_guardian_leave frees the guardian, which does what it was armed with as if this process had died.
 * Close the monitor before. NULL is accepted. */
void haul_guardian_leave(struct haul_guardian *guardian);

/* haul_guardian_free disarms and reaps the guardian. NULL is accepted. */
void haul_guardian_free(struct haul_guardian *guardian);

#ifdef __cplusplus
}
#endif
#endif
