/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_MEMORY_PROCESS_H
#define HAUL_TOOLS_MACHINES_MEMORY_PROCESS_H

/*
 * The process that writes a memory object: stopped with SIGSTOP and let on with SIGCONT. While haul has it
 * stopped, a guardian, a forked child of haul that does nothing else, waits for haul's death and lets the
 * process on; from haul_process_keep_stopped on it does not.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_process; /* opaque */

/*
 * haul_process_open finds `pid` and starts the guardian. -ESRCH: no such process; -EPERM: it may not be
 * signalled; -EINVAL: it is this process.
 */
int haul_process_open(int pid, struct haul_process **process, struct haul_error *error);
/* haul_process_close also lets the process on if haul_process_stop stopped it and keep_stopped was not
 * called. NULL is accepted. */
void haul_process_close(struct haul_process *process);

/* haul_process_ended tells whether it has ended; one that is ending is waited for. */
bool haul_process_ended(const struct haul_process *process);
int haul_process_pid(const struct haul_process *process);
/* When it was started, in the kernel's ticks since boot: with the PID it names one process for good. */
uint64_t haul_process_start_time(const struct haul_process *process);

/*
 * haul_process_stop returns once every thread of it is stopped. -ETIMEDOUT: a thread did not stop in 10 s
 * (the message names it); -ESRCH: it is gone. On error it runs as before.
 */
int haul_process_stop(struct haul_process *process, struct haul_error *error);
/* haul_process_resume undoes haul_process_stop; a process that was stopped before that stays stopped. -ESRCH:
 * it is gone, also where it was not stopped. */
int haul_process_resume(struct haul_process *process, struct haul_error *error);
/*
 * haul_process_keep_stopped: from here on nothing lets it on by itself. -EBUSY: somebody else let it on after
 * haul_process_stop.
 */
int haul_process_keep_stopped(struct haul_process *process, struct haul_error *error);
/* haul_process_continue sends SIGCONT, whoever stopped it. -ESRCH: it is gone. */
int haul_process_continue(struct haul_process *process, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
