/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_ADOPT_H
#define HAUL_TOOLS_MACHINES_QEMU_ADOPT_H

/* Mode cpr-transfer at the destination: a QEMU that waits with -incoming defer gets the source's memory in
 * the place of its own. */

#include "tools/machines/qemu/inspect.h"

/*
 * haul_qemu_adopt makes QEMU's backend `block` be the file behind `fd` from `offset` on, in QEMU's page
 * tables and behind its descriptors, without the right to write: QEMU would end rather than write it. Where
 * the backend is that file already only the right is taken. -EBUSY: another process maps the backend (a
 * vhost-user back end would go on with the old memory); -ENOTSUP: the backend lies in its file at another
 * offset, or shares it with another backend. After a failure QEMU must be ended (haul_qemu_adopt_end).
 */
int haul_qemu_adopt(struct haul_qmp *qmp, const struct haul_qemu_inspection *inspection,
                    const struct haul_qemu_block *block, int fd, uint64_t offset, struct haul_error *error);

/* haul_qemu_lock_memory gives or takes QEMU's right to write its backends. */
int haul_qemu_lock_memory(const struct haul_qemu_inspection *inspection, bool writable,
                          struct haul_error *error);

/* haul_qemu_adopt_end ends the QEMU process, whatever state it is in, and returns when it is gone. */
void haul_qemu_adopt_end(struct haul_qmp *qmp, const struct haul_qemu_inspection *inspection);

/*
 * haul_qemu_refuse_overwriting makes sure that no other process maps a backend that a copy is to be written
 * to: it would be the memory of a machine that runs. -EBUSY names the process.
 */
int haul_qemu_refuse_overwriting(const struct haul_qemu_inspection *inspection, struct haul_error *error);

#endif
