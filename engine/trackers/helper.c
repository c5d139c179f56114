/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/helper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Closes every descriptor but the given ones: the child must not keep the parent's connections open. */
static void close_others(const int *keep, unsigned count)
{
    unsigned from = 0;
    for (;;) {
        int next = -1; /* the lowest kept descriptor that is not below `from` */
        for (unsigned i = 0; i < count; i++) {
            if (keep[i] >= (int)from && (next < 0 || keep[i] < next)) {
                next = keep[i];
            }
        }
        if (next < 0) {
            syscall(SYS_close_range, from, ~0u, 0);
            return;
        }
        if ((unsigned)next > from) {
            syscall(SYS_close_range, from, (unsigned)next - 1, 0);
        }
        from = (unsigned)next + 1;
    }
}

int haul_helper_start(struct haul_helper *helper, haul_helper_work *work, void *opaque, const int *keep_fds,
                      unsigned keep, struct haul_error *error)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets)) {
        return haul_error_set(error, errno, "socketpair: %s", strerror(errno));
    }
    int kept[8] = {sockets[1]};
    for (unsigned i = 0; i < keep && i + 1 < sizeof kept / sizeof kept[0]; i++) {
        kept[i + 1] = keep_fds[i];
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all,
                    &before); /* the child is born with everything blocked: Ctrl-C is not for it */
    int pid = fork();
    if (pid == 0) {
        close_others(kept, keep + 1);
        work(opaque, sockets[1]);
        _exit(0);
    }
    int code = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(sockets[1]);
    if (pid < 0) {
        close(sockets[0]);
        return haul_error_set(error, code, "cannot start the helper process: %s", strerror(code));
    }
    *helper = (struct haul_helper){.pid = pid, .socket = sockets[0]};
    return 0;
}

void haul_helper_reply(int socket, const struct haul_error *outcome, int fd)
{
    struct haul_error copy = *outcome;
    struct iovec bytes = {.iov_base = &copy, .iov_len = sizeof copy};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.space = {0}};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    /* A parent that died wants no answer. */
    (void)!sendmsg(socket, &message, MSG_NOSIGNAL);
}

void haul_helper_wait_close(int socket)
{
    char byte;
    while (recv(socket, &byte, sizeof byte, 0) < 0 && errno == EINTR) {
    }
}

int haul_helper_receive(struct haul_helper *helper, int *fd, struct haul_error *error)
{
    struct haul_error outcome;
    struct iovec bytes = {.iov_base = &outcome, .iov_len = sizeof outcome};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
    ssize_t length;
    do {
        length = recvmsg(helper->socket, &message, MSG_CMSG_CLOEXEC);
    } while (length < 0 && errno == EINTR);
    if (length != (ssize_t)sizeof outcome) {
        return haul_error_set(error, EIO, "the helper process ended without an answer");
    }
    int received = -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof received)) {
        memcpy(&received, CMSG_DATA(header), sizeof received);
    }
    if (fd) {
        *fd = received;
    } else if (received >= 0) {
        close(received);
    }
    return outcome.code ? haul_error_set(error, outcome.code, "%s", outcome.message) : 0;
}

void haul_helper_finish(struct haul_helper *helper)
{
    close(helper->socket);
    while (waitpid(helper->pid, NULL, 0) < 0 && errno == EINTR) {
    }
    *helper = (struct haul_helper){.socket = -1};
}
