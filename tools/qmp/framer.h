/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_FRAMER_H
#define HAUL_TOOLS_QMP_FRAMER_H

/*
 * Cuts what a QMP client sends into JSON values. As in QEMU a value ends where its brackets close, not at the
 * end of a line, strings may be in single quotes, and the byte 0xff forgets a value that was begun. Nothing
 * else of JSON is checked here.
 */

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_QMP_DEPTH 1024 /* of nested arrays and objects, QEMU's limit */

enum haul_qmp_frame {
    HAUL_QMP_FRAME_MORE,    /* all was taken and no value has ended */
    HAUL_QMP_FRAME_VALUE,   /* one has: text[0] to text[used - 1] */
    HAUL_QMP_FRAME_BROKEN,  /* `why` says it; the framer has skipped or will skip what cannot be read */
    HAUL_QMP_FRAME_TOO_LONG /* a value beyond the limit, or no memory for it: of no more use */
};

struct haul_qmp_framer {
    size_t limit; /* of a value */
    char *text;   /* with strings in double quotes */
    size_t used;
    size_t capacity;
    const char *why;
    int braces;
    int brackets;
    char quote;    /* of the string that was begun, or 0 */
    bool escaped;  /* the last byte of that string was a backslash */
    bool skipping; /* to the end of the line */
    bool ended;    /* `text` holds the value that was returned last */
};

void haul_qmp_framer_init(struct haul_qmp_framer *framer, size_t limit);
void haul_qmp_framer_cleanup(struct haul_qmp_framer *framer);

/* haul_qmp_framer_feed takes bytes until a value ends; *taken says how many. `text` holds until the next
 * call. */
enum haul_qmp_frame haul_qmp_framer_feed(struct haul_qmp_framer *framer, const char *bytes, size_t length,
                                         size_t *taken);

#ifdef __cplusplus
}
#endif
#endif
