/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fd:CONTROL,CHANNEL...: descriptors that this process inherited (numbers) or was handed (names). Each is a
 * connected stream socket, or a pair of pipes as IN/OUT.
 */
#include "channels/transport/descriptor.h"
#include "channels/transport/ops.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the list ---- */

struct fd_entry {
    char in[HAUL_FD_NAME_MAX + 1];  /* a number or a name */
    char out[HAUL_FD_NAME_MAX + 1]; /* the same for a socket */
    int fd;                         /* the connection until it is given away, then -1 */
    struct haul_pump *pump;
};

struct fd_state {
    unsigned count;
    struct fd_entry entries[HAUL_CHANNELS_MAX + 1];
};

/* Copies one number or name of `length` bytes; false when it is neither. */
static bool parse_descriptor(const char *text, size_t length, char copy[HAUL_FD_NAME_MAX + 1])
{
    if (length == 0 || length > HAUL_FD_NAME_MAX) {
        return false;
    }
    bool number = isdigit((unsigned char)text[0]);
    if (!number && !isalpha((unsigned char)text[0]) && text[0] != '_') {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char at = (unsigned char)text[i];
        if (number ? !isdigit(at) : !isalnum(at) && !strchr("_.-", at)) {
            return false;
        }
    }
    snprintf(copy, HAUL_FD_NAME_MAX + 1, "%.*s", (int)length, text);
    return !number || (length < 8);
}

static bool parse_entry(const char *text, size_t length, struct fd_entry *entry)
{
    const char *slash = memchr(text, '/', length);
    size_t first = slash ? (size_t)(slash - text) : length;
    const char *out = slash ? slash + 1 : text;
    entry->fd = -1;
    return parse_descriptor(text, first, entry->in) &&
           parse_descriptor(out, (size_t)(text + length - out), entry->out);
}

static int parse(const char *uri, const char *address, struct fd_state *state, struct haul_error *error)
{
    for (const char *at = address;; at++) {
        size_t length = strcspn(at, ",");
        if (state->count > HAUL_CHANNELS_MAX || !parse_entry(at, length, &state->entries[state->count])) {
            return haul_error_set(
                error, EINVAL,
                "\"%.100s\" is not a list of descriptors: use fd:CONTROL,CHANNEL... with the number or name "
                "of a connected socket for each, or IN/OUT for a pair of pipes; up to %d",
                uri, HAUL_CHANNELS_MAX + 1);
        }
        state->count++;
        at += length;
        if (!*at) {
            return 0;
        }
    }
}

static int fd_check(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error)
{
    (void)role;
    struct fd_state *state = calloc(1, sizeof *state);
    int result = state ? parse(uri, address, state, error)
                       : haul_error_set(error, ENOMEM, "%.100s: out of memory", uri);
    free(state);
    return result;
}

/* Takes over the descriptor that `text` names. */
static int take(const struct haul_endpoint *end, const char *text, int *fd, struct haul_error *error)
{
    if (isdigit((unsigned char)text[0])) {
        return haul_descriptor_take(end->uri, (int)strtol(text, NULL, 10), fd, error);
    }
    for (unsigned i = 0; i < end->options.fd_count; i++) {
        struct haul_named_fd *named = &end->options.fds[i];
        if (named->fd >= 0 && strcmp(named->name, text) == 0) {
            *fd = named->fd;
            named->fd = -1;
            return 0;
        }
    }
    return haul_error_set(error, ENOENT, "%.100s: no descriptor was handed over with the name %s", end->uri,
                          text);
}

static int take_entry(const struct haul_endpoint *end, struct fd_entry *entry, struct haul_error *error)
{
    int in = -1, out = -1;
    int result = take(end, entry->in, &in, error);
    if (result < 0) {
        return result;
    }
    out = in;
    if (strcmp(entry->in, entry->out) != 0) {
        result = take(end, entry->out, &out, error);
        if (result < 0) {
            close(in);
            return result;
        }
    }
    return haul_descriptor_join(end->uri, in, out, end->options.threads, &entry->fd, &entry->pump, error);
}

/* Makes connections of all descriptors; *made is to be freed by free_state also after a failure. */
static int take_all(const struct haul_endpoint *end, void **made, struct haul_error *error)
{
    struct fd_state *state = calloc(1, sizeof *state);
    *made = state;
    if (!state) {
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", end->uri);
    }
    int result = parse(end->uri, end->address, state, error);
    for (unsigned i = 0; result == 0 && i < state->count; i++) {
        result = take_entry(end, &state->entries[i], error);
    }
    return result;
}

static void free_state(struct fd_state *state)
{
    for (unsigned i = 0; state && i < state->count; i++) {
        if (state->entries[i].fd >= 0) {
            close(state->entries[i].fd);
        }
        haul_pump_stop(state->entries[i].pump);
    }
    free(state);
}

static int give(struct fd_entry *entry)
{
    int fd = entry->fd;
    entry->fd = -1;
    return fd;
}

static int too_few(const struct haul_endpoint *end, const struct fd_state *state, uint16_t channel,
                   struct haul_error *error)
{
    return haul_error_set(
        error, ENXIO,
        "%.100s: channel %u has no descriptor: %u are given; needed are 1 + the number of channels, and one "
        "for each drive that moves along",
        end->uri, channel, state->count);
}

/* ---- connecting ---- */

static int fd_open(struct haul_connector *connector, struct haul_error *error)
{
    return take_all(&connector->end, &connector->state, error);
}

static int fd_connect(struct haul_connector *connector, const struct haul_attempt *attempt, uint16_t channel,
                      int *fd, struct haul_error *error)
{
    (void)attempt;
    struct fd_state *state = connector->state;
    unsigned position = haul_channel_position(channel);
    if (position >= state->count || state->entries[position].fd < 0) {
        return too_few(&connector->end, state, channel, error);
    }
    *fd = give(&state->entries[position]);
    return 0;
}

static void fd_close(struct haul_connector *connector)
{
    free_state(connector->state);
}

/* ---- being connected to ---- */

static int fd_listen(struct haul_listener *listener, struct haul_error *error)
{
    listener->uri = strdup(listener->end.uri);
    if (!listener->uri) {
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", listener->end.uri);
    }
    return take_all(&listener->end, &listener->state, error);
}

/* The first connection on which something comes: the peer may have them in another order. */
static int fd_accept(struct haul_listener *listener, const struct haul_attempt *attempt, uint16_t expected,
                     int *fd, struct haul_error *error)
{
    struct fd_state *state = listener->state;
    int waiting[HAUL_CHANNELS_MAX + 1];
    unsigned index[HAUL_CHANNELS_MAX + 1];
    unsigned count = 0;
    for (unsigned i = 0; i < state->count; i++) {
        if (state->entries[i].fd >= 0) {
            index[count] = i;
            waiting[count++] = state->entries[i].fd;
        }
    }
    if (count == 0) {
        return too_few(&listener->end, state, expected, error);
    }
    int result = haul_attempt_wait(attempt, waiting, count, POLLIN);
    if (result < 0) {
        return haul_accept_failed(attempt, -result, error);
    }
    *fd = give(&state->entries[index[result]]);
    return 0;
}

static void fd_unlisten(struct haul_listener *listener)
{
    free_state(listener->state);
}

const struct haul_transport haul_transport_fd = {
    .scheme = "fd",
    .form = "fd:CONTROL,CHANNEL...",
    .check = fd_check,
    .open = fd_open,
    .connect = fd_connect,
    .close = fd_close,
    .listen = fd_listen,
    .accept = fd_accept,
    .accept_in_order = true,
    .unlisten = fd_unlisten,
};
