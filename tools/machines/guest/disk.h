/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_DISK_H
#define HAUL_TOOLS_MACHINES_GUEST_DISK_H

/*
 * The reference guest's disk: an image in a file, and what writes it.
 *
 * Block 0 says what the disk is. A quarter of the blocks is rewritten for ever in one fixed order, a quarter
 * has content that never changes, the rest are holes. Every block holds its number, a sequence number and a
 * checksum, and the rest of it follows from these. So, as with memory, a position tells what each block must
 * hold, and a lost, stale, torn or misplaced one always shows. The position travels as the device "disk", not
 * on the disk: the disk cannot vouch for itself.
 */

#include "engine/device_state.h"
#include "engine/disk_file.h"
#include "tools/machines/guest/guest.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_guest_disk; /* opaque; calls come from one thread at a time */

/*
 * haul_guest_disk_new makes the disk that `options` ask for (options->disk is not NULL). At the source its
 * image is created and filled, or one that was made so is used again, and it is written at once; at the
 * destination it waits for its state. -EINVAL: a size out of range, or an image that is not such a disk; the
 * errors of haul_disk_file_open and _receive.
 */
int haul_guest_disk_new(const struct haul_guest_options *options, enum haul_guest_side side,
                        struct haul_guest_disk **disk, struct haul_error *error);
void haul_guest_disk_free(struct haul_guest_disk *disk); /* NULL is accepted */

/* haul_guest_disk_add_device adds the device "disk", which lives in the disk. */
int haul_guest_disk_add_device(struct haul_guest_disk *disk, struct haul_devices *devices,
                               struct haul_error *error);

/* haul_guest_disk_describe returns what haul_add_disk takes, as long as the disk lives. */
struct haul_disk haul_guest_disk_describe(struct haul_guest_disk *disk);

/* haul_guest_disk_pause returns once nothing is written any more. -EIO: it had found a wrong block. A
 * destination's disk that was not loaded is harmless to both. */
int haul_guest_disk_pause(struct haul_guest_disk *disk, struct haul_error *error);
void haul_guest_disk_resume(struct haul_guest_disk *disk);
void haul_guest_disk_throttle(struct haul_guest_disk *disk, unsigned percent);
/* haul_guest_disk_retire ends its writer: this copy is never written again. */
void haul_guest_disk_retire(struct haul_guest_disk *disk);

/*
 * haul_guest_disk_check pauses a disk that is being written, compares every block with what it must hold, and
 * lets it be written on. `report` gets a few words. -EIO: blocks are wrong (the message counts them, names
 * the first and says whether it is lost, stale, torn or misplaced); it is then left paused.
 */
int haul_guest_disk_check(struct haul_guest_disk *disk, char *report, size_t size, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
