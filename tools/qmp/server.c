/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/server.h"

#include "tools/clock.h"
#include "tools/qmp/events.h"
#include "tools/qmp/listener.h"
#include "tools/qmp/peer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FAREWELL_MS 500 /* what a server that ends gives its clients to read the rest */
#define PAUSE_MS 100    /* without accepting, after the process ran out of descriptors */
#define FIRST_PEER 2    /* in the poll set, after the eventfd and the listener */

struct haul_qmp_server {
    /* Written once, before the thread starts. */
    struct haul_qmp_dispatcher dispatcher;
    unsigned limit; /* of clients */
    size_t message_bytes;
    size_t backlog_bytes;
    char *package;
    bool started;
    pthread_t thread;

    /* Shared. */
    struct haul_qmp_events events;
    atomic_bool stopping; /* set (release) by haul_qmp_server_free, read (acquire) by run */

    /* The thread's, and before and after it haul_qmp_server_new's and _free's. */
    struct haul_qmp_listener listener;
    struct haul_qmp_peer **peers;
    unsigned peer_count;
    struct pollfd *poll_set;
    bool out_of_descriptors;
    struct haul_qmp_peer *current; /* whose command is run */
};

void haul_qmp_server_defaults(struct haul_qmp_server_options *options)
{
    *options = (struct haul_qmp_server_options){.size = sizeof *options,
                                                .clients = 32,
                                                .message_bytes = (size_t)1 << 20,
                                                .backlog_bytes = (size_t)4 << 20,
                                                .queued_events = 1024};
}

/* ---- clients come and go ---- */

static void refuse(int fd, unsigned limit)
{
    size_t length;
    char *line =
        haul_qmp_line(haul_qmp_refusal("%u clients are connected, and no more are served", limit), &length);
    if (line) {
        (void)!send(fd, line, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    free(line);
    close(fd);
}

static void accept_clients(struct haul_qmp_server *server)
{
    for (;;) {
        int fd = accept4(server->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) {
            continue;
        }
        if (fd < 0) {
            server->out_of_descriptors = errno != EAGAIN;
            return;
        }
        struct haul_qmp_peer *peer = server->peer_count < server->limit ? calloc(1, sizeof *peer) : NULL;
        if (!peer) {
            refuse(fd, server->peer_count);
            continue;
        }
        peer->fd = fd;
        haul_qmp_session_init(&peer->session, &server->dispatcher, server->message_bytes,
                              server->backlog_bytes);
        server->peers[server->peer_count++] = peer;
    }
}

static void remove_ended(struct haul_qmp_server *server)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < server->peer_count; i++) {
        struct haul_qmp_peer *peer = server->peers[i];
        if (haul_qmp_peer_done(peer)) {
            haul_qmp_peer_cleanup(peer);
            free(peer);
        } else {
            server->peers[kept++] = peer;
        }
    }
    server->peer_count = kept;
}

/* ---- what goes out ---- */

static void send_events(struct haul_qmp_server *server)
{
    for (struct haul_qmp_event_line line; (line = haul_qmp_events_pop(&server->events)).text;) {
        for (unsigned i = 0; i < server->peer_count; i++) {
            struct haul_qmp_session *session = &server->peers[i]->session;
            if (session->negotiated && !session->dead) {
                haul_qmp_session_put(session, line.text, line.length);
            }
        }
        free(line.text);
    }
}

static void serve(struct haul_qmp_server *server, struct haul_qmp_peer *peer)
{
    size_t length;
    server->current = peer;
    for (char *line; (line = haul_qmp_session_next(&peer->session, &length));) {
        send_events(server); /* those that the command raised come before its answer */
        haul_qmp_session_put(&peer->session, line, length);
        free(line);
        haul_qmp_peer_write(peer);
    }
    server->current = NULL;
}

/* ---- the thread ---- */

static unsigned fill_poll_set(struct haul_qmp_server *server)
{
    struct pollfd *set = server->poll_set;
    set[0] = (struct pollfd){.fd = server->events.wake, .events = POLLIN};
    set[1] = (struct pollfd){.fd = server->out_of_descriptors ? -1 : server->listener.fd, .events = POLLIN};
    for (unsigned i = 0; i < server->peer_count; i++) {
        set[FIRST_PEER + i] =
            (struct pollfd){.fd = server->peers[i]->fd, .events = haul_qmp_peer_events(server->peers[i])};
    }
    return FIRST_PEER + server->peer_count;
}

static void handle(struct haul_qmp_server *server, struct haul_qmp_peer *peer, short events)
{
    /* A socket that is hung up and whose input waits unread still says POLLHUP: writing then finds it out. */
    if (events & (POLLOUT | POLLHUP | POLLERR)) {
        haul_qmp_peer_write(peer);
    }
    if (events & (POLLIN | POLLHUP) && !peer->ended && haul_qmp_session_wants_input(&peer->session)) {
        haul_qmp_peer_read(peer);
    }
    serve(server, peer);
}

static void run_once(struct haul_qmp_server *server)
{
    unsigned polled = fill_poll_set(server);
    int ready = poll(server->poll_set, polled, server->out_of_descriptors ? PAUSE_MS : -1);
    server->out_of_descriptors = false;
    if (ready < 0) {
        return; /* EINTR; ENOMEM is tried again */
    }
    if (server->poll_set[0].revents) {
        haul_qmp_events_rest(&server->events);
    }
    send_events(server);
    for (unsigned i = FIRST_PEER; i < polled; i++) {
        if (server->poll_set[i].revents) {
            handle(server, server->peers[i - FIRST_PEER], server->poll_set[i].revents);
        }
    }
    if (server->poll_set[1].revents) {
        accept_clients(server);
    }
    remove_ended(server);
}

/* The last answers and events: `quit` is answered, and the end of a migration is told. */
static void say_farewell(struct haul_qmp_server *server)
{
    int64_t deadline = haul_clock_ms() + FAREWELL_MS;
    send_events(server);
    for (unsigned i = 0; i < server->peer_count; i++) {
        server->peers[i]->session.closing = true;
    }
    for (;;) {
        for (unsigned i = 0; i < server->peer_count; i++) {
            haul_qmp_peer_write(server->peers[i]);
        }
        remove_ended(server);
        int64_t left = deadline - haul_clock_ms();
        if (server->peer_count == 0 || left <= 0) {
            return;
        }
        unsigned polled = fill_poll_set(server);
        poll(server->poll_set + FIRST_PEER, polled - FIRST_PEER, (int)left);
    }
}

static void *run(void *argument)
{
    struct haul_qmp_server *server = argument;
    while (!atomic_load_explicit(&server->stopping, memory_order_acquire)) {
        run_once(server);
    }
    say_farewell(server);
    return NULL;
}

/* ---- the object ---- */

static int check_options(const struct haul_qmp_server_options *options, struct haul_error *error)
{
    if (options->size != sizeof *options || !options->address || !options->package ||
        (options->command_count && !options->commands)) {
        return haul_error_set(error, EINVAL, "a QMP server needs an address, a package and its commands");
    }
    if (options->clients < 1 || options->clients > 1024 || options->message_bytes < 1024 ||
        options->backlog_bytes < 4096 || options->queued_events < 1 || options->queued_events > 65536) {
        return haul_error_set(error, EINVAL, "a limit of the QMP server is out of its range");
    }
    return 0;
}

int haul_qmp_server_new(const struct haul_qmp_server_options *options, struct haul_qmp_server **server,
                        struct haul_error *error)
{
    int result = check_options(options, error);
    if (result) {
        return result;
    }
    struct haul_qmp_server *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for a QMP server");
    }
    made->listener.fd = -1;
    made->limit = options->clients;
    made->message_bytes = options->message_bytes;
    made->backlog_bytes = options->backlog_bytes;
    made->package = strdup(options->package);
    made->peers = calloc(options->clients, sizeof *made->peers);
    made->poll_set = calloc(FIRST_PEER + options->clients, sizeof *made->poll_set);
    if (made->package && made->peers && made->poll_set) {
        result = haul_qmp_events_init(&made->events, options->queued_events);
    } else {
        result = -ENOMEM;
    }
    if (result) {
        haul_error_set(error, -result, "cannot set up a QMP server: %s", strerror(-result));
    } else {
        result = haul_qmp_listener_open(&made->listener, options->address, error);
    }
    if (result) {
        haul_qmp_server_free(made);
        return result;
    }
    made->dispatcher = (struct haul_qmp_dispatcher){made->package, options->commands, options->command_count,
                                                    options->opaque};
    *server = made;
    return 0;
}

int haul_qmp_server_start(struct haul_qmp_server *server, struct haul_error *error)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's */
    int result = pthread_create(&server->thread, NULL, run, server);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result) {
        return haul_error_set(error, result, "cannot start the thread of the QMP server: %s",
                              strerror(result));
    }
    pthread_setname_np(server->thread, "haul-qmp");
    server->started = true;
    return 0;
}

void haul_qmp_server_free(struct haul_qmp_server *server)
{
    if (!server) {
        return;
    }
    if (server->started) {
        atomic_store_explicit(&server->stopping, true, memory_order_release); /* with run */
        haul_qmp_events_wake(&server->events);
        pthread_join(server->thread, NULL);
    }
    haul_qmp_listener_close(&server->listener);
    for (unsigned i = 0; i < server->peer_count; i++) {
        haul_qmp_peer_cleanup(server->peers[i]);
        free(server->peers[i]);
    }
    haul_qmp_events_cleanup(&server->events);
    free(server->poll_set);
    free(server->peers);
    free(server->package);
    free(server);
}

const char *haul_qmp_server_path(const struct haul_qmp_server *server)
{
    return server->listener.address.sun_path;
}

int haul_qmp_server_event(struct haul_qmp_server *server, const char *name, json_t *data)
{
    size_t length;
    char *line = haul_qmp_line(haul_qmp_event_object(name, data), &length);
    return line ? haul_qmp_events_push(&server->events, line, length) : -ENOMEM;
}

int haul_qmp_server_take_fd(struct haul_qmp_server *server)
{
    return server->current ? haul_qmp_peer_take_fd(server->current) : -EBADF;
}
