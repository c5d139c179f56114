/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/remap.h"

#include "engine/trackers/inject.h"
#include "engine/trackers/maps.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PIECES_MAX 16 /* mappings that make up one range */
#define CALLS_MAX 128

/* What a process asked for at a mapping, as "VmFlags:" in /proc/PID/smaps names it (proc(5)). */
static const struct {
    char flag[3];
    const char *name;
    long number;
    int advice;
} kept[] = {
    {"dc", "madvise(DONTFORK)", SYS_madvise, MADV_DONTFORK},
    {"dd", "madvise(DONTDUMP)", SYS_madvise, MADV_DONTDUMP},
    {"mg", "madvise(MERGEABLE)", SYS_madvise, MADV_MERGEABLE},
    {"hg", "madvise(HUGEPAGE)", SYS_madvise, MADV_HUGEPAGE},
    {"nh", "madvise(NOHUGEPAGE)", SYS_madvise, MADV_NOHUGEPAGE},
    {"lo", "mlock", SYS_mlock, 0},
};
#define KEPT (sizeof kept / sizeof kept[0])

struct piece {
    uint64_t address, end; /* within the range */
    bool wants[KEPT];
    bool no_reserve;
    bool watched; /* by a userfaultfd */
};

struct range {
    int pid;
    uint64_t address, end;
    struct piece pieces[PIECES_MAX];
    unsigned count;
};

static bool has_flag(const char *flags, const char *flag)
{
    for (const char *at = flags; (at = strstr(at, flag)); at++) {
        if (at[-1] == ' ' && (at[2] == ' ' || at[2] == '\n' || at[2] == '\0')) {
            return true;
        }
    }
    return false;
}

static void read_flags(struct piece *piece, const char *flags)
{
    for (unsigned i = 0; i < KEPT; i++) {
        piece->wants[i] = has_flag(flags, kept[i].flag);
    }
    piece->no_reserve = has_flag(flags, "nr");
    piece->watched = has_flag(flags, "um") || has_flag(flags, "uw") || has_flag(flags, "ui");
}

/* Takes in one line of smaps; `inside` tells whether the last mapping is part of the range. */
static int take_line(struct range *range, char *line, bool *inside, struct haul_error *error)
{
    static const char vm_flags[] = "VmFlags:";
    if (strncmp(line, vm_flags, sizeof vm_flags - 1) == 0) {
        if (*inside) {
            read_flags(&range->pieces[range->count - 1], line + sizeof vm_flags - 1);
        }
        return 0;
    }
    struct haul_map map;
    if (!haul_map_parse(line, &map)) {
        return 0; /* one of the numbers */
    }
    *inside = map.end > range->address && map.address < range->end;
    if (!*inside) {
        return 0;
    }
    if (range->count == PIECES_MAX) {
        return haul_error_set(error, EINVAL,
                              "process %d has split its memory at 0x%" PRIx64 " into more than %d mappings",
                              range->pid, range->address, PIECES_MAX);
    }
    range->pieces[range->count++] = (struct piece){
        .address = map.address > range->address ? map.address : range->address,
        .end = map.end < range->end ? map.end : range->end,
    };
    return 0;
}

static int check_pieces(const struct range *range, struct haul_error *error)
{
    uint64_t reached = range->address;
    for (unsigned i = 0; i < range->count && range->pieces[i].address == reached; i++) {
        reached = range->pieces[i].end;
        if (range->pieces[i].watched) {
            return haul_error_set(error, EBUSY,
                                  "the memory of process %d at 0x%" PRIx64 " is under a userfaultfd",
                                  range->pid, range->pieces[i].address);
        }
    }
    return reached == range->end
               ? 0
               : haul_error_set(error, EINVAL, "process %d maps nothing at 0x%" PRIx64, range->pid, reached);
}

static int read_pieces(struct range *range, struct haul_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/smaps", range->pid);
    FILE *file = fopen(name, "re");
    if (!file) {
        int code = errno == ENOENT ? ESRCH : errno;
        return haul_error_set(error, code, "cannot read %s: %s", name, strerror(code));
    }
    char *line = NULL;
    size_t size = 0;
    bool inside = false;
    int result = 0;
    while (!result && getline(&line, &size, file) >= 0) {
        result = take_line(range, line, &inside, error);
    }
    free(line);
    fclose(file);
    return result ? result : check_pieces(range, error);
}

struct calls {
    struct haul_injected_call list[CALLS_MAX];
    unsigned count;
};

static void add_call(struct calls *calls, const char *name, long number, const long arguments[6])
{
    struct haul_injected_call *call = &calls->list[calls->count++];
    call->name = name;
    call->number = number;
    memcpy(call->arguments, arguments, sizeof call->arguments);
}

int haul_process_remap(int pid, const struct haul_remap *remap, struct haul_error *error)
{
    struct range range = {.pid = pid, .address = remap->address, .end = remap->address + remap->length};
    struct calls calls = {.count = 0};
    _Static_assert(1 + PIECES_MAX * KEPT + HAUL_REMAP_STALE_MAX <= CALLS_MAX, "room for all calls");
    if (range.end <= range.address || remap->stale_count > HAUL_REMAP_STALE_MAX) {
        return haul_error_set(error, EINVAL, "no range of memory, or more than %d descriptors to replace",
                              HAUL_REMAP_STALE_MAX);
    }
    int result = read_pieces(&range, error);
    if (result) {
        return result;
    }
    int flags = MAP_SHARED | MAP_FIXED | (range.pieces[0].no_reserve ? MAP_NORESERVE : 0);
    add_call(&calls, "mmap", SYS_mmap,
             (long[6]){(long)remap->address, (long)remap->length, PROT_READ, flags, remap->process_fd,
                       (long)remap->offset});
    for (unsigned p = 0; p < range.count; p++) {
        const struct piece *piece = &range.pieces[p];
        for (unsigned i = 0; i < KEPT; i++) {
            if (piece->wants[i]) {
                add_call(
                    &calls, kept[i].name, kept[i].number,
                    (long[6]){(long)piece->address, (long)(piece->end - piece->address), kept[i].advice});
            }
        }
    }
    for (unsigned i = 0; i < remap->stale_count; i++) {
        add_call(&calls, "dup3", SYS_dup3, (long[6]){remap->process_fd, remap->stale[i], O_CLOEXEC});
    }
    return haul_inject_calls(pid, calls.list, calls.count, error);
}

int haul_process_protect(int pid, uint64_t address, uint64_t length, bool writable, struct haul_error *error)
{
    struct haul_injected_call call = {
        .name = "mprotect",
        .number = SYS_mprotect,
        .arguments = {(long)address, (long)length, PROT_READ | (writable ? PROT_WRITE : 0)},
    };
    return haul_inject_calls(pid, &call, 1, error);
}
