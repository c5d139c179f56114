/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/snapshot/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".partial"
#define MODE 0600 /* it holds the guest's secrets */

static int failed(const struct haul_snapshot_place *place, int code, const char *what,
                  struct haul_error *error)
{
    return haul_error_set(error, code, "%s: %s: %s", place->path, what, strerror(code));
}

static int taken(const struct haul_snapshot_place *place, struct haul_error *error)
{
    return haul_error_set(error, EEXIST,
                          "%s exists already, and a snapshot never replaces a file: remove it or choose "
                          "another name",
                          place->path);
}

static int open_directory(struct haul_snapshot_place *place, struct haul_error *error)
{
    const char *slash = strrchr(place->path, '/');
    place->name = slash ? slash + 1 : place->path;
    if (!place->name[0]) {
        return haul_error_set(error, EISDIR, "%s names a directory, not a file", place->path);
    }
    size_t length = slash ? (size_t)(slash - place->path) + 1 : 0;
    char *directory = slash ? strndup(place->path, length) : strdup(".");
    if (!directory) {
        return haul_error_set(error, ENOMEM, "no memory for a path");
    }
    place->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = place->directory < 0 ? failed(place, errno, "opening its directory", error) : 0;
    free(directory);
    return rc;
}

/* Takes over PATH.partial unless another haul is writing it: that one holds a lock on it. */
static int open_partial(struct haul_snapshot_place *place, struct haul_error *error)
{
    if (asprintf(&place->partial, "%s" SUFFIX, place->name) < 0) {
        place->partial = NULL;
        return haul_error_set(error, ENOMEM, "no memory for a path");
    }
    int fd = openat(place->directory, place->partial, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, MODE);
    int code = fd < 0 ? errno : flock(fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
    if (code == 0 && (ftruncate(fd, 0) < 0 || fchmod(fd, MODE) < 0)) {
        code = errno;
    }
    if (code == 0) {
        place->fd = fd;
        return 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    free(place->partial);
    place->partial = NULL; /* not ours to remove */
    return code == EWOULDBLOCK
               ? haul_error_set(error, EBUSY, "%s" SUFFIX " is being written by another haul", place->path)
               : failed(place, code, "creating " SUFFIX, error);
}

static int create(struct haul_snapshot_place *place, struct haul_error *error)
{
    place->fd = openat(place->directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, MODE);
    if (place->fd >= 0) {
        return 0;
    }
    /* EISDIR and ENOENT: a kernel or file system that does not know the flag sees a directory. */
    if (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT) {
        return open_partial(place, error);
    }
    return failed(place, errno, "creating it", error);
}

/* All offsets that pages are written at exist from here on, so that writers never have to extend the file. */
static int set_length(struct haul_snapshot_place *place, uint64_t length, struct haul_error *error)
{
    struct rlimit limit;
    /* A write beyond it would not fail but kill the process. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < length) {
        return haul_error_set(
            error, EFBIG,
            "%s: it needs offsets up to %llu MiB, and files of this process may have %llu MiB "
            "(ulimit -f)",
            place->path, (unsigned long long)(length >> 20), (unsigned long long)(limit.rlim_cur >> 20));
    }
    return ftruncate(place->fd, (off_t)length) < 0 ? failed(place, errno, "setting its size", error) : 0;
}

int haul_snapshot_place_open(struct haul_snapshot_place *place, const char *path, uint64_t length,
                             struct haul_error *error)
{
    struct stat status;
    *place = (struct haul_snapshot_place){.fd = -1, .directory = -1};
    place->path = strdup(path);
    if (!place->path) {
        return haul_error_set(error, ENOMEM, "no memory for a path");
    }
    int rc = open_directory(place, error);
    if (rc == 0 && fstatat(place->directory, place->name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
        rc = taken(place, error);
    }
    if (rc == 0) {
        rc = create(place, error);
    }
    return rc == 0 ? set_length(place, length, error) : rc;
}

/* Gives the file its name, which must not exist. 0 or a negative errno. */
static int link_name(struct haul_snapshot_place *place)
{
    if (!place->partial) {
        char self[64];
        snprintf(self, sizeof self, "/proc/self/fd/%d", place->fd);
        return linkat(AT_FDCWD, self, place->directory, place->name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
    }
    if (renameat2(place->directory, place->partial, place->directory, place->name, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -errno;
    }
    /* A file system without that flag: link refuses an existing name as well. */
    if (linkat(place->directory, place->partial, place->directory, place->name, 0) < 0) {
        return -errno;
    }
    unlinkat(place->directory, place->partial, 0);
    return 0;
}

int haul_snapshot_place_publish(struct haul_snapshot_place *place, bool *published, struct haul_error *error)
{
    int rc = link_name(place);
    *published = rc == 0;
    if (rc == -EEXIST) {
        return taken(place, error);
    }
    if (rc < 0) {
        return failed(place, -rc, "giving the complete file its name", error);
    }
    place->published = true;
    return fsync(place->directory) < 0 ? failed(place, errno, "writing its directory to the disk", error) : 0;
}

void haul_snapshot_place_discard(struct haul_snapshot_place *place)
{
    if (place->partial && !place->published) {
        unlinkat(place->directory, place->partial, 0);
        free(place->partial);
        place->partial = NULL;
    }
}

void haul_snapshot_place_close(struct haul_snapshot_place *place)
{
    haul_snapshot_place_discard(place);
    if (place->fd >= 0) {
        close(place->fd);
    }
    if (place->directory >= 0) {
        close(place->directory);
    }
    free(place->partial);
    free(place->path);
    *place = (struct haul_snapshot_place){.fd = -1, .directory = -1};
}
