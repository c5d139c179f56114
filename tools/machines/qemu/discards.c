/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/discards.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BALLOON "child<virtio-balloon"

/* A property of a balloon, and why nothing works with it. */
struct refusal {
    const char *property;
    const char *reason;
};

static int check_balloon(struct haul_qmp *qmp, const char *path, const struct refusal *refusal,
                         struct haul_error *error)
{
    json_t *reply = NULL;
    /* An old QEMU has no such property: free-page-hint came with 4.0, free-page-reporting with 5.1. */
    int result = haul_qmp_execute(
        qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", refusal->property), &reply, error);
    bool on = result == 0 && json_is_true(reply);
    json_decref(reply);
    if (on) {
        return haul_error_set(error, ENOTSUP, "the balloon %s has %s=on: %s", path, refusal->property,
                              refusal->reason);
    }
    return result == -EREMOTEIO ? 0 : result;
}

static int check_balloons(struct haul_qmp *qmp, const struct refusal *refusal, struct haul_error *error)
{
    static const char *const containers[] = {"/machine/peripheral", "/machine/peripheral-anon"};
    int result = 0;
    for (unsigned i = 0; !result && i < sizeof containers / sizeof containers[0]; i++) {
        json_t *list = NULL;
        result = haul_qmp_execute(qmp, "qom-list", json_pack("{s:s}", "path", containers[i]), &list, error);
        size_t index;
        json_t *entry;
        json_array_foreach(list, index, entry)
        {
            const char *name = json_string_value(json_object_get(entry, "name"));
            const char *type = json_string_value(json_object_get(entry, "type"));
            char path[320];
            if (!result && name && type && strncmp(type, BALLOON, sizeof BALLOON - 1) == 0) {
                snprintf(path, sizeof path, "%s/%s", containers[i], name);
                result = check_balloon(qmp, path, refusal, error);
            }
        }
        json_decref(list);
    }
    return result;
}

int haul_qemu_refuse_reporting(struct haul_qmp *qmp, struct haul_error *error)
{
    static const struct refusal reporting = {
        .property = "free-page-reporting",
        .reason = "the guest gives memory away all the time, also what is still to be saved as it was; start "
                  "QEMU without it, or use haul send file:PATH",
    };
    return check_balloons(qmp, &reporting, error);
}

int haul_qemu_refuse_hints(struct haul_qmp *qmp, struct haul_error *error)
{
    static const struct refusal hints = {
        .property = "free-page-hint",
        .reason =
            "QEMU takes such hints while it migrates, also of memory that it leaves to haul, and crashes "
            "there; start it without them",
    };
    return check_balloons(qmp, &hints, error);
}

static int64_t balloon_size(struct haul_qmp *qmp)
{
    json_t *reply = NULL;
    struct haul_error none;
    int result = haul_qmp_execute(qmp, "query-balloon", NULL, &reply, &none);
    int64_t size = result == 0 ? json_integer_value(json_object_get(reply, "actual")) : -1;
    json_decref(reply);
    return size;
}

void haul_qemu_memory_note(struct haul_qmp *qmp, struct haul_qemu_memory *memory)
{
    memory->balloon_size = balloon_size(qmp);
    memory->changes = haul_qmp_memory_changes(qmp);
}

/*
 * QEMU reports at most one change a second: the size says what no event has said yet, and an event what was
 * taken and given back. One that came late, of a change before the stop, fails the snapshot for nothing.
 */
int haul_qemu_memory_check(struct haul_qmp *qmp, const struct haul_qemu_memory *memory,
                           struct haul_error *error)
{
    bool resized = balloon_size(qmp) != memory->balloon_size;
    /* The answer comes after the events so far. One could have been plugged, too. */
    int result = haul_qemu_refuse_reporting(qmp, error);
    if (!result && (resized || haul_qmp_memory_changes(qmp) != memory->changes)) {
        result = haul_error_set(
            error, EAGAIN,
            "the machine's balloon or virtio-mem changed size while memory was saved, which may "
            "have taken what was still to be saved: leave them alone and take the snapshot again");
    }
    return result;
}
