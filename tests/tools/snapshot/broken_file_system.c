/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into haul: a file system that has no files without a name when HAUL_TEST_NO_TMPFILE is set, and
 * whose directory HAUL_TEST_NO_FLUSH cannot be written to the disk.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int openat(int directory, const char *path, int flags, ...)
{
    int (*real)(int, const char *, int, ...) =
        (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
    mode_t mode = 0;
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    if ((flags & O_TMPFILE) == O_TMPFILE && getenv("HAUL_TEST_NO_TMPFILE")) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return real(directory, path, flags, mode);
}

int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const char *broken = getenv("HAUL_TEST_NO_FLUSH");
    char link[64], target[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (broken && length > 0) {
        target[length] = 0;
        if (!strcmp(target, broken)) {
            errno = EIO;
            return -1;
        }
    }
    return real(fd);
}
