/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int haul_descriptor_take(const char *uri, int number, int *fd, struct haul_error *error)
{
    /* What this process opened for itself is close-on-exec; what it inherited came through exec. */
    int flags = fcntl(number, F_GETFD);
    if (flags < 0 || (flags & FD_CLOEXEC)) {
        return haul_error_set(error, EBADF,
                              "%.100s: this process was given no open descriptor %d; hand it over when you "
                              "start it (in a shell: %d<>...)",
                              uri, number, number);
    }
    int taken = fcntl(number, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (taken < 0) {
        return haul_error_set(error, errno, "%.100s: descriptor %d: %s", uri, number, strerror(errno));
    }
    int nothing = number <= STDERR_FILENO ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1;
    if (nothing >= 0) {
        dup2(nothing, number);
        close(nothing);
    } else {
        close(number);
    }
    *fd = taken;
    return 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int check_socket(const char *uri, int fd, struct haul_error *error)
{
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM) {
        return haul_error_set(error, EPROTOTYPE, "%.100s: a socket in it is not a stream socket", uri);
    }
    struct sockaddr_storage peer;
    size = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &size) < 0) {
        return haul_error_set(error, ENOTCONN, "%.100s: a socket in it is not connected", uri);
    }
    return 0;
}

static void close_both(int in, int out)
{
    close(in);
    if (out != in) {
        close(out);
    }
}

int haul_descriptor_join(const char *uri, int in, int out, struct haul_thread_list *threads, int *fd,
                         struct haul_pump **pump, struct haul_error *error)
{
    struct stat status[2];
    int result = 0;
    *pump = NULL;
    if (fstat(in, &status[0]) < 0 || fstat(out, &status[1]) < 0) {
        result = haul_error_set(error, errno, "%.100s: a descriptor in it: %s", uri, strerror(errno));
    } else if (S_ISSOCK(status[0].st_mode) && same_file(&status[0], &status[1])) {
        result = check_socket(uri, in, error);
        if (result == 0) {
            if (out != in) {
                close(out);
            }
            *fd = in;
            return 0;
        }
    } else if (same_file(&status[0], &status[1])) {
        result = haul_error_set(error, ENOTSOCK,
                                "%.100s: a descriptor in it is not a socket, and goes one way only: give "
                                "connected stream sockets, or pairs of pipes as IN/OUT",
                                uri);
    }
    if (result < 0) {
        close_both(in, out);
        return result;
    }
    result = haul_pump_start(in, out, threads, pump, fd, error);
    return result < 0 ? haul_error_prefix(error, "%.100s: ", uri) : 0;
}
