/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/qmp.h"

#include <errno.h>
#include <string.h>

static const struct haul_qmp_program qemu = {
    .name = "QEMU",
    .socket = "monitor",
    .when_absent = "start QEMU with -qmp unix:PATH,server=on,wait=off",
    .when_silent = "another client may hold this monitor; close it, or give QEMU a second -qmp socket",
};

int haul_qmp_open(const char *address, int timeout_ms, struct haul_qmp **qmp, struct haul_error *error)
{
    return haul_qmp_connect(&qemu, address, timeout_ms, qmp, error);
}

int haul_qmp_hmp(struct haul_qmp *qmp, const char *line, char **text, struct haul_error *error)
{
    json_t *reply = NULL;
    int result = haul_qmp_execute(qmp, "human-monitor-command", json_pack("{s:s}", "command-line", line),
                                  &reply, error);
    if (result) {
        return result;
    }
    *text = strdup(json_is_string(reply) ? json_string_value(reply) : "");
    json_decref(reply);
    return *text ? 0 : haul_error_set(error, ENOMEM, "no memory for the answer to `%s`", line);
}
