/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/destination/greeter.h"

#include "engine/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO_TIMEOUT_MS 2000 /* what a connection may take to say it, at most */
#define PAYLOAD_MAX 256       /* bytes; those of a HELLO are fewer */
#define CALLERS_MAX 64        /* that are listened to at a time; others wait at the listener */

/* A connection whose HELLO is not complete. */
struct caller {
    int fd;
    uint64_t deadline_ns;
    size_t used;
    unsigned char bytes[HAUL_FRAME_HEADER_SIZE + PAYLOAD_MAX];
};

struct haul_greeter {
    struct haul_migration *migration;
    uint32_t patience_ms;
    unsigned count;
    struct caller callers[CALLERS_MAX];
};

struct haul_greeter *haul_greeter_new(struct haul_migration *migration)
{
    struct haul_greeter *greeter = calloc(1, sizeof *greeter);
    if (greeter) {
        uint32_t timeout_ms = migration->limits.connect_timeout_ms;
        greeter->migration = migration;
        greeter->patience_ms = timeout_ms < HELLO_TIMEOUT_MS ? timeout_ms : HELLO_TIMEOUT_MS;
    }
    return greeter;
}

void haul_greeter_refuse(struct haul_migration *migration, int fd, const struct haul_error *why)
{
    haul_migration_say(migration, "a connection was refused: %s", why->message);
    haul_control_fail_fd(fd, why);
    close(fd);
}

void haul_greeter_free(struct haul_greeter *greeter)
{
    struct haul_error why;
    haul_error_set(&why, EBUSY, "this destination listens no longer");
    for (unsigned i = 0; greeter && i < greeter->count; i++) {
        haul_greeter_refuse(greeter->migration, greeter->callers[i].fd, &why);
    }
    free(greeter);
}

/* Takes a caller out of the list, whose order does not matter. */
static int take_out(struct haul_greeter *greeter, unsigned index)
{
    int fd = greeter->callers[index].fd;
    greeter->callers[index] = greeter->callers[--greeter->count];
    return fd;
}

/* Reads what there is. 1: the HELLO is complete; 0: not yet. Takes no byte of what follows it. */
static int listen_to(struct caller *caller, struct haul_hello *hello, struct haul_error *error)
{
    for (;;) {
        const unsigned char *payload = caller->bytes + HAUL_FRAME_HEADER_SIZE;
        enum haul_frame_type type;
        size_t length = 0;
        if (caller->used >= HAUL_FRAME_HEADER_SIZE) {
            int rc = haul_frame_header_decode(caller->bytes, PAYLOAD_MAX, &type, &length, error);
            if (rc < 0) {
                return rc;
            }
            if (type != HAUL_FRAME_HELLO) {
                return haul_error_set(error, EPROTO, "%s came where HELLO was due", haul_frame_name(type));
            }
        }
        size_t due = HAUL_FRAME_HEADER_SIZE + length;
        if (caller->used == due && length == 0) {
            return haul_error_set(error, EPROTO, "HELLO is empty");
        }
        if (caller->used == due) {
            int rc =
                haul_frame_intact(caller->bytes, payload, length)
                    ? haul_hello_decode(payload, length, hello, error)
                    : haul_error_set(error, EPROTO, "HELLO: wrong checksum, the connection corrupts data");
            return rc < 0 ? rc : 1;
        }
        ssize_t got = recv(caller->fd, caller->bytes + caller->used, due - caller->used, MSG_DONTWAIT);
        if (got == 0) {
            return haul_error_set(error, ECONNRESET, "receiving HELLO: the peer closed the connection");
        }
        if (got < 0 && errno == EAGAIN) {
            return 0;
        }
        if (got < 0 && errno != EINTR) {
            return haul_error_set(error, errno, "receiving HELLO: %s", strerror(errno));
        }
        caller->used += got > 0 ? (size_t)got : 0;
    }
}

/* Hears every caller once. 1: one of them said HELLO; 0: none did. */
static int hear(struct haul_greeter *greeter, int *fd, struct haul_hello *hello)
{
    uint64_t now = haul_now_ns();
    for (unsigned i = 0; i < greeter->count;) {
        struct haul_error why;
        int rc = listen_to(&greeter->callers[i], hello, &why);
        if (rc == 1) {
            *fd = take_out(greeter, i);
            return 1;
        }
        if (rc == 0 && now > greeter->callers[i].deadline_ns) {
            rc = haul_error_set(&why, ETIMEDOUT, "it said no HELLO within %u ms", greeter->patience_ms);
        }
        if (rc < 0) {
            haul_greeter_refuse(greeter->migration, take_out(greeter, i), &why);
        } else {
            i++;
        }
    }
    return 0;
}

/* Takes in whoever is at the listener, waiting up to wait_ms (-1: without end) for it. */
static int take_in(struct haul_greeter *greeter, uint16_t expected, int wait_ms, struct haul_error *error)
{
    struct haul_migration *migration = greeter->migration;
    int fd;
    int rc = haul_listener_accept(migration->listener, expected, wait_ms, migration->cancel_fd, &fd, error);
    if (rc == 0) {
        struct caller *caller = &greeter->callers[greeter->count++];
        caller->fd = fd;
        caller->deadline_ns = haul_now_ns() + (uint64_t)greeter->patience_ms * 1000000;
        caller->used = 0;
    }
    return rc;
}

/*
 * Waits for a word of the callers, the cancel, or somebody at the listener, who is taken in. Where
 * connections exist once and come one by one, nobody else is asked for meanwhile.
 */
static int wait_with_callers(struct haul_greeter *greeter, uint16_t expected, int wait_ms,
                             struct haul_error *error)
{
    struct haul_migration *migration = greeter->migration;
    struct pollfd pollers[1 + CALLERS_MAX + HAUL_LISTENER_FDS_MAX];
    int doors[HAUL_LISTENER_FDS_MAX];
    unsigned count = 0;
    pollers[count++] = (struct pollfd){.fd = migration->cancel_fd, .events = POLLIN};
    for (unsigned i = 0; i < greeter->count; i++) {
        pollers[count++] = (struct pollfd){.fd = greeter->callers[i].fd, .events = POLLIN};
    }
    unsigned door_count =
        greeter->count < CALLERS_MAX ? haul_listener_fds(migration->listener, expected, doors) : 0;
    for (unsigned i = 0; i < door_count; i++) {
        pollers[count++] = (struct pollfd){.fd = doors[i], .events = POLLIN};
    }
    if (poll(pollers, count, wait_ms) < 0 && errno != EINTR) {
        return haul_error_set(error, errno, "waiting for a source: %s", strerror(errno));
    }
    if (pollers[0].revents) {
        return haul_error_set(error, ECANCELED, "cancelled");
    }
    for (unsigned i = 0; i < door_count; i++) {
        if (pollers[count - 1 - i].revents) {
            int rc = take_in(greeter, expected, 0, error);
            return rc == -ETIMEDOUT ? 0 : rc; /* it thought better of it */
        }
    }
    return 0;
}

int haul_greeter_next(struct haul_greeter *greeter, uint16_t expected, int timeout_ms, int *fd,
                      struct haul_hello *hello, struct haul_error *error)
{
    uint64_t until = timeout_ms < 0 ? UINT64_MAX : haul_now_ns() + (uint64_t)timeout_ms * 1000000;
    while (!hear(greeter, fd, hello)) {
        uint64_t now = haul_now_ns();
        if (now > until) {
            return haul_error_set(error, ETIMEDOUT, "nobody said HELLO within %d ms", timeout_ms);
        }
        uint64_t wake = until;
        for (unsigned i = 0; i < greeter->count; i++) {
            wake = greeter->callers[i].deadline_ns < wake ? greeter->callers[i].deadline_ns : wake;
        }
        int wait_ms = wake == UINT64_MAX ? -1 : wake <= now ? 0 : (int)((wake - now) / 1000000) + 1;
        int rc = greeter->count > 0 ? wait_with_callers(greeter, expected, wait_ms, error)
                                    : take_in(greeter, expected, wait_ms, error);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
