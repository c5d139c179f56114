/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_SESSION_H
#define HAUL_TOOLS_QMP_SESSION_H

/*
 * One client of a server: the bytes that it sent and the bytes that wait for it. A client that does not read
 * its answers is not read from (and so cannot make more of them); only events can then fill its backlog.
 */

#include "tools/qmp/dispatch.h"
#include "tools/qmp/framer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_QMP_INPUT 16384

struct haul_qmp_session {
    const struct haul_qmp_dispatcher *dispatcher;
    struct haul_qmp_framer framer;
    bool negotiated;
    bool closing; /* takes no more input; closed once its output is sent */
    bool dead;    /* closed at once: no memory, or its backlog is full */
    char input[HAUL_QMP_INPUT];
    size_t input_first; /* of the bytes not yet run */
    size_t input_end;
    char *output;
    size_t output_first; /* of the bytes not yet sent */
    size_t output_end;
    size_t output_capacity;
    size_t backlog_bytes; /* the most that may wait */
};

/* haul_qmp_session_init sets up a session and puts the greeting into its output. */
void haul_qmp_session_init(struct haul_qmp_session *session, const struct haul_qmp_dispatcher *dispatcher,
                           size_t message_bytes, size_t backlog_bytes);
void haul_qmp_session_cleanup(struct haul_qmp_session *session);

/* haul_qmp_session_wants_input: whether there is room for input (input_end to HAUL_QMP_INPUT), and it would
 * be run. */
bool haul_qmp_session_wants_input(const struct haul_qmp_session *session);

/*
 * haul_qmp_session_next takes input as far as one value's end and runs its command. Returns its answer as a
 * line, the caller's to free and to put with haul_qmp_session_put; NULL: there is nothing to do for now.
 */
char *haul_qmp_session_next(struct haul_qmp_session *session, size_t *length);

/* haul_qmp_session_put adds a line to the output, or makes the session dead. */
void haul_qmp_session_put(struct haul_qmp_session *session, const char *line, size_t length);

/* haul_qmp_session_sent takes `length` bytes off the front of the output. */
void haul_qmp_session_sent(struct haul_qmp_session *session, size_t length);

#ifdef __cplusplus
}
#endif
#endif
