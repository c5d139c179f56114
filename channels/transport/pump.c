/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport/pump.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t)256 << 10)
#define METER_POLL_MS 20 /* at most, between two looks at a limit that may change */
#define DRAIN_S 1        /* how long haul_pump_stop lets the thread finish by itself */

/* ---- copying ---- */

/* One direction. */
struct flow {
    int from;
    int to;
    unsigned char *buffer;
    size_t start; /* bytes start..end of the buffer wait to be written */
    size_t end;
    HAUL_ATOMIC(uint64_t) * count; /* of bytes written, or NULL */
    bool ended;                    /* `from` has no more */
    bool done;                     /* and all is written */
};

static bool wants_input(const struct flow *flow)
{
    return !flow->ended && flow->start == flow->end;
}

static bool retry_later(int code)
{
    return code == EAGAIN || code == EINTR;
}

static int take_in(struct flow *flow)
{
    ssize_t got = read(flow->from, flow->buffer, BUFFER_SIZE);
    if (got < 0) {
        return retry_later(errno) ? 0 : -errno;
    }
    flow->start = 0;
    flow->end = (size_t)got;
    flow->ended = got == 0;
    return 0;
}

static int give_out(struct flow *flow)
{
    /* A socket's SIGPIPE would end the process that a library must not end; a pipe's cannot be kept away
     * here, so the library's threads block it, and programs that pump ignore it. */
    ssize_t put = send(flow->to, flow->buffer + flow->start, flow->end - flow->start, MSG_NOSIGNAL);
    if (put < 0 && errno == ENOTSOCK) {
        put = write(flow->to, flow->buffer + flow->start, flow->end - flow->start);
    }
    if (put < 0) {
        return retry_later(errno) ? 0 : -errno;
    }
    flow->start += (size_t)put;
    if (flow->count) {
        atomic_fetch_add_explicit(flow->count, (uint64_t)put, memory_order_relaxed);
    }
    return 0;
}

/* Moves what can be moved now. */
static int step(struct flow *flow, bool readable)
{
    int result = readable && wants_input(flow) ? take_in(flow) : 0;
    if (result == 0 && flow->start < flow->end) {
        result = give_out(flow);
    }
    flow->done = flow->ended && flow->start == flow->end;
    return result;
}

/* Milliseconds until the meter lets `outward` read again, 0 for now. */
static int metered_wait_ms(const struct flow *outward, struct haul_pump_meter *meter)
{
    if (!meter || !meter->wait_ns || !wants_input(outward)) {
        return 0;
    }
    uint64_t wait = (meter->wait_ns(meter->opaque) + 999999) / 1000000;
    return wait < METER_POLL_MS ? (int)wait : METER_POLL_MS;
}

static int copy_both(struct flow *outward, struct flow *inward, int stop_fd, struct haul_pump_meter *meter)
{
    bool passed_on = false; /* the half-close */
    int result = 0;
    while (result == 0 && !inward->done) {
        int wait_ms = metered_wait_ms(outward, meter);
        struct pollfd polled[] = {
            {.fd = wants_input(outward) && !wait_ms ? outward->from : -1, .events = POLLIN},
            {.fd = outward->start < outward->end ? outward->to : -1, .events = POLLOUT},
            {.fd = wants_input(inward) ? inward->from : -1, .events = POLLIN},
            {.fd = inward->start < inward->end ? inward->to : -1, .events = POLLOUT},
            {.fd = stop_fd, .events = POLLIN},
        };
        if (poll(polled, 5, wait_ms ? wait_ms : -1) < 0 && errno != EINTR) {
            return -errno;
        }
        if (polled[4].revents) {
            return 0;
        }
        if (!outward->done) {
            result = step(outward, polled[0].revents);
        }
        if (result == -EPIPE || result == -ECONNRESET) {
            outward->ended = outward->done =
                true; /* nobody reads the socket; what it said may still go out */
            outward->start = outward->end;
            result = 0;
        }
        if (result == 0 && !inward->done) {
            result = step(inward, polled[2].revents);
        }
        if (outward->done && !passed_on) {
            shutdown(outward->to, SHUT_WR);
            passed_on = true;
        }
    }
    return result;
}

static int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int haul_pump_run(int in, int out, int socket, int stop_fd, struct haul_pump_meter *meter)
{
    int result = set_nonblocking(in);
    result = result == 0 ? set_nonblocking(out) : result;
    result = result == 0 ? set_nonblocking(socket) : result;
    unsigned char *buffers = result == 0 ? malloc(2 * BUFFER_SIZE) : NULL;
    if (!buffers) {
        return result < 0 ? result : -ENOMEM;
    }
    struct flow outward = {.from = in, .to = socket, .buffer = buffers};
    struct flow inward = {.from = socket, .to = out, .buffer = buffers + BUFFER_SIZE};
    if (meter) {
        outward.count = &meter->outward;
        inward.count = &meter->inward;
    }
    result = copy_both(&outward, &inward, stop_fd, meter);
    free(buffers);
    return result;
}

/* ---- the thread ---- */

struct haul_pump {
    pthread_t thread;
    struct haul_thread_list *threads; /* or NULL */
    int in;
    int out;
    int socket;
    int stop_fd;
};

static void *pump_main(void *argument)
{
    struct haul_pump *pump = argument;
    struct haul_thread_entry entry;
    haul_thread_enter(pump->threads, &entry, "pump", HAUL_THREAD_ALONE);
    haul_pump_run(pump->in, pump->out, pump->socket, pump->stop_fd, NULL);
    /* Whatever ended it, the other side of the socket shall see the end, and so shall the reader of `out`. */
    shutdown(pump->socket, SHUT_RDWR);
    close(pump->out);
    if (pump->in != pump->out) {
        close(pump->in);
    }
    haul_thread_leave(pump->threads, &entry);
    return NULL;
}

int haul_pump_start(int in, int out, struct haul_thread_list *threads, struct haul_pump **pump, int *fd,
                    struct haul_error *error)
{
    int pair[2] = {-1, -1};
    int code = 0;
    struct haul_pump *made = calloc(1, sizeof *made);
    if (!made) {
        code = ENOMEM;
    } else {
        *made =
            (struct haul_pump){.threads = threads, .in = in, .out = out, .stop_fd = eventfd(0, EFD_CLOEXEC)};
        if (made->stop_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
            code = errno;
        } else {
            made->socket = pair[0];
            code = -haul_thread_start(&made->thread, pump_main, made);
        }
    }
    if (code == 0) {
        *pump = made;
        *fd = pair[1];
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        if (pair[i] >= 0) {
            close(pair[i]);
        }
    }
    if (made && made->stop_fd >= 0) {
        close(made->stop_fd);
    }
    free(made);
    close(in);
    if (out != in) {
        close(out);
    }
    return haul_error_set(error, code, "cannot bridge pipes to a socket: %s", strerror(code));
}

void haul_pump_stop(struct haul_pump *pump)
{
    if (!pump) {
        return;
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DRAIN_S;
    if (pthread_timedjoin_np(pump->thread, NULL, &until) != 0) {
        eventfd_write(pump->stop_fd, 1);
        pthread_join(pump->thread, NULL);
    }
    close(pump->socket);
    close(pump->stop_fd);
    free(pump);
}
