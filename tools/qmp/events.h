/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_EVENTS_H
#define HAUL_TOOLS_QMP_EVENTS_H

/*
 * Events on their way from any thread to the server's: a bounded queue of lines and an eventfd. The lock is
 * held for a few instructions, never over an allocation or a system call.
 */

#include <pthread.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_qmp_event_line {
    char *text;
    size_t length;
};

struct haul_qmp_events {
    int wake; /* eventfd: something was pushed, or the server is to stop */
    pthread_mutex_t lock;
    unsigned capacity;
    unsigned first;                    /* under lock */
    unsigned count;                    /* under lock */
    struct haul_qmp_event_line *lines; /* under lock */
};

int haul_qmp_events_init(struct haul_qmp_events *events, unsigned capacity);
void haul_qmp_events_cleanup(struct haul_qmp_events *events);

/* haul_qmp_events_push takes `text` over. -ENOBUFS: the oldest had to go for it. Any thread. */
int haul_qmp_events_push(struct haul_qmp_events *events, char *text, size_t length);

/* haul_qmp_events_pop returns the oldest, the caller's to free; text NULL: there is none. */
struct haul_qmp_event_line haul_qmp_events_pop(struct haul_qmp_events *events);

/* haul_qmp_events_wake makes `wake` readable, haul_qmp_events_rest quiet again. */
void haul_qmp_events_wake(struct haul_qmp_events *events);
void haul_qmp_events_rest(struct haul_qmp_events *events);

#ifdef __cplusplus
}
#endif
#endif
