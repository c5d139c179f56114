/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SNAPSHOT_H
#define HAUL_ENGINE_SNAPSHOT_H

/*
 * Looking into a snapshot file (docs/file.md) without starting a guest from it; that is what a destination
 * does with the URI file:PATH. Calls on one object come from one thread at a time.
 */

#include "engine/haul.h"

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_snapshot; /* opaque */

struct haul_snapshot_info {
    uint32_t version;
    char id[33];            /* of the migration that wrote it, hexadecimal */
    uint64_t created_s;     /* seconds since 1970 */
    uint64_t file_bytes;    /* its length */
    uint64_t disk_bytes;    /* what it takes on the disk: zero pages are holes */
    uint64_t memory_bytes;  /* of all blocks */
    uint64_t state_bytes;   /* of the device state, with its frames */
    uint64_t content_pages; /* of 4096 bytes; known once haul_snapshot_verify succeeded */
    uint64_t zero_pages;    /* the same */
    uint32_t blocks;
};

struct haul_snapshot_block_info {
    const char *name; /* until close */
    uint64_t length;
    uint32_t page_size;   /* of the backing that it was saved from */
    uint64_t file_offset; /* of its first page */
};

/* One handler's device state. */
struct haul_snapshot_state_info {
    char name[256];
    uint64_t bytes;
    uint64_t file_offset; /* of its first frame */
};

/* haul_file_path returns PATH of file:PATH, within `uri`, or NULL for any other URI. */
static inline const char *haul_file_path(const char *uri)
{
    return strncmp(uri, "file:", 5) == 0 ? uri + 5 : NULL;
}

/*
 * haul_snapshot_open checks header, block table and leaf checksums. -EPROTO: no snapshot, or damaged;
 * -EPROTONOSUPPORT: another version; -EINVAL: not a regular file; else as the kernel says. *snapshot is the
 * caller's, for haul_snapshot_close.
 */
int haul_snapshot_open(const char *path, struct haul_snapshot **snapshot, struct haul_error *error);
void haul_snapshot_close(struct haul_snapshot *snapshot); /* NULL is accepted */

void haul_snapshot_get_info(const struct haul_snapshot *snapshot, struct haul_snapshot_info *info);

/* -ENOENT: there is no block of that index. */
int haul_snapshot_get_block(const struct haul_snapshot *snapshot, uint32_t index,
                            struct haul_snapshot_block_info *info);

/* haul_snapshot_next_state tells of the handlers one after the other: 1, 0 when there is no more, or -EPROTO
 * for damaged state, with its offset. */
int haul_snapshot_next_state(struct haul_snapshot *snapshot, struct haul_snapshot_state_info *info,
                             struct haul_error *error);

/*
 * haul_snapshot_copy_state gives the bytes that a handler saved, without the frames around them: *bytes is
 * the caller's, to be freed with free(), *length is info->bytes. `info` comes from haul_snapshot_next_state.
 * -EPROTO: damaged; -EMSGSIZE: over 64 MiB; -ENOMEM.
 */
int haul_snapshot_copy_state(struct haul_snapshot *snapshot, const struct haul_snapshot_state_info *info,
                             unsigned char **bytes, size_t *length, struct haul_error *error);

/*
 * haul_snapshot_verify reads everything with `threads` (1 to 128) threads and checks every checksum. -EPROTO:
 * damaged; the message names block and offset.
 */
int haul_snapshot_verify(struct haul_snapshot *snapshot, unsigned threads, bool direct_io,
                         struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
