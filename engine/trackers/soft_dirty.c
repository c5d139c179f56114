/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Soft-dirty bits, for kernels before 6.7: the kernel sets a bit in the page table at the first write since
 * all bits of a process were cleared. Bits set between reading and clearing would be lost, so the process
 * stands still for that moment.
 */
#include "engine/trackers/freeze.h"
#include "engine/trackers/maps.h"
#include "engine/trackers/populated.h"
#include "engine/trackers/tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PM_SOFT_DIRTY (UINT64_C(1) << 55)
#define PM_SWAPPED (UINT64_C(1) << 62)
#define PM_PRESENT (UINT64_C(1) << 63)

#define ENTRIES 16384ul /* pagemap entries read at a time: 64 MiB of memory */

struct soft_dirty_range {
    struct haul_populated content; /* to find holes that appear in the object */
    /* What was in the page table at the last look: taking a page out of it takes the bit along, so what left
     * counts as written. */
    struct haul_populated mapped;
};

struct soft_dirty_tracker {
    struct haul_tracker base;
    int pid; /* 0: this process */
    int pagemap;
    int clear_refs;
    bool armed;
    uint64_t *entries;
    unsigned count;
    struct soft_dirty_range ranges[];
};

/* ---- reading the page table --------------------------------------------------------------------------- */

enum page_state { PAGE_WRITTEN, PAGE_CLEAN, PAGE_ABSENT };

static enum page_state state_of(uint64_t entry)
{
    if (!(entry & (PM_PRESENT | PM_SWAPPED))) {
        return PAGE_ABSENT;
    }
    return entry & PM_SOFT_DIRTY ? PAGE_WRITTEN : PAGE_CLEAN;
}

/* One run of pages in the same state. `bitmap` NULL: only learn. */
static int take_run(struct soft_dirty_range *range, enum page_state state, uint64_t start, uint64_t end,
                    uint64_t *bitmap, uint64_t *pages, struct haul_error *error)
{
    uint64_t left = 0, holes = 0;
    int result = 0;
    switch (state) {
    case PAGE_WRITTEN:
        haul_populated_add(&range->mapped, start, end, NULL);
        *pages += haul_populated_add(&range->content, start, end, bitmap);
        break;
    case PAGE_CLEAN:
        haul_populated_add(&range->mapped, start, end, NULL);
        break;
    case PAGE_ABSENT:
        if (bitmap) {
            result = haul_populated_drop(&range->mapped, start, end, bitmap, &left, error);
            if (!result && range->content.seekable) {
                result = haul_populated_drop(&range->content, start, end, bitmap, &holes, error);
            }
            *pages += left > holes ? left : holes; /* mostly the same pages */
        }
        break;
    }
    return result;
}

static int gone(const struct soft_dirty_tracker *tracker, struct haul_error *error)
{
    return haul_error_set(error, ESRCH,
                          "process %d, whose memory is tracked, has exited or replaced its program",
                          tracker->pid ? tracker->pid : getpid());
}

static int read_range(struct soft_dirty_tracker *tracker, struct soft_dirty_range *range, uint64_t *bitmap,
                      uint64_t *pages, struct haul_error *error)
{
    const struct haul_tracked_range *tracked = &range->content.range;
    uint64_t total = tracked->length / HAUL_TRACKER_PAGE_SIZE;
    int result = 0;
    for (uint64_t done = 0, count; !result && done < total; done += count) {
        uint64_t address = tracked->address + done * HAUL_TRACKER_PAGE_SIZE;
        count = total - done < ENTRIES ? total - done : ENTRIES;
        ssize_t bytes = pread(tracker->pagemap, tracker->entries, count * sizeof(uint64_t),
                              (off_t)(address / HAUL_TRACKER_PAGE_SIZE * sizeof(uint64_t)));
        if (bytes < 0) {
            return haul_error_set(error, errno, "cannot read the pagemap of process %d: %s", tracker->pid,
                                  strerror(errno));
        }
        count = (uint64_t)bytes / sizeof(uint64_t);
        if (count == 0) {
            return gone(tracker, error);
        }
        for (uint64_t first = 0, last; !result && first < count; first = last) {
            enum page_state state = state_of(tracker->entries[first]);
            for (last = first + 1; last < count && state_of(tracker->entries[last]) == state; last++) {
            }
            result = take_run(range, state, address + first * HAUL_TRACKER_PAGE_SIZE,
                              address + last * HAUL_TRACKER_PAGE_SIZE, bitmap, pages, error);
        }
    }
    return result;
}

static int clear(struct soft_dirty_tracker *tracker, struct haul_error *error)
{
    if (pwrite(tracker->clear_refs, "4", 1, 0) == 1) {
        return 0;
    }
    return errno == ESRCH ? gone(tracker, error)
                          : haul_error_set(error, errno, "cannot clear the soft-dirty bits of process %d: %s",
                                           tracker->pid, strerror(errno));
}

/* ---- callbacks ---------------------------------------------------------------------------------------- */

static int soft_dirty_arm(struct haul_tracker *base, struct haul_error *error)
{
    struct soft_dirty_tracker *tracker = (struct soft_dirty_tracker *)base;
    int result = clear(tracker, error);
    tracker->armed = !result;
    return result;
}

static int soft_dirty_start(void *opaque, struct haul_error *error)
{
    struct soft_dirty_tracker *tracker = opaque;
    uint64_t pages = 0;
    int result = tracker->armed ? 0 : soft_dirty_arm(&tracker->base, error);
    for (unsigned i = 0; !result && i < tracker->count; i++) {
        result = read_range(tracker, &tracker->ranges[i], NULL, &pages, error);
        if (!result) {
            result = haul_populated_load(
                &tracker->ranges[i].content, tracker->ranges[i].content.range.address,
                tracker->ranges[i].content.range.address + tracker->ranges[i].content.range.length, error);
        }
    }
    return result;
}

static int soft_dirty_sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error)
{
    struct soft_dirty_tracker *tracker = opaque;
    struct haul_freeze freeze;
    *pages = 0;
    int result = haul_freeze_begin(&freeze, tracker->pid, error);
    if (result) {
        return result;
    }
    for (unsigned i = 0; !result && i < tracker->count; i++) {
        struct soft_dirty_range *range = &tracker->ranges[i];
        result = read_range(tracker, range, bitmaps[range->content.range.block], pages, error);
    }
    if (!result) {
        result = clear(tracker, error);
    }
    haul_freeze_end(&freeze);
    return result;
}

static void soft_dirty_stop(void *opaque)
{
    (void)opaque; /* nothing was changed that the process could notice */
}

static const struct haul_tracker_ops soft_dirty_ops = {
    .name = "soft-dirty",
    .start = soft_dirty_start,
    .sync = soft_dirty_sync,
    .stop = soft_dirty_stop,
};

static void soft_dirty_free(struct haul_tracker *base)
{
    struct soft_dirty_tracker *tracker = (struct soft_dirty_tracker *)base;
    for (unsigned i = 0; i < tracker->count; i++) {
        haul_populated_cleanup(&tracker->ranges[i].content);
        haul_populated_cleanup(&tracker->ranges[i].mapped);
    }
    if (tracker->clear_refs >= 0) {
        close(tracker->clear_refs);
    }
    if (tracker->pagemap >= 0) {
        close(tracker->pagemap);
    }
    free(tracker->entries);
    free(tracker);
}

/* ---- construction ------------------------------------------------------------------------------------- */

/* A page that was just written has the bit, if there is one. */
static int probe(struct haul_error *error)
{
    uint64_t entry = 0;
    volatile char *page =
        mmap(NULL, HAUL_TRACKER_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool read = false;
    if (page != MAP_FAILED) {
        *page = 1;
        read =
            pread(pagemap, &entry, sizeof entry,
                  (off_t)((uintptr_t)page / HAUL_TRACKER_PAGE_SIZE * sizeof entry)) == (ssize_t)sizeof entry;
        munmap((void *)page, HAUL_TRACKER_PAGE_SIZE);
    }
    if (pagemap >= 0) {
        close(pagemap);
    }
    if (!read) {
        return haul_error_set(error, EPERM, "cannot read /proc/self/pagemap");
    }
    if (!(entry & PM_SOFT_DIRTY)) {
        return haul_error_set(error, ENOSYS, "this kernel is built without CONFIG_MEM_SOFT_DIRTY");
    }
    return 0;
}

static int open_proc(int pid, const char *file, int flags, int *fd, struct haul_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/%s", pid ? pid : getpid(), file);
    *fd = open(name, flags | O_CLOEXEC);
    if (*fd < 0) {
        int code = errno == ENOENT ? ESRCH : errno == EACCES ? EPERM : errno;
        return haul_error_set(error, code, "cannot open %s: %s", name, strerror(code));
    }
    return 0;
}

static int prepare(struct soft_dirty_tracker *tracker, const struct haul_tracked_range *ranges,
                   unsigned count, struct haul_error *error)
{
    int result = probe(error);
    if (!result) {
        result = open_proc(tracker->pid, "pagemap", O_RDONLY, &tracker->pagemap, error);
    }
    if (!result) {
        result = open_proc(tracker->pid, "clear_refs", O_WRONLY, &tracker->clear_refs, error);
    }
    for (unsigned i = 0; !result && i < count; i++) {
        result = haul_check_range(tracker->pid, &ranges[i], error);
        if (!result) {
            tracker->count = i + 1;
            result = haul_populated_init(&tracker->ranges[i].content, &ranges[i], error);
        }
        if (!result) {
            result = haul_populated_init(&tracker->ranges[i].mapped, &ranges[i], error);
            tracker->ranges[i].mapped.seekable = false;
        }
    }
    return result;
}

int haul_tracker_soft_dirty_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                                struct haul_tracker **result_tracker, struct haul_error *error)
{
    struct soft_dirty_tracker *tracker = calloc(1, sizeof *tracker + count * sizeof tracker->ranges[0]);
    uint64_t *entries = calloc(ENTRIES, sizeof *entries);
    if (!tracker || !entries) {
        free(tracker);
        free(entries);
        return haul_error_set(error, ENOMEM, "soft-dirty tracker: no memory for %u ranges", count);
    }
    tracker->base =
        (struct haul_tracker){.ops = &soft_dirty_ops, .free = soft_dirty_free, .arm = soft_dirty_arm};
    tracker->pid = pid == getpid() ? 0 : pid;
    tracker->entries = entries;
    tracker->pagemap = tracker->clear_refs = -1;
    int result = prepare(tracker, ranges, count, error);
    if (result) {
        soft_dirty_free(&tracker->base);
        haul_error_prefix(error, "soft-dirty tracker: ");
        return result;
    }
    *result_tracker = &tracker->base;
    return 0;
}
