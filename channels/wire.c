/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/wire.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

const char *haul_frame_name(unsigned type)
{
    switch (type) {
#define X(number, name)                                                                                      \
    case number:                                                                                             \
        return #name;
        HAUL_FRAMES(X)
#undef X
    default:
        return "unknown";
    }
}

/* ---- reading ---- */

void haul_cursor_init(struct haul_cursor *cursor, const void *bytes, size_t length)
{
    cursor->at = bytes;
    cursor->end = cursor->at ? cursor->at + length : NULL;
    cursor->failed = false;
}

const void *haul_cursor_bytes(struct haul_cursor *cursor, size_t length)
{
    if (cursor->failed || (size_t)(cursor->end - cursor->at) < length) {
        cursor->failed = true;
        return NULL;
    }
    const void *bytes = cursor->at;
    if (length > 0) {
        cursor->at += length;
    }
    return bytes;
}

/* The next `length` bytes as a number in the machine's order, zero after a failure. */
static uint64_t read_number(struct haul_cursor *cursor, size_t length)
{
    const void *bytes = haul_cursor_bytes(cursor, length);
    uint64_t value = 0;
    if (bytes) {
        memcpy(&value, bytes, length);
    }
    return le64toh(value);
}

uint8_t haul_cursor_u8(struct haul_cursor *cursor)
{
    return (uint8_t)read_number(cursor, 1);
}

uint16_t haul_cursor_u16(struct haul_cursor *cursor)
{
    return (uint16_t)read_number(cursor, 2);
}

uint32_t haul_cursor_u32(struct haul_cursor *cursor)
{
    return (uint32_t)read_number(cursor, 4);
}

uint64_t haul_cursor_u64(struct haul_cursor *cursor)
{
    return read_number(cursor, 8);
}

bool haul_cursor_string(struct haul_cursor *cursor, char *text, size_t capacity)
{
    size_t length = haul_cursor_u16(cursor);
    const void *bytes = haul_cursor_bytes(cursor, length);
    if (!bytes || capacity == 0 || length >= capacity || memchr(bytes, 0, length)) {
        cursor->failed = true;
        if (capacity > 0) {
            text[0] = 0;
        }
        return false;
    }
    memcpy(text, bytes, length);
    text[length] = 0;
    return true;
}

bool haul_cursor_done(const struct haul_cursor *cursor)
{
    return !cursor->failed && cursor->at == cursor->end;
}

/* ---- writing ---- */

void haul_writer_init(struct haul_writer *writer, void *bytes, size_t capacity)
{
    writer->start = bytes;
    writer->at = bytes;
    writer->end = writer->start + capacity;
    writer->failed = false;
}

void haul_writer_bytes(struct haul_writer *writer, const void *bytes, size_t length)
{
    if (writer->failed || (size_t)(writer->end - writer->at) < length) {
        writer->failed = true;
        return;
    }
    if (length > 0) {
        memcpy(writer->at, bytes, length);
        writer->at += length;
    }
}

static void write_number(struct haul_writer *writer, uint64_t value, size_t length)
{
    value = htole64(value);
    haul_writer_bytes(writer, &value, length);
}

void haul_writer_u8(struct haul_writer *writer, uint8_t value)
{
    write_number(writer, value, 1);
}

void haul_writer_u16(struct haul_writer *writer, uint16_t value)
{
    write_number(writer, value, 2);
}

void haul_writer_u32(struct haul_writer *writer, uint32_t value)
{
    write_number(writer, value, 4);
}

void haul_writer_u64(struct haul_writer *writer, uint64_t value)
{
    write_number(writer, value, 8);
}

void haul_writer_string(struct haul_writer *writer, const char *text)
{
    size_t length = strlen(text);
    if (length > UINT16_MAX) {
        writer->failed = true;
        return;
    }
    haul_writer_u16(writer, (uint16_t)length);
    haul_writer_bytes(writer, text, length);
}

size_t haul_writer_length(const struct haul_writer *writer)
{
    return writer->failed ? 0 : (size_t)(writer->at - writer->start);
}

/* ---- hello ---- */

size_t haul_hello_encode(const struct haul_hello *hello, void *bytes, size_t capacity)
{
    struct haul_writer writer;
    haul_writer_init(&writer, bytes, capacity);
    haul_writer_u32(&writer, hello->version);
    haul_writer_u32(&writer, hello->capabilities);
    haul_writer_bytes(&writer, hello->id, sizeof hello->id);
    haul_writer_u16(&writer, hello->channel);
    haul_writer_u16(&writer, hello->channels);
    haul_writer_u32(&writer, hello->page_size);
    return haul_writer_length(&writer);
}

int haul_hello_decode(const void *bytes, size_t length, struct haul_hello *hello, struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, bytes, length);
    memset(hello, 0, sizeof *hello);
    hello->version = haul_cursor_u32(&cursor);
    hello->capabilities = haul_cursor_u32(&cursor);
    if (cursor.failed) {
        return haul_error_set(error, EPROTO, "HELLO is cut short: %zu bytes", length);
    }
    /* Before the rest is read: another version may have another layout. */
    if (hello->version != HAUL_WIRE_VERSION) {
        return haul_error_set(
            error, EPROTONOSUPPORT,
            "the peer speaks protocol version %u, this side version %u; install the same haul "
            "on both hosts",
            hello->version, HAUL_WIRE_VERSION);
    }
    const void *id = haul_cursor_bytes(&cursor, sizeof hello->id);
    if (id) {
        memcpy(hello->id, id, sizeof hello->id);
    }
    hello->channel = haul_cursor_u16(&cursor);
    hello->channels = haul_cursor_u16(&cursor);
    hello->page_size = haul_cursor_u32(&cursor);
    if (!haul_cursor_done(&cursor)) {
        return haul_error_set(error, EPROTO, "HELLO has %zu bytes, expected 32", length);
    }
    uint32_t unknown = hello->capabilities & ~(uint32_t)HAUL_CAPABILITIES_KNOWN;
    if (unknown) {
        return haul_error_set(
            error, EPROTONOSUPPORT,
            "the peer asks for capabilities 0x%x that this side does not have; install the same "
            "haul on both hosts",
            unknown);
    }
    bool none = hello->capabilities & HAUL_CAPABILITY_CPR_TRANSFER;
    if (hello->channels > HAUL_CHANNELS_MAX || (hello->channels == 0) != none) {
        return haul_error_set(error, EPROTO, "HELLO announces %u channels, allowed are %s", hello->channels,
                              none ? "none where memory is handed over" : "1 to 128");
    }
    uint16_t most = hello->capabilities & HAUL_CAPABILITY_STREAMS ? HAUL_CHANNELS_MAX : hello->channels;
    if (hello->channel != HAUL_CONTROL_CHANNEL && hello->channel >= most) {
        return haul_error_set(error, EPROTO, "HELLO is for channel %u of %u", hello->channel,
                              hello->channels);
    }
    if (hello->page_size != HAUL_PAGE_SIZE) {
        return haul_error_set(error, EPROTONOSUPPORT,
                              "the peer counts in pages of %u bytes, this side in %zu", hello->page_size,
                              HAUL_PAGE_SIZE);
    }
    return 0;
}
