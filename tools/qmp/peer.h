/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_PEER_H
#define HAUL_TOOLS_QMP_PEER_H

/* A session and its socket: what a server does with one client when poll says that something can be done. */

#include "tools/qmp/session.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_QMP_PEER_FDS 16 /* descriptors of one message; QEMU's limit */

struct haul_qmp_peer {
    int fd;
    bool ended;                 /* the client sends no more; it may still read */
    int fds[HAUL_QMP_PEER_FDS]; /* of the latest message that brought any */
    unsigned fd_count;
    struct haul_qmp_session session;
};

/* haul_qmp_peer_cleanup closes the socket and all descriptors that nobody took. */
void haul_qmp_peer_cleanup(struct haul_qmp_peer *peer);

/* haul_qmp_peer_events returns what to poll for; haul_qmp_peer_done: the connection has come to its end. */
short haul_qmp_peer_events(const struct haul_qmp_peer *peer);
bool haul_qmp_peer_done(const struct haul_qmp_peer *peer);

/* haul_qmp_peer_read reads once, haul_qmp_peer_write as much as the socket takes; neither blocks. */
void haul_qmp_peer_read(struct haul_qmp_peer *peer);
void haul_qmp_peer_write(struct haul_qmp_peer *peer);

/* haul_qmp_peer_take_fd returns the first descriptor, or -EBADF. */
int haul_qmp_peer_take_fd(struct haul_qmp_peer *peer);

#ifdef __cplusplus
}
#endif
#endif
