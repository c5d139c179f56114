/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/control.h"

#include "channels/transport/transport.h"
#include "engine/clock.h"
#include "engine/failure.h"

#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PING_INTERVAL_MS 1000
#define PINGS_PER_TIMEOUT 4 /* at least, so that one that is late is not taken for silence */
#define FIRST_PINGS 4       /* sent in quick succession, so that the first prediction knows the round trip */
#define FIRST_PING_INTERVAL_MS 20
#define QUEUE_LIMIT 8 /* frames; the reader waits beyond it, so that the peer cannot fill our memory */
#define PASSED_LIMIT                                                                                         \
    (QUEUE_LIMIT + 2) /* of frames on the queue, the one taken last, and the one that waits */

struct haul_control {
    /* Written once at creation. */
    struct haul_control_options options;
    char peer[128];
    pthread_t reader;

    pthread_mutex_t send_lock; /* one frame at a time on the socket, and: */
    uint64_t steps;            /* of work for the peer */
    uint64_t reported_ns;      /* when WORKING was sent, or the first step done */

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    struct haul_frame *head;
    struct haul_frame **tail;
    unsigned queued;
    int passed[PASSED_LIMIT]; /* descriptors of MEMORY frames, oldest first */
    unsigned passed_count;
    bool woken;
    bool closing;
    int failure; /* negative errno once the connection failed */
    struct haul_error failure_error;
    struct haul_error reason; /* the first FAILED or NOT_STARTED of the peer; code 0 before it came */
    bool declined;            /* it was a NOT_STARTED, and no RUNNING came before */
    bool confirmed;           /* RUNNING came */
    uint64_t worked;          /* what the peer's last WORKING said */

    /* Written by the reader, read by anybody; a statistic, so relaxed. */
    _Atomic uint64_t round_trip_ns;
    _Atomic bool eventful; /* a frame is queued, the connection failed, or somebody woke the owner */
};

int haul_control_send(struct haul_control *control, enum haul_frame_type type, const void *payload,
                      size_t length, struct haul_error *error)
{
    return haul_control_send_fd(control, type, payload, length, -1, error);
}

int haul_control_send_fd(struct haul_control *control, enum haul_frame_type type, const void *payload,
                         size_t length, int passed, struct haul_error *error)
{
    pthread_mutex_lock(&control->send_lock);
    int rc = passed < 0 ? haul_frame_send(control->options.fd, type, payload, length, error)
                        : haul_frame_send_fd(control->options.fd, type, payload, length, passed, error);
    pthread_mutex_unlock(&control->send_lock);
    if (rc < 0) {
        haul_error_prefix(error, "control connection to %s: sending %s: ", control->peer,
                          haul_frame_name(type));
    }
    return rc;
}

static void send_failure(struct haul_control *control, enum haul_frame_type type,
                         const struct haul_error *error)
{
    unsigned char payload[HAUL_FAILURE_MAX];
    size_t length = haul_failure_encode(error, payload);
    haul_control_send(control, type, payload, length, NULL);
}

void haul_control_fail(struct haul_control *control, const struct haul_error *error)
{
    send_failure(control, HAUL_FRAME_FAILED, error);
}

void haul_control_decline(struct haul_control *control, const struct haul_error *error)
{
    send_failure(control, HAUL_FRAME_NOT_STARTED, error);
}

/* Under `lock`. Release, pairs with the acquire in haul_control_quiet: what happened is in place. */
static void set_eventful(struct haul_control *control)
{
    bool eventful = control->head || control->failure != 0 || control->woken;
    atomic_store_explicit(&control->eventful, eventful, memory_order_release);
}

static void set_failure(struct haul_control *control, const struct haul_error *error)
{
    pthread_mutex_lock(&control->lock);
    if (control->failure == 0) {
        control->failure = -error->code;
        control->failure_error = *error;
    }
    set_eventful(control);
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
    control->options.notify(control->options.opaque);
}

static uint32_t ping_interval_ms(const struct haul_control *control)
{
    uint32_t most = control->options.silence_timeout_ms / PINGS_PER_TIMEOUT;
    return most < PING_INTERVAL_MS ? most : PING_INTERVAL_MS;
}

static int send_ping(struct haul_control *control, struct haul_error *error)
{
    unsigned char payload[8];
    struct haul_writer writer;
    haul_writer_init(&writer, payload, sizeof payload);
    haul_writer_u64(&writer, haul_now_ns());
    return haul_control_send(control, HAUL_FRAME_PING, payload, sizeof payload, error);
}

static void take_pong(struct haul_control *control, const unsigned char *payload, size_t length)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, payload, length);
    uint64_t sent = haul_cursor_u64(&cursor);
    uint64_t now = haul_now_ns();
    if (!haul_cursor_done(&cursor) || sent > now) {
        return; /* the peer's number is only a statistic */
    }
    uint64_t sample = now - sent;
    uint64_t old = atomic_load_explicit(&control->round_trip_ns, memory_order_relaxed);
    uint64_t smoothed = old == 0 || sample < old ? sample : old + (sample - old) / 8;
    atomic_store_explicit(&control->round_trip_ns, smoothed, memory_order_relaxed);
}

void haul_control_progress(struct haul_control *control)
{
    uint64_t now = haul_now_ns();
    pthread_mutex_lock(&control->send_lock);
    if (control->steps++ == 0) {
        control->reported_ns = now;
    }
    if (now - control->reported_ns >= (uint64_t)ping_interval_ms(control) * 1000000) {
        unsigned char payload[8];
        struct haul_writer writer;
        haul_writer_init(&writer, payload, sizeof payload);
        haul_writer_u64(&writer, control->steps);
        control->reported_ns = now;
        haul_frame_send(control->options.fd, HAUL_FRAME_WORKING, payload, sizeof payload,
                        NULL); /* the reader sees why not */
    }
    pthread_mutex_unlock(&control->send_lock);
}

/* The peer got further: whoever waits for it has patience again. */
static int take_working(struct haul_control *control, const unsigned char *payload, size_t length,
                        struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, payload, length);
    uint64_t worked = haul_cursor_u64(&cursor);
    pthread_mutex_lock(&control->lock);
    bool further = haul_cursor_done(&cursor) && worked > control->worked;
    if (further) {
        control->worked = worked;
        pthread_cond_broadcast(&control->changed);
    }
    pthread_mutex_unlock(&control->lock);
    return further ? 0
                   : haul_error_set(error, EPROTO, "control connection to %s: a WORKING that got no further",
                                    control->peer);
}

uint64_t haul_control_worked(struct haul_control *control)
{
    pthread_mutex_lock(&control->lock);
    uint64_t worked = control->worked;
    pthread_mutex_unlock(&control->lock);
    return worked;
}

/*
 * Whether sending failed only because the peer has gone: what it said before is still to be read, its reason
 * or even RUNNING, and the end of the stream comes after it.
 */
static bool only_gone(int rc)
{
    return rc == -EPIPE || rc == -ECONNRESET;
}

/* Waits until the queue has room, and lets the peer hear meanwhile that this side is busy and not dead. */
static int wait_for_room(struct haul_control *control, struct haul_error *error)
{
    int rc = 0;
    pthread_mutex_lock(&control->lock);
    while (control->queued >= QUEUE_LIMIT && !control->closing && rc == 0) {
        struct timespec deadline = haul_deadline((int)ping_interval_ms(control));
        if (pthread_cond_timedwait(&control->changed, &control->lock, &deadline) == ETIMEDOUT) {
            pthread_mutex_unlock(&control->lock);
            rc = send_ping(control, error);
            rc = only_gone(rc) ? 0 : rc;
            pthread_mutex_lock(&control->lock);
        }
    }
    pthread_mutex_unlock(&control->lock);
    return rc;
}

/* Keeps the descriptor of a MEMORY frame, and no other's; `passed` is this function's. */
static int keep_passed(struct haul_control *control, enum haul_frame_type type, int passed,
                       struct haul_error *error)
{
    bool due = type == HAUL_FRAME_MEMORY;
    if (passed < 0) {
        return due ? haul_error_set(error, EPROTO,
                                    "control connection to %s: MEMORY came without its descriptor; connect "
                                    "both sides by unix:PATH, and look at this side's limit of open files "
                                    "(ulimit -n)",
                                    control->peer)
                   : 0;
    }
    pthread_mutex_lock(&control->lock);
    bool kept = due && control->passed_count < PASSED_LIMIT;
    if (kept) {
        control->passed[control->passed_count++] = passed;
    }
    pthread_mutex_unlock(&control->lock);
    if (kept) {
        return 0;
    }
    close(passed);
    return haul_error_set(error, EPROTO, "control connection to %s: a descriptor came with %s", control->peer,
                          haul_frame_name(type));
}

/* Puts one frame on the queue, waiting while it is full. The reader is the only one that adds. */
static int enqueue(struct haul_control *control, enum haul_frame_type type, const unsigned char *payload,
                   size_t length, struct haul_error *error)
{
    int rc = wait_for_room(control, error);
    if (rc < 0) {
        return rc;
    }
    struct haul_frame *frame = malloc(sizeof *frame + length);
    if (!frame) {
        return haul_error_set(error, ENOMEM, "no memory for a control frame of %zu bytes", length);
    }
    frame->next = NULL;
    frame->type = type;
    frame->length = length;
    memcpy(frame->payload, payload, length);
    pthread_mutex_lock(&control->lock);
    control->confirmed = control->confirmed || type == HAUL_FRAME_RUNNING;
    if (haul_is_failure(type) && control->reason.code == 0) {
        bool readable = haul_failure_read(payload, length, control->peer, &control->reason);
        control->declined = type == HAUL_FRAME_NOT_STARTED && readable && !control->confirmed;
    }
    *control->tail = frame;
    control->tail = &frame->next;
    control->queued++;
    set_eventful(control);
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
    control->options.notify(control->options.opaque);
    return 0;
}

static int answer_ping(struct haul_control *control, const unsigned char *payload, size_t length,
                       struct haul_error *error)
{
    if (length != 8) {
        return haul_error_set(error, EPROTO, "control connection to %s: a PING of %zu bytes", control->peer,
                              length);
    }
    int rc = haul_control_send(control, HAUL_FRAME_PONG, payload, length, error);
    return only_gone(rc) ? 0 : rc;
}

static int read_one(struct haul_control *control, unsigned char *buffer, struct haul_error *error)
{
    enum haul_frame_type type;
    size_t length;
    int passed = -1;
    int timeout = (int)control->options.silence_timeout_ms;
    bool takes = control->options.takes_descriptors;
    int rc =
        takes ? haul_frame_recv_fd(control->options.fd, &type, buffer, HAUL_FRAME_MAX, &length, timeout,
                                   &passed, error)
              : haul_frame_recv(control->options.fd, &type, buffer, HAUL_FRAME_MAX, &length, timeout, error);
    if (rc < 0) {
        return haul_error_prefix(error, "control connection to %s: ", control->peer);
    }
    rc = takes ? keep_passed(control, type, passed, error) : 0;
    if (rc < 0) {
        return rc;
    }
    if (type == HAUL_FRAME_PING) {
        return answer_ping(control, buffer, length, error);
    }
    if (type == HAUL_FRAME_PONG) {
        take_pong(control, buffer, length);
        return 0;
    }
    if (type == HAUL_FRAME_WORKING) {
        return take_working(control, buffer, length, error);
    }
    return enqueue(control, type, buffer, length, error);
}

/* Reads and pings until the connection ends; returns why. */
static int serve(struct haul_control *control, unsigned char *buffer, struct haul_error *error)
{
    uint64_t heard = haul_now_ns();
    uint64_t next_ping = heard;
    unsigned pings = 0;
    int rc = 0;
    while (rc == 0) {
        uint64_t now = haul_now_ns();
        if (now >= next_ping) {
            rc = send_ping(control, error);
            rc = only_gone(rc) ? 0 : rc;
            uint64_t interval = ++pings < FIRST_PINGS ? FIRST_PING_INTERVAL_MS : ping_interval_ms(control);
            next_ping = now + interval * 1000000;
            continue;
        }
        struct pollfd poller = {.fd = control->options.fd, .events = POLLIN};
        int ready = poll(&poller, 1, (int)((next_ping - now) / 1000000) + 1);
        if (ready > 0) {
            rc = read_one(control, buffer, error);
            heard = haul_now_ns();
        } else if (haul_now_ns() - heard > (uint64_t)control->options.silence_timeout_ms * 1000000) {
            rc = haul_error_set(
                error, ETIMEDOUT,
                "control connection to %s: nothing heard for %u s; is the peer or the network down?",
                control->peer, control->options.silence_timeout_ms / 1000);
        }
    }
    return rc;
}

static void *reader_main(void *argument)
{
    struct haul_control *control = argument;
    struct haul_error error = {0};
    struct haul_thread_entry entry;
    haul_thread_enter(control->options.threads, &entry, control->options.thread_name, HAUL_THREAD_ALONE);
    unsigned char *buffer = malloc(HAUL_FRAME_MAX);
    if (buffer) {
        serve(control, buffer, &error);
    } else {
        haul_error_set(&error, ENOMEM, "no memory for control frames");
    }
    set_failure(control, &error);
    if (control->options.ended) {
        control->options.ended(control->options.opaque);
    }
    free(buffer);
    haul_thread_leave(control->options.threads, &entry);
    return NULL;
}

int haul_control_new(const struct haul_control_options *options, struct haul_control **control,
                     struct haul_error *error)
{
    struct haul_control *made = calloc(1, sizeof *made);
    if (!made) {
        close(options->fd);
        return haul_error_set(error, ENOMEM, "no memory for the control connection");
    }
    made->options = *options;
    made->tail = &made->head;
    haul_peer_name(options->fd, made->peer, sizeof made->peer);
    pthread_mutex_init(&made->send_lock, NULL);
    pthread_mutex_init(&made->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&made->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int rc = haul_thread_start(&made->reader, reader_main, made);
    if (rc < 0) {
        close(options->fd);
        pthread_cond_destroy(&made->changed);
        pthread_mutex_destroy(&made->lock);
        pthread_mutex_destroy(&made->send_lock);
        free(made);
        return haul_error_set(error, -rc, "cannot start the control thread: %s", strerror(-rc));
    }
    *control = made;
    return 0;
}

int haul_control_fd(const struct haul_control *control)
{
    return control->options.fd;
}

int haul_control_nic_node(const struct haul_control *control, const struct haul_topology *topology)
{
    char name[IF_NAMESIZE];
    if (haul_route_interface(control->options.fd, name, sizeof name) < 0) {
        return HAUL_NODE_UNKNOWN;
    }
    return haul_topology_nic_node(topology, name);
}

int haul_control_next(struct haul_control *control, int timeout_ms, struct haul_frame **frame,
                      struct haul_error *error)
{
    struct haul_frame *taken = NULL;
    int rc = 0;
    pthread_mutex_lock(&control->lock);
    struct timespec deadline = haul_deadline(timeout_ms);
    uint64_t worked = control->worked;
    while (!control->head && !control->woken && control->failure == 0 && rc == 0) {
        rc = timeout_ms < 0 ? pthread_cond_wait(&control->changed, &control->lock)
                            : pthread_cond_timedwait(&control->changed, &control->lock, &deadline);
        if (control->worked > worked) {
            worked = control->worked;
            deadline = haul_deadline(timeout_ms);
            rc = 0;
        }
    }
    if (control->woken) {
        rc = haul_error_set(error, ECANCELED, "cancelled");
    } else if (control->head) {
        taken = control->head;
        control->head = taken->next;
        if (!control->head) {
            control->tail = &control->head;
        }
        control->queued--;
        set_eventful(control);
        pthread_cond_broadcast(&control->changed);
        rc = 0;
    } else if (control->failure != 0) {
        rc = control->failure;
        if (error) {
            *error = control->failure_error;
        }
    } else {
        rc = haul_error_set(error, ETIMEDOUT, "control connection to %s: no answer within %d ms",
                            control->peer, timeout_ms);
    }
    pthread_mutex_unlock(&control->lock);
    if (taken && haul_is_failure(taken->type)) {
        rc = haul_control_read_failure(taken->payload, taken->length, control->peer, error);
        free(taken);
        taken = NULL;
    }
    *frame = taken;
    return rc;
}

bool haul_control_quiet(const struct haul_control *control)
{
    /* Acquire, pairs with the release in set_eventful. */
    return !atomic_load_explicit(&control->eventful, memory_order_acquire);
}

int haul_control_expect(struct haul_control *control, enum haul_frame_type type, int timeout_ms,
                        struct haul_frame **frame, struct haul_error *error)
{
    int rc = haul_control_next(control, timeout_ms, frame, error);
    if (*frame && (*frame)->type != type) {
        rc = haul_error_set(error, EPROTO, "control connection to %s: %s came where %s was due",
                            control->peer, haul_frame_name((*frame)->type), haul_frame_name(type));
        free(*frame);
        *frame = NULL;
    }
    return rc;
}

int haul_control_status(struct haul_control *control, struct haul_error *error)
{
    pthread_mutex_lock(&control->lock);
    const struct haul_error *why = control->reason.code ? &control->reason : &control->failure_error;
    int rc = control->reason.code ? -control->reason.code : control->failure;
    if (rc < 0 && error) {
        *error = *why;
    }
    pthread_mutex_unlock(&control->lock);
    return rc;
}

int haul_control_check_peer(struct haul_control *control, struct haul_error *error)
{
    int rc = haul_control_status(control, error);
    struct pollfd polled = {.fd = control->options.fd, .events = POLLRDHUP};
    if (rc == 0 && poll(&polled, 1, 0) > 0) {
        rc = haul_error_set(error, ECONNRESET, "control connection to %s: the peer closed the connection",
                            control->peer);
    }
    return rc;
}

int haul_control_reason(struct haul_control *control, int timeout_ms, struct haul_error *error)
{
    struct timespec deadline = haul_deadline(timeout_ms);
    int rc = 0;
    pthread_mutex_lock(&control->lock);
    while (control->reason.code == 0 && control->failure == 0 && rc == 0) {
        rc = pthread_cond_timedwait(&control->changed, &control->lock, &deadline);
    }
    rc = -control->reason.code;
    if (rc < 0) {
        *error = control->reason;
    }
    pthread_mutex_unlock(&control->lock);
    return rc;
}

bool haul_control_declined(struct haul_control *control)
{
    pthread_mutex_lock(&control->lock);
    bool declined = control->declined;
    pthread_mutex_unlock(&control->lock);
    return declined;
}

int haul_control_take_fd(struct haul_control *control)
{
    int passed = -1;
    pthread_mutex_lock(&control->lock);
    if (control->passed_count > 0) {
        passed = control->passed[0];
        control->passed_count--;
        memmove(control->passed, control->passed + 1, control->passed_count * sizeof control->passed[0]);
    }
    pthread_mutex_unlock(&control->lock);
    return passed;
}

void haul_control_wake(struct haul_control *control)
{
    pthread_mutex_lock(&control->lock);
    control->woken = true;
    set_eventful(control);
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
}

uint64_t haul_control_round_trip_ns(const struct haul_control *control)
{
    return atomic_load_explicit(&control->round_trip_ns, memory_order_relaxed);
}

void haul_control_free(struct haul_control *control)
{
    if (!control) {
        return;
    }
    pthread_mutex_lock(&control->lock);
    control->closing = true;
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
    /* Unread bytes would turn the close into a reset and cost the peer our last frame: end our half first. */
    shutdown(control->options.fd, SHUT_RDWR);
    pthread_join(control->reader, NULL);
    close(control->options.fd);
    while (control->head) {
        struct haul_frame *frame = control->head;
        control->head = frame->next;
        free(frame);
    }
    while (control->passed_count > 0) {
        close(control->passed[--control->passed_count]);
    }
    pthread_cond_destroy(&control->changed);
    pthread_mutex_destroy(&control->lock);
    pthread_mutex_destroy(&control->send_lock);
    free(control);
}
