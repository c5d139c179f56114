/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer's entry point for the QMP server's input. The first byte says in pieces of which size the rest
 * arrives. Whatever comes, each answer is one line of ASCII without control characters, which is a JSON
 * object with "return" or "error", handlers get what their table promises, memory stays within the limits,
 * and the same bytes in one piece give the same answers.
 */
#include "tests/fuzz/qmp_fuzz.h"
#include "tools/qmp/session.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE_BYTES ((size_t)4096)
#define BACKLOG_BYTES 65536

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

static const char *const choices[] = {"one", "two", NULL};

static const struct haul_qmp_argument inner[] = {
    {"capability", HAUL_QMP_CHOICE, .choices = choices}, {"state", HAUL_QMP_BOOLEAN}, {NULL}};

static const struct haul_qmp_argument arguments[] = {{"uri", HAUL_QMP_STRING},
                                                     {"bandwidth", HAUL_QMP_UNSIGNED, .optional = true},
                                                     {"list", HAUL_QMP_ARRAY, true, .members = inner},
                                                     {NULL}};

/* Holds what came to what the table above says, and gives it back. */
static int handle(void *opaque, json_t *given, json_t **result, struct haul_qmp_failure *failure)
{
    size_t index;
    json_t *element;
    (void)failure;
    require(opaque == choices && json_is_object(given));
    require(json_is_string(json_object_get(given, "uri")));
    const json_t *bandwidth = json_object_get(given, "bandwidth");
    require(!bandwidth || (json_is_integer(bandwidth) && json_integer_value(bandwidth) >= 0));
    json_array_foreach(json_object_get(given, "list"), index, element)
    {
        require(json_is_boolean(json_object_get(element, "state")));
        require(json_is_string(json_object_get(element, "capability")));
    }
    *result = json_incref(given);
    return 0;
}

static const struct haul_qmp_command commands[] = {{"migrate", arguments, handle}};

static const struct haul_qmp_dispatcher dispatcher = {"fuzz", commands, 1, (void *)choices};

static void check_line(const char *line, size_t length)
{
    require(length > 2 && line[length - 2] == '\r' && line[length - 1] == '\n');
    for (size_t i = 0; i < length - 2; i++) {
        require((unsigned char)line[i] >= 0x20 && (unsigned char)line[i] < 0x80);
    }
    json_t *answer = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
    require(json_is_object(answer));
    const json_t *error = json_object_get(answer, "error");
    require(!json_object_get(answer, "return") == (error != NULL));
    require(!error || (json_is_string(json_object_get(error, "class")) &&
                       json_is_string(json_object_get(error, "desc"))));
    json_decref(answer);
}

/* Appends all answers to `log`, which has room for `room` bytes; returns how many were logged. */
static size_t talk(const uint8_t *data, size_t size, size_t piece, char *log, size_t room)
{
    struct haul_qmp_session session;
    size_t logged = 0;
    haul_qmp_session_init(&session, &dispatcher, MESSAGE_BYTES, BACKLOG_BYTES);
    haul_qmp_session_sent(&session, session.output_end - session.output_first); /* the greeting */
    while (size > 0 && haul_qmp_session_wants_input(&session)) {
        size_t count = size < piece ? size : piece;
        memcpy(session.input, data, count);
        session.input_first = 0;
        session.input_end = count;
        data += count;
        size -= count;
        size_t length;
        for (char *line; (line = haul_qmp_session_next(&session, &length));) {
            check_line(line, length);
            haul_qmp_session_put(&session, line, length);
            require(!session.dead && session.output_end - session.output_first == length);
            haul_qmp_session_sent(&session, length);
            size_t kept = length < room - logged ? length : room - logged;
            memcpy(log + logged, line, kept);
            logged += kept;
            free(line);
        }
        require(session.framer.capacity <= 2 * MESSAGE_BYTES);
    }
    require(!session.dead);
    haul_qmp_session_cleanup(&session);
    return logged;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    size_t room = 65536;
    char *pieces = malloc(room);
    char *whole = malloc(room);
    require(pieces && whole);
    size_t piece = 1 + data[0] % 64;
    size_t first = talk(data + 1, size - 1, piece, pieces, room);
    size_t second = talk(data + 1, size - 1, HAUL_QMP_INPUT, whole, room);
    require(first == second && memcmp(pieces, whole, first) == 0);
    free(whole);
    free(pieces);
    return 0;
}
