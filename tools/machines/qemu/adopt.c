/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/adopt.h"

#include "engine/remap.h"
#include "engine/trackers.h"
#include "tools/machines/qemu/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAPPERS_MAX 64
#define PLACES_MAX 64
#define FD_NAME "haul-memory"
#define QUIT_MS 5000

static bool same_file(int one, int other)
{
    struct stat a, b;
    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* A process beside QEMU (and haul) that maps the block's file, 0: none. */
static int other_mapper(const struct haul_qemu_inspection *inspection, const struct haul_qemu_block *block,
                        int *other, size_t *unreadable, struct haul_error *error)
{
    int pids[MAPPERS_MAX];
    size_t count = 0;
    *other = 0;
    int result = haul_find_mappers(block->fd, true, pids, MAPPERS_MAX, &count, unreadable, error);
    for (size_t i = 0; !result && i < count; i++) {
        *other = pids[i] != inspection->pid ? pids[i] : *other;
    }
    return result;
}

int haul_qemu_refuse_overwriting(const struct haul_qemu_inspection *inspection, struct haul_error *error)
{
    for (unsigned i = 0; i < inspection->count; i++) {
        int other;
        size_t unreadable;
        int result = other_mapper(inspection, &inspection->blocks[i], &other, &unreadable, error);
        if (!result && other) {
            char name[32];
            haul_process_name(other, name, sizeof name);
            result =
                haul_error_set(error, EBUSY,
                               "memory backend \"%s\" of the destination is also the memory of process %d "
                               "(%s), and a copy would overwrite it: give the destination a file of its "
                               "own, or take that memory over with --mode cpr-transfer on both sides",
                               inspection->blocks[i].name, other, name);
        }
        if (result) {
            return result;
        }
    }
    return 0;
}

/* Whoever else maps the old memory would go on with it. */
static int refuse_others(const struct haul_qemu_inspection *inspection, const struct haul_qemu_block *block,
                         struct haul_error *error)
{
    int other;
    size_t unreadable;
    int result = other_mapper(inspection, block, &other, &unreadable, error);
    if (result) {
        return result;
    }
    if (other) {
        char name[32];
        haul_process_name(other, name, sizeof name);
        return haul_error_set(
            error, EBUSY,
            "process %d (%s) maps the destination's memory too and would go on with the old "
            "one: end it, or use --mode normal",
            other, name);
    }
    if (unreadable && geteuid() != 0) {
        return haul_error_set(error, EPERM,
                              "%zu processes cannot be looked into, any of them may map the destination's "
                              "memory: run haul as root",
                              unreadable);
    }
    for (unsigned i = 0; i < inspection->count; i++) {
        const struct haul_qemu_block *sibling = &inspection->blocks[i];
        if (sibling != block && same_file(sibling->fd, block->fd)) {
            return haul_error_set(error, ENOTSUP,
                                  "it shares its file with backend \"%s\": give each a file of its own",
                                  sibling->name);
        }
    }
    return 0;
}

/* QEMU's memory is what it should be, and nowhere anything else. */
static int check_mapped(const struct haul_qemu_inspection *inspection, const struct haul_qemu_block *block,
                        int fd, uint64_t offset, struct haul_error *error)
{
    struct haul_mapping places[PLACES_MAX];
    size_t count = 0;
    int result = haul_find_mappings(inspection->pid, fd, places, PLACES_MAX, &count, error);
    for (size_t i = 0; !result && i < count; i++) {
        const struct haul_mapping *place = &places[i];
        uint64_t before = block->address - place->address;
        if (block->address >= place->address && before <= place->length &&
            place->length - before >= block->length) {
            return place->shared && !place->writable && place->object_offset + before == offset
                       ? 0
                       : haul_error_set(error, EIO, "QEMU maps it otherwise than it was told to");
        }
    }
    return result ? result : haul_error_set(error, EIO, "QEMU does not map it after all");
}

/* Brings `fd` into QEMU and puts it in the place of the old memory. */
static int replace(struct haul_qmp *qmp, const struct haul_qemu_inspection *inspection,
                   const struct haul_qemu_block *block, int fd, uint64_t offset, struct haul_error *error)
{
    int stale[HAUL_REMAP_STALE_MAX], ours[HAUL_REMAP_STALE_MAX];
    unsigned stale_count = 0, our_count = 0;
    int result =
        haul_process_find_fds(inspection->pid, block->fd, stale, HAUL_REMAP_STALE_MAX, &stale_count, error);
    if (!result && stale_count == 0) {
        result = haul_error_set(error, ENOTSUP, "QEMU holds no descriptor of its file");
    }
    result = result ? result : haul_qmp_give_fd(qmp, fd, FD_NAME, error);
    if (result) {
        return result;
    }
    result = haul_process_find_fds(inspection->pid, fd, ours, HAUL_REMAP_STALE_MAX, &our_count, error);
    if (!result && our_count == 0) {
        result = haul_error_set(error, EIO, "QEMU took its descriptor and does not hold it");
    }
    if (!result) {
        struct haul_remap remap = {
            .address = block->address,
            .length = block->length,
            .process_fd = ours[our_count - 1],
            .offset = offset,
            .stale = stale,
            .stale_count = stale_count,
        };
        result = haul_process_remap(inspection->pid, &remap, error);
    }
    int closed =
        haul_qmp_execute(qmp, "closefd", json_pack("{s:s}", "fdname", FD_NAME), NULL, result ? NULL : error);
    return result ? result : closed;
}

int haul_qemu_adopt(struct haul_qmp *qmp, const struct haul_qemu_inspection *inspection,
                    const struct haul_qemu_block *block, int fd, uint64_t offset, struct haul_error *error)
{
    if (block->fd_offset != offset) {
        return haul_error_set(error, ENOTSUP,
                              "it starts at byte %llu of its file at the source and at %llu here: give both "
                              "sides the same offset",
                              (unsigned long long)offset, (unsigned long long)block->fd_offset);
    }
    int result;
    if (same_file(fd, block->fd)) {
        result = haul_process_protect(inspection->pid, block->address, block->length, false, error);
    } else {
        result = refuse_others(inspection, block, error);
        result = result ? result : replace(qmp, inspection, block, fd, offset, error);
    }
    return result ? result : check_mapped(inspection, block, fd, offset, error);
}

int haul_qemu_lock_memory(const struct haul_qemu_inspection *inspection, bool writable,
                          struct haul_error *error)
{
    int result = 0;
    for (unsigned i = 0; i < inspection->count && !result; i++) {
        const struct haul_qemu_block *block = &inspection->blocks[i];
        result = haul_process_protect(inspection->pid, block->address, block->length, writable, error);
    }
    return result;
}

void haul_qemu_adopt_end(struct haul_qmp *qmp, const struct haul_qemu_inspection *inspection)
{
    int pidfd = (int)syscall(SYS_pidfd_open, inspection->pid, 0);
    if (pidfd < 0) {
        return; /* gone */
    }
    struct pollfd poller = {.fd = pidfd, .events = POLLIN};
    haul_qmp_set_timeout(qmp, QUIT_MS);
    haul_qmp_execute(qmp, "quit", NULL, NULL, NULL);
    if (poll(&poller, 1, QUIT_MS) != 1) {
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        poll(&poller, 1, QUIT_MS);
    }
    close(pidfd);
}
