/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/daemon/daemon.h"

#include "tools/daemon/moves.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define END_POLL_MS 20

struct haul_daemon {
    int signal_fd;
    pthread_mutex_t lock;           /* `server` as the events see it */
    struct haul_qmp_server *server; /* NULL once it serves no more */
    /* The server's thread uses it, the owner once it is closed. */
    struct haul_moves moves;
};

static void raise_event(void *opaque, const char *event, json_t *data)
{
    struct haul_daemon *daemon = opaque;
    pthread_mutex_lock(&daemon->lock);
    if (daemon->server) {
        /* An event that is lost is no reason to disturb a move. */
        haul_qmp_server_event(daemon->server, event, data);
    } else {
        json_decref(data);
    }
    pthread_mutex_unlock(&daemon->lock);
}

/* On the server's thread, for the command that it runs. */
static int take_fd(void *opaque)
{
    struct haul_daemon *daemon = opaque;
    pthread_mutex_lock(&daemon->lock);
    int fd = daemon->server ? haul_qmp_server_take_fd(daemon->server) : -EBADF;
    pthread_mutex_unlock(&daemon->lock);
    return fd;
}

/* Answers what was asked and closes the control socket. */
static void stop_serving(struct haul_daemon *daemon)
{
    pthread_mutex_lock(&daemon->lock);
    struct haul_qmp_server *server = daemon->server;
    daemon->server = NULL;
    pthread_mutex_unlock(&daemon->lock);
    haul_qmp_server_free(server);
}

static int open_descriptors(struct haul_daemon *daemon, struct haul_error *error)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    daemon->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    daemon->moves.quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return daemon->signal_fd < 0 || daemon->moves.quit_fd < 0
               ? haul_error_set(error, errno, "cannot wait for signals: %m")
               : 0;
}

int haul_daemon_new(const char *address, struct haul_daemon **daemon, struct haul_error *error)
{
    struct haul_daemon *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for a daemon");
    }
    pthread_mutex_init(&made->lock, NULL);
    made->signal_fd = -1;
    made->moves =
        (struct haul_moves){.event = raise_event, .take_fd = take_fd, .opaque = made, .quit_fd = -1};
    pthread_mutex_init(&made->moves.lock, NULL);
    struct haul_qmp_server_options options;
    haul_qmp_server_defaults(&options);
    options.address = address;
    options.package = "haul " HAUL_VERSION;
    options.commands = haul_moves_commands;
    options.command_count = haul_moves_command_count;
    options.opaque = &made->moves;
    int status = open_descriptors(made, error);
    if (status == 0) {
        status = haul_qmp_server_new(&options, &made->server, error);
    }
    if (status < 0) {
        haul_daemon_free(made);
        return status;
    }
    *daemon = made;
    return 0;
}

const char *haul_daemon_path(const struct haul_daemon *daemon)
{
    return haul_qmp_server_path(daemon->server);
}

static bool take_signal(struct haul_daemon *daemon)
{
    struct signalfd_siginfo info;
    return read(daemon->signal_fd, &info, sizeof info) == sizeof info;
}

static bool any_busy(const struct haul_moves *moves)
{
    for (unsigned i = 0; i < moves->count; i++) {
        if (haul_move_busy(moves->list[i])) {
            return true;
        }
    }
    return false;
}

/* Cancels what moves, and waits for it and for what nobody can cancel any more. */
static void end_moves(struct haul_daemon *daemon)
{
    struct haul_moves *moves = &daemon->moves;
    bool warned = false;
    for (unsigned i = 0; i < moves->count; i++) {
        if (haul_move_cancel(moves->list[i]) == -EALREADY && haul_move_busy(moves->list[i])) {
            fprintf(stderr, "%s: too late to cancel: the guest is being handed over; waiting for the end\n",
                    haul_move_name(moves->list[i]));
        }
    }
    while (any_busy(moves)) {
        const struct haul_move *held = haul_moves_held(moves);
        if (held && !warned) {
            warned = true;
            fprintf(stderr,
                    "%s: this process holds the only copy on this side and waits for 'haul resume' or 'haul "
                    "abandon'; a signal gives it up\n",
                    haul_move_name(held));
        }
        struct pollfd poller = {.fd = daemon->signal_fd, .events = POLLIN};
        if (poll(&poller, 1, END_POLL_MS) > 0 && take_signal(daemon) && warned) {
            for (unsigned i = 0; i < moves->count; i++) {
                haul_move_interrupt(moves->list[i]);
            }
        }
    }
    for (unsigned i = 0; i < moves->count; i++) {
        haul_move_settle(moves->list[i]);
    }
}

int haul_daemon_run(struct haul_daemon *daemon, struct haul_error *error)
{
    int status = haul_qmp_server_start(daemon->server, error);
    struct pollfd fds[] = {{daemon->signal_fd, POLLIN, 0}, {daemon->moves.quit_fd, POLLIN, 0}};
    while (status == 0) {
        if (poll(fds, 2, -1) > 0 && ((fds[0].revents && take_signal(daemon)) || fds[1].revents)) {
            break;
        }
    }
    haul_moves_close(&daemon->moves, "host-signal");
    end_moves(daemon); /* the clients hear how it ends */
    stop_serving(daemon);
    return status;
}

void haul_daemon_free(struct haul_daemon *daemon)
{
    if (!daemon) {
        return;
    }
    stop_serving(daemon);
    while (daemon->moves.count > 0) {
        haul_moves_forget(&daemon->moves, daemon->moves.list[0]);
    }
    if (daemon->signal_fd >= 0) {
        close(daemon->signal_fd);
    }
    if (daemon->moves.quit_fd >= 0) {
        close(daemon->moves.quit_fd);
    }
    haul_descriptors_cleanup(&daemon->moves.descriptors);
    pthread_mutex_destroy(&daemon->moves.lock);
    pthread_mutex_destroy(&daemon->lock);
    free(daemon);
}
