/* SPDX-License-Identifier: Apache-2.0 */
/* What both ends and `haul resume|abandon` share: the monitor, and the last word over a machine. */
#include "tools/machines/qemu/source.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct existing {
    struct haul_machine machine;
    char path[512];
    struct haul_qmp *qmp;
};

int haul_qemu_open_monitor(const char *address, struct haul_qmp **qmp, char *path, size_t size,
                           struct haul_error *error)
{
    int result = haul_qmp_open(address, HAUL_QEMU_GREETING_TIMEOUT_MS, qmp, error);
    if (result) {
        return result;
    }
    haul_qmp_set_timeout(*qmp, HAUL_QEMU_QMP_TIMEOUT_MS);
    char *absolute = realpath(haul_qmp_path(*qmp), NULL);
    int length = snprintf(path, size, "%s", absolute ? absolute : haul_qmp_path(*qmp));
    free(absolute);
    return length < 0 || (size_t)length >= size
               ? haul_error_set(error, ENAMETOOLONG, "the monitor's path is too long")
               : 0;
}

int haul_qemu_quit(struct haul_qmp *qmp, struct haul_error *error)
{
    int result = haul_qmp_execute(qmp, "quit", NULL, NULL, error);
    return result == -EPIPE ? 0 : result; /* it may exit before it answers */
}

static int resume(struct haul_machine *machine, struct haul_error *error)
{
    struct existing *existing = (struct existing *)machine;
    char status[32];
    int result = haul_qmp_execute(existing->qmp, "migrate_cancel", NULL, NULL, error);
    result = result ? result : haul_qemu_status(existing->qmp, status, sizeof status, error);
    if (!result && strcmp(status, "inmigrate") == 0) {
        return haul_error_set(error, ENODATA,
                              "this QEMU never received the whole machine: resume it at the source instead");
    }
    result = result ? result : haul_qemu_continue(existing->qmp, error);
    result = result ? result : haul_qemu_status(existing->qmp, status, sizeof status, error);
    if (!result && strcmp(status, "running") != 0) {
        result = haul_error_set(error, EREMOTEIO, "QEMU took `cont`, yet the machine is \"%s\"", status);
    }
    return result;
}

static int abandon(struct haul_machine *machine, struct haul_error *error)
{
    return haul_qemu_quit(((struct existing *)machine)->qmp, error);
}

static const char *locator(struct haul_machine *machine)
{
    return ((struct existing *)machine)->path;
}

static int attach(struct haul_machine *machine, struct haul_migration *migration, struct haul_error *error)
{
    (void)machine;
    (void)migration;
    return haul_error_set(error, ENOTSUP, "a machine attached to for resume or abandon cannot be moved");
}

static void free_existing(struct haul_machine *machine)
{
    struct existing *existing = (struct existing *)machine;
    if (existing) {
        haul_qmp_close(existing->qmp);
        free(existing);
    }
}

int haul_qemu_attach_existing(const char *qmp, struct haul_machine **machine, struct haul_error *error)
{
    static const struct haul_machine_ops ops = {
        .kind = "qemu",
        .attach = attach,
        .locator = locator,
        .resume = resume,
        .abandon = abandon,
        .free = free_existing,
    };
    struct existing *existing = haul_machine_alloc(sizeof *existing, &ops, error);
    if (!existing) {
        return -ENOMEM;
    }
    int result = haul_qemu_open_monitor(qmp, &existing->qmp, existing->path, sizeof existing->path, error);
    return haul_machine_finish(&existing->machine, result, machine);
}
