/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/snapshot/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int haul_file_write(int fd, const void *bytes, size_t length, uint64_t offset, struct haul_error *error)
{
    size_t done = 0;
    while (done < length) {
        ssize_t now = pwrite(fd, (const char *)bytes + done, length - done, (off_t)(offset + done));
        if (now > 0) {
            done += (size_t)now;
        } else if (now < 0 && errno != EINTR) {
            return haul_error_set(error, errno, "writing %zu bytes at offset %llu: %s%s", length,
                                  (unsigned long long)offset, strerror(errno),
                                  errno == ENOSPC ? "; free some or choose another place" : "");
        }
    }
    return 0;
}

int haul_file_read(int fd, void *bytes, size_t length, uint64_t offset, struct haul_error *error)
{
    size_t done = 0;
    while (done < length) {
        ssize_t now = pread(fd, (char *)bytes + done, length - done, (off_t)(offset + done));
        if (now > 0) {
            done += (size_t)now;
        } else if (now == 0) {
            return haul_error_set(error, EPROTO, "the file ends at offset %llu, where %zu more bytes are due",
                                  (unsigned long long)(offset + done), length - done);
        } else if (errno != EINTR) {
            return haul_error_set(error, errno, "reading %zu bytes at offset %llu: %s", length,
                                  (unsigned long long)offset, strerror(errno));
        }
    }
    return 0;
}

int haul_file_reopen(int fd, int flags)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int again = open(name, flags | O_CLOEXEC);
    return again < 0 ? -errno : again;
}
