/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_DISPATCH_H
#define HAUL_TOOLS_QMP_DISPATCH_H

/* From one JSON value of a client to the object that answers it. No sockets, no threads. */

#include "tools/qmp/server.h"

#ifdef __cplusplus
extern "C" {
#endif

/* struct haul_qmp_dispatcher is the same for all clients, and constant. */
struct haul_qmp_dispatcher {
    const char *package;
    const struct haul_qmp_command *commands;
    unsigned command_count;
    void *opaque; /* for the handlers */
};

/* All of these return a new object, or NULL without memory. */
json_t *haul_qmp_greeting(const struct haul_qmp_dispatcher *dispatcher);

/* haul_qmp_refusal is the answer to something that is no command: {"error": {...}} without an id. */
json_t *haul_qmp_refusal(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * haul_qmp_dispatch parses one value, runs the command and returns its answer. *negotiated is the client's:
 * whether it has left negotiation mode.
 */
json_t *haul_qmp_dispatch(const struct haul_qmp_dispatcher *dispatcher, const char *text, size_t length,
                          bool *negotiated);

/* haul_qmp_event_object returns an event with the time of the call. `data` (may be NULL) is taken over. */
json_t *haul_qmp_event_object(const char *name, json_t *data);

/* haul_qmp_line writes `object`, which it takes over, as a line of QMP; the caller frees it. NULL without
 * memory. */
char *haul_qmp_line(json_t *object, size_t *length);

#ifdef __cplusplus
}
#endif
#endif
