/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/client.h"

#include "tools/clock.h"
#include "tools/qmp/address.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define REPLY_LIMIT ((size_t)8 << 20) /* the largest real reply, query-qmp-schema, is under 1 MiB */
#define FIRST_BUFFER 65536
#define EVENTS_KEPT 32

struct haul_qmp {
    const struct haul_qmp_program *program;
    int fd;
    int timeout_ms;
    uint64_t next_id;
    struct sockaddr_un address;
    char *buffer; /* bytes read and not yet taken; a line at a time */
    size_t used;
    size_t capacity;
    json_t *events[EVENTS_KEPT]; /* oldest first */
    unsigned event_count;
    uint64_t stopped_at_ns;
    uint64_t memory_changes;
    uint64_t unplugs;
    bool ran;
};

static int closed(const struct haul_qmp *qmp, struct haul_error *error)
{
    return haul_error_set(error, EPIPE, "%s closed its %s %s: it has exited or is exiting",
                          qmp->program->name, qmp->program->socket, qmp->address.sun_path);
}

/* Waits until the socket can be read, or the deadline (-ETIMEDOUT, without a message). */
static int wait_readable(struct haul_qmp *qmp, int64_t deadline, struct haul_error *error)
{
    for (;;) {
        int64_t left = deadline - haul_clock_ms();
        struct pollfd poller = {.fd = qmp->fd, .events = POLLIN};
        int ready = poll(&poller, 1, left > 0 ? (int)left : 0);
        if (ready > 0) {
            return 0;
        }
        if (ready == 0) {
            return -ETIMEDOUT;
        }
        if (errno != EINTR) {
            return haul_error_set(error, errno, "waiting for %s's %s %s: %s", qmp->program->name,
                                  qmp->program->socket, qmp->address.sun_path, strerror(errno));
        }
    }
}

static int read_more(struct haul_qmp *qmp, struct haul_error *error)
{
    if (qmp->used == qmp->capacity) {
        if (qmp->capacity >= REPLY_LIMIT) {
            return haul_error_set(error, EMSGSIZE, "%s's %s %s sent a reply of more than %zu MiB",
                                  qmp->program->name, qmp->program->socket, qmp->address.sun_path,
                                  REPLY_LIMIT >> 20);
        }
        size_t capacity = qmp->capacity * 2;
        char *buffer = realloc(qmp->buffer, capacity);
        if (!buffer) {
            return haul_error_set(error, ENOMEM, "no memory for a reply of %s", qmp->program->name);
        }
        qmp->buffer = buffer;
        qmp->capacity = capacity;
    }
    ssize_t count = recv(qmp->fd, qmp->buffer + qmp->used, qmp->capacity - qmp->used, 0);
    if (count == 0 || (count < 0 && errno == ECONNRESET)) {
        return closed(qmp, error);
    }
    if (count < 0 && errno != EINTR) {
        return haul_error_set(error, errno, "reading %s's %s %s: %s", qmp->program->name,
                              qmp->program->socket, qmp->address.sun_path, strerror(errno));
    }
    qmp->used += count > 0 ? (size_t)count : 0;
    return 0;
}

/* QEMU stamps events with the time of day; downtime counts on the monotonic clock. */
static void note_event(struct haul_qmp *qmp, const json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "event"));
    qmp->ran = qmp->ran || (name && strcmp(name, "RESUME") == 0);
    if (name && (strcmp(name, "BALLOON_CHANGE") == 0 || strcmp(name, "MEMORY_DEVICE_SIZE_CHANGE") == 0)) {
        qmp->memory_changes++;
    }
    qmp->unplugs += name && strcmp(name, "DEVICE_DELETED") == 0;
    if (name && strcmp(name, "STOP") == 0) {
        const json_t *stamp = json_object_get(event, "timestamp");
        int64_t at = json_integer_value(json_object_get(stamp, "seconds")) * 1000000000 +
                     json_integer_value(json_object_get(stamp, "microseconds")) * 1000;
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t ago = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - at;
        qmp->stopped_at_ns = haul_clock_ns() - (uint64_t)(ago > 0 ? ago : 0);
    }
}

/* Reads one line as a JSON object. -ETIMEDOUT comes without a message. */
static int read_object(struct haul_qmp *qmp, int64_t deadline, json_t **object, struct haul_error *error)
{
    char *end;
    size_t searched = 0;
    while (!(end = memchr(qmp->buffer + searched, '\n', qmp->used - searched))) {
        searched = qmp->used;
        int result = wait_readable(qmp, deadline, error);
        if (!result) {
            result = read_more(qmp, error);
        }
        if (result) {
            return result;
        }
    }
    size_t length = (size_t)(end - qmp->buffer) + 1;
    json_error_t reason;
    *object = json_loadb(qmp->buffer, length, JSON_ALLOW_NUL, &reason);
    qmp->used -= length;
    memmove(qmp->buffer, qmp->buffer + length, qmp->used);
    if (!json_is_object(*object)) {
        json_decref(*object);
        return haul_error_set(error, EPROTO,
                              "%s is not a QMP %s: it sent something that is not a JSON object",
                              qmp->address.sun_path, qmp->program->socket);
    }
    note_event(qmp, *object);
    return 0;
}

static void keep_event(struct haul_qmp *qmp, json_t *event)
{
    if (qmp->event_count == EVENTS_KEPT) {
        json_decref(qmp->events[0]);
        memmove(qmp->events, qmp->events + 1, sizeof qmp->events - sizeof qmp->events[0]);
        qmp->event_count--;
    }
    qmp->events[qmp->event_count++] = event;
}

static int send_line(struct haul_qmp *qmp, const char *line, size_t length, int fd, struct haul_error *error)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    size_t done = 0;
    while (done < length) {
        struct iovec part = {.iov_base = (char *)line + done, .iov_len = length - done};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (fd >= 0 && done == 0) {
            message.msg_control = control.bytes;
            message.msg_controllen = sizeof control.bytes;
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof fd);
            memcpy(CMSG_DATA(header), &fd, sizeof fd);
        }
        ssize_t count = sendmsg(qmp->fd, &message, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            return closed(qmp, error);
        }
        if (count < 0) {
            return haul_error_set(error, errno, "writing to %s's %s %s: %s", qmp->program->name,
                                  qmp->program->socket, qmp->address.sun_path, strerror(errno));
        }
        done += (size_t)count;
    }
    return 0;
}

/* Waits for the answer to command `id`; events that come before it are kept. */
static int read_reply(struct haul_qmp *qmp, const char *command, uint64_t id, json_t **reply,
                      struct haul_error *error)
{
    int64_t deadline = haul_clock_ms() + qmp->timeout_ms;
    for (;;) {
        json_t *object = NULL;
        int result = read_object(qmp, deadline, &object, error);
        if (result == -ETIMEDOUT) {
            return haul_error_set(error, ETIMEDOUT, "%s's %s %s did not answer `%s` within %d s",
                                  qmp->program->name, qmp->program->socket, qmp->address.sun_path, command,
                                  qmp->timeout_ms / 1000);
        }
        if (result) {
            return result;
        }
        if (json_object_get(object, "event")) {
            keep_event(qmp, object);
            continue;
        }
        /* An answer to an earlier command that timed out is dropped. */
        if ((uint64_t)json_integer_value(json_object_get(object, "id")) != id) {
            json_decref(object);
            continue;
        }
        json_t *failure = json_object_get(object, "error");
        if (failure) {
            const char *desc = json_string_value(json_object_get(failure, "desc"));
            result = haul_error_set(error, EREMOTEIO, "%s refused `%s`: %s", qmp->program->name, command,
                                    desc ? desc : "no reason given");
        } else if (!json_object_get(object, "return")) {
            result = haul_error_set(error, EPROTO, "%s's answer to `%s` has neither a result nor an error",
                                    qmp->program->name, command);
        } else if (reply) {
            *reply = json_incref(json_object_get(object, "return"));
        }
        json_decref(object);
        return result;
    }
}

static int execute(struct haul_qmp *qmp, const char *command, json_t *arguments, int fd, json_t **reply,
                   struct haul_error *error)
{
    uint64_t id = qmp->next_id++;
    json_t *request =
        json_pack("{s:s, s:o*, s:I}", "execute", command, "arguments", arguments, "id", (json_int_t)id);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!text) {
        return haul_error_set(error, ENOMEM, "no memory for the QMP command `%s`", command);
    }
    int result = send_line(qmp, text, strlen(text), fd, error);
    if (!result) {
        result = send_line(qmp, "\n", 1, -1, error);
    }
    free(text);
    return result ? result : read_reply(qmp, command, id, reply, error);
}

int haul_qmp_execute(struct haul_qmp *qmp, const char *command, json_t *arguments, json_t **reply,
                     struct haul_error *error)
{
    return execute(qmp, command, arguments, -1, reply, error);
}

int haul_qmp_give_fd(struct haul_qmp *qmp, int fd, const char *name, struct haul_error *error)
{
    return execute(qmp, "getfd", json_pack("{s:s}", "fdname", name), fd, NULL, error);
}

int haul_qmp_wait_event(struct haul_qmp *qmp, const char *name, int timeout_ms, bool *seen,
                        struct haul_error *error)
{
    int64_t deadline = haul_clock_ms() + timeout_ms;
    *seen = false;
    while (!*seen) {
        json_t *event = NULL;
        if (qmp->event_count) {
            event = qmp->events[0];
            qmp->event_count--;
            memmove(qmp->events, qmp->events + 1, qmp->event_count * sizeof qmp->events[0]);
        } else {
            int result = read_object(qmp, deadline, &event, error);
            if (result) {
                return result == -ETIMEDOUT ? 0 : result;
            }
        }
        const char *text = json_string_value(json_object_get(event, "event"));
        *seen = text && strcmp(text, name) == 0;
        json_decref(event);
    }
    return 0;
}

static int busy(const struct haul_qmp *qmp, struct haul_error *error)
{
    return haul_error_set(error, EBUSY, "%s's %s %s sent no greeting within %d s: %s", qmp->program->name,
                          qmp->program->socket, qmp->address.sun_path, qmp->timeout_ms / 1000,
                          qmp->program->when_silent);
}

/* A monitor that serves a client accepts no other, and its short backlog fills up: then connect(2) says
 * EAGAIN. */
static int connect_to(struct haul_qmp *qmp, struct haul_error *error)
{
    int64_t deadline = haul_clock_ms() + qmp->timeout_ms;
    qmp->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (qmp->fd < 0) {
        return haul_error_set(error, errno, "cannot make a socket for %s's %s: %s", qmp->program->name,
                              qmp->program->socket, strerror(errno));
    }
    while (connect(qmp->fd, (struct sockaddr *)&qmp->address, sizeof qmp->address) < 0) {
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            return haul_error_set(error, errno, "cannot connect to %s's %s %s: %s; %s", qmp->program->name,
                                  qmp->program->socket, qmp->address.sun_path, strerror(errno),
                                  qmp->program->when_absent);
        }
        if (haul_clock_ms() >= deadline) {
            return busy(qmp, error);
        }
        poll(NULL, 0, 10);
    }
    struct timeval timeout = {.tv_sec = qmp->timeout_ms / 1000,
                              .tv_usec = (suseconds_t)(qmp->timeout_ms % 1000) * 1000};
    if (fcntl(qmp->fd, F_SETFL, 0) < 0 ||
        setsockopt(qmp->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0) {
        return haul_error_set(error, errno, "cannot set up the connection to %s's %s %s: %s",
                              qmp->program->name, qmp->program->socket, qmp->address.sun_path,
                              strerror(errno));
    }
    return 0;
}

static int greet(struct haul_qmp *qmp, struct haul_error *error)
{
    json_t *greeting = NULL;
    int result = read_object(qmp, haul_clock_ms() + qmp->timeout_ms, &greeting, error);
    if (result == -ETIMEDOUT) {
        return busy(qmp, error);
    }
    if (result) {
        return result;
    }
    bool qmp_greeting = json_object_get(greeting, "QMP") != NULL;
    json_decref(greeting);
    if (!qmp_greeting) {
        return haul_error_set(error, EPROTO, "%s is not a QMP %s: its first line is no QMP greeting",
                              qmp->address.sun_path, qmp->program->socket);
    }
    return execute(qmp, "qmp_capabilities", NULL, -1, NULL, error);
}

int haul_qmp_connect(const struct haul_qmp_program *program, const char *address, int timeout_ms,
                     struct haul_qmp **qmp, struct haul_error *error)
{
    struct haul_qmp *opened = calloc(1, sizeof *opened);
    if (!opened) {
        return haul_error_set(error, ENOMEM, "no memory for a QMP client");
    }
    opened->program = program;
    opened->fd = -1;
    opened->capacity = FIRST_BUFFER;
    opened->timeout_ms = timeout_ms;
    opened->next_id = 1;
    int result;
    opened->buffer = malloc(FIRST_BUFFER);
    if (!opened->buffer) {
        result = haul_error_set(error, ENOMEM, "no memory for a QMP client");
        goto fail;
    }
    result = haul_qmp_address(address, &opened->address, error);
    if (!result) {
        result = connect_to(opened, error);
    }
    if (!result) {
        result = greet(opened, error);
    }
    if (result) {
        goto fail;
    }
    *qmp = opened;
    return 0;
fail:
    haul_qmp_close(opened);
    return result;
}

void haul_qmp_close(struct haul_qmp *qmp)
{
    if (!qmp) {
        return;
    }
    if (qmp->fd >= 0) {
        close(qmp->fd);
    }
    for (unsigned i = 0; i < qmp->event_count; i++) {
        json_decref(qmp->events[i]);
    }
    free(qmp->buffer);
    free(qmp);
}

pid_t haul_qmp_peer(const struct haul_qmp *qmp)
{
    struct ucred peer = {0};
    socklen_t length = sizeof peer;
    return getsockopt(qmp->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 ? peer.pid : 0;
}

const char *haul_qmp_path(const struct haul_qmp *qmp)
{
    return qmp->address.sun_path;
}

bool haul_qmp_ran(const struct haul_qmp *qmp)
{
    return qmp->ran;
}

uint64_t haul_qmp_stopped_at_ns(const struct haul_qmp *qmp)
{
    return qmp->stopped_at_ns;
}

uint64_t haul_qmp_unplugs(const struct haul_qmp *qmp)
{
    return qmp->unplugs;
}

uint64_t haul_qmp_memory_changes(const struct haul_qmp *qmp)
{
    return qmp->memory_changes;
}

void haul_qmp_set_timeout(struct haul_qmp *qmp, int timeout_ms)
{
    qmp->timeout_ms = timeout_ms;
}
