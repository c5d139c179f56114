/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_DISCARDS_H
#define HAUL_TOOLS_MACHINES_QEMU_DISCARDS_H

/*
 * Who takes memory away from the machine while a background snapshot still has to save it. QEMU does not let
 * its balloon do so during a background snapshot of its own; of haul's it does not know.
 */

#include "tools/machines/qemu/qmp.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the machine had of its memory. */
struct haul_qemu_memory {
    int64_t balloon_size; /* -1: there was no balloon */
    uint64_t changes;     /* haul_qmp_memory_changes */
};

/* haul_qemu_refuse_reporting: -ENOTSUP when a balloon reports free pages, which takes them away. */
int haul_qemu_refuse_reporting(struct haul_qmp *qmp, struct haul_error *error);

/* haul_qemu_refuse_hints: -ENOTSUP when a balloon gives hints of free pages to QEMU's migration. */
int haul_qemu_refuse_hints(struct haul_qmp *qmp, struct haul_error *error);

/* haul_qemu_memory_note looks at the machine's memory, at the stop of a snapshot. */
void haul_qemu_memory_note(struct haul_qmp *qmp, struct haul_qemu_memory *memory);

/* haul_qemu_memory_check tells once all memory is saved: -EAGAIN when some was taken away since the note. */
int haul_qemu_memory_check(struct haul_qmp *qmp, const struct haul_qemu_memory *memory,
                           struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
