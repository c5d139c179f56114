/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/address.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int haul_qmp_address(const char *text, struct sockaddr_un *address, struct haul_error *error)
{
    const char *path = strncmp(text, "unix:", 5) == 0 ? text + 5 : text;
    if (path == text && text[strcspn(text, ":/")] == ':') { /* tcp:HOST:PORT, as QEMU takes it too */
        return haul_error_set(error, EINVAL, "\"%s\" is not the path of a QMP socket: use unix:PATH", text);
    }
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof address->sun_path) {
        return haul_error_set(error, EINVAL, "\"%s\" is not a QMP socket path of 1 to %zu characters", path,
                              sizeof address->sun_path - 1);
    }
    memcpy(address->sun_path, path, strlen(path) + 1);
    return 0;
}

int haul_qmp_default_path(char *path, size_t size, struct haul_error *error)
{
    const char *folder = geteuid() == 0 ? "/run" : getenv("XDG_RUNTIME_DIR");
    if (!folder || folder[0] != '/') {
        return haul_error_set(error, ENOENT,
                              "there is no default control socket without XDG_RUNTIME_DIR; give one with "
                              "--qmp unix:PATH");
    }
    if ((size_t)snprintf(path, size, "%s/haul.sock", folder) >= size) {
        return haul_error_set(error, ENAMETOOLONG, "XDG_RUNTIME_DIR is too long for a socket's path: %s",
                              folder);
    }
    return 0;
}
