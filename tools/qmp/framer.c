/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/framer.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 1024
#define KEPT_CAPACITY 65536 /* a client that once sent something large gives the memory back */
#define RESET 0xff

void haul_qmp_framer_init(struct haul_qmp_framer *framer, size_t limit)
{
    *framer = (struct haul_qmp_framer){.limit = limit};
}

void haul_qmp_framer_cleanup(struct haul_qmp_framer *framer)
{
    free(framer->text);
    *framer = (struct haul_qmp_framer){0};
}

static bool append(struct haul_qmp_framer *framer, char byte)
{
    if (framer->used == framer->limit) {
        return false;
    }
    if (framer->used == framer->capacity) {
        size_t capacity = framer->capacity ? framer->capacity * 2 : FIRST_CAPACITY;
        char *text = realloc(framer->text, capacity);
        if (!text) {
            return false;
        }
        framer->text = text;
        framer->capacity = capacity;
    }
    framer->text[framer->used++] = byte;
    return true;
}

static void begin(struct haul_qmp_framer *framer)
{
    framer->used = 0;
    framer->braces = 0;
    framer->brackets = 0;
    framer->quote = 0;
    framer->escaped = false;
    framer->ended = false;
    if (framer->capacity > KEPT_CAPACITY) {
        free(framer->text);
        framer->text = NULL;
        framer->capacity = 0;
    }
}

static enum haul_qmp_frame broken(struct haul_qmp_framer *framer, const char *why, bool skip)
{
    begin(framer);
    framer->why = why;
    framer->skipping = skip;
    return HAUL_QMP_FRAME_BROKEN;
}

static enum haul_qmp_frame value(struct haul_qmp_framer *framer)
{
    framer->ended = true;
    return HAUL_QMP_FRAME_VALUE;
}

static bool nested(const struct haul_qmp_framer *framer)
{
    return framer->braces > 0 || framer->brackets > 0;
}

static enum haul_qmp_frame take_in_string(struct haul_qmp_framer *framer, char byte)
{
    bool fits = true;
    if ((unsigned char)byte < 0x20) {
        return broken(framer, "a control character within a string", byte != '\n');
    }
    if (framer->escaped) {
        framer->escaped = false;
        if (byte == '\'') {
            framer->text[framer->used - 1] = byte; /* JSON has no \' */
        } else {
            fits = append(framer, byte);
        }
    } else if (byte == framer->quote) {
        framer->quote = 0;
        if (!append(framer, '"')) {
            return HAUL_QMP_FRAME_TOO_LONG;
        }
        return nested(framer) ? HAUL_QMP_FRAME_MORE : value(framer);
    } else {
        framer->escaped = byte == '\\';
        fits = (byte != '"' || append(framer, '\\')) && append(framer, byte);
    }
    return fits ? HAUL_QMP_FRAME_MORE : HAUL_QMP_FRAME_TOO_LONG;
}

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

static enum haul_qmp_frame take_outside(struct haul_qmp_framer *framer, char byte)
{
    if (is_space(byte) && framer->used == 0) {
        return HAUL_QMP_FRAME_MORE;
    }
    if (byte == '"' || byte == '\'') {
        framer->quote = byte;
        byte = '"';
    }
    framer->braces += (byte == '{') - (byte == '}');
    framer->brackets += (byte == '[') - (byte == ']');
    if (framer->braces + framer->brackets > HAUL_QMP_DEPTH) {
        return broken(framer, "nested too deeply", true);
    }
    if (!append(framer, byte)) {
        return HAUL_QMP_FRAME_TOO_LONG;
    }
    bool closed = (byte == '}' || byte == ']') && !nested(framer);
    return closed || framer->braces < 0 || framer->brackets < 0 ? value(framer) : HAUL_QMP_FRAME_MORE;
}

/* A number or word outside of all brackets ends only with what follows it. */
static bool ends_word(const struct haul_qmp_framer *framer, char byte)
{
    return framer->used > 0 && !framer->quote && !nested(framer) &&
           (is_space(byte) || (byte && strchr("{}[]\"',:", byte)));
}

enum haul_qmp_frame haul_qmp_framer_feed(struct haul_qmp_framer *framer, const char *bytes, size_t length,
                                         size_t *taken)
{
    if (framer->ended) {
        begin(framer);
    }
    for (*taken = 0; *taken < length;) {
        char byte = bytes[*taken];
        enum haul_qmp_frame frame = HAUL_QMP_FRAME_MORE;
        if (ends_word(framer, byte)) {
            return value(framer);
        }
        ++*taken;
        if ((unsigned char)byte == RESET) {
            return broken(framer, "the byte 0xff, which starts over", false);
        }
        if (framer->skipping) {
            framer->skipping = byte != '\n';
        } else if (framer->quote) {
            frame = take_in_string(framer, byte);
        } else {
            frame = take_outside(framer, byte);
        }
        if (frame != HAUL_QMP_FRAME_MORE) {
            return frame;
        }
    }
    return HAUL_QMP_FRAME_MORE;
}
