/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/socket_io.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ONE_PACKET ((size_t)64 << 10) /* the most that comes at once within a host */

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

/*
 * Sleeps until `left` bytes are there, or as many as the socket holds, or the stream has ended. A receiver
 * that wakes for every packet makes its sender wake it each time, which is dear where that takes an interrupt
 * of another CPU, and dearest in a virtual machine. Sockets that cannot wait for so much wake earlier.
 */
static int await(int fd, size_t left)
{
    bool many = left > ONE_PACKET;
    int enough = left < INT_MAX ? (int)left : INT_MAX;
    if (many) {
        setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &enough, sizeof enough);
    }
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    int result = poll(&ready, 1, -1) < 0 && errno != EINTR ? -errno : 0;
    if (many) {
        enough = 1;
        setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &enough, sizeof enough);
    }
    return result;
}

int haul_io_receive(int fd, struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        left += parts[i].iov_len;
    }
    int result = 0;
    for (bool more = advance(&message, 0); more && result == 0;) {
        ssize_t received = recvmsg(fd, &message, MSG_DONTWAIT);
        if (received > 0) {
            left -= (size_t)received;
            more = advance(&message, (size_t)received);
        } else if (received == 0) {
            result = -HAUL_IO_END;
        } else if (errno == EAGAIN) {
            result = await(fd, left);
        } else if (errno != EINTR) {
            result = -errno;
        }
    }
    return result;
}

uint64_t haul_io_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
