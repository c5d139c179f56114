/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/events.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int haul_qmp_events_init(struct haul_qmp_events *events, unsigned capacity)
{
    *events = (struct haul_qmp_events){.capacity = capacity};
    events->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (events->wake < 0) {
        return -errno;
    }
    events->lines = calloc(capacity, sizeof *events->lines);
    if (!events->lines) {
        close(events->wake);
        return -ENOMEM;
    }
    pthread_mutex_init(&events->lock, NULL);
    return 0;
}

void haul_qmp_events_cleanup(struct haul_qmp_events *events)
{
    if (!events->lines) {
        return;
    }
    for (char *text; (text = haul_qmp_events_pop(events).text);) {
        free(text);
    }
    free(events->lines);
    events->lines = NULL;
    pthread_mutex_destroy(&events->lock);
    close(events->wake);
}

int haul_qmp_events_push(struct haul_qmp_events *events, char *text, size_t length)
{
    char *dropped = NULL;
    pthread_mutex_lock(&events->lock);
    if (events->count == events->capacity) {
        dropped = events->lines[events->first].text;
        events->first = (events->first + 1) % events->capacity;
        events->count--;
    }
    events->lines[(events->first + events->count) % events->capacity] =
        (struct haul_qmp_event_line){text, length};
    events->count++;
    pthread_mutex_unlock(&events->lock);
    haul_qmp_events_wake(events);
    free(dropped);
    return dropped ? -ENOBUFS : 0;
}

struct haul_qmp_event_line haul_qmp_events_pop(struct haul_qmp_events *events)
{
    struct haul_qmp_event_line line = {0};
    pthread_mutex_lock(&events->lock);
    if (events->count > 0) {
        line = events->lines[events->first];
        events->first = (events->first + 1) % events->capacity;
        events->count--;
    }
    pthread_mutex_unlock(&events->lock);
    return line;
}

void haul_qmp_events_wake(struct haul_qmp_events *events)
{
    /* Fails only when the counter is full, and then it is readable. */
    (void)!eventfd_write(events->wake, 1);
}

void haul_qmp_events_rest(struct haul_qmp_events *events)
{
    eventfd_t count;
    (void)!eventfd_read(events->wake, &count);
}
