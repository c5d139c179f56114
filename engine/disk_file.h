/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DISK_FILE_H
#define HAUL_ENGINE_DISK_FILE_H

/*
 * A disk whose image is a file, and whose writers say what they write: the struct haul_disk_ops that come
 * with haul. Both sides hold a lock on the image (flock), so that no image is moved onto itself.
 *
 * Until a move is complete the image at the destination is called PATH.incomplete, and gets its name when the
 * guest is handed over: what is called PATH is whole. When the move fails, an image that was created for it
 * is removed; one that was there before has its name back if it is untouched, else it has been overwritten in
 * part, keeps the name PATH.incomplete, and the operator is told. So it stays when the host dies in the
 * middle.
 */

#include "engine/disk.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_disk_file; /* opaque */

/*
 * haul_disk_file_open opens the image of a source, which its guest may be writing. -EINVAL: no regular file,
 * or empty; -EBUSY: another process has it; the errors of open(2), -EROFS and -EACCES among them.
 */
int haul_disk_file_open(const char *path, struct haul_disk_file **file, struct haul_error *error);

/*
 * haul_disk_file_receive makes the image of a destination ready. With `size` it is created (-EEXIST where
 * PATH or PATH.incomplete is there), else PATH must be an image of the source's size, whose content is given
 * up. Errors as above.
 */
int haul_disk_file_receive(const char *path, uint64_t size, struct haul_disk_file **file,
                           struct haul_error *error);

/* haul_disk_file_describe returns what haul_add_disk takes; valid as long as the file and `name`. */
struct haul_disk haul_disk_file_describe(struct haul_disk_file *file, const char *name);

/* haul_disk_file_fd returns the image, open for reading and writing, to be used by pread and pwrite. */
int haul_disk_file_fd(const struct haul_disk_file *file);
uint64_t haul_disk_file_size(const struct haul_disk_file *file);

/*
 * haul_disk_file_mark says that `length` bytes at `offset` were written, or discarded; call it after the
 * write, and before the guest is told of its end. Any thread. What lies outside of the disk is ignored, and
 * so is everything for a received image.
 */
void haul_disk_file_mark(struct haul_disk_file *file, uint64_t offset, uint64_t length);

/* haul_disk_file_free closes the image, after the migration was freed, and removes what no move completed.
 * NULL is accepted. */
void haul_disk_file_free(struct haul_disk_file *file);

#ifdef __cplusplus
}
#endif
#endif
