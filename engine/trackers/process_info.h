/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_PROCESS_INFO_H
#define HAUL_ENGINE_TRACKERS_PROCESS_INFO_H

/* What /proc says of a process that is about to be traced. */

#include "channels/error.h"

#include <stdbool.h>

#define HAUL_PROCESS_THREADS 1024 /* more are not looked at */

struct haul_process_info {
    int tracer;   /* 0: none */
    bool seccomp; /* a filter is on */
    unsigned threads;
    int tids[HAUL_PROCESS_THREADS]; /* living threads, the main one first */
};

/* -ESRCH: there is none, or it has exited already. */
int haul_process_info_read(int pid, struct haul_process_info *info, struct haul_error *error);

#endif
