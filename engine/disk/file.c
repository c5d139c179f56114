/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/disk_file.h"

#include "channels/bits.h"
#include "engine/clock.h"
#include "engine/trackers.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define GRANULE 4096u
#define SUFFIX ".incomplete"
#define FLUSH_PIECE ((uint64_t)16 << 20) /* bytes written that one step of a flush is to wait for */

struct haul_disk_file {
    int fd;
    uint64_t size;
    char *path;
    char *incomplete;     /* the other name; destination only */
    bool created;         /* by us, for this move */
    bool opened;          /* a source came: it lost the name that it had before */
    _Atomic bool touched; /* something was written since; relaxed, the end of the threads orders it */
    bool named;           /* `complete` gave it its name */
    bool kept;            /* HANDOVER came: the guest's only copy, unless it is discarded after all */
    /* Bytes written since the last flush; relaxed, nothing is written during one. */
    _Atomic uint64_t unsynced;
    uint64_t naming_ns;           /* what a change of its name took */
    uint64_t synced_to;           /* how far the flush under way has come */
    struct haul_tracker *written; /* source only: a bitmap of one block, whose pages are the granules */
};

static int fail(const struct haul_disk_file *file, const char *what, int code, struct haul_error *error)
{
    return haul_error_set(error, code, "%s: %s: %s", file->path, what, strerror(code));
}

/* ---- both sides ---- */

static int file_read(void *opaque, uint64_t offset, void *bytes, size_t length, struct haul_error *error)
{
    const struct haul_disk_file *file = opaque;
    unsigned char *to = bytes;
    while (length > 0) {
        ssize_t got = pread(file->fd, to, length, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? fail(file, "reading", errno, error)
                           : haul_error_set(error, EIO, "%s has become shorter", file->path);
        }
        to += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return 0;
}

/* The whole granules of each hole; a file system that does not tell has none. */
static void file_clear_holes(void *opaque, uint64_t *bitmap)
{
    const struct haul_disk_file *file = opaque;
    uint64_t at = 0;
    while (at < file->size) {
        off_t hole = lseek(file->fd, (off_t)at, SEEK_HOLE);
        if (hole < 0 || (uint64_t)hole >= file->size) {
            return;
        }
        off_t data = lseek(file->fd, hole, SEEK_DATA);
        if (data < 0 && errno != ENXIO) {
            return;
        }
        bool last = data < 0 || (uint64_t)data >= file->size; /* a hole up to the end */
        uint64_t end = last ? (file->size + GRANULE - 1) / GRANULE : (uint64_t)data / GRANULE;
        uint64_t first = ((uint64_t)hole + GRANULE - 1) / GRANULE;
        for (uint64_t word = first / 64; word * 64 < end; word++) {
            bitmap[word] &= ~haul_bits_mask(word, first, end);
        }
        at = last ? file->size : (uint64_t)data;
    }
}

/* ---- source ---- */

static int file_start(void *opaque, struct haul_error *error)
{
    struct haul_disk_file *file = opaque;
    return haul_tracker_get_ops(file->written)->start(haul_tracker_get_opaque(file->written), error);
}

static int file_fetch(void *opaque, uint64_t *bitmap, struct haul_error *error)
{
    struct haul_disk_file *file = opaque;
    uint64_t granules;
    return haul_tracker_get_ops(file->written)
        ->sync(haul_tracker_get_opaque(file->written), &bitmap, &granules, error);
}

void haul_disk_file_mark(struct haul_disk_file *file, uint64_t offset, uint64_t length)
{
    if (!file->written || offset >= file->size || length == 0) {
        return;
    }
    uint64_t first = offset / GRANULE;
    uint64_t last = ((length < file->size - offset ? offset + length : file->size) - 1) / GRANULE;
    haul_tracker_mark(file->written, 0, first, last - first + 1);
}

static const struct haul_disk_ops source_ops = {
    .read = file_read,
    .clear_holes = file_clear_holes,
    .start = file_start,
    .fetch = file_fetch,
};

/* ---- destination ---- */

/* Makes the names in the image's directory durable; with `touch` there is something to do in any case. */
static int sync_directory(const struct haul_disk_file *file, bool touch)
{
    char *copy = strdup(file->path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0 && touch) {
        futimens(fd, NULL); /* a failure only makes the measurement worse */
    }
    int rc = fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
    if (fd >= 0) {
        close(fd);
    }
    free(copy);
    return rc;
}

/* Renames to a name that nothing has. Where the file system cannot ensure that, it is looked at before. */
static int rename_to_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -errno;
    }
    if (access(to, F_OK) == 0) {
        return -EEXIST;
    }
    return rename(from, to) == 0 ? 0 : -errno;
}

/* An image that was there before loses its name; a created one never had it. Either way this tells what
 * giving it its name is going to take, which the guest waits for. */
static int file_open(void *opaque, struct haul_error *error)
{
    struct haul_disk_file *file = opaque;
    uint64_t begun = haul_now_ns();
    int rc = file->created ? 0 : rename_to_new(file->path, file->incomplete);
    file->opened = !file->created && rc == 0;
    rc = rc < 0 ? rc : sync_directory(file, true);
    file->naming_ns = haul_now_ns() - begun;
    if (rc < 0) {
        return fail(file,
                    file->created ? "making its directory durable"
                                  : "taking its name away while it is incomplete",
                    -rc, error);
    }
    return 0;
}

static uint64_t file_complete_ns(void *opaque)
{
    const struct haul_disk_file *file = opaque;
    return file->naming_ns;
}

static int file_write(void *opaque, uint64_t offset, const void *bytes, size_t length,
                      struct haul_error *error)
{
    struct haul_disk_file *file = opaque;
    const unsigned char *from = bytes;
    uint64_t begin = offset;
    size_t whole = length;
    atomic_store_explicit(&file->touched, true, memory_order_relaxed);
    while (length > 0) {
        ssize_t put = pwrite(file->fd, from, length, (off_t)offset);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return fail(file, "writing", put < 0 ? errno : ENOSPC, error);
        }
        from += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    atomic_fetch_add_explicit(&file->unsynced, whole, memory_order_relaxed);
    /* The round's flush is short when most is on its way by then. A failure shows in the flush. */
    sync_file_range(file->fd, (off_t)begin, (off_t)whole, SYNC_FILE_RANGE_WRITE);
    return 0;
}

static int file_zero(void *opaque, uint64_t offset, uint64_t length, struct haul_error *error)
{
    static const unsigned char zeros[65536];
    struct haul_disk_file *file = opaque;
    atomic_store_explicit(&file->touched, true, memory_order_relaxed);
    if (fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) == 0) {
        return 0;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS) {
        return fail(file, "zeroing", errno, error);
    }
    int rc = 0;
    for (uint64_t done = 0; rc == 0 && done < length;) {
        uint64_t piece = length - done < sizeof zeros ? length - done : sizeof zeros;
        rc = file_write(opaque, offset + done, zeros, (size_t)piece, error);
        done += piece;
    }
    return rc;
}

/* After a bulk round there may be gigabytes to wait for: piece after piece, so that the source hears of it.
 */
static int file_flush(void *opaque, struct haul_error *error)
{
    struct haul_disk_file *file = opaque;
    uint64_t pieces = atomic_load_explicit(&file->unsynced, memory_order_relaxed) / FLUSH_PIECE;
    if (pieces > 1 && file->synced_to < file->size) {
        uint64_t piece = (file->size / pieces / GRANULE + 1) * GRANULE;
        /* Its errors are not told a second time. */
        if (sync_file_range(file->fd, (off_t)file->synced_to, (off_t)piece,
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                SYNC_FILE_RANGE_WAIT_AFTER) != 0) {
            return fail(file, "flushing", errno, error);
        }
        file->synced_to += piece;
        return 1;
    }
    file->synced_to = 0;
    atomic_store_explicit(&file->unsynced, 0, memory_order_relaxed);
    return fdatasync(file->fd) == 0 ? 0 : fail(file, "flushing", errno, error);
}

static int file_complete(void *opaque, struct haul_error *error)
{
    struct haul_disk_file *file = opaque;
    file->kept = true;
    int rc = rename_to_new(file->incomplete, file->path);
    if (rc < 0) {
        return haul_error_set(error, -rc, "%s is whole, but cannot be called %s: %s", file->incomplete,
                              file->path, strerror(-rc));
    }
    file->named = true;
    rc = sync_directory(file, false);
    return rc < 0 ? fail(file, "giving it its name", -rc, error) : 0;
}

/* An image that was there before has its name back unless something was written to it. */
static void let_go(struct haul_disk_file *file, struct haul_error *left)
{
    bool touched = atomic_load_explicit(&file->touched, memory_order_relaxed);
    if (!touched && rename_to_new(file->incomplete, file->path) == 0) {
        return;
    }
    haul_error_set(left, ESTALE, "what was in %s is %s, and it is called %s now%s", file->path,
                   touched ? "overwritten in part" : "untouched", file->incomplete,
                   touched ? ": it is worth nothing" : "");
}

static void file_discard(void *opaque, struct haul_error *left)
{
    struct haul_disk_file *file = opaque;
    if (!file->incomplete || !file->path) {
        return;
    }
    if (file->named && rename_to_new(file->path, file->incomplete) < 0) {
        haul_error_set(left, EEXIST, "%s is not the guest's disk, and should not have that name", file->path);
    } else if (file->created && unlink(file->incomplete) != 0 && errno != ENOENT) {
        haul_error_set(left, errno, "%s is worth nothing, but cannot be removed: %s", file->incomplete,
                       strerror(errno));
    } else if (file->opened && !file->created) {
        let_go(file, left);
    }
    if (file->kept) {
        sync_directory(file,
                       false); /* before the source goes on; should that fail, it is not looked for here */
    }
    file->created = file->opened = file->kept = file->named = false;
}

static const struct haul_disk_ops destination_ops = {
    .read = file_read,
    .clear_holes = file_clear_holes,
    .flush = file_flush,
    .open = file_open,
    .complete_ns = file_complete_ns,
    .write = file_write,
    .zero = file_zero,
    .complete = file_complete,
    .discard = file_discard,
};

/* ---- life ---- */

static struct haul_disk_file *make(const char *path, bool receives)
{
    struct haul_disk_file *file = calloc(1, sizeof *file);
    if (!file) {
        return NULL;
    }
    file->fd = -1;
    file->path = strdup(path);
    if (receives && asprintf(&file->incomplete, "%s" SUFFIX, path) < 0) {
        file->incomplete = NULL;
    }
    if (!file->path || (receives && !file->incomplete)) {
        haul_disk_file_free(file);
        return NULL;
    }
    return file;
}

/* Takes the lock and looks at what was opened. */
static int look(struct haul_disk_file *file, struct haul_error *error)
{
    struct stat status;
    if (flock(file->fd, LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK
                   ? haul_error_set(error, EBUSY, "%s is in use by another process, or by the other side",
                                    file->path)
                   : fail(file, "locking", errno, error);
    }
    if (fstat(file->fd, &status) != 0) {
        return fail(file, "looking at it", errno, error);
    }
    if (!S_ISREG(status.st_mode)) {
        return haul_error_set(error, EINVAL,
                              "%s is no regular file: an image in a file is all that moves this way",
                              file->path);
    }
    file->size = file->size ? file->size : (uint64_t)status.st_size;
    if (file->size == 0 || file->size > HAUL_DISK_SIZE_MAX) {
        return haul_error_set(error, EINVAL, "%s has %llu bytes; a disk has 1 byte to 64 TiB", file->path,
                              (unsigned long long)file->size);
    }
    return 0;
}

static int open_existing(struct haul_disk_file *file, struct haul_error *error)
{
    file->fd = open(file->path, O_RDWR | O_CLOEXEC);
    if (file->fd < 0) {
        return fail(file, "opening it for reading and writing", errno, error);
    }
    return look(file, error);
}

int haul_disk_file_open(const char *path, struct haul_disk_file **file, struct haul_error *error)
{
    struct haul_disk_file *made = make(path, false);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for %s", path);
    }
    int rc = open_existing(made, error);
    if (rc == 0) {
        uint64_t granules = (made->size + GRANULE - 1) / GRANULE;
        rc = haul_tracker_bitmap_new(&granules, 1, &made->written, error);
        rc = rc < 0 ? haul_error_prefix(error, "%s: ", path) : 0;
    }
    if (rc < 0) {
        haul_disk_file_free(made);
        return rc;
    }
    *file = made;
    return 0;
}

static int create(struct haul_disk_file *file, struct haul_error *error)
{
    struct stat status;
    if (lstat(file->path, &status) == 0) {
        return haul_error_set(error, EEXIST,
                              "%s is there already: move it away, or leave the size out to overwrite it",
                              file->path);
    }
    file->fd = open(file->incomplete, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file->fd < 0) {
        int code = errno;
        return haul_error_set(error, code, "cannot create %s: %s%s", file->incomplete, strerror(code),
                              code == EEXIST ? "; it is left of a move that did not end: remove it" : "");
    }
    file->created = true;
    int rc = look(file, error);
    if (rc == 0 && ftruncate(file->fd, (off_t)file->size) != 0) {
        rc = fail(file, "giving it its size", errno, error);
    }
    return rc;
}

int haul_disk_file_receive(const char *path, uint64_t size, struct haul_disk_file **file,
                           struct haul_error *error)
{
    /* An image that is there loses its name meanwhile: the one that it has itself, not that of a link. */
    char *image = size ? strdup(path) : realpath(path, NULL);
    if (!image) {
        return haul_error_set(error, errno, "%s: opening it for reading and writing: %s", path,
                              strerror(errno));
    }
    struct haul_disk_file *made = make(image, true);
    free(image);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for %s", path);
    }
    made->size = size;
    int rc = size ? create(made, error) : open_existing(made, error);
    if (rc < 0) {
        haul_disk_file_free(made);
        return rc;
    }
    *file = made;
    return 0;
}

struct haul_disk haul_disk_file_describe(struct haul_disk_file *file, const char *name)
{
    return (struct haul_disk){
        .name = name,
        .size = file->size,
        .granularity = GRANULE,
        .ops = file->incomplete ? &destination_ops : &source_ops,
        .opaque = file,
    };
}

int haul_disk_file_fd(const struct haul_disk_file *file)
{
    return file->fd;
}

uint64_t haul_disk_file_size(const struct haul_disk_file *file)
{
    return file->size;
}

void haul_disk_file_free(struct haul_disk_file *file)
{
    if (!file) {
        return;
    }
    if (!file->kept) {
        file_discard(file, NULL);
    }
    if (file->fd >= 0) {
        close(file->fd);
    }
    haul_tracker_free(file->written);
    free(file->incomplete);
    free(file->path);
    free(file);
}
