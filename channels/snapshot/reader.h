/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SNAPSHOT_READER_H
#define HAUL_CHANNELS_SNAPSHOT_READER_H

/*
 * Reads a snapshot file (docs/file.md) and trusts nothing in it (rule R4): every number is checked against
 * the layout and the file's real length, every byte against its checksum.
 */

#include "channels/placement/placement.h"
#include "channels/sender.h"
#include "channels/snapshot/layout.h"
#include "channels/wire.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_snapshot_reader; /* opaque */

/*
 * haul_snapshot_reader_new opens `path` and checks header, block table, leaf checksums, and that there is
 * nothing between the sections. -EPROTO: it is no
 * snapshot, or damaged, cut or altered; -EPROTONOSUPPORT: another version; -EINVAL: not a regular file; else
 * as the kernel says. The message names the path and what is wrong where. *reader is the caller's.
 */
int haul_snapshot_reader_new(const char *path, struct haul_snapshot_reader **reader,
                             struct haul_error *error);
void haul_snapshot_reader_free(struct haul_snapshot_reader *reader); /* NULL is accepted */

/* Valid until free; any thread. */
const struct haul_snapshot_layout *haul_snapshot_reader_layout(const struct haul_snapshot_reader *reader);
const struct haul_snapshot_header *haul_snapshot_reader_header(const struct haul_snapshot_reader *reader);
const char *haul_snapshot_reader_path(const struct haul_snapshot_reader *reader);
/* haul_snapshot_reader_allocated returns the bytes that the file takes on its disk. */
uint64_t haul_snapshot_reader_allocated(const struct haul_snapshot_reader *reader);

/* ---- device state ---- */

/* Where the next frame is; starts zeroed. */
struct haul_snapshot_state {
    uint64_t at; /* within the section */
};

/*
 * haul_snapshot_read_state reads the next frame into `payload` (HAUL_FRAME_MAX bytes). *type is 0 at the end
 * of the section. -EPROTO for a frame that is malformed or altered; the message has its offset.
 */
int haul_snapshot_read_state(struct haul_snapshot_reader *reader, struct haul_snapshot_state *state,
                             unsigned *type, void *payload, size_t *length, struct haul_error *error);

/* haul_snapshot_check_state reads all of the section and checks it whole. -EPROTO. */
int haul_snapshot_check_state(struct haul_snapshot_reader *reader, struct haul_error *error);

/* ---- memory ---- */

struct haul_snapshot_load; /* opaque: threads that read all pages */

struct haul_snapshot_load_options {
    struct haul_snapshot_reader *reader; /* outlives the load */
    /* Where block i goes, NULL: nowhere, the pages are only checked. Nobody else may use this memory. */
    const struct haul_block_view *views;
    unsigned threads;                     /* 1 to HAUL_CHANNELS_MAX */
    struct haul_thread_list *thread_list; /* where they enter themselves; may be NULL */
    bool direct_io;
    const struct haul_topology *topology;    /* may be NULL: no placement */
    const struct haul_placement_slot *slots; /* one per thread, with a topology */
};

/* haul_snapshot_load_start starts the threads (named "multifdrecv_N"). -ENOMEM, -EAGAIN; -EINVAL: the file
 * system has no direct I/O. */
int haul_snapshot_load_start(const struct haul_snapshot_load_options *options,
                             struct haul_snapshot_load **load, struct haul_error *error);

/*
 * haul_snapshot_load_wait returns once every page is in place and checked, or one thread failed. -EPROTO: the
 * file is damaged, cut or altered; the message names block and offset. -ECANCELED after cancel.
 */
int haul_snapshot_load_wait(struct haul_snapshot_load *load, struct haul_error *error);

/* haul_snapshot_load_cancel makes the threads end soon. Any thread, idempotent. */
void haul_snapshot_load_cancel(struct haul_snapshot_load *load);

/* haul_snapshot_load_counters reads the counters of thread `index`. Any thread. */
void haul_snapshot_load_counters(const struct haul_snapshot_load *load, unsigned index,
                                 struct haul_channel_counters *counters);

/* haul_snapshot_load_free cancels, waits and frees; NULL is accepted. */
void haul_snapshot_load_free(struct haul_snapshot_load *load);

#ifdef __cplusplus
}
#endif
#endif
