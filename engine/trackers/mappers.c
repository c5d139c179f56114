/* SPDX-License-Identifier: Apache-2.0 */
/* Which processes map a memory object (trap T1). */
#include "engine/trackers/maps.h"
#include "engine/trackers/proc_pid.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

struct find_mapper {
    struct haul_object object;
    bool found;
};

static int find_mapper_visit(void *opaque, const struct haul_map *map)
{
    struct find_mapper *find = opaque;
    find->found = haul_object_equal(&map->object, &find->object);
    return find->found;
}

int haul_find_mappers(int memory_fd, bool skip_self, int *pids, size_t capacity, size_t *count,
                      size_t *unreadable, struct haul_error *error)
{
    *count = 0;
    *unreadable = 0;
    struct find_mapper find = {0};
    int result = haul_object_of(memory_fd, &find.object, error);
    if (result) {
        return result;
    }
    DIR *proc = opendir("/proc");
    if (!proc) {
        return haul_error_set(error, errno, "cannot list /proc to find who maps the memory: %s",
                              strerror(errno));
    }
    bool saw_init = false;
    for (struct dirent *entry; !result && (entry = readdir(proc));) {
        int pid = haul_proc_pid(entry->d_name);
        saw_init |= pid == 1;
        if (!pid || (skip_self && pid == getpid())) {
            continue;
        }
        find.found = false;
        int read = haul_maps_read(pid, find_mapper_visit, &find, NULL);
        if (find.found && *count == capacity) {
            result = haul_error_set(error, ENOSPC, "more than %zu processes map the memory object", capacity);
        } else if (find.found) {
            pids[(*count)++] = pid;
        } else if (read && read != -ESRCH) {
            ++*unreadable;
        }
    }
    closedir(proc);
    /* A /proc mounted with hidepid lists only our own user's processes: at least one is hidden then. */
    *unreadable += !saw_init;
    return result;
}
