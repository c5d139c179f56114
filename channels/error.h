/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_ERROR_H
#define HAUL_CHANNELS_ERROR_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * struct haul_error carries one failure to the caller: a positive errno value and one sentence that says
 * what failed, at which peer and step, and what to do. The caller owns it. Functions that take a
 * `struct haul_error *` return 0 or a negative errno and accept NULL when the message is not wanted.
 */
struct haul_error {
    int code;
    char message[512];
};

/*
 * haul_text_escape copies `text` so that it can be shown: what is not printable (control characters, which a
 * terminal would obey, and what is not UTF-8, which JSON cannot hold) becomes \xNN for each of its bytes.
 * Names and texts that came from a file or a peer go through here before they reach a person; messages of
 * struct haul_error do already. `to` has `size` bytes, 1 at least; what does not fit is left out, never a
 * part of a character. Returns the length.
 */
size_t haul_text_escape(char *to, size_t size, const char *text);

/*
 * haul_error_set stores `code` (a positive errno) and the formatted message, replacing what was there, and
 * returns -code, so that a failing function can `return haul_error_set(error, EINVAL, "...")`.
 * Names in it may be anybody's: the message is escaped. One that does not fit is cut. May be called from any
 * thread that owns `error`; `error` may be NULL.
 */
int haul_error_set(struct haul_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * haul_error_prefix puts the formatted text before the message already in `error` ("channel 3: ..."), keeps
 * its code, and returns -code. `error` may be NULL, then the result is -EIO.
 */
int haul_error_prefix(struct haul_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
