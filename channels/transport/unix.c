/* SPDX-License-Identifier: Apache-2.0 */
/* unix:PATH, a stream socket in the file system. */
#include "channels/transport/ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define BUSY_WAIT_MS 10 /* between attempts at a listener whose queue is full */

int haul_unix_check(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error)
{
    (void)role;
    size_t length = strlen(address);
    if (length == 0 || length >= sizeof((struct sockaddr_un *)0)->sun_path) {
        return haul_error_set(error, EINVAL,
                              "\"%.150s\" is not a %.*s address: use %.*s:PATH with a path of 1 to %zu bytes",
                              uri, (int)strcspn(uri, ":"), uri, (int)strcspn(uri, ":"), uri,
                              sizeof((struct sockaddr_un *)0)->sun_path - 1);
    }
    return 0;
}

static void fill_address(struct sockaddr_un *socket_address, const char *path)
{
    memset(socket_address, 0, sizeof *socket_address);
    socket_address->sun_family = AF_UNIX;
    strncpy(socket_address->sun_path, path, sizeof socket_address->sun_path - 1);
}

/*
 * Removes a socket that a dead process left at `address`. 0 when the path is free now; -EEXIST when it is
 * no socket; -EADDRINUSE when somebody listens there.
 */
static int remove_stale(const struct sockaddr_un *address)
{
    struct stat found;
    if (lstat(address->sun_path, &found) < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    if (!S_ISSOCK(found.st_mode)) {
        return -EEXIST;
    }
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) {
        return -errno;
    }
    int result = connect(probe, (const struct sockaddr *)address, sizeof *address) < 0 ? -errno : 0;
    close(probe);
    if (result != -ECONNREFUSED) {
        return -EADDRINUSE;
    }
    return unlink(address->sun_path) < 0 ? -errno : 0;
}

static int bind_and_listen(int fd, const struct sockaddr_un *address)
{
    /* The file's mode comes from the socket's own: only this user may connect, from its first moment on. */
    if (fchmod(fd, S_IRUSR | S_IWUSR) < 0 ||
        bind(fd, (const struct sockaddr *)address, sizeof *address) < 0) {
        return -errno;
    }
    if (listen(fd, HAUL_LISTEN_BACKLOG) < 0) {
        int code = errno;
        unlink(address->sun_path);
        return -code;
    }
    return 0;
}

static int listen_failed(const char *uri, int result, struct haul_error *error)
{
    switch (result) {
    case -EEXIST:
        return haul_error_set(error, EADDRINUSE,
                              "listening on %s: the path exists and is not a socket; remove it", uri);
    case -EADDRINUSE:
        return haul_error_set(
            error, EADDRINUSE,
            "listening on %s: somebody else listens there; choose another path or stop them", uri);
    case -ENOENT:
        return haul_error_set(error, ENOENT, "listening on %s: the folder does not exist; make it first",
                              uri);
    case -EACCES:
        return haul_error_set(error, EACCES, "listening on %s: no permission to write to the folder", uri);
    default:
        return haul_error_set(error, result < 0 ? -result : EIO, "listening on %s: %s", uri,
                              result < 0 ? strerror(-result) : "the path is gone again");
    }
}

int haul_unix_listen(struct haul_listener *listener, struct haul_error *error)
{
    struct sockaddr_un socket_address;
    const char *uri = listener->end.uri;
    char *path = strdup(listener->end.address);
    listener->uri = strdup(uri);
    if (!path || !listener->uri) {
        free(path);
        return haul_error_set(error, ENOMEM, "listening on %s: out of memory", uri);
    }
    fill_address(&socket_address, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int result = fd < 0 ? -errno : remove_stale(&socket_address);
    if (result == 0) {
        result = bind_and_listen(fd, &socket_address);
    }
    if (result == 0 && stat(path, &listener->made) == 0) {
        listener->fds[listener->count++] = fd;
        listener->path = path;
        return 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    free(path);
    return listen_failed(uri, result, error);
}

static int unix_connect(struct haul_connector *connector, const struct haul_attempt *attempt,
                        uint16_t channel, int *fd, struct haul_error *error)
{
    (void)channel; /* all to one path */
    struct sockaddr_un socket_address;
    fill_address(&socket_address, connector->end.address);
    int connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connected < 0) {
        return haul_attempt_failed(attempt, errno, error);
    }
    int result;
    /* A unix socket has no connection in progress: EAGAIN means that the listener's queue is full. */
    while ((result = haul_attempt_connect(attempt, connected, (const struct sockaddr *)&socket_address,
                                          sizeof socket_address)) == -EAGAIN) {
        result = haul_attempt_sleep(attempt, BUSY_WAIT_MS);
        if (result < 0) {
            break;
        }
    }
    if (result < 0) {
        close(connected);
        return haul_attempt_failed(attempt, -result, error);
    }
    *fd = connected;
    return 0;
}

const struct haul_transport haul_transport_unix = {
    .scheme = "unix",
    .form = "unix:PATH",
    .check = haul_unix_check,
    .connect = unix_connect,
    .listen = haul_unix_listen,
};
