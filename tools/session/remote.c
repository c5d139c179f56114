/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/remote.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void add_text(struct haul_remote *remote, const char *bytes, size_t length)
{
    if (remote->full || remote->length + length >= sizeof remote->line) {
        remote->full = true;
        return;
    }
    memcpy(remote->line + remote->length, bytes, length);
    remote->length += length;
    remote->line[remote->length] = 0;
}

/* In single quotes, which the shell there takes as they are. */
void haul_remote_add(struct haul_remote *remote, const char *word)
{
    add_text(remote, " ", remote->length ? 1 : 0);
    add_text(remote, "'", 1);
    for (; *word; word++) {
        add_text(remote, *word == '\'' ? "'\\''" : word, *word == '\'' ? 4 : 1);
    }
    add_text(remote, "'", 1);
}

void haul_remote_add_machine(struct haul_remote *remote, const char *qmp, bool disks, const char *memory,
                             uint64_t guest_bytes)
{
    char size[32];
    snprintf(size, sizeof size, "%" PRIu64, guest_bytes);
    haul_remote_add(remote, qmp ? "--qemu" : memory ? "--memory" : "--guest");
    if (qmp || memory) {
        haul_remote_add(remote, qmp ? qmp : memory);
    } else {
        haul_remote_add(remote, "--guest-memory");
        haul_remote_add(remote, size);
    }
    if (qmp && disks) {
        haul_remote_add(remote, "--disks");
    }
}

int haul_remote_check(const struct haul_remote *remote, struct haul_error *error)
{
    return !remote->full
               ? 0
               : haul_error_set(error, E2BIG, "the options for the other host have more than %zu bytes",
                                sizeof remote->line - 1);
}
