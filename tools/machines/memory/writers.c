/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/memory/writers.h"

#include "tools/machines/passthrough.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_MAPPERS 256u

int haul_memory_find_ranges(const struct haul_memory_object *object, const char *path, int pid,
                            struct haul_tracked_range *ranges, unsigned *count, struct haul_error *error)
{
    struct haul_mapping mappings[HAUL_MEMORY_MAX_RANGES];
    size_t found;
    *count = 0;
    int result = haul_find_mappings(pid, object->fd, mappings, HAUL_MEMORY_MAX_RANGES, &found, error);
    if (result) {
        return result;
    }
    for (size_t i = 0; i < found; i++) {
        const struct haul_mapping *mapping = &mappings[i];
        if (!mapping->shared || mapping->object_offset >= object->length) {
            continue; /* a private mapping's writes stay in it */
        }
        uint64_t room = object->length - mapping->object_offset;
        ranges[(*count)++] = (struct haul_tracked_range){
            .address = mapping->address,
            .length = mapping->length < room ? mapping->length : room,
            .memory_fd = object->fd,
            .memory_offset = mapping->object_offset,
            .own_mapping = object->host ? (const char *)object->host + mapping->object_offset : NULL,
            .block_offset = mapping->object_offset,
        };
    }
    if (!*count) {
        return haul_error_set(
            error, EINVAL,
            "process %d does not map %s shared: name the process that does (write() calls to the file "
            "cannot be followed)",
            pid, path);
    }
    return 0;
}

static int refuse_writer(const struct haul_memory_object *object, const char *path, int other,
                         struct haul_error *error)
{
    struct haul_mapping mappings[HAUL_MEMORY_MAX_RANGES];
    size_t found;
    int result = haul_find_mappings(other, object->fd, mappings, HAUL_MEMORY_MAX_RANGES, &found, error);
    if (result == -ESRCH) {
        return 0; /* it is gone */
    }
    for (size_t i = 0; !result && i < found; i++) {
        if (mappings[i].shared && mappings[i].writable) {
            return haul_error_set(
                error, EBUSY,
                "process %d maps %s writable too: end it, or name it as the one that writes if it is "
                "the only one",
                other, path);
        }
    }
    return result;
}

int haul_memory_refuse_others(const struct haul_memory_object *object, const char *path, int pid,
                              struct haul_error *error)
{
    int mappers[MAX_MAPPERS];
    size_t count, unreadable;
    int result = haul_find_mappers(object->fd, true, mappers, MAX_MAPPERS, &count, &unreadable, error);
    for (size_t i = 0; !result && i < count; i++) {
        if (mappers[i] != pid) {
            result = refuse_writer(object, path, mappers[i], error);
        }
    }
    /*
     * Memory at rest is at rest by the operator's word; a live object must be known to have one writer. What
     * even root may not look into has more rights than haul, such as the first process of a container.
     */
    if (!result && pid && unreadable && geteuid() != 0) {
        result = haul_error_set(
            error, EPERM,
            "%zu processes cannot be looked into, and any of them may write %s too: run haul as root",
            unreadable, path);
    }
    return result;
}

/* The open flags of a descriptor; 0 when they cannot be read. */
static unsigned long open_flags(int pid, const char *fd)
{
    char path[64], line[256];
    unsigned long flags = 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%.16s", pid, fd);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, "flags:", 6)) {
            flags = strtoul(line + 6, NULL, 8);
        }
    }
    if (file) {
        fclose(file);
    }
    return flags;
}

static int refuse_descriptor(int pid, const char *fd, struct haul_error *error)
{
    char path[64], target[256];
    snprintf(path, sizeof path, "/proc/%d/fd/%.16s", pid, fd);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0) {
        return 0; /* closed meanwhile */
    }
    target[length] = '\0';
    const char *what = NULL;
    if (strstr(target, "[io_uring]")) {
        what = "an io_uring";
    } else if (haul_fd_is_passthrough(target)) {
        what = "a passed-through device";
    } else if (target[0] == '/' && open_flags(pid, fd) & O_DIRECT) {
        what = "a file open for direct I/O";
    }
    if (!what) {
        return 0;
    }
    return haul_error_set(
        error, EBUSY,
        "process %d holds %s (descriptor %s, %s), which can write its memory unseen: close it before "
        "the move",
        pid, what, fd, target);
}

int haul_memory_refuse_unseen(int pid, struct haul_error *error)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *descriptors = opendir(path);
    if (!descriptors) {
        return haul_error_set(error, errno,
                              "cannot look at the open files of process %d (%s): run haul as root", pid,
                              strerror(errno));
    }
    int result = 0;
    for (struct dirent *entry; !result && (entry = readdir(descriptors));) {
        if (entry->d_name[0] != '.') {
            result = refuse_descriptor(pid, entry->d_name, error);
        }
    }
    closedir(descriptors);
    return result;
}
