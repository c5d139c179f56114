/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/process.h"

#include "tools/machines/passthrough.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool may_be_memory(const char *name)
{
    return !starts_with(name, "/[") && !starts_with(name, "anon_inode:") &&
           (!starts_with(name, "/dev/") || starts_with(name, "/dev/shm/") ||
            starts_with(name, "/dev/hugepages"));
}

/* Parses one line; false if it is not a writable shared file mapping. */
static bool parse_line(const char *line, struct haul_shared_mapping *mapping)
{
    uint64_t end;
    char permissions[5];
    int name_at = 0;
    memset(mapping, 0, sizeof *mapping);
    /* The kernel's own text; the count says whether all was there. NOLINTNEXTLINE(cert-err34-c) */
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &mapping->address, &end,
               permissions, &mapping->offset, &mapping->device_major, &mapping->device_minor, &mapping->inode,
               &name_at) < 7 ||
        permissions[1] != 'w' || permissions[3] != 's' || mapping->inode == 0 || end <= mapping->address) {
        return false;
    }
    mapping->length = end - mapping->address;
    mapping->first_end = end;
    snprintf(mapping->name, sizeof mapping->name, "%.*s", (int)strcspn(line + name_at, "\n"), line + name_at);
    return may_be_memory(mapping->name);
}

static bool continues(const struct haul_shared_mapping *before, const struct haul_shared_mapping *next)
{
    return before->inode == next->inode && before->device_major == next->device_major &&
           before->device_minor == next->device_minor && before->address + before->length == next->address &&
           before->offset + before->length == next->offset;
}

int haul_shared_mappings_parse(FILE *maps, struct haul_shared_mapping **mappings, unsigned *count)
{
    struct haul_shared_mapping *found = NULL;
    unsigned used = 0;
    char *line = NULL;
    size_t line_size = 0;
    while (getline(&line, &line_size, maps) > 0) {
        struct haul_shared_mapping mapping;
        if (!parse_line(line, &mapping)) {
            continue;
        }
        if (used && continues(&found[used - 1], &mapping)) {
            found[used - 1].length += mapping.length;
            continue;
        }
        struct haul_shared_mapping *grown = realloc(found, (used + 1) * sizeof *found);
        if (!grown) {
            free(found);
            free(line);
            return -ENOMEM;
        }
        found = grown;
        found[used++] = mapping;
    }
    free(line);
    *mappings = found;
    *count = used;
    return 0;
}

int haul_shared_mappings_read(pid_t pid, struct haul_shared_mapping **mappings, unsigned *count,
                              struct haul_error *error)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    if (!maps) {
        return haul_error_set(
            error, errno,
            "cannot read the memory map of QEMU, process %d: %s; run haul as root or as QEMU's user",
            (int)pid, strerror(errno));
    }
    int result = haul_shared_mappings_parse(maps, mappings, count);
    fclose(maps);
    return result ? haul_error_set(error, -result, "no memory for the memory map of process %d", (int)pid)
                  : 0;
}

/* Calls `visit` with each open file's name in /proc/PID/fd and what it links to, until it returns true. */
static int visit_fds(pid_t pid, bool (*visit)(const char *path, const char *link, void *opaque), void *opaque)
{
    char folder[64];
    snprintf(folder, sizeof folder, "/proc/%d/fd", (int)pid);
    DIR *fds = opendir(folder);
    if (!fds) {
        return -errno;
    }
    struct dirent *entry;
    bool done = false;
    while (!done && (entry = readdir(fds))) {
        char path[512];
        char link[HAUL_FD_LINK_SIZE];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        ssize_t length = readlink(path, link, sizeof link - 1);
        if (length > 0) {
            link[length] = '\0';
            done = visit(path, link, opaque);
        }
    }
    closedir(fds);
    return 0;
}

struct wanted_file {
    const struct haul_shared_mapping *mapping;
    char path[512];
};

static bool match_file(const char *path, const char *link, void *opaque)
{
    struct wanted_file *wanted = opaque;
    struct stat status;
    (void)link;
    if (stat(path, &status) < 0 || status.st_ino != wanted->mapping->inode ||
        major(status.st_dev) != wanted->mapping->device_major ||
        minor(status.st_dev) != wanted->mapping->device_minor) {
        return false;
    }
    snprintf(wanted->path, sizeof wanted->path, "%s", path);
    return true;
}

int haul_shared_mapping_open(pid_t pid, const struct haul_shared_mapping *mapping, bool writable, int *fd,
                             struct haul_error *error)
{
    int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC;
    char path[128];
    snprintf(path, sizeof path, "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int)pid, mapping->address,
             mapping->first_end);
    *fd = open(path, flags);
    if (*fd >= 0) {
        return 0;
    }
    int first_errno = errno;
    struct wanted_file wanted = {.mapping = mapping};
    if (visit_fds(pid, match_file, &wanted) == 0 && wanted.path[0]) {
        *fd = open(wanted.path, flags);
    }
    return *fd >= 0
               ? 0
               : haul_error_set(error, first_errno,
                                "cannot open QEMU's memory %s (%s): %s; run haul as root or as QEMU's user",
                                mapping->name, path, strerror(first_errno));
}

struct wanted_fds {
    pid_t pid;
    struct stat file;
    int *numbers;
    unsigned capacity;
    unsigned count; /* may pass capacity */
};

static bool is_read_write(pid_t pid, int number)
{
    char path[64];
    char line[128];
    unsigned flags = 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)pid, number);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        if (starts_with(line, "flags:")) {
            flags = (unsigned)strtoul(line + strlen("flags:"), NULL, 8);
        }
    }
    if (file) {
        fclose(file);
    }
    return (flags & O_ACCMODE) == O_RDWR;
}

static bool match_fd(const char *path, const char *link, void *opaque)
{
    struct wanted_fds *wanted = opaque;
    struct stat status;
    (void)link;
    int number = (int)strtol(strrchr(path, '/') + 1, NULL, 10);
    if (stat(path, &status) == 0 && status.st_ino == wanted->file.st_ino &&
        status.st_dev == wanted->file.st_dev && is_read_write(wanted->pid, number)) {
        if (wanted->count < wanted->capacity) {
            wanted->numbers[wanted->count] = number;
        }
        wanted->count++;
    }
    return false;
}

static int compare_numbers(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

int haul_process_find_fds(pid_t pid, int fd, int *numbers, unsigned capacity, unsigned *count,
                          struct haul_error *error)
{
    struct wanted_fds wanted = {.pid = pid, .numbers = numbers, .capacity = capacity};
    *count = 0;
    if (fstat(fd, &wanted.file) < 0) {
        return haul_error_set(error, errno, "cannot look at a memory file: %s", strerror(errno));
    }
    int result = visit_fds(pid, match_fd, &wanted);
    if (result) {
        return haul_error_set(error, -result, "cannot list the open files of process %d: %s", (int)pid,
                              strerror(-result));
    }
    if (wanted.count > capacity) {
        return haul_error_set(error, ENOSPC, "process %d holds more than %u descriptors of one memory file",
                              (int)pid, capacity);
    }
    qsort(numbers, wanted.count, sizeof *numbers, compare_numbers);
    *count = wanted.count;
    return 0;
}

static bool match_passthrough(const char *path, const char *link, void *opaque)
{
    (void)path;
    if (!haul_fd_is_passthrough(link)) {
        return false;
    }
    snprintf(opaque, HAUL_FD_LINK_SIZE, "%s", link);
    return true;
}

int haul_process_find_passthrough(pid_t pid, char link[HAUL_FD_LINK_SIZE])
{
    link[0] = '\0';
    return visit_fds(pid, match_passthrough, link);
}

int haul_process_refuse_passthrough(pid_t pid, struct haul_error *error)
{
    char link[HAUL_FD_LINK_SIZE];
    int result = haul_process_find_passthrough(pid, link);
    if (result) {
        return haul_error_set(
            error, -result,
            "cannot list the open files of QEMU, process %d: %s; run haul as root or as QEMU's user",
            (int)pid, strerror(-result));
    }
    if (link[0]) {
        return haul_error_set(
            error, ENOTSUP,
            "QEMU, process %d, drives a passed-through device (%.200s), which writes guest memory unseen: "
            "detach it (device_del) before the move",
            (int)pid, link);
    }
    return 0;
}

void haul_process_name(pid_t pid, char *name, size_t size)
{
    char path[64];
    snprintf(name, size, "?");
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file) {
        return;
    }
    if (fgets(name, (int)size, file)) {
        name[strcspn(name, "\n")] = '\0';
    }
    fclose(file);
}
