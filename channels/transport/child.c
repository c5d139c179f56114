/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport/child.h"

#include "channels/socket_io.h"
#include "channels/transport/ops.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEAVE_MS 2000     /* what a child gets to end by itself */
#define TERMINATE_MS 1000 /* and then to obey SIGTERM */

/* ---- starting ---- */

/* A copy of the environment with HAUL_CHANNEL in it; one allocation. */
static char **make_environment(uint16_t channel, char variable[32])
{
    if (channel == HAUL_CONTROL_CHANNEL) {
        snprintf(variable, 32, "HAUL_CHANNEL=control");
    } else {
        snprintf(variable, 32, "HAUL_CHANNEL=%u", channel);
    }
    size_t count = 0;
    while (environ[count]) {
        count++;
    }
    char **copy = calloc(count + 2, sizeof *copy);
    size_t kept = 0;
    for (size_t i = 0; copy && i < count; i++) {
        if (strncmp(environ[i], "HAUL_CHANNEL=", sizeof "HAUL_CHANNEL=" - 1) != 0) {
            copy[kept++] = environ[i];
        }
    }
    if (copy) {
        copy[kept] = variable;
    }
    return copy;
}

/*
 * posix_spawn and not fork: the guest's memory may be mapped here, and copying its page tables takes long and
 * write-protects them.
 */
static int spawn(const char *command, uint16_t channel, bool own_group, int socket, pid_t *pid)
{
    char variable[32];
    char **environment = make_environment(channel, variable);
    if (!environment) {
        return -ENOMEM;
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&actions, socket, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, socket, STDOUT_FILENO);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    if (own_group) {
        posix_spawnattr_setpgroup(&attributes, 0);
        flags |= POSIX_SPAWN_SETPGROUP;
    }
    posix_spawnattr_setflags(&attributes, flags);
    char *arguments[] = {"sh", "-c", (char *)command, NULL};
    int result = posix_spawn(pid, "/bin/sh", &actions, &attributes, arguments, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    return -result;
}

int haul_children_start(struct haul_children *children, const char *uri, const char *command,
                        uint16_t channel, bool own_group, int *fd, struct haul_error *error)
{
    if (children->count == HAUL_CHILDREN_MAX) {
        return haul_error_set(error, EUSERS, "%.100s: more than %d commands were started", uri,
                              HAUL_CHILDREN_MAX);
    }
    struct haul_child *child = &children->list[children->count];
    *child = (struct haul_child){.pidfd = -1, .channel = channel, .own_group = own_group};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return haul_error_set(error, errno, "%.100s: cannot make a socket pair: %s", uri, strerror(errno));
    }
    int result = spawn(command, channel, own_group, pair[1], &child->pid);
    close(pair[1]);
    if (result < 0) {
        close(pair[0]);
        return haul_error_set(error, -result, "%.100s: cannot start /bin/sh: %s", uri, strerror(-result));
    }
    children->count++;
    child->pidfd = pidfd_open(child->pid, 0);
    if (child->pidfd < 0) {
        int code = errno;
        close(pair[0]);
        return haul_error_set(error, code, "%.100s: cannot watch the command: %s", uri, strerror(code));
    }
    *fd = pair[0];
    return 0;
}

/* ---- ending ---- */

/* Reaps those that have ended; returns how many have not. */
static unsigned reap(struct haul_children *children)
{
    unsigned alive = 0;
    for (unsigned i = 0; i < children->count; i++) {
        struct haul_child *child = &children->list[i];
        if (!child->reaped) {
            child->reaped = waitpid(child->pid, &child->status, WNOHANG) != 0;
            alive += !child->reaped;
        }
    }
    return alive;
}

/* Waits up to `wait_ms` until one more child ended (`all`: until all have); returns how many have not. */
static unsigned wait_for_end(struct haul_children *children, bool all, int wait_ms)
{
    uint64_t deadline = haul_io_now_ns() + (uint64_t)wait_ms * 1000000;
    unsigned before = reap(children);
    unsigned alive = before;
    for (uint64_t now; alive > 0 && (all || alive == before) && (now = haul_io_now_ns()) < deadline;) {
        struct pollfd polled[HAUL_CHILDREN_MAX];
        nfds_t count = 0;
        for (unsigned i = 0; i < children->count; i++) {
            if (!children->list[i].reaped) {
                polled[count++] = (struct pollfd){.fd = children->list[i].pidfd, .events = POLLIN};
            }
        }
        poll(polled, count, (int)((deadline - now) / 1000000) + 1);
        alive = reap(children);
    }
    return alive;
}

/* How telling the end of a child is: 0 for one that lives. */
static int weight(const struct haul_child *child)
{
    return !child->reaped ? 0 : WIFSIGNALED(child->status) ? 3 : WEXITSTATUS(child->status) ? 2 : 1;
}

/* Whether the end of `child` is what to tell, rather than that of `other`. The channels are made in their
 * order, so the first that broke is the one for which a move failed. */
static bool tells_more(const struct haul_child *child, const struct haul_child *other)
{
    int more = weight(child) - weight(other);
    return more > 0 ||
           (more == 0 && haul_channel_position(child->channel) < haul_channel_position(other->channel));
}

bool haul_children_explain(struct haul_children *children, int wait_ms, struct haul_error *error)
{
    if (children->count == 0) {
        return false;
    }
    if (reap(children) == children->count) {
        wait_for_end(children, false, wait_ms);
    }
    const struct haul_child *told = &children->list[0];
    for (unsigned i = 1; i < children->count; i++) {
        if (tells_more(&children->list[i], told)) {
            told = &children->list[i];
        }
    }
    if (weight(told) == 0) {
        return false;
    }
    char whose[32] = "the control connection";
    char how[96];
    if (told->channel != HAUL_CONTROL_CHANNEL) {
        snprintf(whose, sizeof whose, "channel %u", told->channel);
    }
    if (WIFSIGNALED(told->status)) {
        snprintf(how, sizeof how, "was ended by signal %d (%s)", WTERMSIG(told->status),
                 strsignal(WTERMSIG(told->status)));
    } else {
        int status = WEXITSTATUS(told->status);
        snprintf(how, sizeof how, "exited with status %d%s", status, status == 127 ? " (not found?)" : "");
    }
    haul_error_prefix(error, "the command of %s %s: ", whose, how);
    return true;
}

bool haul_children_forget(struct haul_children *children, uint16_t channel, int status, int wait_ms)
{
    for (unsigned i = 0; i < children->count; i++) {
        struct haul_child *child = &children->list[i];
        if (child->channel != channel) {
            continue;
        }
        struct pollfd polled = {.fd = child->pidfd, .events = POLLIN};
        poll(&polled, 1, wait_ms);
        reap(children);
        if (!child->reaped || !WIFEXITED(child->status) || WEXITSTATUS(child->status) != status) {
            return false;
        }
        close(child->pidfd);
        *child = children->list[--children->count];
        return true;
    }
    return false;
}

static void signal_all(const struct haul_children *children, int number)
{
    for (unsigned i = 0; i < children->count; i++) {
        const struct haul_child *child = &children->list[i];
        if (!child->reaped) {
            kill(child->own_group ? -child->pid : child->pid, number);
        }
    }
}

void haul_children_end(struct haul_children *children)
{
    if (wait_for_end(children, true, LEAVE_MS) > 0) {
        signal_all(children, SIGTERM);
        if (wait_for_end(children, true, TERMINATE_MS) > 0) {
            signal_all(children, SIGKILL);
            wait_for_end(children, true, TERMINATE_MS);
        }
    }
    for (unsigned i = 0; i < children->count; i++) {
        if (children->list[i].pidfd >= 0) {
            close(children->list[i].pidfd);
        }
    }
    children->count = 0;
}
