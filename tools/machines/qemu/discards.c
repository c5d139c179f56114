/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who takes memory away from the machine while a background snapshot still has to save it. QEMU does not let
 * its balloon do so during a background snapshot of its own; of haul's it does not know.
 */
#include "tools/machines/qemu/source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BALLOON "child<virtio-balloon"
#define REPORTING "free-page-reporting"

static int check_balloon(struct haul_qmp *qmp, const char *path, struct haul_error *error)
{
    json_t *reply = NULL;
    /* QEMU before 5.1 has no such property. */
    int result = haul_qmp_execute(
        qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", REPORTING), &reply, error);
    bool reports = result == 0 && json_is_true(reply);
    json_decref(reply);
    if (reports) {
        return haul_error_set(
            error, ENOTSUP,
            "the balloon %s has " REPORTING "=on: the guest gives memory away all the time, also "
            "what is still to be saved as it was; start QEMU without it, or use haul send file:PATH",
            path);
    }
    return result == -EREMOTEIO ? 0 : result;
}

int haul_qemu_check_reporting(struct haul_qmp *qmp, struct haul_error *error)
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
                result = check_balloon(qmp, path, error);
            }
        }
        json_decref(list);
    }
    return result;
}

/* What the guest has of its memory; -1: there is no balloon. */
static int64_t balloon_size(struct haul_qmp *qmp)
{
    json_t *reply = NULL;
    struct haul_error none;
    int result = haul_qmp_execute(qmp, "query-balloon", NULL, &reply, &none);
    int64_t size = result == 0 ? json_integer_value(json_object_get(reply, "actual")) : -1;
    json_decref(reply);
    return size;
}

void haul_qemu_note_memory(struct haul_qemu_source *source)
{
    source->balloon_size = balloon_size(source->qmp);
    source->memory_changes = haul_qmp_memory_changes(source->qmp);
}

/*
 * QEMU reports at most one change a second: the size says what no event has said yet, and an event what was
 * taken and given back. One that came late, of a change before the stop, fails the snapshot for nothing.
 */
int haul_qemu_check_discards(struct haul_qemu_source *source, struct haul_error *error)
{
    bool resized = balloon_size(source->qmp) != source->balloon_size;
    /* The answer comes after the events so far. One could have been plugged, too. */
    int result = haul_qemu_check_reporting(source->qmp, error);
    if (!result && (resized || haul_qmp_memory_changes(source->qmp) != source->memory_changes)) {
        result = haul_error_set(
            error, EAGAIN,
            "the machine's balloon or virtio-mem changed size while memory was saved, which may "
            "have taken what was still to be saved: leave them alone and take the snapshot again");
    }
    return result;
}
