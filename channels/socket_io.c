/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/socket_io.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* Drops the first `done` bytes of the parts; returns false when nothing is left. */
static bool advance(struct msghdr *message, size_t done)
{
    while (message->msg_iovlen > 0 && done >= message->msg_iov->iov_len) {
        done -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen == 0) {
        return false;
    }
    message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + done;
    message->msg_iov->iov_len -= done;
    return true;
}

static int send_message(int fd, struct msghdr *message)
{
    bool more = advance(message, 0);
    while (more) {
        ssize_t sent = sendmsg(fd, message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == EAGAIN ? -ETIMEDOUT : -errno; /* EAGAIN: SO_SNDTIMEO */
        }
        message->msg_control = NULL; /* went with the first byte */
        message->msg_controllen = 0;
        more = advance(message, (size_t)sent);
    }
    return 0;
}

int haul_io_send(int fd, struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    return send_message(fd, &message);
}

int haul_io_send_fd(int fd, struct iovec *parts, size_t count, int passed)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.space = {0}};
    struct msghdr message = {.msg_iov = parts,
                             .msg_iovlen = count,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof passed);
    memcpy(CMSG_DATA(header), &passed, sizeof passed);
    return send_message(fd, &message);
}

int haul_io_receive(int fd, struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    bool more = advance(&message, 0);
    int flags = MSG_WAITALL;
    while (more) {
        ssize_t received = recvmsg(fd, &message, flags);
        if (received < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == ENOMEM && flags != 0) {
                flags = 0; /* vsock does not wait for more than its buffer holds, 256 KiB */
                continue;
            }
            return errno == EAGAIN ? -ETIMEDOUT : -errno; /* EAGAIN: SO_RCVTIMEO */
        }
        if (received == 0) {
            return -HAUL_IO_END;
        }
        more = advance(&message, (size_t)received);
    }
    return 0;
}

uint64_t haul_io_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
