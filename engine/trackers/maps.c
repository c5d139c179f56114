/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/maps: what a process maps, and where it maps a given memory object. */
#include "engine/trackers/maps.h"

#include "engine/trackers/tracker.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Takes a number and the character after it off the text. */
static bool take_number(char **text, int base, char after, uint64_t *value)
{
    char *end;
    if (!isxdigit((unsigned char)**text)) {
        return false; /* strtoull would skip blanks and take a sign */
    }
    errno = 0;
    *value = strtoull(*text, &end, base);
    if (errno || *end != after) {
        return false;
    }
    *text = end + 1;
    return true;
}

bool haul_map_parse(char *line, struct haul_map *map)
{
    uint64_t major, minor;
    char *text = line;
    text[strcspn(text, "\n")] = '\0';
    if (!take_number(&text, 16, '-', &map->address) || !take_number(&text, 16, ' ', &map->end) ||
        map->end < map->address) {
        return false;
    }
    const char *permissions = text;
    if (strcspn(text, " ") != 4 || text[4] == '\0') {
        return false;
    }
    text += 5;
    if (!take_number(&text, 16, ' ', &map->object_offset) || !take_number(&text, 16, ':', &major) ||
        !take_number(&text, 16, ' ', &minor) || major > UINT32_MAX || minor > UINT32_MAX) {
        return false;
    }
    /* The inode is the last field that is always there; the path follows after blanks, or is missing. */
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || (text[digits] != ' ' && text[digits] != '\0')) {
        return false;
    }
    map->object = (struct haul_object){.device = major << 32 | minor, .inode = strtoull(text, NULL, 10)};
    map->path = text + digits + strspn(text + digits, " ");
    map->readable = permissions[0] == 'r';
    map->writable = permissions[1] == 'w';
    map->shared = permissions[3] == 's';
    return true;
}

int haul_maps_read(int pid, haul_map_visit *visit, void *opaque, struct haul_error *error)
{
    char name[64];
    if (pid) {
        snprintf(name, sizeof name, "/proc/%d/maps", pid);
    } else {
        snprintf(name, sizeof name, "/proc/self/maps");
    }
    FILE *file = fopen(name, "re");
    if (!file) {
        int code = errno == ENOENT ? ESRCH : errno == EACCES ? EPERM : errno;
        return haul_error_set(error, code, "cannot read %s: %s", name, strerror(code));
    }
    char *line = NULL;
    size_t size = 0;
    int result = 0;
    errno = 0;
    while (!result && getline(&line, &size, file) >= 0) {
        struct haul_map map;
        if (!haul_map_parse(line, &map)) {
            result = haul_error_set(error, EIO, "%s: a line that is no mapping: %.80s", name, line);
            break;
        }
        result = visit(opaque, &map);
        errno = 0;
    }
    if (!result && ferror(file)) {
        result = haul_error_set(error, errno ? errno : EIO, "cannot read %s: %s", name, strerror(errno));
    }
    free(line);
    fclose(file);
    return result > 0 ? 0 : result;
}

/* ---- which object ------------------------------------------------------------------------------------- */

struct find_own {
    uint64_t address;
    struct haul_object object;
    bool found;
};

static int find_own_visit(void *opaque, const struct haul_map *map)
{
    struct find_own *own = opaque;
    if (own->address < map->address || own->address >= map->end) {
        return 0;
    }
    own->object = map->object;
    own->found = true;
    return 1;
}

/*
 * The object is identified as /proc shows it, by a mapping of our own: on overlay and some disk file systems
 * fstat names another device than the maps files do, and every mapping would then be missed.
 */
int haul_object_of(int memory_fd, struct haul_object *object, struct haul_error *error)
{
    struct statfs fs;
    size_t page = HAUL_TRACKER_PAGE_SIZE;
    if (fstatfs(memory_fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC) {
        page = (size_t)fs.f_bsize;
    }
    void *address = mmap(NULL, page, PROT_NONE, MAP_SHARED | MAP_NORESERVE, memory_fd, 0);
    if (address == MAP_FAILED) {
        return haul_error_set(error, errno, "cannot map the memory object (descriptor %d) to identify it: %s",
                              memory_fd, strerror(errno));
    }
    struct find_own own = {.address = (uint64_t)(uintptr_t)address};
    int result = haul_maps_read(0, find_own_visit, &own, error);
    munmap(address, page);
    if (result) {
        return result;
    }
    if (!own.found) {
        return haul_error_set(error, EIO, "/proc/self/maps does not show a mapping that was just made");
    }
    *object = own.object;
    return 0;
}

/* ---- where a process maps it -------------------------------------------------------------------------- */

struct find_mappings {
    struct haul_object object;
    struct haul_mapping *mappings;
    size_t capacity;
    size_t count;
    bool full;
};

static bool continues(const struct haul_mapping *last, const struct haul_map *map)
{
    return last->address + last->length == map->address &&
           last->object_offset + last->length == map->object_offset && last->shared == map->shared &&
           last->writable == map->writable;
}

static int find_mappings_visit(void *opaque, const struct haul_map *map)
{
    struct find_mappings *find = opaque;
    if (!haul_object_equal(&map->object, &find->object)) {
        return 0;
    }
    /* The kernel splits a mapping where flags differ (MADV_*, userfaultfd); callers want it whole. */
    if (find->count && continues(&find->mappings[find->count - 1], map)) {
        find->mappings[find->count - 1].length += map->end - map->address;
        return 0;
    }
    if (find->count == find->capacity) {
        find->full = true;
        return 1;
    }
    find->mappings[find->count++] = (struct haul_mapping){
        .address = map->address,
        .length = map->end - map->address,
        .object_offset = map->object_offset,
        .shared = map->shared,
        .writable = map->writable,
    };
    return 0;
}

int haul_find_mappings(int pid, int memory_fd, struct haul_mapping *mappings, size_t capacity, size_t *count,
                       struct haul_error *error)
{
    struct find_mappings find = {.mappings = mappings, .capacity = capacity};
    *count = 0;
    int result = haul_object_of(memory_fd, &find.object, error);
    if (!result) {
        result = haul_maps_read(pid, find_mappings_visit, &find, error);
    }
    if (result) {
        return result;
    }
    if (find.full) {
        return haul_error_set(error, ENOSPC, "process %d maps the memory object in more than %zu places", pid,
                              capacity);
    }
    *count = find.count;
    return 0;
}

/* ---- is a tracked range what the caller thinks it is -------------------------------------------------- */

struct check_range {
    int pid;
    const struct haul_tracked_range *range;
    struct haul_object object;
    uint64_t reached; /* every page below is mapped as it should be */
    struct haul_error *error;
};

static int check_range_visit(void *opaque, const struct haul_map *map)
{
    struct check_range *check = opaque;
    const struct haul_tracked_range *range = check->range;
    uint64_t end = range->address + range->length;
    if (map->end <= check->reached) {
        return 0;
    }
    if (map->address > check->reached) {
        return 1; /* a gap: haul_check_range reports it */
    }
    if (range->memory_fd >= 0) {
        if (!haul_object_equal(&map->object, &check->object)) {
            return haul_error_set(check->error, EINVAL,
                                  "process %d maps %s at 0x%" PRIx64 ", not the memory object to be moved",
                                  check->pid, *map->path ? map->path : "anonymous memory", check->reached);
        }
        if (!map->shared) {
            return haul_error_set(
                check->error, EINVAL,
                "process %d maps the memory at 0x%" PRIx64
                " privately, so what it writes cannot be read from outside: map it shared (QEMU: share=on)",
                check->pid, check->reached);
        }
        if (map->object_offset + (check->reached - map->address) !=
            range->memory_offset + (check->reached - range->address)) {
            return haul_error_set(check->error, EINVAL,
                                  "process %d maps another part of the memory object at 0x%" PRIx64
                                  " than was said",
                                  check->pid, check->reached);
        }
    }
    check->reached = map->end;
    return check->reached >= end;
}

int haul_check_range(int pid, const struct haul_tracked_range *range, struct haul_error *error)
{
    uint64_t page = HAUL_TRACKER_PAGE_SIZE;
    uint64_t end = range->address + range->length;
    if (range->address % page || range->length % page || range->block_offset % page ||
        (range->memory_fd >= 0 && range->memory_offset % page) || range->length == 0 ||
        end < range->address) {
        return haul_error_set(error, EINVAL,
                              "tracked range 0x%" PRIx64 "+0x%" PRIx64
                              ": its address, length and offsets must be multiples of %" PRIu64
                              ", and its length not zero",
                              range->address, range->length, page);
    }
    struct check_range check = {
        .pid = pid ? pid : getpid(), .range = range, .reached = range->address, .error = error};
    int result = range->memory_fd >= 0 ? haul_object_of(range->memory_fd, &check.object, error) : 0;
    if (!result) {
        result = haul_maps_read(pid, check_range_visit, &check, error);
    }
    if (!result && check.reached < end) {
        result = haul_error_set(
            error, EINVAL, "tracked range 0x%" PRIx64 "+0x%" PRIx64 ": process %d maps nothing at 0x%" PRIx64,
            range->address, range->length, check.pid, check.reached);
    }
    return result;
}
