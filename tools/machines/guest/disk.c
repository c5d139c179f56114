/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/disk.h"

#include "tools/machines/guest/cpu.h"
#include "tools/machines/guest/disk_layout.h"
#include "tools/machines/guest/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct haul_guest_disk {
    struct haul_guest_cpu writer; /* the disk's writer runs as a vCPU does: at its pace, until it is paused */
    atomic_bool kicked;           /* relaxed: a hint, what it is about is under the runner's lock */
    struct haul_disk_file *file;
    int fd;
    struct haul_guest_disk_layout layout;
    struct haul_guest_disk_position position;
    uint64_t bytes_per_s;
    enum haul_guest_side side;
    bool ready; /* filled or loaded */
    struct haul_guest_runner *runner;
};

static int io_failed(const char *what, uint64_t block, struct haul_error *error)
{
    int code = errno ? errno : EIO;
    return haul_error_set(error, code, "the guest's disk: %s block %" PRIu64 ": %s", what, block,
                          strerror(code));
}

static int read_block(const struct haul_guest_disk *disk, uint64_t block, unsigned char *bytes,
                      struct haul_error *error)
{
    errno = 0;
    ssize_t got = pread(disk->fd, bytes, HAUL_GUEST_DISK_BLOCK, (off_t)(block * HAUL_GUEST_DISK_BLOCK));
    return got == HAUL_GUEST_DISK_BLOCK ? 0 : io_failed("reading", block, error);
}

static int write_block(struct haul_guest_disk *disk, uint64_t block, uint32_t version,
                       struct haul_error *error)
{
    unsigned char bytes[HAUL_GUEST_DISK_BLOCK];
    uint64_t offset = block * HAUL_GUEST_DISK_BLOCK;
    haul_guest_disk_block_build(disk->layout.seed, block, version, bytes);
    errno = 0;
    if (pwrite(disk->fd, bytes, sizeof bytes, (off_t)offset) != (ssize_t)sizeof bytes) {
        return io_failed("writing", block, error);
    }
    if (disk->side == HAUL_GUEST_SOURCE) {
        haul_disk_file_mark(disk->file, offset, sizeof bytes);
    }
    return 0;
}

/* ---- the writer --------------------------------------------------------------------------------------- */

/* Reads each block before it overwrites it, so that what was lost is found before it is healed. Whenever it
 * returns the blocks are whole. */
static int writer_run(struct haul_guest_cpu *writer, uint32_t blocks, struct haul_error *error)
{
    struct haul_guest_disk *disk = (struct haul_guest_disk *)writer;
    unsigned char found[HAUL_GUEST_DISK_BLOCK];
    bool kicked = false;
    for (; blocks && !kicked; blocks--) {
        kicked = atomic_exchange_explicit(&disk->kicked, false, memory_order_relaxed);
        uint64_t block = haul_guest_disk_next(&disk->layout, disk->position);
        uint32_t version = disk->position.version;
        int result = read_block(disk, block, found, error);
        if (result) {
            return result;
        }
        if (haul_guest_disk_block_check(&disk->layout, block, version - 1, found, error)) {
            return haul_error_prefix(error, "self-check failed: the guest found that ");
        }
        result = write_block(disk, block, version, error);
        if (result) {
            return result;
        }
        haul_guest_disk_advance(&disk->layout, &disk->position);
    }
    return HAUL_GUEST_RUN_BOUNDARY;
}

/* On a slow disk what is left of a burst takes long. */
static void writer_kick(struct haul_guest_cpu *writer, pthread_t runner)
{
    (void)runner;
    atomic_store_explicit(&((struct haul_guest_disk *)writer)->kicked, true, memory_order_relaxed);
}

static int writer_settle(struct haul_guest_cpu *writer, struct haul_error *error)
{
    (void)error;
    atomic_store_explicit(&((struct haul_guest_disk *)writer)->kicked, false, memory_order_relaxed);
    return 0;
}

static const struct haul_guest_cpu_ops writer_ops = {
    .name = "disk", .run = writer_run, .kick = writer_kick, .settle = writer_settle};

static int start_writer(struct haul_guest_disk *disk, struct haul_error *error)
{
    int result = haul_guest_runner_new(&disk->writer, disk->bytes_per_s, &disk->runner, error);
    disk->ready = !result;
    return result;
}

int haul_guest_disk_pause(struct haul_guest_disk *disk, struct haul_error *error)
{
    return disk->runner ? haul_guest_runner_pause(disk->runner, HAUL_GUEST_PAUSE_NOW, NULL, error) : 0;
}

void haul_guest_disk_resume(struct haul_guest_disk *disk)
{
    if (disk->runner) {
        haul_guest_runner_resume(disk->runner);
    }
}

void haul_guest_disk_throttle(struct haul_guest_disk *disk, unsigned percent)
{
    if (disk->runner) {
        haul_guest_runner_throttle(disk->runner, percent);
    }
}

void haul_guest_disk_retire(struct haul_guest_disk *disk)
{
    haul_guest_runner_free(disk->runner);
    disk->runner = NULL;
}

/* ---- state -------------------------------------------------------------------------------------------- */

static const struct haul_device_field position_fields[] = {
    HAUL_DEVICE_VALUE(struct haul_guest_disk_position, version, U32, 0),
    HAUL_DEVICE_VALUE(struct haul_guest_disk_position, index, U32, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field layout_fields[] = {
    HAUL_DEVICE_VALUE(struct haul_guest_disk_layout, seed, U64, 0),
    HAUL_DEVICE_VALUE(struct haul_guest_disk_layout, blocks, U64, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field disk_fields[] = {
    HAUL_DEVICE_NESTED(struct haul_guest_disk, layout, layout_fields, 0),
    HAUL_DEVICE_NESTED(struct haul_guest_disk, position, position_fields, 0),
    HAUL_DEVICE_VALUE(struct haul_guest_disk, bytes_per_s, U64, 0),
    HAUL_DEVICE_END,
};

static int check_paused(void *object, struct haul_error *error)
{
    const struct haul_guest_disk *disk = object;
    return !disk->ready || (disk->runner && haul_guest_runner_runs(disk->runner))
               ? haul_error_set(error, EINVAL, "the guest's disk must stand still before its state is saved")
               : 0;
}

static int take_state(void *object, uint32_t version, struct haul_error *error)
{
    (void)version;
    struct haul_guest_disk *disk = object;
    uint64_t own = haul_disk_file_size(disk->file) / HAUL_GUEST_DISK_BLOCK;
    if (disk->ready) {
        return haul_error_set(error, EINVAL, "the guest's disk has a state already");
    }
    if (disk->layout.blocks != own) {
        return haul_error_set(error, EINVAL, "field layout.blocks: %" PRIu64 ", but this disk has %" PRIu64,
                              disk->layout.blocks, own);
    }
    haul_guest_disk_layout_init(&disk->layout, own, disk->layout.seed);
    if (disk->position.version == 0 || disk->position.index >= disk->layout.hot) {
        return haul_error_set(error, EINVAL, "field position.index: %" PRIu32 " is outside the disk",
                              disk->position.index);
    }
    return start_writer(disk, error);
}

static const struct haul_device_description disk_description = {
    .name = "disk",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = disk_fields,
    .pre_save = check_paused,
    .post_load = take_state,
};

int haul_guest_disk_add_device(struct haul_guest_disk *disk, struct haul_devices *devices,
                               struct haul_error *error)
{
    const struct haul_device device = {
        .description = &disk_description, .priority = HAUL_GUEST_PRIORITY_CPU, .object = disk};
    return haul_devices_add(devices, &device, error);
}

/* ---- making one --------------------------------------------------------------------------------------- */

/* A new image, with everything but the holes. */
static int fill(const struct haul_guest_options *options, struct haul_guest_disk *disk,
                struct haul_error *error)
{
    int result = 0;
    for (uint64_t block = 0; result == 0 && block < disk->layout.blocks; block++) {
        result = haul_guest_cancelled(options, error);
        if (result == 0 && haul_guest_disk_kind(&disk->layout, block) != HAUL_GUEST_DISK_HOLE) {
            result = write_block(disk, block, 0, error);
        }
    }
    disk->position = (struct haul_guest_disk_position){.version = 1};
    return result;
}

/* An image that was written by such a guest before: the hot blocks tell where it stopped. */
static int find_position(struct haul_guest_disk *disk, struct haul_error *error)
{
    unsigned char bytes[HAUL_GUEST_DISK_BLOCK];
    int result = read_block(disk, 0, bytes, error);
    if (result) {
        return result;
    }
    struct haul_guest_disk_header header = haul_guest_disk_header(bytes);
    if (!haul_guest_disk_intact(bytes) || header.block != 0) {
        return haul_error_set(
            error, EINVAL, "this image is not of a reference guest's disk; with size= a new one is created");
    }
    haul_guest_disk_layout_init(&disk->layout, disk->layout.blocks, header.seed);
    uint32_t first = 0;
    for (uint32_t index = 0; index < disk->layout.hot; index++) {
        struct haul_guest_disk_position at = {.version = 1, .index = index};
        uint64_t block = haul_guest_disk_next(&disk->layout, at);
        result = read_block(disk, block, bytes, error);
        if (result) {
            return result;
        }
        header = haul_guest_disk_header(bytes);
        if (!haul_guest_disk_intact(bytes) || header.block != block) {
            return haul_error_set(error, EINVAL, "block %" PRIu64 " of this image is damaged", block);
        }
        first = index == 0 ? header.version : first;
        if (header.version != first) {
            disk->position = (struct haul_guest_disk_position){.version = first, .index = index};
            return 0;
        }
    }
    disk->position = (struct haul_guest_disk_position){.version = first + 1};
    return 0;
}

static int create_image(const struct haul_guest_options *options, struct haul_error *error)
{
    int fd = open(options->disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        int code = errno;
        return haul_error_set(error, code, "cannot create the disk's image %s: %s%s", options->disk,
                              strerror(code), code == EEXIST ? "; leave size= out to use it" : "");
    }
    int result = ftruncate(fd, (off_t)options->disk_bytes) == 0
                     ? 0
                     : haul_error_set(error, errno, "cannot give the disk's image %s its size: %s",
                                      options->disk, strerror(errno));
    close(fd);
    if (result) {
        unlink(options->disk);
    }
    return result;
}

static int open_source(const struct haul_guest_options *options, struct haul_guest_disk *disk,
                       struct haul_error *error)
{
    int result = options->disk_bytes ? create_image(options, error) : 0;
    return result ? result : haul_disk_file_open(options->disk, &disk->file, error);
}

static int begin(const struct haul_guest_options *options, struct haul_guest_disk *disk,
                 struct haul_error *error)
{
    uint64_t bytes = haul_disk_file_size(disk->file);
    if (bytes % HAUL_GUEST_DISK_BLOCK || bytes < HAUL_GUEST_DISK_MIN) {
        return haul_error_set(error, EINVAL,
                              "a guest's disk of %" PRIu64
                              " bytes is refused: it must be a multiple of 4096, 64 KiB or more",
                              bytes);
    }
    disk->fd = haul_disk_file_fd(disk->file);
    haul_guest_disk_layout_init(&disk->layout, bytes / HAUL_GUEST_DISK_BLOCK, options->seed);
    if (disk->side == HAUL_GUEST_DESTINATION) {
        return 0;
    }
    int result = options->disk_bytes ? fill(options, disk, error) : find_position(disk, error);
    if (result == 0) {
        result = start_writer(disk, error);
    }
    if (result == 0) {
        haul_guest_disk_resume(disk);
    }
    return result;
}

int haul_guest_disk_new(const struct haul_guest_options *options, enum haul_guest_side side,
                        struct haul_guest_disk **disk, struct haul_error *error)
{
    struct haul_guest_disk *self = calloc(1, sizeof *self);
    if (!self) {
        return haul_error_set(error, ENOMEM, "no memory for the guest's disk");
    }
    self->writer.ops = &writer_ops;
    self->side = side;
    self->bytes_per_s = options->disk_bytes_per_s;
    int result = side == HAUL_GUEST_SOURCE
                     ? open_source(options, self, error)
                     : haul_disk_file_receive(options->disk, options->disk_bytes, &self->file, error);
    bool made = side == HAUL_GUEST_SOURCE && options->disk_bytes && self->file;
    if (result == 0) {
        result = begin(options, self, error);
    }
    if (result) {
        haul_guest_disk_free(self);
        if (made) {
            unlink(options->disk);
        }
        return result;
    }
    *disk = self;
    return 0;
}

void haul_guest_disk_free(struct haul_guest_disk *disk)
{
    if (disk) {
        haul_guest_disk_retire(disk);
        haul_disk_file_free(disk->file);
        free(disk);
    }
}

struct haul_disk haul_guest_disk_describe(struct haul_guest_disk *disk)
{
    return haul_disk_file_describe(disk->file, "guest.disk");
}

/* ---- self-check --------------------------------------------------------------------------------------- */

static int compare(const struct haul_guest_disk *disk, struct haul_error *error)
{
    unsigned char bytes[HAUL_GUEST_DISK_BLOCK];
    struct haul_error why;
    uint64_t wrong = 0;
    for (uint64_t block = 0; block < disk->layout.blocks; block++) {
        uint32_t version = haul_guest_disk_version(&disk->layout, block, disk->position);
        int result = read_block(disk, block, bytes, error);
        if (result) {
            return result;
        }
        if (haul_guest_disk_block_check(&disk->layout, block, version, bytes, wrong ? NULL : &why)) {
            wrong++;
        }
    }
    return wrong == 0 ? 0
                      : haul_error_set(error, EIO,
                                       "self-check failed: %" PRIu64 " of %" PRIu64
                                       " blocks of the disk are wrong; %s",
                                       wrong, disk->layout.blocks, why.message);
}

int haul_guest_disk_check(struct haul_guest_disk *disk, char *report, size_t size, struct haul_error *error)
{
    if (!disk->runner) {
        return haul_error_set(error, EINVAL, "the guest's disk is not written here, so it cannot be checked");
    }
    int result = haul_guest_disk_pause(disk, error);
    if (result == 0) {
        result = compare(disk, error);
    }
    if (result) {
        return result;
    }
    haul_guest_disk_resume(disk);
    snprintf(report, size, "%" PRIu64 " blocks of its disk (%" PRIu64 " MiB)", disk->layout.blocks,
             disk->layout.blocks * HAUL_GUEST_DISK_BLOCK >> 20);
    return 0;
}
