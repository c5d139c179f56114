/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- text that may have come from elsewhere ---- */

/* Characters of UTF-8, by their bytes but one: how the first looks, and what is the first to be shown. */
static const struct form {
    unsigned char mask;
    unsigned char lead;
    uint32_t least; /* after the control characters, or what a shorter form is due for */
} forms[] = {{0x80, 0x00, 0x20}, {0xe0, 0xc0, 0xa0}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

/* Bytes of the character at `text` when it may be shown as it is, else 0. */
static size_t plain_character(const unsigned char *text)
{
    for (size_t more = 0; more < sizeof forms / sizeof *forms; more++) {
        if ((text[0] & forms[more].mask) != forms[more].lead) {
            continue;
        }
        uint32_t character = text[0] & (unsigned char)~forms[more].mask;
        for (size_t i = 1; i <= more; i++) {
            if ((text[i] & 0xc0) != 0x80) {
                return 0; /* the zero byte at the end, too */
            }
            character = character << 6 | (text[i] & 0x3f);
        }
        bool surrogate = character >= 0xd800 && character < 0xe000;
        bool plain =
            character >= forms[more].least && character != 0x7f && !surrogate && character < 0x110000;
        return plain ? more + 1 : 0;
    }
    return 0;
}

size_t haul_text_escape(char *to, size_t size, const char *text)
{
    const unsigned char *from = (const unsigned char *)text;
    size_t length = 0;
    while (*from) {
        size_t plain = plain_character(from);
        size_t needed = plain > 0 ? plain : strlen("\\xff");
        if (size - length <= needed) {
            break;
        }
        if (plain > 0) {
            memcpy(to + length, from, plain);
        } else {
            snprintf(to + length, size - length, "\\x%02x", *from);
        }
        from += plain > 0 ? plain : 1;
        length += needed;
    }
    to[length] = '\0';
    return length;
}

/* ---- errors ---- */

int haul_error_set(struct haul_error *error, int code, const char *format, ...)
{
    if (error) {
        char text[sizeof error->message];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        error->code = code;
        haul_text_escape(error->message, sizeof error->message, text);
    }
    return -code;
}

int haul_error_prefix(struct haul_error *error, const char *format, ...)
{
    if (!error) {
        return -EIO;
    }
    char text[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= 0 && (size_t)length < sizeof text) {
        snprintf(text + length, sizeof text - (size_t)length, "%s", error->message);
    }
    haul_text_escape(error->message, sizeof error->message, text);
    return -error->code;
}
