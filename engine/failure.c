/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/failure.h"

#include "engine/control.h"

#include <errno.h>

size_t haul_failure_encode(const struct haul_error *error, unsigned char payload[HAUL_FAILURE_MAX])
{
    struct haul_writer writer;
    haul_writer_init(&writer, payload, HAUL_FAILURE_MAX);
    haul_writer_u32(&writer, (uint32_t)error->code);
    haul_writer_string(&writer, error->message);
    return haul_writer_length(&writer);
}

void haul_control_fail_fd(int fd, const struct haul_error *error)
{
    unsigned char payload[HAUL_FAILURE_MAX];
    size_t length = haul_failure_encode(error, payload);
    haul_frame_send(fd, HAUL_FRAME_FAILED, payload, length, NULL);
}

bool haul_is_failure(enum haul_frame_type type)
{
    return type == HAUL_FRAME_FAILED || type == HAUL_FRAME_NOT_STARTED;
}

bool haul_failure_read(const void *payload, size_t length, const char *peer, struct haul_error *error)
{
    char text[sizeof error->message];
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, payload, length);
    uint32_t code = haul_cursor_u32(&cursor);
    bool readable = haul_cursor_string(&cursor, text, sizeof text) && haul_cursor_done(&cursor);
    if (!readable || code == 0 || code > 4095) {
        haul_error_set(error, EPROTO, "%s failed and sent no readable reason", peer);
        return false;
    }
    for (char *at = text; *at; at++) {
        if (*at < ' ' || *at > '~') {
            *at = ' '; /* the peer's text goes to a terminal, and 8-bit controls are controls too */
        }
    }
    haul_error_set(error, (int)code, "%s reports: %s", peer, text);
    return true;
}

int haul_control_read_failure(const void *payload, size_t length, const char *peer, struct haul_error *error)
{
    haul_failure_read(payload, length, peer, error);
    return -error->code;
}
