/* SPDX-License-Identifier: Apache-2.0 */

/* A device state stream taken apart into descriptions and sections (docs/protocol.md). */

#include "engine/device/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool haul_device_is_stream(const void *bytes, size_t length)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, bytes, length);
    return haul_cursor_u32(&cursor) == HAUL_DEVICE_MAGIC && !cursor.failed;
}

static int damaged(struct haul_error *error, const char *what)
{
    return haul_error_set(error, EPROTO, "the device state stream is damaged: %s", what);
}

static int read_header(struct haul_cursor *cursor, struct haul_error *error)
{
    uint32_t magic = haul_cursor_u32(cursor);
    uint16_t format = haul_cursor_u16(cursor);
    uint16_t zero = haul_cursor_u16(cursor);
    if (cursor->failed || magic != HAUL_DEVICE_MAGIC) {
        return damaged(error, "it does not begin with HDEV");
    }
    if (format != HAUL_DEVICE_FORMAT || zero != 0) {
        return haul_error_set(error, EINVAL, "the device state stream has format %u, this side knows %u",
                              format, HAUL_DEVICE_FORMAT);
    }
    return 0;
}

static int read_description(struct haul_cursor *cursor, struct haul_device_stream *stream,
                            struct haul_error *error)
{
    uint32_t length = haul_cursor_u32(cursor);
    if (length > HAUL_DEVICE_JSON_MAX) {
        return damaged(error, "a description has over 64 KiB");
    }
    stream->described_bytes += length;
    if (stream->described_bytes > HAUL_DEVICE_JSON_SUM_MAX) {
        return damaged(error, "its descriptions have over 1 MiB");
    }
    const char *text = haul_cursor_bytes(cursor, length);
    if (!text) {
        return damaged(error, "it ends within a description");
    }
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    const char *name = json_string_value(json_object_get(json, "name"));
    const char *wrong = !haul_device_name_good(name) ? "a description is no JSON object with a name"
                        : json_object_get(stream->descriptions, name) ? "a description comes twice"
                        : json_object_size(stream->descriptions) == HAUL_DEVICES_MAX
                            ? "it has too many descriptions"
                            : NULL;
    if (wrong) {
        json_decref(json);
        return damaged(error, wrong);
    }
    return json_object_set_new(stream->descriptions, name, json) < 0
               ? haul_error_set(error, ENOMEM, "no memory for a device description")
               : 0;
}

static int read_section(struct haul_cursor *cursor, struct haul_device_stream *stream,
                        struct haul_error *error)
{
    char name[HAUL_DEVICE_NAME_MAX + 1];
    haul_cursor_string(cursor, name, sizeof name);
    uint32_t instance = haul_cursor_u32(cursor);
    uint32_t length = haul_cursor_u32(cursor);
    const unsigned char *bytes = length <= HAUL_DEVICE_SECTION_MAX ? haul_cursor_bytes(cursor, length) : NULL;
    if (!bytes) {
        return damaged(error, "it ends within a section");
    }
    const json_t *json = json_object_get(stream->descriptions, name);
    if (!json) {
        return damaged(error, "a section has no description");
    }
    if (stream->section_count == HAUL_DEVICES_MAX) {
        return damaged(error, "it has over 4096 sections");
    }
    if (stream->section_count == stream->section_room) {
        uint32_t room = stream->section_room ? 2 * stream->section_room : 16;
        void *larger = realloc(stream->sections, room * sizeof *stream->sections);
        if (!larger) {
            return haul_error_set(error, ENOMEM, "no memory for the device state's sections");
        }
        stream->sections = larger;
        stream->section_room = room;
    }
    stream->sections[stream->section_count++] = (struct haul_device_section){
        .name = json_string_value(json_object_get(json, "name")),
        .instance = instance,
        .description = json,
        .bytes = bytes,
        .length = length,
    };
    return 0;
}

int haul_device_stream_parse(const void *bytes, size_t length, struct haul_device_stream *stream,
                             struct haul_error *error)
{
    *stream = (struct haul_device_stream){.descriptions = json_object()};
    if (!stream->descriptions) {
        return haul_error_set(error, ENOMEM, "no memory for device descriptions");
    }
    if (length > HAUL_DEVICE_STREAM_MAX) {
        return haul_error_set(error, EMSGSIZE, "the device state stream has over 64 MiB");
    }
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, bytes, length);
    int rc = read_header(&cursor, error);
    while (rc == 0) {
        uint8_t record = haul_cursor_u8(&cursor);
        if (cursor.failed) {
            rc = damaged(error, "it ends before its end record");
        } else if (record == HAUL_DEVICE_RECORD_DESCRIPTION) {
            rc = read_description(&cursor, stream, error);
        } else if (record == HAUL_DEVICE_RECORD_SECTION) {
            rc = read_section(&cursor, stream, error);
        } else if (record == HAUL_DEVICE_RECORD_END) {
            return haul_cursor_done(&cursor) ? 0 : damaged(error, "bytes follow its end record");
        } else {
            rc = damaged(error, "a record has an unknown kind");
        }
    }
    return rc;
}

void haul_device_stream_cleanup(struct haul_device_stream *stream)
{
    json_decref(stream->descriptions);
    free(stream->sections);
    *stream = (struct haul_device_stream){0};
}
