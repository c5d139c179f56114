/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SNAPSHOT_FILE_IO_H
#define HAUL_CHANNELS_SNAPSHOT_FILE_IO_H

/* Whole reads and writes of a file at an offset, by any number of threads. */

#include "channels/error.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* haul_file_write writes all bytes. Message: "writing N bytes at offset O: No space left on device". */
int haul_file_write(int fd, const void *bytes, size_t length, uint64_t offset, struct haul_error *error);

/* haul_file_read fills all bytes; -EPROTO when the file ends before. */
int haul_file_read(int fd, void *bytes, size_t length, uint64_t offset, struct haul_error *error);

/* haul_file_reopen opens the file behind `fd` once more with `flags`; a negative errno. */
int haul_file_reopen(int fd, int flags);

#ifdef __cplusplus
}
#endif
#endif
