/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SNAPSHOT_WRITER_H
#define HAUL_CHANNELS_SNAPSHOT_WRITER_H

/*
 * Writes a snapshot file (docs/file.md): pages in any order, any number of times, by any number of threads,
 * then the device state, then all of it gets its name in one step. Knows no sender: whoever has a stable copy
 * of a page may put it.
 */

#include "channels/snapshot/layout.h"
#include "channels/wire.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_snapshot_writer; /* opaque */

#define HAUL_SNAPSHOT_PUT_PAGES 256 /* most pages of one put */

/*
 * haul_snapshot_writer_new makes the file for `path` (under another name or none) with the given block table;
 * every page is zero until it is put. `direct_io`: pages bypass the page cache. -EEXIST: `path` is there
 * already; -EFBIG: too large for the file system or `ulimit -f`; -EINVAL: the file system has no direct I/O;
 * else as the kernel says. The message names the path. *writer is the caller's.
 */
int haul_snapshot_writer_new(const char *path, const void *block_table, size_t length, bool direct_io,
                             struct haul_snapshot_writer **writer, struct haul_error *error);

/* haul_snapshot_writer_layout returns the blocks and where they lie; valid until free. Any thread. */
const struct haul_snapshot_layout *haul_snapshot_writer_layout(const struct haul_snapshot_writer *writer);

/*
 * haul_snapshot_put stores 1 to HAUL_SNAPSHOT_PUT_PAGES pages of block `block` from page `first` on,
 * replacing what was put before. `bytes` stand still during the call and begin at a multiple of 4096;
 * `sums[i]` is haul_snapshot_page_sum of page i of them. Any thread, different threads for different pages at
 * a time. -EINVAL for pages outside of the block; -ENOSPC and others as the kernel says, with the offset.
 */
int haul_snapshot_put(struct haul_snapshot_writer *writer, uint32_t block, uint64_t first, uint32_t count,
                      const void *bytes, const uint64_t *sums, struct haul_error *error);

/* haul_snapshot_put_zero makes any number of pages zero and gives their room back; as haul_snapshot_put. */
int haul_snapshot_put_zero(struct haul_snapshot_writer *writer, uint32_t block, uint64_t first,
                           uint64_t count, struct haul_error *error);

/*
 * haul_snapshot_write_out tells the kernel to start writing a range of pages to the disk, and with `wait`
 * also waits until that is done, so that little is left for haul_snapshot_flush. Does nothing with direct
 * I/O. Any thread.
 */
int haul_snapshot_write_out(struct haul_snapshot_writer *writer, uint32_t block, uint64_t first,
                            uint64_t count, bool wait, struct haul_error *error);

/* haul_snapshot_flush waits until everything put before is on the disk. One thread at a time. */
int haul_snapshot_flush(struct haul_snapshot_writer *writer, struct haul_error *error);

/* haul_snapshot_add_state appends one frame to the device state. One thread at a time. */
int haul_snapshot_add_state(struct haul_snapshot_writer *writer, enum haul_frame_type type,
                            const void *payload, size_t length, struct haul_error *error);

/*
 * haul_snapshot_compare tells whether the pages of leaf `leaf` of block `block` are what was put, by their
 * checksums. `host` is the block's first byte, which stands still. 0; -EBADMSG when one is not; or what
 * reading the file said. Any thread, once nobody puts any more.
 */
int haul_snapshot_compare(struct haul_snapshot_writer *writer, uint32_t block, uint64_t leaf,
                          const unsigned char *host, struct haul_error *error);

/* haul_snapshot_complete writes the rest, and all of it to the disk. Nothing may be put or added after it. */
int haul_snapshot_complete(struct haul_snapshot_writer *writer, const unsigned char id[HAUL_SNAPSHOT_ID_SIZE],
                           struct haul_error *error);

/*
 * haul_snapshot_publish gives the completed file its name. *published tells whether the name is there: an
 * error with it (the directory could not be flushed) means that the file is complete but could be gone after
 * a crash of this host. -EEXIST: somebody made a file of that name meanwhile, which is left alone.
 */
int haul_snapshot_publish(struct haul_snapshot_writer *writer, bool *published, struct haul_error *error);

/* haul_snapshot_discard removes what an unpublished file left in its directory. Idempotent; free does it too.
 */
void haul_snapshot_discard(struct haul_snapshot_writer *writer);
void haul_snapshot_writer_free(struct haul_snapshot_writer *writer); /* NULL is accepted */

#ifdef __cplusplus
}
#endif
#endif
