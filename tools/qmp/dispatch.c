/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/dispatch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The QEMU release whose migration commands are spoken: clients look at it before they use newer arguments.
 */
#define QEMU_MAJOR 8
#define QEMU_MINOR 2

#define NO_COMMAND "CommandNotFound"

static const char *const own[] = {"qmp_capabilities", "query-commands", "query-version"};

static const struct haul_qmp_argument negotiation[] = {{"enable", HAUL_QMP_ARRAY, .optional = true}, {NULL}};

/* Sentences may hold a file's name in any encoding, or be cut within a character: JSON must be UTF-8. */
static json_t *sentence(const char *text)
{
    json_t *string = json_string(text);
    if (string) {
        return string;
    }
    char copy[sizeof((struct haul_error *)0)->message];
    size_t length = strnlen(text, sizeof copy - 1);
    for (size_t i = 0; i < length; i++) {
        copy[i] = text[i];
        if ((unsigned char)text[i] >= 0x80) {
            copy[i] = '?';
        }
    }
    copy[length] = '\0';
    return json_string(copy);
}

static json_t *error_object(const char *error_class, const char *text)
{
    return json_pack("{s:s, s:o}", "class", error_class ? error_class : "GenericError", "desc",
                     sentence(text));
}

json_t *haul_qmp_refusal(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return json_pack("{s:o}", "error", error_object(NULL, text));
}

static json_t *version(const struct haul_qmp_dispatcher *dispatcher)
{
    return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", 0, "minor", QEMU_MINOR, "major", QEMU_MAJOR,
                     "package", dispatcher->package);
}

json_t *haul_qmp_greeting(const struct haul_qmp_dispatcher *dispatcher)
{
    return json_pack("{s:{s:o, s:[]}}", "QMP", "version", version(dispatcher), "capabilities");
}

json_t *haul_qmp_event_object(const char *name, json_t *data)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return json_pack("{s:{s:I, s:I}, s:s, s:o*}", "timestamp", "seconds", (json_int_t)now.tv_sec,
                     "microseconds", (json_int_t)now.tv_nsec / 1000, "event", name, "data", data);
}

char *haul_qmp_line(json_t *object, size_t *length)
{
    size_t flags = JSON_ENSURE_ASCII;
    size_t size = object ? json_dumpb(object, NULL, 0, flags) : 0;
    char *line = size ? malloc(size + 2) : NULL;
    if (line) {
        json_dumpb(object, line, size, flags);
        line[size] = '\r';
        line[size + 1] = '\n';
        *length = size + 2;
    }
    json_decref(object);
    return line;
}

/* ---- the server's own commands ---- */

static int negotiate(json_t *arguments, struct haul_qmp_failure *failure)
{
    size_t index;
    json_t *name;
    int result = haul_qmp_arguments_check(arguments, negotiation, failure);
    if (result) {
        return result;
    }
    json_array_foreach(json_object_get(arguments, "enable"), index, name)
    {
        if (!json_is_string(name)) {
            return haul_qmp_fail(failure, EINVAL,
                                 "Invalid parameter type for 'enable[%zu]', expected: string", index);
        }
        return haul_qmp_fail(failure, EINVAL, "Capability %.100s not available", json_string_value(name));
    }
    return 0;
}

static int list_commands(const struct haul_qmp_dispatcher *dispatcher, json_t **result)
{
    *result = json_array();
    for (unsigned i = 0; i < sizeof own / sizeof *own; i++) {
        json_array_append_new(*result, json_pack("{s:s}", "name", own[i]));
    }
    for (unsigned i = 0; i < dispatcher->command_count; i++) {
        json_array_append_new(*result, json_pack("{s:s}", "name", dispatcher->commands[i].name));
    }
    return 0;
}

/* ---- one command ---- */

static const struct haul_qmp_command *find(const struct haul_qmp_dispatcher *dispatcher, const char *name)
{
    for (unsigned i = 0; i < dispatcher->command_count; i++) {
        if (!strcmp(dispatcher->commands[i].name, name)) {
            return &dispatcher->commands[i];
        }
    }
    return NULL;
}

static int not_found(struct haul_qmp_failure *failure, const char *text, const char *name)
{
    int result = haul_qmp_fail(failure, ENOENT, text, name);
    failure->error_class = NO_COMMAND;
    return result;
}

static int run(const struct haul_qmp_dispatcher *dispatcher, const char *name, json_t *arguments,
               bool *negotiated, json_t **result, struct haul_qmp_failure *failure)
{
    bool capabilities = !strcmp(name, "qmp_capabilities");
    bool query_commands = !strcmp(name, "query-commands");
    bool query_version = !strcmp(name, "query-version");
    const struct haul_qmp_command *command = find(dispatcher, name);
    if (!*negotiated && !capabilities) {
        return not_found(failure, "Expecting capabilities negotiation with '%s'", "qmp_capabilities");
    }
    if (capabilities && *negotiated) {
        return not_found(failure, "Capabilities negotiation is already complete, command ignored%s", "");
    }
    if (capabilities) {
        int outcome = negotiate(arguments, failure);
        *negotiated = !outcome;
        return outcome;
    }
    if (!command && !query_commands && !query_version) {
        return not_found(failure, "The command %.200s has not been found", name);
    }
    int outcome = haul_qmp_arguments_check(arguments, command ? command->arguments : NULL, failure);
    if (outcome) {
        return outcome;
    }
    if (command) {
        return command->handler(dispatcher->opaque, arguments, result, failure);
    }
    if (query_commands) {
        return list_commands(dispatcher, result);
    }
    *result = version(dispatcher);
    return 0;
}

/* The members that a request may have, in the order in which they came. */
static int check_request(json_t *request, struct haul_qmp_failure *failure)
{
    const char *name;
    json_t *member;
    if (!json_is_object(request)) {
        return haul_qmp_fail(failure, EINVAL, "QMP input must be a JSON object");
    }
    json_object_foreach(request, name, member)
    {
        if (!strcmp(name, "execute")) {
            if (!json_is_string(member)) {
                return haul_qmp_fail(failure, EINVAL, "QMP input member 'execute' must be a string");
            }
        } else if (!strcmp(name, "arguments")) {
            if (!json_is_object(member)) {
                return haul_qmp_fail(failure, EINVAL, "QMP input member 'arguments' must be an object");
            }
        } else if (strcmp(name, "id") != 0) {
            return haul_qmp_fail(failure, EINVAL, "QMP input member '%.200s' is unexpected", name);
        }
    }
    if (!json_object_get(request, "execute")) {
        return haul_qmp_fail(failure, EINVAL, "QMP input lacks member 'execute'");
    }
    return 0;
}

#define LARGEST "9223372036854775807" /* that jansson reads */
#define LARGEST_OF_QEMU "18446744073709551615"

/* Whether `digits` are an integer that QEMU reads and jansson does not. */
static bool is_too_large(const char *digits, size_t length)
{
    return (length == strlen(LARGEST) && memcmp(digits, LARGEST, length) > 0) ||
           (length == strlen(LARGEST_OF_QEMU) && memcmp(digits, LARGEST_OF_QEMU, length) <= 0);
}

/* Makes the largest integer that jansson reads of every larger one that QEMU reads. */
static void lower_integers(char *text, size_t length)
{
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        if (quoted && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            quoted = !quoted;
        }
        size_t end = i;
        while (!quoted && end < length && text[end] && strchr("+-.0123456789eE", text[end])) {
            end++;
        }
        if (end > i && strspn(text + i, "0123456789") == end - i && is_too_large(text + i, end - i)) {
            memcpy(text + i, LARGEST " ", end - i); /* one of its two lengths */
        }
        i = end > i ? end - 1 : i;
    }
}

static json_t *parse(const char *text, size_t length, json_error_t *reason)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    json_t *request = json_loadb(text, length, flags, reason);
    if (request || json_error_code(reason) != json_error_numeric_overflow) {
        return request;
    }
    char *lowered = malloc(length + 1);
    if (lowered) {
        memcpy(lowered, text, length);
        lowered[length] = '\0';
        lower_integers(lowered, length);
        request = json_loadb(lowered, length, flags, reason);
    }
    free(lowered);
    return request;
}

json_t *haul_qmp_dispatch(const struct haul_qmp_dispatcher *dispatcher, const char *text, size_t length,
                          bool *negotiated)
{
    struct haul_qmp_failure failure = {0};
    json_error_t reason;
    json_t *result = NULL;
    json_t *answer = NULL;
    json_t *request = parse(text, length, &reason);
    if (!request) {
        return haul_qmp_refusal("JSON parse error, %s", reason.text);
    }
    int outcome = check_request(request, &failure);
    if (!outcome) {
        json_t *given = json_object_get(request, "arguments");
        json_t *arguments = given ? json_incref(given) : json_object();
        outcome = run(dispatcher, json_string_value(json_object_get(request, "execute")), arguments,
                      negotiated, &result, &failure);
        json_decref(arguments);
    }
    json_t *id = json_object_get(request, "id"); /* NULL for a request that is no object */
    if (outcome) {
        json_decref(result);
        answer = json_pack("{s:O*, s:o}", "id", id, "error",
                           error_object(failure.error_class, failure.error.message));
    } else {
        answer = json_pack("{s:o, s:O*}", "return", result ? result : json_object(), "id", id);
    }
    json_decref(request);
    return answer;
}
