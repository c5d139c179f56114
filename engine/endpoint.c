/* SPDX-License-Identifier: Apache-2.0 */
/* What a migration keeps for its transport: strings and descriptors that a URI alone does not carry. */
#include "engine/migration.h"

#include "channels/transport/pump.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int haul_migration_copy_strings(struct haul_migration *migration, struct haul_error *error)
{
    const char **const fields[HAUL_TRANSPORT_STRINGS] = {
        &migration->options.bind, &migration->options.ssh, &migration->options.remote_haul,
        &migration->options.remote_options, &migration->options.rdma_provider};
    for (unsigned i = 0; i < HAUL_TRANSPORT_STRINGS; i++) {
        if (*fields[i]) {
            migration->strings[i] = strdup(*fields[i]);
            if (!migration->strings[i]) {
                return haul_error_set(error, ENOMEM, "no memory for a migration");
            }
            *fields[i] = migration->strings[i];
        }
    }
    return 0;
}

struct haul_transport_options haul_migration_transport(struct haul_migration *migration)
{
    return (struct haul_transport_options){
        .limits = migration->limits,
        .bind = migration->options.bind,
        .ssh = migration->options.ssh,
        .remote_haul = migration->options.remote_haul,
        .remote_options = migration->options.remote_options,
        .cancel_fd = migration->cancel_fd,
        .fds = migration->fds,
        .fd_count = migration->fd_count,
        .threads = &migration->threads,
    };
}

void haul_migration_close_transport(struct haul_migration *migration)
{
    haul_connector_close(migration->connector);
    haul_listener_close(migration->listener);
    for (unsigned i = 0; i < migration->fd_count; i++) {
        if (migration->fds[i].fd >= 0) {
            close(migration->fds[i].fd);
        }
    }
    free(migration->fds);
    for (unsigned i = 0; i < HAUL_TRANSPORT_STRINGS; i++) {
        free(migration->strings[i]);
    }
}

int haul_add_fd(struct haul_migration *migration, const char *name, int fd, struct haul_error *error)
{
    size_t length = strlen(name);
    if (migration->started) {
        return haul_error_set(error, EBUSY, "the migration has already started");
    }
    if (length == 0 || length > HAUL_FD_NAME_MAX || isdigit((unsigned char)name[0]) || strpbrk(name, ",/")) {
        return haul_error_set(
            error, EINVAL,
            "\"%.100s\" is not a descriptor's name: 1 to %d bytes, no digit first, no comma "
            "and no slash",
            name, HAUL_FD_NAME_MAX);
    }
    for (unsigned i = 0; i < migration->fd_count; i++) {
        if (strcmp(migration->fds[i].name, name) == 0) {
            return haul_error_set(error, EEXIST, "there is a descriptor with the name %s already", name);
        }
    }
    if (migration->fd_count == HAUL_FDS_MAX) {
        return haul_error_set(error, ENOSPC, "more than %d descriptors", HAUL_FDS_MAX);
    }
    struct haul_named_fd *more = realloc(migration->fds, (migration->fd_count + 1) * sizeof *migration->fds);
    if (!more) {
        return haul_error_set(error, ENOMEM, "no memory for a descriptor");
    }
    migration->fds = more;
    struct haul_named_fd *own = &more[migration->fd_count++];
    snprintf(own->name, sizeof own->name, "%s", name);
    own->fd = fd;
    return 0;
}

int haul_relay(const char *uri, int in, int out, uint32_t timeout_s, struct haul_error *error)
{
    struct haul_transport_options options = {.limits = {timeout_s * 1000, timeout_s * 1000}};
    struct haul_connector *connector;
    int fd;
    int rc = haul_connector_open(uri, &options, &connector, error);
    if (rc < 0) {
        return rc;
    }
    rc = haul_connector_connect(connector, HAUL_CONTROL_CHANNEL, -1, &fd, error);
    if (rc == 0) {
        /* Pumping makes them non-blocking for everybody who shares them, such as the shell. */
        int in_flags = fcntl(in, F_GETFL), out_flags = fcntl(out, F_GETFL);
        rc = haul_pump_run(in, out, fd, -1, NULL);
        fcntl(in, F_SETFL, in_flags);
        fcntl(out, F_SETFL, out_flags);
        close(fd);
        if (rc < 0) {
            haul_error_set(error, -rc, "relaying to %.100s: %s", uri, strerror(-rc));
        }
    }
    haul_connector_close(connector);
    return rc;
}
