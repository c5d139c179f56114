/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_FREEZE_H
#define HAUL_ENGINE_TRACKERS_FREEZE_H

/* All threads of a process stopped for a moment. */

#include "engine/trackers/helper.h"

struct haul_freeze {
    struct haul_helper helper; /* holds the threads; they go on when it ends */
};

/*
 * haul_freeze_begin stops every thread of `pid` (0: this process, but for the calling thread, which must then
 * take no lock and allocate nothing). They go on at haul_freeze_end, or when this process dies. -ESRCH,
 * -EPERM (a thread that may not be traced, or belongs to the kernel), -ETIMEDOUT (a thread does not stop
 * within a second), -E2BIG (over 1024 threads).
 */
int haul_freeze_begin(struct haul_freeze *freeze, int pid, struct haul_error *error);
void haul_freeze_end(struct haul_freeze *freeze);

#endif
