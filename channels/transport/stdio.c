/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stdio:PATH, to listen only: the control connection is this process's standard input and output, the
 * channels come to the unix socket PATH. What `haul send ssh:` starts on the other host.
 */
#include "channels/transport/descriptor.h"
#include "channels/transport/ops.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct stdio_state {
    int control; /* until it is given away, then -1 */
    struct haul_pump *pump;
};

static int stdio_listen(struct haul_listener *listener, struct haul_error *error)
{
    const char *uri = listener->end.uri;
    struct stdio_state *state = calloc(1, sizeof *state);
    listener->state = state;
    if (!state) {
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", uri);
    }
    state->control = -1;
    int in = -1, out = -1;
    int result = haul_unix_listen(listener, error);
    if (result == 0) {
        result = haul_descriptor_take(uri, STDIN_FILENO, &in, error);
    }
    if (result < 0) {
        return result;
    }
    result = haul_descriptor_take(uri, STDOUT_FILENO, &out, error);
    if (result < 0) {
        close(in);
        return result;
    }
    return haul_descriptor_join(uri, in, out, listener->end.options.threads, &state->control, &state->pump,
                                error);
}

static int stdio_accept(struct haul_listener *listener, const struct haul_attempt *attempt, uint16_t expected,
                        int *fd, struct haul_error *error)
{
    struct stdio_state *state = listener->state;
    if (expected != HAUL_CONTROL_CHANNEL) {
        return haul_accept_socket(listener, attempt, fd, error);
    }
    int result = haul_attempt_wait(attempt, &state->control, 1, POLLIN);
    if (result < 0) {
        return haul_accept_failed(attempt, -result, error);
    }
    *fd = state->control;
    state->control = -1;
    return 0;
}

static void stdio_unlisten(struct haul_listener *listener)
{
    struct stdio_state *state = listener->state;
    if (!state) {
        return;
    }
    if (state->control >= 0) {
        close(state->control);
    }
    haul_pump_stop(state->pump);
    free(state);
}

const struct haul_transport haul_transport_stdio = {
    .scheme = "stdio",
    .form = "stdio:PATH",
    .check = haul_unix_check,
    .listen = stdio_listen,
    .accept = stdio_accept,
    .unlisten = stdio_unlisten,
};
