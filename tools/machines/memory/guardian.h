/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_MEMORY_GUARDIAN_H
#define HAUL_TOOLS_MACHINES_MEMORY_GUARDIAN_H

/*
 * A forked child that outlives a killed haul just long enough to let a stopped process on (SIGCONT). It
 * learns of haul's death by the end of its pipe, holds no other descriptor of haul's, and is deaf to the
 * terminal.
 */

#include "channels/error.h"

struct haul_memory_guardian {
    int pid;
    int pipe; /* haul's end; -1: not started */
};

void haul_memory_guardian_init(struct haul_memory_guardian *guardian);
/* haul_memory_guardian_start starts it, disarmed. `pidfd` is the process to let on. */
int haul_memory_guardian_start(struct haul_memory_guardian *guardian, int pidfd, struct haul_error *error);
/* haul_memory_guardian_arm: from now on haul's death lets the process on; -EPIPE: the guardian was killed.
 * haul_memory_guardian_disarm takes it back. */
int haul_memory_guardian_arm(struct haul_memory_guardian *guardian, struct haul_error *error);
void haul_memory_guardian_disarm(struct haul_memory_guardian *guardian);
/* haul_memory_guardian_end disarms it and waits for its end. */
void haul_memory_guardian_end(struct haul_memory_guardian *guardian);

#endif
