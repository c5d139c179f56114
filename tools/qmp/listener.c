/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/qmp/listener.h"

#include "tools/qmp/address.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE 0600
#define BACKLOG 16
#define LOCK_TRIES 200 /* 10 ms each */

/* Whoever binds or removes a socket holds a lock on its folder: two servers that start at once would
 * otherwise both find the same stale socket, and the second would remove the first one's new one. */
static int lock_folder(const char *path, int *lock, struct haul_error *error)
{
    char folder[sizeof((struct sockaddr_un *)0)->sun_path];
    const char *slash = strrchr(path, '/');
    if (slash) {
        snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    }
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return haul_error_set(error, errno, "cannot open the folder of the control socket %s: %s", path,
                              strerror(errno));
    }
    for (unsigned i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
        int code = errno;
        if ((code == EWOULDBLOCK && i == LOCK_TRIES) || (code != EWOULDBLOCK && code != EINTR)) {
            close(fd);
            return haul_error_set(error, code == EWOULDBLOCK ? EBUSY : code,
                                  "cannot lock the folder of the control socket %s: %s", path,
                                  strerror(code));
        }
        poll(NULL, 0, 10);
    }
    *lock = fd;
    return 0;
}

/* Something is at the path. Removes it when it is a socket on which nobody listens. */
static int remove_stale(const struct sockaddr_un *address, struct haul_error *error)
{
    const char *path = address->sun_path;
    struct stat status;
    if (lstat(path, &status) < 0) {
        return errno == ENOENT ? 0
                               : haul_error_set(error, errno, "cannot look at %s: %s", path, strerror(errno));
    }
    if (!S_ISSOCK(status.st_mode)) {
        return haul_error_set(
            error, EEXIST, "cannot make the control socket %s: something that is no socket is there", path);
    }
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) {
        return haul_error_set(error, errno, "cannot make a socket: %s", strerror(errno));
    }
    int result = connect(probe, (const struct sockaddr *)address, sizeof *address) < 0 ? errno : 0;
    close(probe);
    if (result != ECONNREFUSED) {
        return haul_error_set(
            error, EADDRINUSE,
            "another server listens on the control socket %s; end it, or choose another path", path);
    }
    if (unlink(path) < 0) {
        return haul_error_set(error, errno, "cannot remove the stale control socket %s: %s", path,
                              strerror(errno));
    }
    return 0;
}

static int bind_there(struct haul_qmp_listener *listener, struct haul_error *error)
{
    const char *path = listener->address.sun_path;
    struct stat status;
    for (unsigned tries = 0;; tries++) {
        if (bind(listener->fd, (struct sockaddr *)&listener->address, sizeof listener->address) == 0) {
            break;
        }
        if (errno != EADDRINUSE || tries == 1) {
            return haul_error_set(error, errno, "cannot make the control socket %s: %s", path,
                                  strerror(errno));
        }
        int result = remove_stale(&listener->address, error);
        if (result) {
            return result;
        }
    }
    if (lstat(path, &status) < 0 || (status.st_mode & 0777 & ~MODE) || listen(listener->fd, BACKLOG) < 0) {
        int code = errno;
        unlink(path);
        return haul_error_set(error, code, "cannot listen on the control socket %s", path);
    }
    listener->device = status.st_dev;
    listener->inode = status.st_ino;
    return 0;
}

int haul_qmp_listener_open(struct haul_qmp_listener *listener, const char *address, struct haul_error *error)
{
    int lock = -1;
    listener->fd = -1;
    int result = haul_qmp_address(address, &listener->address, error);
    if (!result) {
        result = lock_folder(listener->address.sun_path, &lock, error);
    }
    if (result) {
        return result;
    }
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Linux gives the file that bind makes the mode of the socket: there is no moment in which it is wider.
     */
    if (listener->fd < 0 || fchmod(listener->fd, MODE) < 0) {
        result = haul_error_set(error, errno, "cannot make a control socket: %s", strerror(errno));
    } else {
        result = bind_there(listener, error);
    }
    close(lock);
    if (result && listener->fd >= 0) {
        close(listener->fd);
        listener->fd = -1;
    }
    return result;
}

void haul_qmp_listener_close(struct haul_qmp_listener *listener)
{
    struct stat status;
    int lock = -1;
    if (listener->fd < 0) {
        return;
    }
    const char *path = listener->address.sun_path;
    bool locked = lock_folder(path, &lock, NULL) == 0;
    if (lstat(path, &status) == 0 && status.st_dev == listener->device && status.st_ino == listener->inode) {
        unlink(path);
    }
    close(listener->fd);
    listener->fd = -1;
    if (locked) {
        close(lock);
    }
}
