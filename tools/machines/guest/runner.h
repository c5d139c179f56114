/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_RUNNER_H
#define HAUL_TOOLS_MACHINES_GUEST_RUNNER_H

/* The thread that runs the guest's cpu at its pace, and lets others pause it. */

#include "tools/machines/guest/cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_guest_runner;

/*
 * haul_guest_runner_new starts the thread, paused. `cpu` is the caller's, must outlive the runner, and may be
 * used by others only while the runner is paused. -EAGAIN, -ENOMEM.
 */
int haul_guest_runner_new(struct haul_guest_cpu *cpu, uint64_t bytes_per_s, struct haul_guest_runner **runner,
                          struct haul_error *error);
/* Ends the thread, wherever the guest is. NULL is accepted. */
void haul_guest_runner_free(struct haul_guest_runner *runner);

/* Where to pause. */
enum haul_guest_pause {
    HAUL_GUEST_PAUSE_NOW,     /* between any two instructions */
    HAUL_GUEST_PAUSE_BOUNDARY /* when every page is whole */
};

/*
 * The calls below may come from any thread, one at a time.
 * haul_guest_runner_pause returns once the guest does not run; *paused_ns (may be NULL) gets the time
 * at which it stopped. A guest that failed its own check is paused, wherever it was: -EIO with what it found,
 * from every pause.
 */
int haul_guest_runner_pause(struct haul_guest_runner *runner, enum haul_guest_pause where,
                            uint64_t *paused_ns, struct haul_error *error);
/* haul_guest_runner_resume lets it run on; harmless when it runs. */
void haul_guest_runner_resume(struct haul_guest_runner *runner);
void haul_guest_runner_throttle(struct haul_guest_runner *runner, unsigned percent);
/* Whether the guest is to run (resumed, and no failure). */
bool haul_guest_runner_runs(struct haul_guest_runner *runner);

#ifdef __cplusplus
}
#endif
#endif
