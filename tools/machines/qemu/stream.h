/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_STREAM_H
#define HAUL_TOOLS_MACHINES_QEMU_STREAM_H

/*
 * The source's end of QEMU's own migration stream. It starts to flow when QEMU starts to migrate (private
 * memory, such as VGA's), before the machine is stopped, so a thread takes it up as it comes, to a limit.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_qemu_stream; /* opaque */

/* haul_qemu_stream_new starts reading `fd` (taken over, also on failure), keeping at most `limit` unread
 * bytes. */
int haul_qemu_stream_new(int fd, size_t limit, struct haul_qemu_stream **stream, struct haul_error *error);

/* haul_qemu_stream_read waits for bytes and moves up to `capacity` of them: *length is 0 at the stream's end.
 * -ETIMEDOUT after `timeout_ms` of silence; -EFBIG: the limit was reached, after which nothing is read any
 * more; or what recv(2) said. */
int haul_qemu_stream_read(struct haul_qemu_stream *stream, void *bytes, size_t capacity, size_t *length,
                          int timeout_ms, struct haul_error *error);

/* haul_qemu_stream_full tells whether the limit was reached. */
bool haul_qemu_stream_full(struct haul_qemu_stream *stream);

/* haul_qemu_stream_free closes the stream and joins the thread. NULL is accepted. */
void haul_qemu_stream_free(struct haul_qemu_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
