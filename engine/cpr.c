/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cpr.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define MEMORY_PAYLOAD 12

/* ---- who, and what ---- */

static int cannot_carry(struct haul_error *error)
{
    return haul_error_set(error, EOPNOTSUPP,
                          "mode cpr-transfer hands memory to another process of this host, and this "
                          "connection cannot carry it: use unix:PATH on both sides");
}

int haul_cpr_check_peer(int fd, struct haul_error *error)
{
    int domain = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 || domain != AF_UNIX) {
        return cannot_carry(error);
    }
    struct ucred peer = {.uid = (uid_t)-1};
    length = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
        return haul_error_set(error, errno, "asking who is at the other end: %s", strerror(errno));
    }
    if (peer.uid != geteuid()) {
        return haul_error_set(
            error, EPERM,
            "mode cpr-transfer: process %d at the other end is user %u's, this one user %u's; "
            "run both sides as the same user",
            (int)peer.pid, (unsigned)peer.uid, (unsigned)geteuid());
    }
    return 0;
}

static int check_pages(const struct haul_block *block, int fd, struct haul_error *error)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0) {
        return haul_error_set(error, errno, "RAM block %s: fstatfs: %s", block->name, strerror(errno));
    }
    uint64_t size = fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : HAUL_PAGE_SIZE;
    if (size != block->page_size) {
        return haul_error_set(error, EINVAL,
                              "RAM block %s has pages of %u bytes and the memory behind it of %llu: use the "
                              "same huge page size on both sides",
                              block->name, block->page_size, (unsigned long long)size);
    }
    return 0;
}

int haul_cpr_check_memory(const struct haul_block *block, int fd, uint64_t offset, struct haul_error *error)
{
    struct stat file;
    if (fd < 0 || fstat(fd, &file) < 0 || !S_ISREG(file.st_mode)) {
        return haul_error_set(
            error, EINVAL,
            "RAM block %s is not in a file, so mode cpr-transfer cannot hand it over: put it "
            "in a memfd or a file of a tmpfs, mapped shared",
            block->name);
    }
    uint64_t size = (uint64_t)file.st_size;
    if (offset % block->page_size != 0 || offset > size || size - offset < block->length) {
        return haul_error_set(
            error, EINVAL,
            "RAM block %s needs %llu bytes from offset %llu on, and its file has %llu in all: "
            "it was cut, or sealed at another size",
            block->name, (unsigned long long)block->length, (unsigned long long)offset,
            (unsigned long long)size);
    }
    int seals = fcntl(fd, F_GET_SEALS);
    bool sealed = seals >= 0 && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE));
    if (sealed || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
        return haul_error_set(error, EINVAL,
                              "RAM block %s: its file is %s, so no other process can run a guest on it",
                              block->name, sealed ? "sealed against writing" : "not open for writing");
    }
    return check_pages(block, fd, error);
}

/* ---- source ---- */

int haul_cpr_check_source(const struct haul_migration *migration, const char *uri, struct haul_error *error)
{
    if (strncmp(uri, "unix:", 5) != 0 && strncmp(uri, "fd:", 3) != 0) {
        return cannot_carry(error);
    }
    for (uint32_t i = 0; i < migration->block_count; i++) {
        const struct haul_block *block = &migration->blocks[i];
        int rc = haul_cpr_check_memory(block, block->fd, block->fd_offset, error);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int haul_cpr_hand_over(struct haul_migration *migration, struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->block_count; i++) {
        const struct haul_block *block = &migration->blocks[i];
        unsigned char payload[MEMORY_PAYLOAD];
        struct haul_writer writer;
        haul_writer_init(&writer, payload, sizeof payload);
        haul_writer_u32(&writer, i);
        haul_writer_u64(&writer, block->fd_offset);
        int rc = haul_control_send_fd(migration->control, HAUL_FRAME_MEMORY, payload,
                                      haul_writer_length(&writer), block->fd, error);
        if (rc < 0) {
            return haul_error_prefix(error, "RAM block %s: ", block->name);
        }
    }
    struct haul_frame *frame = NULL;
    int rc = haul_control_expect(migration->control, HAUL_FRAME_MEMORY_OK,
                                 (int)migration->limits.silence_timeout_ms, &frame, error);
    free(frame);
    return rc;
}

/* ---- destination ---- */

static int adopt_block(struct haul_migration *migration, const uint32_t *order, uint32_t due,
                       const struct haul_frame *frame, int fd, bool *began, struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, frame->payload, frame->length);
    uint32_t index = haul_cursor_u32(&cursor);
    uint64_t offset = haul_cursor_u64(&cursor);
    if (!haul_cursor_done(&cursor) || index != due) {
        return haul_error_set(error, EPROTO, "MEMORY is malformed, or not that of block %u, which is due",
                              due);
    }
    const struct haul_block *block = &migration->blocks[order[index]];
    int rc = haul_cpr_check_memory(block, fd, offset, error);
    if (rc < 0) {
        return rc;
    }
    *began = true;
    rc = migration->guest.adopt(migration->guest_opaque, block->name, fd, offset, error);
    return rc < 0 ? haul_error_prefix(error, "taking over the memory of RAM block %s: ", block->name) : 0;
}

int haul_cpr_adopt(struct haul_migration *migration, const uint32_t *order, bool *began,
                   struct haul_error *error)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < migration->block_count; i++) {
        struct haul_frame *frame = NULL;
        rc = haul_control_expect(migration->control, HAUL_FRAME_MEMORY,
                                 (int)migration->limits.silence_timeout_ms, &frame, error);
        if (rc == 0) {
            int fd = haul_control_take_fd(migration->control);
            rc = adopt_block(migration, order, i, frame, fd, began, error);
            if (fd >= 0) {
                close(fd);
            }
        }
        free(frame);
    }
    return rc == 0 ? haul_control_send(migration->control, HAUL_FRAME_MEMORY_OK, NULL, 0, error) : rc;
}
