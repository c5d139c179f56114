/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_SESSION_REMOTE_H
#define HAUL_TOOLS_SESSION_REMOTE_H

/* What ssh: lets the other host receive, as haul_options.remote_options has it. */

#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Options of a haul receive in one line, each word quoted for the shell there. Zeroed: none. */
struct haul_remote {
    size_t length;
    bool full;
    char line[4096];
};

/* haul_remote_add adds a word; one that has no room any more is for haul_remote_check to tell. */
void haul_remote_add(struct haul_remote *remote, const char *word);

/* haul_remote_add_machine adds the words for the machine that moves from here: a QEMU machine, with `disks`
 * or without, or if `qmp` is NULL a memory object, or if `memory` is NULL too a reference guest. */
void haul_remote_add_machine(struct haul_remote *remote, const char *qmp, bool disks, const char *memory,
                             uint64_t guest_bytes);

/* haul_remote_check: -E2BIG when the words had no room. */
int haul_remote_check(const struct haul_remote *remote, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
