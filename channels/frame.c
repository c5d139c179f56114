/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of the control connection, declared in channels/wire.h. */
#include "channels/socket_io.h"
#include "channels/wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#define FRAME_MAGIC 0x464c4148u /* "HALF" as bytes: HAuL Frame */
#define FRAME_SUMMED 12         /* header bytes before the checksum */

/* The low 32 bits of XXH3 over the payload, seeded by the header before it: covers both. */
static uint32_t frame_checksum(const unsigned char *header, const void *payload, size_t length)
{
    return (uint32_t)XXH3_64bits_withSeed(payload, length, XXH3_64bits(header, FRAME_SUMMED));
}

void haul_frame_header_encode(void *header, enum haul_frame_type type, const void *payload, size_t length)
{
    struct haul_writer writer;
    haul_writer_init(&writer, header, HAUL_FRAME_HEADER_SIZE);
    haul_writer_u32(&writer, FRAME_MAGIC);
    haul_writer_u16(&writer, (uint16_t)type);
    haul_writer_u16(&writer, 0);
    haul_writer_u32(&writer, (uint32_t)length);
    haul_writer_u32(&writer, frame_checksum(header, payload, length));
}

bool haul_frame_intact(const void *header, const void *payload, size_t length)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, (const unsigned char *)header + FRAME_SUMMED, sizeof(uint32_t));
    return haul_cursor_u32(&cursor) == frame_checksum(header, payload, length);
}

/* `passed`: a descriptor that goes beside the frame, or -1. */
static int send_frame(int fd, enum haul_frame_type type, const void *payload, size_t length, int passed,
                      struct haul_error *error)
{
    if (length > HAUL_FRAME_MAX) {
        return haul_error_set(error, EMSGSIZE, "sending %s: %zu bytes are more than a frame's %zu",
                              haul_frame_name(type), length, HAUL_FRAME_MAX);
    }
    unsigned char header[HAUL_FRAME_HEADER_SIZE];
    haul_frame_header_encode(header, type, payload, length);
    struct iovec parts[2] = {{header, sizeof header}, {(void *)payload, length}};
    size_t count = length > 0 ? 2 : 1;
    int result = passed >= 0 ? haul_io_send_fd(fd, parts, count, passed) : haul_io_send(fd, parts, count);
    if (result < 0) {
        return haul_error_set(error, -result, "sending %s: %s", haul_frame_name(type), strerror(-result));
    }
    return 0;
}

int haul_frame_send(int fd, enum haul_frame_type type, const void *payload, size_t length,
                    struct haul_error *error)
{
    return send_frame(fd, type, payload, length, -1, error);
}

int haul_frame_send_fd(int fd, enum haul_frame_type type, const void *payload, size_t length, int passed,
                       struct haul_error *error)
{
    return send_frame(fd, type, payload, length, passed, error);
}

/*
 * recv, and with `passed` the first descriptor that came beside the bytes. The kernel hands out the
 * descriptors of one sendmsg per call, and as many as there is room for: one.
 */
static ssize_t receive_some(int fd, void *bytes, size_t length, int *passed)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_LEN(sizeof(int));
    }
    ssize_t received = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = passed && received >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int))) {
        int came;
        memcpy(&came, CMSG_DATA(header), sizeof came);
        if (*passed < 0) {
            *passed = came;
        } else {
            close(came);
        }
    }
    return received;
}

/* Fills `bytes` before `deadline_ns` (UINT64_MAX: none). -HAUL_IO_END when the stream ends first. */
static int receive_until(int fd, void *bytes, size_t length, uint64_t deadline_ns, int *passed)
{
    size_t done = 0;
    while (done < length) {
        ssize_t received = receive_some(fd, (char *)bytes + done, length - done, passed);
        if (received > 0) {
            done += (size_t)received;
            continue;
        }
        if (received == 0) {
            return -HAUL_IO_END;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN) {
            return -errno;
        }
        int wait_ms = -1;
        if (deadline_ns != UINT64_MAX) {
            uint64_t now = haul_io_now_ns();
            if (now >= deadline_ns) {
                return -ETIMEDOUT;
            }
            wait_ms = (int)((deadline_ns - now) / 1000000u) + 1;
        }
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, wait_ms) < 0 && errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int receive_failed(int result, const char *what, struct haul_error *error)
{
    if (result == -HAUL_IO_END) {
        return haul_error_set(error, ECONNRESET,
                              "receiving %s: the peer closed the connection; it may say why", what);
    }
    return haul_error_set(error, -result, "receiving %s: %s", what, strerror(-result));
}

int haul_frame_header_decode(const void *header, size_t capacity, enum haul_frame_type *type, size_t *length,
                             struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, header, HAUL_FRAME_HEADER_SIZE);
    uint32_t magic = haul_cursor_u32(&cursor);
    *type = (enum haul_frame_type)haul_cursor_u16(&cursor);
    unsigned reserved = haul_cursor_u16(&cursor);
    *length = haul_cursor_u32(&cursor);
    if (magic != FRAME_MAGIC) {
        return haul_error_set(error, EPROTO, "the peer does not speak haul's protocol (magic 0x%08x)", magic);
    }
    if (strcmp(haul_frame_name(*type), "unknown") == 0) {
        return haul_error_set(error, EPROTO, "unknown frame type %u", *type);
    }
    if (reserved != 0) {
        return haul_error_set(error, EPROTO, "%s: reserved field is %u, not 0", haul_frame_name(*type),
                              reserved);
    }
    if (*length > capacity || *length > HAUL_FRAME_MAX) {
        return haul_error_set(error, EPROTO, "%s: %zu bytes are more than the %zu allowed here",
                              haul_frame_name(*type), *length,
                              capacity < HAUL_FRAME_MAX ? capacity : HAUL_FRAME_MAX);
    }
    return 0;
}

static int receive_frame(int fd, enum haul_frame_type *type, void *payload, size_t capacity, size_t *length,
                         int timeout_ms, int *passed, struct haul_error *error)
{
    uint64_t deadline =
        timeout_ms < 0 ? UINT64_MAX : haul_io_now_ns() + (uint64_t)(unsigned)timeout_ms * 1000000u;
    unsigned char header[HAUL_FRAME_HEADER_SIZE];
    int result = receive_until(fd, header, sizeof header, deadline, passed);
    if (result < 0) {
        return receive_failed(result, "a frame", error);
    }
    result = haul_frame_header_decode(header, capacity, type, length, error);
    if (result < 0) {
        return result;
    }
    result = receive_until(fd, payload, *length, deadline, passed);
    if (result < 0) {
        return receive_failed(result, haul_frame_name(*type), error);
    }
    if (!haul_frame_intact(header, payload, *length)) {
        return haul_error_set(error, EPROTO, "%s: wrong checksum, the connection corrupts data",
                              haul_frame_name(*type));
    }
    return 0;
}

int haul_frame_recv(int fd, enum haul_frame_type *type, void *payload, size_t capacity, size_t *length,
                    int timeout_ms, struct haul_error *error)
{
    return receive_frame(fd, type, payload, capacity, length, timeout_ms, NULL, error);
}

int haul_frame_recv_fd(int fd, enum haul_frame_type *type, void *payload, size_t capacity, size_t *length,
                       int timeout_ms, int *passed, struct haul_error *error)
{
    *passed = -1;
    int result = receive_frame(fd, type, payload, capacity, length, timeout_ms, passed, error);
    if (result < 0 && *passed >= 0) {
        close(*passed);
        *passed = -1;
    }
    return result;
}
