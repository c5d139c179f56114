/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_PROC_PID_H
#define HAUL_ENGINE_TRACKERS_PROC_PID_H

#include <limits.h>
#include <stdlib.h>

/* haul_proc_pid returns the process or thread that an entry of /proc or /proc/PID/task names; 0: none
 * ("self", "..", "meminfo"). */
static inline int haul_proc_pid(const char *name)
{
    char *end;
    long pid = strtol(name, &end, 10);
    return end != name && *end == '\0' && pid > 0 && pid <= INT_MAX ? (int)pid : 0;
}

#endif
