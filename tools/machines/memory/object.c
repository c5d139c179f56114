/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/memory/object.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* What to do about a file that is in the wrong place. */
#define PLACES "use a file in /dev/shm or another tmpfs, in a hugetlbfs, or a memfd as /proc/PID/fd/N"

/* Finds out what file system the object is in, and its size. */
static int inspect(struct haul_memory_object *object, const char *path, struct haul_error *error)
{
    struct statfs fs;
    struct stat status;
    if (fstatfs(object->fd, &fs) || fstat(object->fd, &status)) {
        return haul_error_set(error, errno, "cannot inspect %s: %s", path, strerror(errno));
    }
    if (!S_ISREG(status.st_mode) || (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC)) {
        return haul_error_set(error, EINVAL, "%s is not shared memory (file system type %#lx): " PLACES, path,
                              (unsigned long)fs.f_type);
    }
    object->page_size = fs.f_type == HUGETLBFS_MAGIC ? (uint32_t)fs.f_bsize : 4096;
    object->length = (uint64_t)status.st_size;
    return 0;
}

static int check_length(const struct haul_memory_object *object, const char *path, struct haul_error *error)
{
    if (!object->length || object->length % object->page_size) {
        return haul_error_set(error, EINVAL,
                              "%s has %" PRIu64 " bytes, which is not a whole number of its pages of %" PRIu32
                              " bytes: set its size with truncate",
                              path, object->length, object->page_size);
    }
    return 0;
}

int haul_memory_object_open(struct haul_memory_object *object, const char *path, bool writable,
                            struct haul_error *error)
{
    /* Never wait for the other end of a FIFO; regular files do not care. */
    *object = (struct haul_memory_object){
        .fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)};
    if (object->fd < 0) {
        return haul_error_set(error, errno, "cannot open %s: %s", path, strerror(errno));
    }
    int result = inspect(object, path, error);
    return result ? result : check_length(object, path, error);
}

/* Writing to a full tmpfs would kill this process (SIGBUS): better to refuse now. */
static int check_room(const struct haul_memory_object *object, const char *path, struct haul_error *error)
{
    struct statfs fs;
    if (object->page_size != 4096 || fstatfs(object->fd, &fs) || !fs.f_blocks) {
        return 0; /* mapping huge pages reserves them; a tmpfs without a size has no limit of its own */
    }
    uint64_t room = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    if (room < object->length) {
        return haul_error_set(error, ENOSPC,
                              "the file system of %s has %" PRIu64 " bytes left, %" PRIu64
                              " are needed: enlarge it (mount -o remount,size=) or remove something",
                              path, room, object->length);
    }
    return 0;
}

int haul_memory_object_create(struct haul_memory_object *object, const char *path, uint64_t size,
                              struct haul_error *error)
{
    *object = (struct haul_memory_object){.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    if (object->fd < 0 && errno == EEXIST) {
        int result = haul_memory_object_open(object, path, true, error);
        if (!result && object->length != size) {
            result = haul_error_set(error, EINVAL,
                                    "%s exists with %" PRIu64 " bytes, not %" PRIu64
                                    ": remove it, or leave the size out if that is right",
                                    path, object->length, size);
        }
        return result;
    }
    if (object->fd < 0) {
        return haul_error_set(error, errno, "cannot create %s: %s", path, strerror(errno));
    }
    int result = inspect(object, path, error);
    object->length = size;
    if (!result) {
        result = check_length(object, path, error);
    }
    if (!result) {
        result = check_room(object, path, error);
    }
    if (!result && ftruncate(object->fd, (off_t)size)) {
        result =
            haul_error_set(error, errno, "cannot give %s %" PRIu64 " bytes: %s", path, size, strerror(errno));
    }
    if (result) {
        unlink(path);
    }
    object->created = !result;
    return result;
}

int haul_memory_object_map(struct haul_memory_object *object, const char *path, bool writable,
                           struct haul_error *error)
{
    void *host =
        mmap(NULL, object->length, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, object->fd, 0);
    if (host == MAP_FAILED) {
        return haul_error_set(
            error, errno, "cannot map %" PRIu64 " bytes of %s: %s%s", object->length, path, strerror(errno),
            object->page_size > 4096 ? "; are there enough free huge pages (HugePages_Free in "
                                       "/proc/meminfo)?"
                                     : "");
    }
    object->host = host;
    return 0;
}

void haul_memory_object_close(struct haul_memory_object *object)
{
    if (object->host) {
        munmap(object->host, object->length);
    }
    if (object->fd >= 0) {
        close(object->fd);
    }
    *object = (struct haul_memory_object){.fd = -1};
}
