/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/exports.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- a server that only we can reach: its socket has a name for as long as we connect ---- */

struct door {
    char folder[64];
    struct sockaddr_un address;
    int listening;
};

static int open_door(struct door *door, struct haul_error *error)
{
    const char *where = getenv("TMPDIR");
    *door = (struct door){.address = {.sun_family = AF_UNIX}, .listening = -1};
    if (!where || strlen(where) > sizeof door->folder - 20) {
        where = "/tmp";
    }
    snprintf(door->folder, sizeof door->folder, "%s/haul-nbd-XXXXXX", where);
    if (!mkdtemp(door->folder)) { /* for this user alone */
        int code = errno;
        haul_error_set(error, code, "cannot make a folder for a socket in %s: %s", where, strerror(code));
        door->folder[0] = '\0';
        return -code;
    }
    snprintf(door->address.sun_path, sizeof door->address.sun_path, "%s/socket", door->folder);
    door->listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (door->listening < 0 ||
        bind(door->listening, (const struct sockaddr *)&door->address, sizeof door->address) < 0 ||
        listen(door->listening, HAUL_QEMU_DRIVES_MAX) < 0) {
        return haul_error_set(error, errno, "cannot make a socket for QEMU's NBD server: %s",
                              strerror(errno));
    }
    return 0;
}

static void close_door(struct door *door)
{
    if (door->listening >= 0) {
        close(door->listening);
    }
    if (door->folder[0]) {
        unlink(door->address.sun_path);
        rmdir(door->folder);
    }
}

static int enter(const struct door *door, int *fd, struct haul_error *error)
{
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0 || connect(*fd, (const struct sockaddr *)&door->address, sizeof door->address) < 0) {
        return haul_error_set(error, errno, "cannot connect to QEMU's NBD server: %s", strerror(errno));
    }
    return 0;
}

static int start_server(struct haul_qmp *qmp, const struct door *door, struct haul_error *error)
{
    int result = haul_qmp_give_fd(qmp, door->listening, "haul-nbd", error);
    result = result ? result
                    : haul_qmp_execute(
                          qmp, "nbd-server-start",
                          json_pack("{s:{s:s, s:{s:s}}}", "addr", "type", "fd", "data", "str", "haul-nbd"),
                          NULL, error);
    return result ? haul_error_prefix(error, "the destination's QEMU cannot serve its drives: ") : 0;
}

/* ---- exports ---- */

static int export_drive(struct haul_qmp *qmp, const struct haul_qemu_announced *announced, unsigned index,
                        const struct haul_qemu_drives *drives, struct haul_error *error)
{
    const struct haul_qemu_drive *own = NULL;
    for (unsigned i = 0; i < drives->count; i++) {
        if (strcmp(drives->list[i].name, announced->name) == 0) {
            own = &drives->list[i];
        }
    }
    if (!own) {
        return haul_error_set(error, EINVAL,
                              "the destination's machine has no drive %s: start it with the source's devices",
                              announced->name);
    }
    char name[32];
    struct haul_qemu_place place;
    snprintf(name, sizeof name, HAUL_QEMU_NODE_PREFIX "%u", index);
    haul_qemu_drive_find(own, haul_qmp_peer(qmp), &place);
    int result = haul_qemu_drive_compare(own, &place, announced->description, error);
    if (result) {
        return result;
    }
    result = haul_qmp_execute(qmp, "block-export-add",
                              json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id", name, "node-name",
                                        own->node, "name", name, "writable", 1),
                              NULL, error);
    return result ? haul_error_prefix(error, "drive %s at the destination: ", own->name) : 0;
}

int haul_qemu_exports_open(struct haul_qmp *qmp, const struct haul_qemu_announced *announced, unsigned count,
                           int *fds, struct haul_error *error)
{
    struct haul_qemu_drives *drives = calloc(1, sizeof *drives);
    struct door door = {.listening = -1};
    if (!drives) {
        return haul_error_set(error, ENOMEM, "no memory for the list of drives");
    }
    int result = haul_qemu_drives_query(qmp, drives, error);
    result = result ? result : open_door(&door, error);
    result = result ? result : start_server(qmp, &door, error);
    bool started = result == 0;
    unsigned connected = 0;
    for (; !result && connected < count; connected++) {
        result = export_drive(qmp, &announced[connected], connected, drives, error);
        result = result ? result : enter(&door, &fds[connected], error);
    }
    if (result && started) {
        haul_qemu_exports_close(qmp, NULL);
    }
    for (unsigned i = 0; result && i < connected; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
            fds[i] = -1;
        }
    }
    close_door(&door);
    free(drives);
    return result;
}

int haul_qemu_exports_close(struct haul_qmp *qmp, struct haul_error *error)
{
    int result = haul_qmp_execute(qmp, "nbd-server-stop", NULL, NULL, error);
    return result ? haul_error_prefix(error, "the destination's QEMU does not let go of its drives: ") : 0;
}

int haul_qemu_exports_clear(struct haul_qmp *qmp, struct haul_error *error)
{
    json_t *reply = NULL;
    int result = haul_qmp_execute(qmp, "query-block-exports", NULL, &reply, error);
    bool left = false;
    size_t index;
    const json_t *entry;
    json_array_foreach(reply, index, entry)
    {
        const char *id = json_string_value(json_object_get(entry, "id"));
        left = left || (id && strncmp(id, HAUL_QEMU_NODE_PREFIX, strlen(HAUL_QEMU_NODE_PREFIX)) == 0);
    }
    /* A server without any export serves nobody, and is what is left of a haul killed between the two. */
    left = left || json_array_size(reply) == 0;
    json_decref(reply);
    if (!result && left) {
        haul_qmp_execute(qmp, "nbd-server-stop", NULL, NULL, NULL); /* refused where there is none */
    }
    return result;
}
