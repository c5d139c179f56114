/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/daemon/descriptors.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct haul_descriptor *find(const struct haul_descriptors *descriptors, const char *name,
                                    size_t length)
{
    for (unsigned i = 0; i < descriptors->count; i++) {
        const char *have = descriptors->list[i].name;
        if (strncmp(have, name, length) == 0 && have[length] == '\0') {
            return (struct haul_descriptor *)&descriptors->list[i];
        }
    }
    return NULL;
}

/* Takes one off the list without closing it. */
static int take(struct haul_descriptors *descriptors, struct haul_descriptor *one)
{
    int fd = one->fd;
    *one = descriptors->list[--descriptors->count];
    return fd;
}

void haul_descriptors_cleanup(struct haul_descriptors *descriptors)
{
    while (descriptors->count > 0) {
        close(take(descriptors, descriptors->list));
    }
}

int haul_descriptors_put(struct haul_descriptors *descriptors, const char *name, int fd,
                         struct haul_qmp_failure *failure)
{
    size_t length = strlen(name);
    if (length == 0 || length >= HAUL_DESCRIPTOR_NAME_SIZE || isdigit((unsigned char)name[0]) ||
        strpbrk(name, ",/")) {
        close(fd);
        return haul_qmp_fail(failure, EINVAL,
                             "Parameter 'fdname' expects a name of 1 to %d bytes, not starting with a digit, "
                             "without ',' and '/'",
                             HAUL_DESCRIPTOR_NAME_SIZE - 1);
    }
    struct haul_descriptor *same = find(descriptors, name, length);
    if (same) {
        close(same->fd);
        same->fd = fd;
        return 0;
    }
    if (descriptors->count == HAUL_DESCRIPTORS_MAX) {
        close(fd);
        return haul_qmp_fail(failure, ENOSPC, "%d file descriptors are held, and no more are taken",
                             HAUL_DESCRIPTORS_MAX);
    }
    struct haul_descriptor *added = &descriptors->list[descriptors->count++];
    snprintf(added->name, sizeof added->name, "%s", name);
    added->fd = fd;
    return 0;
}

int haul_descriptors_drop(struct haul_descriptors *descriptors, const char *name,
                          struct haul_qmp_failure *failure)
{
    struct haul_descriptor *one = find(descriptors, name, strlen(name));
    if (!one) {
        return haul_qmp_fail(failure, ENOENT, "File descriptor named '%.64s' not found", name);
    }
    close(take(descriptors, one));
    return 0;
}

/* The next name of an fd: URI from *at on, and its length; NULL: there is no more. */
static const char *next_name(const char **at, size_t *length)
{
    const char *name = *at;
    if (!*name) {
        return NULL;
    }
    *length = strcspn(name, ",/");
    *at = name + *length + (name[*length] != '\0');
    return name;
}

static const char *names_of(const char *uri)
{
    return strncmp(uri, "fd:", 3) == 0 ? uri + 3 : "";
}

int haul_descriptors_check(const struct haul_descriptors *descriptors, const char *uri,
                           struct haul_error *error)
{
    const char *at = names_of(uri);
    size_t length;
    for (const char *name; (name = next_name(&at, &length));) {
        if (isdigit((unsigned char)name[0])) {
            return haul_error_set(error, EINVAL,
                                  "\"%.100s\": a daemon takes descriptors by name; hand them over with getfd",
                                  uri);
        }
        if (!find(descriptors, name, length)) {
            return haul_error_set(error, ENOENT, "File descriptor named '%.*s' has not been found",
                                  length < 64 ? (int)length : 64, name);
        }
    }
    return 0;
}

int haul_descriptors_give(struct haul_descriptors *descriptors, const char *uri, struct haul_session *session,
                          struct haul_error *error)
{
    const char *at = names_of(uri);
    size_t length;
    for (const char *name; (name = next_name(&at, &length));) {
        struct haul_descriptor *one = find(descriptors, name, length);
        if (!one) {
            continue; /* named twice: the migration says so */
        }
        struct haul_descriptor given = *one;
        take(descriptors, one);
        int status = haul_session_add_fd(session, given.name, given.fd, error);
        if (status < 0) {
            return status;
        }
    }
    return 0;
}
