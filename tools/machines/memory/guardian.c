/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/memory/guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARM 'A'
#define DISARM 'D'

/* Only async-signal-safe calls: the parent may have threads. */
static void close_range_raw(unsigned first, unsigned last)
{
    if (first <= last) {
        syscall(SYS_close_range, first, last, 0);
    }
}

static void close_others(int one, int other)
{
    unsigned low = (unsigned)(one < other ? one : other), high = (unsigned)(one < other ? other : one);
    if (low > 0) {
        close_range_raw(0, low - 1);
    }
    close_range_raw(low + 1, high - 1);
    close_range_raw(high + 1, ~0u);
}

static void guard(int pipe, int pidfd)
{
    close_others(pipe, pidfd);
    setsid();
    bool armed = false;
    for (;;) {
        char order;
        ssize_t got = read(pipe, &order, 1);
        if (got == 1) {
            armed = order == ARM;
        } else if (!got || errno != EINTR) {
            break;
        }
    }
    if (armed) {
        syscall(SYS_pidfd_send_signal, pidfd, SIGCONT, NULL, 0);
    }
}

void haul_memory_guardian_init(struct haul_memory_guardian *guardian)
{
    *guardian = (struct haul_memory_guardian){.pipe = -1};
}

int haul_memory_guardian_start(struct haul_memory_guardian *guardian, int pidfd, struct haul_error *error)
{
    /* A socket rather than a pipe: writing to a dead guardian must be an error, not SIGPIPE. */
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
        return haul_error_set(error, errno, "cannot make the guardian's socket: %s", strerror(errno));
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* the child is born deaf */
    int pid = fork();
    if (!pid) {
        guard(ends[1], pidfd);
        _exit(0);
    }
    int code = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return haul_error_set(error, code, "cannot start the guardian process: %s", strerror(code));
    }
    *guardian = (struct haul_memory_guardian){.pid = pid, .pipe = ends[0]};
    return 0;
}

static int order(struct haul_memory_guardian *guardian, char what)
{
    ssize_t sent;
    do {
        sent = send(guardian->pipe, &what, 1, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent == 1 ? 0 : -errno;
}

int haul_memory_guardian_arm(struct haul_memory_guardian *guardian, struct haul_error *error)
{
    if (order(guardian, ARM)) {
        return haul_error_set(
            error, EPIPE,
            "haul's guardian process %d was killed; without it nothing would let the stopped process "
            "on if haul died: start again",
            guardian->pid);
    }
    return 0;
}

void haul_memory_guardian_disarm(struct haul_memory_guardian *guardian)
{
    order(guardian, DISARM);
}

void haul_memory_guardian_end(struct haul_memory_guardian *guardian)
{
    if (guardian->pipe >= 0) {
        order(guardian, DISARM);
        close(guardian->pipe);
        while (waitpid(guardian->pid, NULL, 0) < 0 && errno == EINTR) {
        }
        haul_memory_guardian_init(guardian);
    }
}
