/* SPDX-License-Identifier: Apache-2.0 */
/* Where to move to, as QEMU 8.2's argument `channels` has it. */
#include "tools/daemon/channel_uri.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const channel_types[] = {"main", NULL};

const struct haul_qmp_argument haul_channel_members[] = {
    {"channel-type", HAUL_QMP_CHOICE, .choices = channel_types},
    {"addr", HAUL_QMP_OBJECT},
    {NULL},
};

/* One form of MigrationAddress: how it is told from the others, what it has, and the URI's form. */
struct form {
    const char *transport;
    const char *type; /* of a socket's address, else NULL */
    const struct haul_qmp_argument *members;
    const char *scheme;
};

#define OF_ANY                                                                                               \
    {                                                                                                        \
        "transport", HAUL_QMP_STRING                                                                         \
    }
#define OF_SOCKET                                                                                            \
    OF_ANY,                                                                                                  \
    {                                                                                                        \
        "type", HAUL_QMP_STRING                                                                              \
    }

static const struct haul_qmp_argument inet[] = {
    OF_SOCKET, {"host", HAUL_QMP_STRING}, {"port", HAUL_QMP_STRING}, {NULL}};
static const struct haul_qmp_argument rdma[] = {
    OF_ANY, {"host", HAUL_QMP_STRING}, {"port", HAUL_QMP_STRING}, {NULL}};
static const struct haul_qmp_argument vsock[] = {
    OF_SOCKET, {"cid", HAUL_QMP_STRING}, {"port", HAUL_QMP_STRING}, {NULL}};
static const struct haul_qmp_argument local[] = {OF_SOCKET, {"path", HAUL_QMP_STRING}, {NULL}};
static const struct haul_qmp_argument fd[] = {OF_SOCKET, {"str", HAUL_QMP_STRING}, {NULL}};
static const struct haul_qmp_argument exec[] = {OF_ANY, {"args", HAUL_QMP_ARRAY}, {NULL}};
static const struct haul_qmp_argument file[] = {
    OF_ANY, {"filename", HAUL_QMP_STRING}, {"offset", HAUL_QMP_UNSIGNED}, {NULL}};

static const struct form forms[] = {
    {"socket", "inet", inet, "tcp"}, {"socket", "unix", local, "unix"}, {"socket", "vsock", vsock, "vsock"},
    {"socket", "fd", fd, "fd"},      {"exec", NULL, exec, "exec"},      {"rdma", NULL, rdma, "rdma"},
    {"file", NULL, file, "file"},
};

static const char *text(const json_t *address, const char *member)
{
    const char *value = json_string_value(json_object_get(address, member));
    return value ? value : "";
}

/* Each word in single quotes, for the shell that runs the command. */
static int write_command(FILE *out, const json_t *words, struct haul_qmp_failure *failure)
{
    size_t index;
    json_t *word;
    json_array_foreach(words, index, word)
    {
        if (!json_is_string(word)) {
            return haul_qmp_fail(failure, EINVAL, "Parameter 'args' expects an array of strings");
        }
        fputs(index ? " '" : "'", out);
        for (const char *at = json_string_value(word); *at; at++) {
            if (*at == '\'') {
                fputs("'\\''", out);
            } else {
                fputc(*at, out);
            }
        }
        fputc('\'', out);
    }
    return 0;
}

static int write_uri(FILE *out, const struct form *form, const json_t *address,
                     struct haul_qmp_failure *failure)
{
    const char *host = text(address, "host");
    fprintf(out, "%s:", form->scheme);
    if (form->members == exec) {
        return write_command(out, json_object_get(address, "args"), failure);
    }
    if (json_integer_value(json_object_get(address, "offset")) != 0) {
        return haul_qmp_fail(failure, ENOTSUP, "Parameter 'offset' is not supported by haul");
    }
    if (form->members == inet || form->members == rdma) {
        fprintf(out, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, text(address, "port"));
    } else if (form->members == vsock) {
        fprintf(out, "%s:%s", text(address, "cid"), text(address, "port"));
    } else {
        fputs(text(address, form->members[form->type ? 2 : 1].name), out);
    }
    return 0;
}

static const struct form *find_form(const json_t *address)
{
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(forms[i].transport, text(address, "transport")) == 0 &&
            (!forms[i].type || strcmp(forms[i].type, text(address, "type")) == 0)) {
            return &forms[i];
        }
    }
    return NULL;
}

int haul_channel_uri(const json_t *channels, char *uri, size_t size, struct haul_qmp_failure *failure)
{
    if (json_array_size(channels) != 1) {
        return haul_qmp_fail(failure, EINVAL, "Channel list has %zu entries and must have one",
                             json_array_size(channels));
    }
    const json_t *address = json_object_get(json_array_get(channels, 0), "addr");
    const struct form *form = find_form(address);
    if (!form) {
        return haul_qmp_fail(failure, EINVAL,
                             "Parameter 'addr' has a transport '%s' of type '%s', which haul does not know",
                             text(address, "transport"), text(address, "type"));
    }
    int status = haul_qmp_arguments_check(address, form->members, failure);
    if (status < 0) {
        return status;
    }
    uri[size - 1] = '\0'; /* which a full buffer lacks */
    FILE *out = fmemopen(uri, size - 1, "w");
    if (!out) {
        return haul_qmp_fail(failure, errno, "cannot write an address: %s", strerror(errno));
    }
    status = write_uri(out, form, address, failure);
    if (fclose(out) != 0 && status == 0) {
        status = haul_qmp_fail(failure, E2BIG, "an address may have %zu bytes", size - 1);
    }
    return status;
}
