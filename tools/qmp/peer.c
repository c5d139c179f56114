/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/peer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void drop_fds(struct haul_qmp_peer *peer)
{
    while (peer->fd_count > 0) {
        close(peer->fds[--peer->fd_count]);
    }
}

void haul_qmp_peer_cleanup(struct haul_qmp_peer *peer)
{
    close(peer->fd);
    drop_fds(peer);
    haul_qmp_session_cleanup(&peer->session);
}

static bool has_output(const struct haul_qmp_peer *peer)
{
    return peer->session.output_end > peer->session.output_first;
}

short haul_qmp_peer_events(const struct haul_qmp_peer *peer)
{
    bool input = !peer->ended && haul_qmp_session_wants_input(&peer->session);
    return (short)((input ? POLLIN : 0) | (has_output(peer) ? POLLOUT : 0));
}

bool haul_qmp_peer_done(const struct haul_qmp_peer *peer)
{
    return peer->session.dead || ((peer->ended || peer->session.closing) && !has_output(peer));
}

/* One sendmsg may bring several descriptors. Those before it belong to a command that was refused, and must
 * not be taken for those of the next. */
static void keep_fds(struct haul_qmp_peer *peer, struct msghdr *message)
{
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        drop_fds(peer);
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (peer->fd_count < HAUL_QMP_PEER_FDS) {
                peer->fds[peer->fd_count++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

void haul_qmp_peer_read(struct haul_qmp_peer *peer)
{
    struct haul_qmp_session *session = &peer->session;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * HAUL_QMP_PEER_FDS)];
    } control;
    struct iovec part = {.iov_base = session->input, .iov_len = sizeof session->input};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t count = recvmsg(peer->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (count < 0) {
        session->dead = errno != EAGAIN && errno != EINTR;
        return;
    }
    keep_fds(peer, &message);
    peer->ended = count == 0;
    session->input_first = 0;
    session->input_end = (size_t)count;
}

void haul_qmp_peer_write(struct haul_qmp_peer *peer)
{
    struct haul_qmp_session *session = &peer->session;
    while (!session->dead && has_output(peer)) {
        ssize_t count = send(peer->fd, session->output + session->output_first,
                             session->output_end - session->output_first, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0) {
            session->dead = errno != EAGAIN && errno != EINTR;
            return;
        }
        haul_qmp_session_sent(session, (size_t)count);
    }
}

int haul_qmp_peer_take_fd(struct haul_qmp_peer *peer)
{
    if (peer->fd_count == 0) {
        return -EBADF;
    }
    int fd = peer->fds[0];
    memmove(peer->fds, peer->fds + 1, --peer->fd_count * sizeof fd);
    return fd;
}
