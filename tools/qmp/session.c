/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/session.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_OUTPUT 4096
#define KEPT_OUTPUT 65536

void haul_qmp_session_init(struct haul_qmp_session *session, const struct haul_qmp_dispatcher *dispatcher,
                           size_t message_bytes, size_t backlog_bytes)
{
    size_t length;
    *session = (struct haul_qmp_session){.dispatcher = dispatcher, .backlog_bytes = backlog_bytes};
    haul_qmp_framer_init(&session->framer, message_bytes);
    char *line = haul_qmp_line(haul_qmp_greeting(dispatcher), &length);
    haul_qmp_session_put(session, line, line ? length : 0);
    free(line);
}

void haul_qmp_session_cleanup(struct haul_qmp_session *session)
{
    haul_qmp_framer_cleanup(&session->framer);
    free(session->output);
    session->output = NULL;
}

/* Events and the answer under way need the rest of the backlog. */
static bool reads_answers(const struct haul_qmp_session *session)
{
    return session->output_end - session->output_first <= session->backlog_bytes / 4;
}

bool haul_qmp_session_wants_input(const struct haul_qmp_session *session)
{
    return !session->closing && !session->dead && session->input_first == session->input_end &&
           reads_answers(session);
}

char *haul_qmp_session_next(struct haul_qmp_session *session, size_t *length)
{
    while (!session->dead && session->input_first < session->input_end && reads_answers(session)) {
        size_t taken;
        json_t *answer = NULL;
        struct haul_qmp_framer *framer = &session->framer;
        enum haul_qmp_frame frame = haul_qmp_framer_feed(framer, session->input + session->input_first,
                                                         session->input_end - session->input_first, &taken);
        session->input_first += taken;
        switch (frame) {
        case HAUL_QMP_FRAME_MORE:
            continue;
        case HAUL_QMP_FRAME_VALUE:
            answer = haul_qmp_dispatch(session->dispatcher, framer->text, framer->used, &session->negotiated);
            break;
        case HAUL_QMP_FRAME_BROKEN:
            answer = haul_qmp_refusal("JSON parse error, %s", framer->why);
            break;
        case HAUL_QMP_FRAME_TOO_LONG:
            answer = haul_qmp_refusal("a message may have %zu bytes at most; the connection is closed",
                                      framer->limit);
            session->input_first = session->input_end;
            session->closing = true;
            break;
        }
        char *line = haul_qmp_line(answer, length);
        session->dead = !line;
        return line;
    }
    return NULL;
}

static bool make_room(struct haul_qmp_session *session, size_t length)
{
    size_t waiting = session->output_end - session->output_first;
    if (waiting + length > session->backlog_bytes) {
        return false;
    }
    if (session->output_first > 0) {
        memmove(session->output, session->output + session->output_first, waiting);
        session->output_first = 0;
        session->output_end = waiting;
    }
    size_t capacity = session->output_capacity ? session->output_capacity : FIRST_OUTPUT;
    while (capacity < waiting + length) {
        capacity *= 2;
    }
    if (capacity > session->output_capacity) {
        char *output = realloc(session->output, capacity);
        if (!output) {
            return false;
        }
        session->output = output;
        session->output_capacity = capacity;
    }
    return true;
}

void haul_qmp_session_put(struct haul_qmp_session *session, const char *line, size_t length)
{
    if (!line || (session->output_end + length > session->output_capacity && !make_room(session, length)) ||
        session->output_end - session->output_first + length > session->backlog_bytes) {
        session->dead = true;
        return;
    }
    memcpy(session->output + session->output_end, line, length);
    session->output_end += length;
}

void haul_qmp_session_sent(struct haul_qmp_session *session, size_t length)
{
    session->output_first += length;
    if (session->output_first < session->output_end) {
        return;
    }
    session->output_first = 0;
    session->output_end = 0;
    if (session->output_capacity > KEPT_OUTPUT) {
        free(session->output);
        session->output = NULL;
        session->output_capacity = 0;
    }
}
