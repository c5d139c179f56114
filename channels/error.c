/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int haul_error_set(struct haul_error *error, int code, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->code = code;
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
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
    memcpy(error->message, text, sizeof text);
    return -error->code;
}
