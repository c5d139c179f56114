/* SPDX-License-Identifier: Apache-2.0 */
/* exec:COMMAND: one child per connection, whose standard input and output are the connection. */
#include "channels/transport/child.h"
#include "channels/transport/ops.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPLAIN_MS 1000 /* a connection breaks before its child's end can be seen */

static int exec_check(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error)
{
    (void)role;
    if (address[strspn(address, " \t")] != 0) {
        return 0;
    }
    return haul_error_set(error, EINVAL, "\"%.100s\" names no command: use exec:COMMAND, run by /bin/sh",
                          uri);
}

/* ---- connecting ---- */

static int exec_open(struct haul_connector *connector, struct haul_error *error)
{
    connector->state = calloc(1, sizeof(struct haul_children));
    return connector->state ? 0 : haul_error_set(error, ENOMEM, "%.100s: out of memory", connector->end.uri);
}

static int exec_connect(struct haul_connector *connector, const struct haul_attempt *attempt,
                        uint16_t channel, int *fd, struct haul_error *error)
{
    return haul_children_start(connector->state, attempt->uri, connector->end.address, channel, true, fd,
                               error);
}

static void exec_explain(struct haul_connector *connector, struct haul_error *error)
{
    haul_children_explain(connector->state, EXPLAIN_MS, error);
}

static void exec_close(struct haul_connector *connector)
{
    if (connector->state) {
        haul_children_end(connector->state);
        free(connector->state);
    }
}

/* ---- listening ---- */

struct exec_listener {
    struct haul_children children;
    int pending; /* the connection of the latest child, on which nothing came yet, or -1 */
};

static int exec_listen(struct haul_listener *listener, struct haul_error *error)
{
    struct exec_listener *state = calloc(1, sizeof *state);
    listener->state = state;
    listener->uri = strdup(listener->end.uri);
    if (!state || !listener->uri) {
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", listener->end.uri);
    }
    state->pending = -1;
    return 0;
}

/* The connection counts once something comes: until then the other side may not even have started. */
static int exec_accept(struct haul_listener *listener, const struct haul_attempt *attempt, uint16_t expected,
                       int *fd, struct haul_error *error)
{
    struct exec_listener *state = listener->state;
    if (state->pending < 0) {
        int result = haul_children_start(&state->children, attempt->uri, listener->end.address, expected,
                                         true, &state->pending, error);
        if (result < 0) {
            return result;
        }
    }
    int result = haul_attempt_wait(attempt, &state->pending, 1, POLLIN);
    if (result < 0) {
        return haul_accept_failed(attempt, -result, error);
    }
    char byte;
    if (recv(state->pending, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) {
        return haul_error_set(error, ECONNRESET,
                              "waiting at %.100s: the command closed the connection before anything came",
                              listener->uri);
    }
    *fd = state->pending;
    state->pending = -1;
    return 0;
}

static void exec_listener_explain(struct haul_listener *listener, struct haul_error *error)
{
    struct exec_listener *state = listener->state;
    haul_children_explain(&state->children, EXPLAIN_MS, error);
}

static void exec_unlisten(struct haul_listener *listener)
{
    struct exec_listener *state = listener->state;
    if (state && state->pending >= 0) {
        close(state->pending);
    }
    if (state) {
        haul_children_end(&state->children);
        free(state);
    }
}

const struct haul_transport haul_transport_exec = {
    .scheme = "exec",
    .form = "exec:COMMAND",
    .check = exec_check,
    .open = exec_open,
    .connect = exec_connect,
    .explain = exec_explain,
    .close = exec_close,
    .listen = exec_listen,
    .accept = exec_accept,
    .accept_in_order = true,
    .explain_listener = exec_listener_explain,
    .unlisten = exec_unlisten,
};
