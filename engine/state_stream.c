/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/state_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((size_t)256 << 10)

struct haul_state_writer {
    const struct haul_state_sink *sink;
    unsigned char *piece;
    size_t filled;
    uint64_t total;
};

struct haul_state_reader {
    const struct haul_state_origin *origin;
    struct haul_frame *frame; /* the STATE frame being read */
    size_t taken;
    uint64_t total;
    bool ended;
};

static int flush(struct haul_state_writer *writer, struct haul_error *error)
{
    if (writer->filled == 0) {
        return 0;
    }
    int rc = writer->sink->take(writer->sink->opaque, HAUL_FRAME_STATE, writer->piece, writer->filled, error);
    writer->filled = 0;
    return rc;
}

int haul_state_write(struct haul_state_writer *writer, const void *bytes, size_t length,
                     struct haul_error *error)
{
    const unsigned char *from = bytes;
    writer->total += length;
    while (length > 0) {
        size_t room = PIECE - writer->filled;
        size_t now = length < room ? length : room;
        memcpy(writer->piece + writer->filled, from, now);
        writer->filled += now;
        from += now;
        length -= now;
        if (writer->filled == PIECE) {
            int rc = flush(writer, error);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

int haul_state_save_to(const struct haul_state_sink *sink, const struct haul_handler *handler, uint32_t round,
                       struct haul_error *error)
{
    if (!handler->ops->save) {
        return 0;
    }
    unsigned char payload[HAUL_NAME_MAX + 16];
    struct haul_writer begin;
    haul_writer_init(&begin, payload, sizeof payload);
    haul_writer_u32(&begin, round);
    haul_writer_string(&begin, handler->ops->name);
    struct haul_state_writer writer = {.sink = sink, .piece = malloc(PIECE)};
    if (!writer.piece) {
        return haul_error_set(error, ENOMEM, "no memory for a piece of state");
    }
    int rc = sink->take(sink->opaque, HAUL_FRAME_STATE_BEGIN, payload, haul_writer_length(&begin), error);
    if (rc == 0) {
        rc = handler->ops->save(handler->opaque, &writer, error);
    }
    if (rc == 0) {
        rc = flush(&writer, error);
    }
    if (rc == 0) {
        struct haul_writer end;
        haul_writer_init(&end, payload, sizeof payload);
        haul_writer_u64(&end, writer.total);
        rc = sink->take(sink->opaque, HAUL_FRAME_STATE_END, payload, haul_writer_length(&end), error);
    }
    free(writer.piece);
    return rc;
}

static int take_by_control(void *opaque, enum haul_frame_type type, const void *payload, size_t length,
                           struct haul_error *error)
{
    return haul_control_send(opaque, type, payload, length, error);
}

int haul_state_save(struct haul_control *control, const struct haul_handler *handler, uint32_t round,
                    struct haul_error *error)
{
    const struct haul_state_sink sink = {.take = take_by_control, .opaque = control};
    return haul_state_save_to(&sink, handler, round, error);
}

int haul_state_begin_decode(const struct haul_frame *frame, uint32_t *round, char *name, size_t size,
                            struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, frame->payload, frame->length);
    *round = haul_cursor_u32(&cursor);
    if (!haul_cursor_string(&cursor, name, size) || !haul_cursor_done(&cursor)) {
        return haul_error_set(error, EPROTO, "STATE_BEGIN is malformed");
    }
    return 0;
}

/* Takes the next frame of the handler's state; sets `ended` at STATE_END. */
static int next_frame(struct haul_state_reader *reader, struct haul_error *error)
{
    free(reader->frame);
    reader->frame = NULL;
    reader->taken = 0;
    struct haul_frame *frame = NULL;
    int rc = reader->origin->next(reader->origin->opaque, &frame, error);
    if (rc < 0) {
        return rc;
    }
    if (frame->type == HAUL_FRAME_STATE) {
        reader->frame = frame;
        reader->total += frame->length;
        return 0;
    }
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, frame->payload, frame->length);
    uint64_t total = haul_cursor_u64(&cursor);
    bool good = frame->type == HAUL_FRAME_STATE_END && haul_cursor_done(&cursor) && total == reader->total;
    enum haul_frame_type type = frame->type;
    free(frame);
    if (!good) {
        return haul_error_set(error, EPROTO, "%s does not fit the %llu bytes of state before it",
                              haul_frame_name(type), (unsigned long long)reader->total);
    }
    reader->ended = true;
    return 0;
}

ptrdiff_t haul_state_read(struct haul_state_reader *reader, void *bytes, size_t capacity,
                          struct haul_error *error)
{
    while (!reader->ended && (!reader->frame || reader->taken == reader->frame->length)) {
        int rc = next_frame(reader, error);
        if (rc < 0) {
            return rc;
        }
    }
    if (reader->ended || capacity == 0) {
        return 0;
    }
    size_t left = reader->frame->length - reader->taken;
    size_t now = left < capacity ? left : capacity;
    memcpy(bytes, reader->frame->payload + reader->taken, now);
    reader->taken += now;
    return (ptrdiff_t)now;
}

int haul_state_load_from(const struct haul_state_origin *origin, const struct haul_handler *handler,
                         struct haul_error *error)
{
    struct haul_state_reader reader = {.origin = origin};
    int rc = handler->ops->load ? handler->ops->load(handler->opaque, &reader, error) : 0;
    if (rc == 0 && !reader.ended) {
        /* The handler took what it understood: whatever is left is a mismatch of the two sides. */
        unsigned char byte;
        ptrdiff_t more = haul_state_read(&reader, &byte, 1, error);
        rc = more < 0   ? (int)more
             : more > 0 ? haul_error_set(error, EPROTO, "the source sent more state than the handler reads")
                        : 0;
    }
    free(reader.frame);
    return rc;
}

struct control_origin {
    struct haul_control *control;
    int timeout_ms;
};

static int next_of_control(void *opaque, struct haul_frame **frame, struct haul_error *error)
{
    const struct control_origin *from = opaque;
    haul_control_progress(from->control);
    return haul_control_next(from->control, from->timeout_ms, frame, error);
}

int haul_state_load(struct haul_control *control, const struct haul_handler *handler, int timeout_ms,
                    struct haul_error *error)
{
    struct control_origin from = {.control = control, .timeout_ms = timeout_ms};
    const struct haul_state_origin origin = {.next = next_of_control, .opaque = &from};
    return haul_state_load_from(&origin, handler, error);
}
