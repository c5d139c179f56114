/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/arguments.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PATH_SIZE 128 /* "capabilities[3].state"; cut when longer */

int haul_qmp_fail(struct haul_qmp_failure *failure, int code, const char *format, ...)
{
    va_list arguments;
    failure->error_class = NULL;
    failure->error.code = code;
    va_start(arguments, format);
    vsnprintf(failure->error.message, sizeof failure->error.message, format, arguments);
    va_end(arguments);
    return -code;
}

static int wrong_type(struct haul_qmp_failure *failure, const char *path, const char *expected)
{
    return haul_qmp_fail(failure, EINVAL, "Invalid parameter type for '%s', expected: %s", path, expected);
}

static int check_members(const json_t *object, const struct haul_qmp_argument *table, const char *prefix,
                         struct haul_qmp_failure *failure);

static int check_unsigned(const json_t *value, const struct haul_qmp_argument *argument, const char *path,
                          struct haul_qmp_failure *failure)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return haul_qmp_fail(failure, EINVAL, "Parameter '%s' expects uint64", path);
    }
    if (argument->maximum && (uint64_t)json_integer_value(value) > argument->maximum) {
        return haul_qmp_fail(failure, EINVAL, "Parameter '%s' expects a value between 0 and %" PRIu64, path,
                             argument->maximum);
    }
    return 0;
}

static int check_choice(const json_t *value, const struct haul_qmp_argument *argument, const char *path,
                        struct haul_qmp_failure *failure)
{
    if (!json_is_string(value)) {
        return wrong_type(failure, path, "string");
    }
    for (const char *const *choice = argument->choices; *choice; choice++) {
        if (!strcmp(*choice, json_string_value(value))) {
            return 0;
        }
    }
    return haul_qmp_fail(failure, EINVAL, "Parameter '%s' does not accept value '%.200s'", argument->name,
                         json_string_value(value));
}

static int check_array(const json_t *value, const struct haul_qmp_argument *argument, const char *path,
                       struct haul_qmp_failure *failure)
{
    size_t index;
    json_t *element;
    if (!json_is_array(value)) {
        return wrong_type(failure, path, "array");
    }
    json_array_foreach(value, index, element)
    {
        char place[PATH_SIZE + 32];
        if (!argument->members) {
            break;
        }
        snprintf(place, sizeof place, "%s[%zu]", path, index);
        if (!json_is_object(element)) {
            return wrong_type(failure, place, "object");
        }
        int result = check_members(element, argument->members, place, failure);
        if (result) {
            return result;
        }
    }
    return 0;
}

static int check_value(const json_t *value, const struct haul_qmp_argument *argument, const char *path,
                       struct haul_qmp_failure *failure)
{
    switch (argument->type) {
    case HAUL_QMP_STRING:
        return json_is_string(value) ? 0 : wrong_type(failure, path, "string");
    case HAUL_QMP_BOOLEAN:
        return json_is_boolean(value) ? 0 : wrong_type(failure, path, "boolean");
    case HAUL_QMP_UNSIGNED:
        return check_unsigned(value, argument, path, failure);
    case HAUL_QMP_CHOICE:
        return check_choice(value, argument, path, failure);
    case HAUL_QMP_OBJECT:
        if (!json_is_object(value)) {
            return wrong_type(failure, path, "object");
        }
        return argument->members ? check_members(value, argument->members, path, failure) : 0;
    case HAUL_QMP_ARRAY:
        return check_array(value, argument, path, failure);
    case HAUL_QMP_ANY:
        return 0;
    }
    return -EINVAL;
}

static void member_path(char *path, const char *prefix, const char *name)
{
    snprintf(path, PATH_SIZE, "%s%s%s", prefix, *prefix ? "." : "", name);
}

static bool known(const struct haul_qmp_argument *table, const char *name)
{
    for (; table && table->name; table++) {
        if (!strcmp(table->name, name)) {
            return true;
        }
    }
    return false;
}

/* In QEMU's order: what the table has, then what the client has too much. */
static int check_members(const json_t *object, const struct haul_qmp_argument *table, const char *prefix,
                         struct haul_qmp_failure *failure)
{
    char path[PATH_SIZE];
    for (const struct haul_qmp_argument *row = table; row && row->name; row++) {
        const json_t *value = json_object_get(object, row->name);
        int result = 0;
        member_path(path, prefix, row->name);
        if (value) {
            result = check_value(value, row, path, failure);
        } else if (!row->optional) {
            result = haul_qmp_fail(failure, EINVAL, "Parameter '%s' is missing", path);
        }
        if (result) {
            return result;
        }
    }
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        if (!known(table, name)) {
            member_path(path, prefix, name);
            return haul_qmp_fail(failure, EINVAL, "Parameter '%s' is unexpected", path);
        }
    }
    return 0;
}

int haul_qmp_arguments_check(const json_t *object, const struct haul_qmp_argument *table,
                             struct haul_qmp_failure *failure)
{
    return check_members(object, table, "", failure);
}
