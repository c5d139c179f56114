/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/process_info.h"

#include "engine/trackers/proc_pid.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct status {
    char state;
    int tracer;
    int seccomp;
};

static bool read_status(int pid, int tid, struct status *status)
{
    char name[64], line[256];
    snprintf(name, sizeof name, "/proc/%d/task/%d/status", pid, tid);
    FILE *file = fopen(name, "re");
    if (!file) {
        return false;
    }
    *status = (struct status){.state = 'X'};
    while (fgets(line, sizeof line, file)) {
        const char *value = line + strcspn(line, "\t ");
        if (strncmp(line, "State:", 6) == 0) {
            status->state = value[strspn(value, "\t ")];
        } else if (strncmp(line, "TracerPid:", 10) == 0) {
            status->tracer = (int)strtol(value, NULL, 10);
        } else if (strncmp(line, "Seccomp:", 8) == 0) {
            status->seccomp = (int)strtol(value, NULL, 10);
        }
    }
    fclose(file);
    return status->state != 'X' && status->state != 'Z';
}

static void add_thread(struct haul_process_info *info, int pid, int tid)
{
    struct status status;
    if (info->threads == HAUL_PROCESS_THREADS || !read_status(pid, tid, &status)) {
        return;
    }
    if (status.tracer) {
        info->tracer = status.tracer;
    }
    info->seccomp |= status.seccomp != 0;
    info->tids[info->threads++] = tid;
}

int haul_process_info_read(int pid, struct haul_process_info *info, struct haul_error *error)
{
    *info = (struct haul_process_info){0};
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/task", pid);
    DIR *tasks = opendir(name);
    if (!tasks) {
        int code = errno == ENOENT ? ESRCH : errno;
        return haul_error_set(error, code, "there is no process %d to trace: %s", pid, strerror(code));
    }
    add_thread(info, pid, pid);
    for (struct dirent *entry; (entry = readdir(tasks));) {
        int tid = haul_proc_pid(entry->d_name);
        if (tid > 0 && tid != pid) {
            add_thread(info, pid, tid);
        }
    }
    closedir(tasks);
    /* Memory and descriptors of a process are reached through its main thread. */
    if (info->threads == 0 || info->tids[0] != pid) {
        return haul_error_set(error, ESRCH, "process %d has exited%s", pid,
                              info->threads ? " (its main thread has; others go on)" : "");
    }
    return 0;
}
