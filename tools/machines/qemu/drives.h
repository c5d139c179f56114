/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_DRIVES_H
#define HAUL_TOOLS_MACHINES_QEMU_DRIVES_H

/* A machine's drives: which there are, where their images lie, and whether two are the same. */

#include "engine/stream.h"
#include "tools/machines/qemu/qmp.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_QEMU_DRIVES_MAX HAUL_STREAMS_MAX /* of one machine */

/* A drive with a medium, attached to a device of the machine. */
struct haul_qemu_drive {
    char name[256]; /* the -drive's id, else the device's id or path: equal at both ends */
    char node[64];  /* its block node in this QEMU */
    char file[512]; /* as QEMU calls its image */
    char format[32];
    uint64_t size; /* bytes, as the guest sees it */
    bool read_only;
};

struct haul_qemu_drives {
    struct haul_qemu_drive list[HAUL_QEMU_DRIVES_MAX];
    unsigned count;
};

/* haul_qemu_drives_read takes the answer of query-block apart; -ENOTSUP: a drive whose name is too long, or
 * too many. */
int haul_qemu_drives_read(const json_t *answer, struct haul_qemu_drives *drives, struct haul_error *error);
int haul_qemu_drives_query(struct haul_qmp *qmp, struct haul_qemu_drives *drives, struct haul_error *error);

/* Where an image is. */
enum haul_qemu_storage {
    HAUL_QEMU_STORAGE_LOCAL,   /* a file of a local file system */
    HAUL_QEMU_STORAGE_SHARED,  /* a file of a network file system, or another server's (nbd, rbd, iscsi...) */
    HAUL_QEMU_STORAGE_UNKNOWN, /* a block device, a file behind FUSE, or what this process cannot look at */
};
struct haul_qemu_place {
    enum haul_qemu_storage storage;
    uint64_t device; /* st_dev and st_ino of a file, else 0 */
    uint64_t inode;
};

/* haul_qemu_drive_find looks where the image is; `pid` is QEMU's, whose paths it has. */
void haul_qemu_drive_find(const struct haul_qemu_drive *drive, pid_t pid, struct haul_qemu_place *place);

/* haul_qemu_drive_describe writes what the other end compares; `text` is at least 2048 bytes. */
int haul_qemu_drive_describe(const struct haul_qemu_drive *drive, const struct haul_qemu_place *place,
                             char *text, size_t size, struct haul_error *error);

/*
 * haul_qemu_drive_compare decides whether `own`, a destination's drive, can take in what `description`, the
 * source's, says. -EINVAL: it is read-only, of another size, or the same image; -EPROTO: no description.
 */
int haul_qemu_drive_compare(const struct haul_qemu_drive *own, const struct haul_qemu_place *place,
                            const char *description, struct haul_error *error);

/* haul_qemu_find_other_user finds another machine of QEMU's than process `pid` on this host that has the file
 * open; 0: none. */
pid_t haul_qemu_find_other_user(const struct haul_qemu_place *place, pid_t pid);

/* haul_qemu_refuse_block_jobs: -EBUSY naming a block job that is not haul's: it may work on a drive. */
int haul_qemu_refuse_block_jobs(struct haul_qmp *qmp, struct haul_error *error);

/* Jobs, nodes, filters and exports of haul's have names that begin so. */
#define HAUL_QEMU_JOB_PREFIX "haul-mirror-"
#define HAUL_QEMU_NODE_PREFIX "haul-disk-"
#define HAUL_QEMU_FILTER_PREFIX "haul-filter-"

#ifdef __cplusplus
}
#endif
#endif
