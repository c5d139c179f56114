/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ssh:[USER@]HOST[:PORT]: the source starts `haul receive` on the other host. The ssh that starts it is the
 * control connection, by way of its standard input and output (stdio:PATH, transport_stdio.c); each channel
 * is one more ssh, with a `haul relay` there that leads to the unix socket at PATH. Separate connections on
 * purpose: one ssh encrypts on one CPU.
 */
#include "channels/transport/child.h"
#include "channels/transport/ops.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define EXPLAIN_MS 1000 /* ssh tells its end only after the session's */
#define NAME_MAX_BYTES 254

struct ssh_target {
    char user[NAME_MAX_BYTES];
    char host[NAME_MAX_BYTES];
    char port[6];
};

/* Letters, digits and what host and user names have beside them: nothing that a shell or ssh would take for
 * something else, so no dash first. */
static bool is_name(const char *text, size_t length, const char *more)
{
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr(more, text[i])) {
            return false;
        }
    }
    return length > 0 && length < NAME_MAX_BYTES && text[0] != '-';
}

static bool parse_port(const char *text, char port[6])
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 5 || text[digits] != 0 || strtoul(text, NULL, 10) > 65535 ||
        strtoul(text, NULL, 10) == 0) {
        return false;
    }
    snprintf(port, 6, "%s", text);
    return true;
}

static bool parse_target(const char *address, struct ssh_target *target)
{
    memset(target, 0, sizeof *target);
    const char *at = strrchr(address, '@');
    const char *host = at ? at + 1 : address;
    if (at && !is_name(address, (size_t)(at - address), "._-\\@+")) {
        return false;
    }
    bool bracketed = host[0] == '[';
    host += bracketed;
    size_t length = strcspn(host, bracketed ? "]" : ":");
    const char *rest = host + length;
    if (bracketed && *rest++ != ']') {
        return false;
    }
    if (!is_name(host, length, bracketed ? ".:%-" : "._-") ||
        (*rest && (*rest != ':' || !parse_port(rest + 1, target->port)))) {
        return false;
    }
    snprintf(target->user, sizeof target->user, "%.*s", at ? (int)(at - address) : 0, address);
    snprintf(target->host, sizeof target->host, "%.*s", (int)length, host);
    return true;
}

static int ssh_check(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error)
{
    (void)role;
    struct ssh_target target;
    return parse_target(address, &target)
               ? 0
               : haul_error_set(error, EINVAL,
                                "\"%.100s\" is not a host for ssh: use ssh:[USER@]HOST[:PORT], IPv6 in [ ]",
                                uri);
}

struct ssh_state {
    struct haul_children children;
    bool tried[HAUL_CHANNELS_MAX]; /* without a question to the user */
    char *prefix;                  /* the local command up to the host */
    char host[NAME_MAX_BYTES];
    char path[64];
};

/* The options come after the user's own, of which ssh takes the first of each kind. */
static char *make_prefix(const struct haul_endpoint *end, char host[NAME_MAX_BYTES])
{
    struct ssh_target target;
    char *prefix = NULL;
    parse_target(end->address, &target);
    memcpy(host, target.host, NAME_MAX_BYTES);
    int length = asprintf(
        &prefix, "trap '' INT QUIT; exec %s -T -x -o ClearAllForwardings=yes -o ControlPath=none%s%s%s%s%s",
        end->options.ssh ? end->options.ssh : "ssh", target.port[0] ? " -p " : "", target.port,
        target.user[0] ? " -l '" : "", target.user, target.user[0] ? "'" : "");
    return length < 0 ? NULL : prefix;
}

static int ssh_open(struct haul_connector *connector, struct haul_error *error)
{
    const struct haul_endpoint *end = &connector->end;
    if (!end->options.remote_options) {
        return haul_error_set(error, EINVAL, "%.100s: say what receives there, such as --qemu QMP", end->uri);
    }
    struct ssh_state *state = calloc(1, sizeof *state);
    connector->state = state;
    if (!state || !(state->prefix = make_prefix(end, state->host))) {
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", end->uri);
    }
    /* Nobody can guess the name, so nobody can be there first. */
    uint64_t number[2];
    if (getrandom(number, sizeof number, 0) != sizeof number) {
        return haul_error_set(error, EIO, "%.100s: the kernel gave no random number", end->uri);
    }
    snprintf(state->path, sizeof state->path, "/tmp/haul-%016llx%016llx", (unsigned long long)number[0],
             (unsigned long long)number[1]);
    return 0;
}

/* Puts `text` in single quotes for the local shell, which the remote shell sees without them. */
static void put_quoted(FILE *out, const char *text)
{
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'') {
            fputs("'\\''", out);
        } else {
            fputc(*text, out);
        }
    }
    fputc('\'', out);
}

static int ssh_connect(struct haul_connector *connector, const struct haul_attempt *attempt, uint16_t channel,
                       int *fd, struct haul_error *error)
{
    const struct haul_transport_options *options = &connector->end.options;
    struct ssh_state *state = connector->state;
    const char *haul = options->remote_haul ? options->remote_haul : "haul";
    char *remote = NULL, *command = NULL;
    size_t size;
    bool may_ask = channel == HAUL_CONTROL_CHANNEL || state->tried[channel % HAUL_CHANNELS_MAX];
    int length = channel == HAUL_CONTROL_CHANNEL
                     ? asprintf(&remote, "exec %s receive --listen stdio:%s --quiet %s", haul, state->path,
                                options->remote_options)
                     : asprintf(&remote, "exec %s relay unix:%s", haul, state->path);
    FILE *out = length < 0 ? NULL : open_memstream(&command, &size);
    if (!out) {
        free(length < 0 ? NULL : remote);
        return haul_error_set(error, ENOMEM, "%.100s: out of memory", attempt->uri);
    }
    fprintf(out, "%s%s -- '%s' ", state->prefix, may_ask ? "" : " -o BatchMode=yes", state->host);
    put_quoted(out, remote);
    int result = fclose(out) != 0 ? haul_error_set(error, ENOMEM, "%.100s: out of memory", attempt->uri)
                                  : haul_children_start(&state->children, attempt->uri, command, channel,
                                                        false, fd, error);
    free(command);
    free(remote);
    return result;
}

/* A password that the control connection was asked for, or a server that lets fewer log in at a time. */
static bool ssh_again(struct haul_connector *connector, uint16_t channel)
{
    if (channel == HAUL_CONTROL_CHANNEL) {
        return false; /* it could ask */
    }
    struct ssh_state *state = connector->state;
    bool *tried = &state->tried[channel % HAUL_CHANNELS_MAX];
    bool again = !*tried && haul_children_forget(&state->children, channel, 255, EXPLAIN_MS);
    *tried = true;
    return again;
}

static void ssh_explain(struct haul_connector *connector, struct haul_error *error)
{
    struct ssh_state *state = connector->state;
    if (haul_children_explain(&state->children, EXPLAIN_MS, error)) {
        haul_error_prefix(error, "ssh, or haul on the other host (see above): ");
    }
}

static void ssh_close(struct haul_connector *connector)
{
    struct ssh_state *state = connector->state;
    if (state) {
        haul_children_end(&state->children);
        free(state->prefix);
        free(state);
    }
}

const struct haul_transport haul_transport_ssh = {
    .scheme = "ssh",
    .form = "ssh:[USER@]HOST[:PORT]",
    .check = ssh_check,
    .open = ssh_open,
    .connect = ssh_connect,
    .again = ssh_again,
    .explain = ssh_explain,
    .close = ssh_close,
};
