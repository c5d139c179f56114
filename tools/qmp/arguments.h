/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_ARGUMENTS_H
#define HAUL_TOOLS_QMP_ARGUMENTS_H

/* What a QMP command takes, as data, and the check of what a client sent against it, in QEMU's words. */

#include "channels/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* struct haul_qmp_failure is the "error" member of an answer: its class, and the sentence of `error`. */
struct haul_qmp_failure {
    const char *error_class; /* static; NULL stands for "GenericError" */
    struct haul_error error;
};

/* haul_qmp_fail sets class GenericError, `code` (a positive errno) and the sentence, and returns -code. */
int haul_qmp_fail(struct haul_qmp_failure *failure, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

enum haul_qmp_type {
    HAUL_QMP_STRING,
    HAUL_QMP_BOOLEAN,
    HAUL_QMP_UNSIGNED, /* an integer of 0 to `maximum` (0: INT64_MAX) */
    HAUL_QMP_CHOICE,   /* a string, one of `choices` */
    HAUL_QMP_OBJECT,   /* with the members `members`; NULL: any */
    HAUL_QMP_ARRAY,    /* of objects with the members `members`; NULL: of anything */
    HAUL_QMP_ANY
};

struct haul_qmp_argument {
    const char *name; /* NULL ends a table */
    enum haul_qmp_type type;
    bool optional;
    uint64_t maximum;
    const char *const *choices; /* ends with NULL */
    const struct haul_qmp_argument *members;
};

/*
 * haul_qmp_arguments_check checks an object against a table (NULL: no members at all). What is missing,
 * unknown or of a wrong type is -EINVAL, in QEMU's words ("Parameter 'uri' is missing"). A NUL within a
 * string is refused before, by the server.
 */
int haul_qmp_arguments_check(const json_t *object, const struct haul_qmp_argument *table,
                             struct haul_qmp_failure *failure);

#ifdef __cplusplus
}
#endif
#endif
