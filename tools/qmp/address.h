/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_QMP_ADDRESS_H
#define HAUL_TOOLS_QMP_ADDRESS_H

#include "channels/error.h"

#include <stddef.h>
#include <sys/un.h>

#ifdef __cplusplus
extern "C" {
#endif

/* haul_qmp_address reads "unix:PATH" or "PATH". -EINVAL: another scheme, empty, or longer
 * than a socket's path may be. */
int haul_qmp_address(const char *text, struct sockaddr_un *address, struct haul_error *error);

/*
 * haul_qmp_default_path writes where a daemon listens and its clients look when nothing else is said:
 * /run/haul.sock for root, else $XDG_RUNTIME_DIR/haul.sock. -ENOENT: not root, and no XDG_RUNTIME_DIR.
 */
int haul_qmp_default_path(char *path, size_t size, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
