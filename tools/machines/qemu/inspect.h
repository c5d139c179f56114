/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_INSPECT_H
#define HAUL_TOOLS_MACHINES_QEMU_INSPECT_H

/* Finds out what a QEMU machine consists of, and refuses what cannot be moved (traps T2, T3, T10). */

#include "tools/machines/qemu/qmp.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A memory backend that haul carries. Its name is the backend's id, which both ends must share. */
struct haul_qemu_block {
    char name[256];
    uint64_t address; /* in the QEMU process */
    uint64_t length;
    uint32_t page_size;
    int fd;
    uint64_t fd_offset;
    void *host; /* our own mapping */
};

struct haul_qemu_inspection {
    pid_t pid;
    int major, minor;               /* QEMU's version */
    char version[64];               /* "7.2.22" */
    char machine_type[96];          /* "pc-q35-7.2-machine" */
    struct haul_qemu_block *blocks; /* sorted by name */
    unsigned count;
    char direct_io[192]; /* "" or the drive that uses direct I/O (trap T2) */
};

/*
 * haul_qemu_inspect fills `inspection` and maps the blocks, read-only or `writable`. -ENOTSUP: the machine
 * cannot be moved, the message says what to change. Clean up with haul_qemu_inspection_cleanup, also after a
 * failure.
 */
int haul_qemu_inspect(struct haul_qmp *qmp, bool writable, struct haul_qemu_inspection *inspection,
                      struct haul_error *error);
/* haul_qemu_recheck_backends: -EAGAIN when the machine's memory backends are no longer those of the
 * inspection (a DIMM was plugged). */
int haul_qemu_recheck_backends(struct haul_qmp *qmp, const struct haul_qemu_inspection *inspection,
                               struct haul_error *error);
void haul_qemu_inspection_cleanup(struct haul_qemu_inspection *inspection);

/* haul_qemu_find_direct_io looks for a drive that pins guest pages in query-named-block-nodes' answer; `why`
 * gets its name, or "". */
void haul_qemu_find_direct_io(const json_t *nodes, char *why, size_t size);

/* haul_qemu_query_direct_io does so for a running QEMU. */
int haul_qemu_query_direct_io(struct haul_qmp *qmp, char *why, size_t size, struct haul_error *error);

/* haul_qemu_flat_view_find looks in the text of `info mtree -f` for a piece of the region whose name ends in
 * `id`. *guest_address is where the piece lies in the guest, *offset where it lies in the region. */
bool haul_qemu_flat_view_find(const char *text, const char *id, uint64_t *guest_address, uint64_t *offset);

/* haul_qemu_status writes query-status' status ("running"). */
int haul_qemu_status(struct haul_qmp *qmp, char *status, size_t size, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
