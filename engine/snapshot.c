/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/snapshot.h"

#include "channels/snapshot/reader.h"
#include "engine/migration.h"
#include "engine/state_stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATE_MAX (64u << 20) /* of one handler, in memory */

struct haul_snapshot {
    struct haul_snapshot_reader *reader;
    struct haul_snapshot_state state; /* where haul_snapshot_next_state is */
    uint64_t content_pages;
    uint64_t zero_pages;
};

int haul_snapshot_open(const char *path, struct haul_snapshot **snapshot, struct haul_error *error)
{
    struct haul_snapshot *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory to read a snapshot");
    }
    int rc = haul_snapshot_reader_new(path, &made->reader, error);
    if (rc < 0) {
        free(made);
        return rc;
    }
    *snapshot = made;
    return 0;
}

void haul_snapshot_close(struct haul_snapshot *snapshot)
{
    if (snapshot) {
        haul_snapshot_reader_free(snapshot->reader);
        free(snapshot);
    }
}

void haul_snapshot_get_info(const struct haul_snapshot *snapshot, struct haul_snapshot_info *info)
{
    const struct haul_snapshot_header *header = haul_snapshot_reader_header(snapshot->reader);
    const struct haul_snapshot_layout *layout = haul_snapshot_reader_layout(snapshot->reader);
    *info = (struct haul_snapshot_info){
        .version = HAUL_SNAPSHOT_VERSION,
        .created_s = header->created_s,
        .file_bytes = header->file_length,
        .disk_bytes = haul_snapshot_reader_allocated(snapshot->reader),
        .state_bytes = header->state_length,
        .content_pages = snapshot->content_pages,
        .zero_pages = snapshot->zero_pages,
        .blocks = layout->block_count,
    };
    for (size_t i = 0; i < sizeof header->id; i++) {
        snprintf(info->id + 2 * i, 3, "%02x", header->id[i]);
    }
    for (uint32_t i = 0; i < layout->block_count; i++) {
        info->memory_bytes += layout->blocks[i].length;
    }
}

int haul_snapshot_get_block(const struct haul_snapshot *snapshot, uint32_t index,
                            struct haul_snapshot_block_info *info)
{
    const struct haul_snapshot_layout *layout = haul_snapshot_reader_layout(snapshot->reader);
    if (index >= layout->block_count) {
        return -ENOENT;
    }
    const struct haul_snapshot_block *block = &layout->blocks[index];
    *info = (struct haul_snapshot_block_info){.name = block->name,
                                              .length = block->length,
                                              .page_size = block->page_size,
                                              .file_offset = block->memory_at};
    return 0;
}

/* ---- device state ---- */

static int unexpected(const struct haul_snapshot *snapshot, unsigned type, struct haul_error *error)
{
    return haul_error_set(error, EPROTO, "%s: the device state has %s where it does not belong",
                          haul_snapshot_reader_path(snapshot->reader),
                          type == 0 ? "its end" : haul_frame_name(type));
}

/* From STATE_BEGIN to STATE_END; `frame` has room for the greatest. */
static int read_handler(struct haul_snapshot *snapshot, struct haul_frame *frame,
                        struct haul_snapshot_state_info *info, struct haul_error *error)
{
    unsigned type;
    uint32_t round;
    int rc = haul_snapshot_read_state(snapshot->reader, &snapshot->state, &type, frame->payload,
                                      &frame->length, error);
    if (rc < 0 || type == 0) {
        return rc;
    }
    if (type != HAUL_FRAME_STATE_BEGIN) {
        return unexpected(snapshot, type, error);
    }
    rc = haul_state_begin_decode(frame, &round, info->name, sizeof info->name, error);
    while (rc == 0 && type != HAUL_FRAME_STATE_END) {
        rc = haul_snapshot_read_state(snapshot->reader, &snapshot->state, &type, frame->payload,
                                      &frame->length, error);
        if (rc == 0 && type == HAUL_FRAME_STATE) {
            info->bytes += frame->length;
        } else if (rc == 0 && type != HAUL_FRAME_STATE_END) {
            rc = unexpected(snapshot, type, error);
        }
    }
    return rc < 0 ? rc : 1;
}

int haul_snapshot_next_state(struct haul_snapshot *snapshot, struct haul_snapshot_state_info *info,
                             struct haul_error *error)
{
    struct haul_frame *frame = malloc(sizeof *frame + HAUL_FRAME_MAX);
    if (!frame) {
        return haul_error_set(error, ENOMEM, "no memory for a piece of state");
    }
    *info = (struct haul_snapshot_state_info){0};
    info->file_offset = haul_snapshot_reader_layout(snapshot->reader)->state_at + snapshot->state.at;
    int rc = read_handler(snapshot, frame, info, error);
    free(frame);
    return rc;
}

/* Appends the pieces up to STATE_END; the file may have been changed since they were counted. */
static int copy_pieces(struct haul_snapshot *snapshot, struct haul_snapshot_state at,
                       struct haul_frame *frame, unsigned char *bytes, size_t room, size_t *length,
                       struct haul_error *error)
{
    unsigned type = HAUL_FRAME_STATE_BEGIN;
    *length = 0;
    while (type != HAUL_FRAME_STATE_END) {
        int rc =
            haul_snapshot_read_state(snapshot->reader, &at, &type, frame->payload, &frame->length, error);
        if (rc < 0) {
            return rc;
        }
        if (type == 0 || (type == HAUL_FRAME_STATE && frame->length > room - *length)) {
            return unexpected(snapshot, type, error);
        }
        if (type == HAUL_FRAME_STATE) {
            memcpy(bytes + *length, frame->payload, frame->length);
            *length += frame->length;
        }
    }
    return 0;
}

int haul_snapshot_copy_state(struct haul_snapshot *snapshot, const struct haul_snapshot_state_info *info,
                             unsigned char **bytes, size_t *length, struct haul_error *error)
{
    if (info->bytes > STATE_MAX) {
        return haul_error_set(error, EMSGSIZE, "%s: the state of %s has over 64 MiB",
                              haul_snapshot_reader_path(snapshot->reader), info->name);
    }
    struct haul_frame *frame = malloc(sizeof *frame + HAUL_FRAME_MAX);
    unsigned char *copy = malloc(info->bytes ? (size_t)info->bytes : 1);
    struct haul_snapshot_state at = {.at = info->file_offset -
                                           haul_snapshot_reader_layout(snapshot->reader)->state_at};
    int rc = frame && copy ? copy_pieces(snapshot, at, frame, copy, (size_t)info->bytes, length, error)
                           : haul_error_set(error, ENOMEM, "no memory for a handler's state");
    free(frame);
    if (rc < 0) {
        free(copy);
        return rc;
    }
    *bytes = copy;
    return 0;
}

/* ---- everything ---- */

int haul_snapshot_verify(struct haul_snapshot *snapshot, unsigned threads, bool direct_io,
                         struct haul_error *error)
{
    struct haul_snapshot_load_options options = {
        .reader = snapshot->reader, .threads = threads, .direct_io = direct_io};
    struct haul_snapshot_load *load = NULL;
    int rc = haul_snapshot_check_state(snapshot->reader, error);
    if (rc == 0) {
        rc = haul_snapshot_load_start(&options, &load, error);
    }
    if (rc == 0) {
        rc = haul_snapshot_load_wait(load, error);
    }
    snapshot->content_pages = snapshot->zero_pages = 0;
    for (unsigned i = 0; rc == 0 && i < threads; i++) {
        struct haul_channel_counters counters;
        haul_snapshot_load_counters(load, i, &counters);
        snapshot->content_pages += counters.raw_pages;
        snapshot->zero_pages += counters.zero_pages;
    }
    haul_snapshot_load_free(load);
    return rc;
}
