/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_LISTENER_H
#define HAUL_TOOLS_QMP_LISTENER_H

/* A unix socket that only its owner may connect to, from the first moment on. */

#include "channels/error.h"

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_qmp_listener {
    int fd; /* non-blocking; -1: closed */
    struct sockaddr_un address;
    dev_t device; /* which file it made, so that another's is not removed */
    ino_t inode;
};

/* haul_qmp_listener_open: see haul_qmp_server_new. */
int haul_qmp_listener_open(struct haul_qmp_listener *listener, const char *address, struct haul_error *error);

/* haul_qmp_listener_close closes the socket and removes its file, if it is still the one that it made. */
void haul_qmp_listener_close(struct haul_qmp_listener *listener);

#ifdef __cplusplus
}
#endif
#endif
