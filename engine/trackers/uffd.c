/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfaultfd write protection in async mode: the kernel itself lifts the protection of a page at its first
 * write, and PAGEMAP_SCAN finds those pages and protects them again. Nobody waits for us, so a slow or dead
 * haul never stops the guest.
 */
#include "engine/trackers/inject.h"
#include "engine/trackers/maps.h"
#include "engine/trackers/pagemap_scan.h"
#include "engine/trackers/parallel.h"
#include "engine/trackers/populated.h"
#include "engine/trackers/tracker.h"
#include "engine/trackers/uffd_call.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Bytes that one thread scans at a time: about a millisecond's worth of pages. A multiple of what one word of
 * a page bitmap covers. */
#define SLICE (UINT64_C(512) << 20)

/* Only async protection is used, which the kernel resolves for its own accesses (KVM, vhost) too, so the
 * unprivileged form is enough. */
#define UFFD_FLAGS (O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)
#define UFFD_FEATURES (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

struct uffd_tracker {
    struct haul_tracker base;
    int pid; /* 0: this process */
    int uffd;
    bool armed;
    bool maps_here; /* a range has an own_mapping */
    unsigned workers;
    struct uffd_worker {
        struct haul_scan scan;
        struct haul_scan own_scan; /* of this process; HAUL_SCAN_NONE unless maps_here */
    } worker[HAUL_PARALLEL_MAX];
    unsigned slice_count;
    struct uffd_slice *slices; /* all ranges, cut where words of their bitmaps end */
    unsigned count;
    struct haul_populated ranges[];
};

struct uffd_slice {
    struct haul_populated *range;
    uint64_t start, end; /* addresses */
    bool known;          /* its range knows what it had when it was armed: all of its pages, or none */
};

/* ---- callbacks ---------------------------------------------------------------------------------------- */

static void add_populated(void *opaque, const struct page_region *region)
{
    haul_populated_add(opaque, region->start, region->end, NULL);
}

/* A step of arm or start over a part of a range. */
struct uffd_visit {
    struct uffd_tracker *tracker;
    struct haul_populated *range;
    bool absent; /* some page is */
    int result;
    struct haul_error *error;
};

static void arm_present(void *opaque, const struct page_region *region)
{
    (void)opaque, (void)region; /* the scan has armed them; whether they were written before is no matter */
}

static void arm_absent(void *opaque, const struct page_region *region)
{
    struct uffd_visit *visit = opaque;
    visit->absent = true;
    if (!visit->result && !(region->categories & PAGE_IS_SWAPPED)) {
        visit->result = haul_uffd_protect(visit->tracker->uffd, region->start, region->end, visit->error);
    }
}

/*
 * The scan arms what has a page table eight times as fast as UFFDIO_WRITEPROTECT would; what has none, it
 * does not.
 */
static int arm_slice(void *opaque, unsigned item, unsigned worker, struct haul_error *error)
{
    struct uffd_tracker *tracker = opaque;
    struct uffd_slice *slice = &tracker->slices[item];
    struct haul_scan *scan = &tracker->worker[worker].scan;
    struct uffd_visit visit = {.tracker = tracker, .range = slice->range, .error = error};
    int result = haul_scan_written(scan, slice->start, slice->end, arm_present, NULL, error);
    if (!result) {
        result = haul_scan_absent(scan, slice->start, slice->end, arm_absent, &visit, error);
    }
    if (!result && !visit.absent) {
        haul_populated_add(slice->range, slice->start, slice->end, NULL);
        slice->known = true;
    }
    return result ? result : visit.result;
}

/* The result of a step that scanned memory; asked after it, since memory that goes away in the middle of a
 * scan may look like memory that nobody wrote. */
static int unless_gone(const struct uffd_tracker *tracker, int result, struct haul_error *error)
{
    return haul_scan_alive(&tracker->worker[0].scan)
               ? result
               : haul_error_set(error, ESRCH,
                                "process %d, whose memory is tracked, has exited or replaced its program",
                                tracker->pid);
}

static int uffd_arm(struct haul_tracker *base, struct haul_error *error)
{
    struct uffd_tracker *tracker = (struct uffd_tracker *)base;
    int result = haul_parallel_run(tracker->slice_count, tracker->workers, arm_slice, tracker, error);
    tracker->armed = !result;
    return unless_gone(tracker, result, error);
}

/* What is absent may still have content in the object. */
static void load_absent(void *opaque, const struct page_region *region)
{
    struct uffd_visit *visit = opaque;
    if (!visit->result) {
        visit->result = haul_populated_load(visit->range, region->start, region->end, visit->error);
    }
}

/* By one thread: a look for the end of a stretch of data in the object serves all of the range. */
static int load_all_absent(struct uffd_tracker *tracker, struct haul_error *error)
{
    int result = 0;
    for (unsigned i = 0; !result && i < tracker->slice_count; i++) {
        struct uffd_slice *slice = &tracker->slices[i];
        struct uffd_visit visit = {.tracker = tracker, .range = slice->range, .error = error};
        slice->known = slice->known || haul_populated_empty(slice->range, slice->start, slice->end);
        if (!slice->known) {
            result = haul_scan_absent(&tracker->worker[0].scan, slice->start, slice->end, load_absent, &visit,
                                      error);
            result = result ? result : visit.result;
        }
    }
    return result;
}

static int load_present_slice(void *opaque, unsigned item, unsigned worker, struct haul_error *error)
{
    struct uffd_tracker *tracker = opaque;
    const struct uffd_slice *slice = &tracker->slices[item];
    return slice->known ? 0
                        : haul_scan_present(&tracker->worker[worker].scan, slice->start, slice->end,
                                            add_populated, slice->range, error);
}

static int uffd_start(void *opaque, struct haul_error *error)
{
    struct uffd_tracker *tracker = opaque;
    int result = tracker->armed ? 0 : uffd_arm(&tracker->base, error);
    result = result ? result : load_all_absent(tracker, error);
    if (!result) {
        result =
            haul_parallel_run(tracker->slice_count, tracker->workers, load_present_slice, tracker, error);
    }
    return unless_gone(tracker, result, error);
}

static void uffd_clear_holes(void *opaque, uint64_t *const *bitmaps)
{
    struct uffd_tracker *tracker = opaque;
    for (unsigned i = 0; i < tracker->count; i++) {
        if (tracker->ranges[i].seekable) {
            haul_populated_clear_holes(&tracker->ranges[i], bitmaps[tracker->ranges[i].range.block]);
        }
    }
}

struct uffd_sync {
    struct uffd_tracker *tracker;
    struct uffd_worker *worker;
    struct haul_populated *range;
    uint64_t *bitmap;
    uint64_t pages;
    int result;
    struct haul_error *error;
};

static void sync_written(void *opaque, const struct page_region *region)
{
    struct uffd_sync *sync = opaque;
    sync->pages += haul_populated_add(sync->range, region->start, region->end, sync->bitmap);
}

/* Pages of one range that are absent both from the tracked process and, where it maps them, from this one. */
struct discarded {
    struct uffd_sync *sync;
    uint64_t shift; /* from addresses here to addresses there */
    uint64_t pages;
};

static void drop_discarded(void *opaque, const struct page_region *region)
{
    struct discarded *discarded = opaque;
    struct uffd_sync *sync = discarded->sync;
    uint64_t pages = 0;
    if (!sync->result) {
        sync->result = haul_populated_drop(sync->range, region->start + discarded->shift,
                                           region->end + discarded->shift, sync->bitmap, &pages, sync->error);
    }
    discarded->pages += pages;
}

/* Reports those of the absent pages [start, end) that lost their content; returns how many. */
static uint64_t sync_discarded(struct uffd_sync *sync, uint64_t start, uint64_t end)
{
    struct discarded discarded = {.sync = sync};
    const void *own = sync->range->range.own_mapping;
    if (!own || !sync->tracker->maps_here) {
        drop_discarded(&discarded, &(struct page_region){.start = start, .end = end});
        return discarded.pages;
    }
    discarded.shift = sync->range->range.address - (uint64_t)(uintptr_t)own;
    int result = haul_scan_absent(&sync->worker->own_scan, start - discarded.shift, end - discarded.shift,
                                  drop_discarded, &discarded, sync->error);
    sync->result = sync->result ? sync->result : result;
    return discarded.pages;
}

/*
 * Absent pages. An armed one has a marker in the page table (shown as swapped): it was not written, but its
 * content may be gone (T8). One without any trace lost its page table or its huge page entry, perhaps after a
 * write that haul_scan_written could no longer see: it is armed again and counts as written.
 */
static void sync_absent(void *opaque, const struct page_region *region)
{
    struct uffd_sync *sync = opaque;
    if (sync->result) {
        return;
    }
    if (!(region->categories & PAGE_IS_SWAPPED)) {
        sync->result = haul_uffd_protect(sync->tracker->uffd, region->start, region->end, sync->error);
        sync->pages += haul_populated_add(sync->range, region->start, region->end, sync->bitmap);
    }
    uint64_t dropped = sync->result ? 0 : sync_discarded(sync, region->start, region->end);
    if (region->categories & PAGE_IS_SWAPPED) {
        sync->pages += dropped; /* else counted above */
    }
}

struct uffd_sync_all {
    struct uffd_tracker *tracker;
    uint64_t *const *bitmaps;
    _Atomic uint64_t pages; /* a sum; relaxed, the end of the run orders it */
};

static int sync_slice(void *opaque, unsigned item, unsigned worker, struct haul_error *error)
{
    struct uffd_sync_all *all = opaque;
    struct uffd_tracker *tracker = all->tracker;
    const struct uffd_slice *slice = &tracker->slices[item];
    struct haul_scan *scan = &tracker->worker[worker].scan;
    struct uffd_sync sync = {.tracker = tracker,
                             .worker = &tracker->worker[worker],
                             .range = slice->range,
                             .bitmap = all->bitmaps[slice->range->range.block],
                             .error = error};
    int result = haul_scan_written(scan, slice->start, slice->end, sync_written, &sync, error);
    if (!result) {
        result = haul_scan_absent(scan, slice->start, slice->end, sync_absent, &sync, error);
    }
    atomic_fetch_add_explicit(&all->pages, sync.pages, memory_order_relaxed);
    return result ? result : sync.result;
}

static int uffd_sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error)
{
    struct uffd_tracker *tracker = opaque;
    struct uffd_sync_all all = {.tracker = tracker, .bitmaps = bitmaps};
    int result = haul_parallel_run(tracker->slice_count, tracker->workers, sync_slice, &all, error);
    *pages = atomic_load_explicit(&all.pages, memory_order_relaxed);
    return unless_gone(tracker, result, error);
}

static void uffd_stop(void *opaque)
{
    struct uffd_tracker *tracker = opaque;
    if (tracker->uffd >= 0) {
        close(tracker->uffd); /* the last descriptor: the kernel unregisters and unprotects everything */
        tracker->uffd = -1;
    }
}

static const struct haul_tracker_ops uffd_ops = {
    .name = "uffd-wp",
    .start = uffd_start,
    .clear_holes = uffd_clear_holes,
    .sync = uffd_sync,
    .stop = uffd_stop,
};

static void uffd_free(struct haul_tracker *base)
{
    struct uffd_tracker *tracker = (struct uffd_tracker *)base;
    uffd_stop(tracker);
    for (unsigned i = 0; i < HAUL_PARALLEL_MAX; i++) {
        haul_scan_cleanup(&tracker->worker[i].own_scan);
        haul_scan_cleanup(&tracker->worker[i].scan);
    }
    free(tracker->slices);
    for (unsigned i = 0; i < tracker->count; i++) {
        haul_populated_cleanup(&tracker->ranges[i]);
    }
    free(tracker);
}

/* ---- construction ------------------------------------------------------------------------------------- */

/* Where the slice that begins at `start` ends: at a multiple of SLICE of its block, or with its range. */
static uint64_t slice_end(const struct haul_tracked_range *range, uint64_t start)
{
    uint64_t in_block = range->block_offset + (start - range->address);
    uint64_t end = start + (SLICE - in_block % SLICE);
    return end < range->address + range->length ? end : range->address + range->length;
}

static int cut_slices(struct uffd_tracker *tracker, struct haul_error *error)
{
    uint64_t most = 1;
    for (unsigned i = 0; i < tracker->count; i++) {
        most += tracker->ranges[i].range.length / SLICE + 2; /* where neither end is at a multiple of it */
    }
    tracker->slices = calloc(most, sizeof tracker->slices[0]);
    if (!tracker->slices) {
        return haul_error_set(error, ENOMEM, "no memory for %llu slices", (unsigned long long)most);
    }
    for (unsigned i = 0; i < tracker->count; i++) {
        const struct haul_tracked_range *range = &tracker->ranges[i].range;
        uint64_t end;
        for (uint64_t start = range->address; start < range->address + range->length; start = end) {
            end = slice_end(range, start);
            tracker->slices[tracker->slice_count++] =
                (struct uffd_slice){.range = &tracker->ranges[i], .start = start, .end = end};
        }
    }
    return 0;
}

/* Everything that can be refused is refused here, before the process is touched. */
static int prepare(struct uffd_tracker *tracker, const struct haul_tracked_range *ranges, unsigned count,
                   struct haul_error *error)
{
    int result = haul_scan_init(&tracker->worker[0].scan, tracker->pid, error);
    result = result ? result : haul_uffd_open(UFFD_FLAGS, UFFD_FEATURES, &tracker->uffd, error);
    for (unsigned i = 0; !result && i < count; i++) {
        result = haul_check_range(tracker->pid, &ranges[i], error);
        if (!result) {
            tracker->count = i + 1;
            result = haul_populated_init(&tracker->ranges[i], &ranges[i], error);
        }
        tracker->maps_here = tracker->maps_here || (tracker->pid && ranges[i].own_mapping);
    }
    result = result ? result : cut_slices(tracker, error);
    tracker->workers = haul_parallel_workers(tracker->slice_count);
    for (unsigned i = 0; !result && i < tracker->workers; i++) {
        result = i == 0 ? 0 : haul_scan_init(&tracker->worker[i].scan, tracker->pid, error);
        if (!result && tracker->maps_here) {
            result = haul_scan_init(&tracker->worker[i].own_scan, 0, error);
        }
    }
    return result;
}

static int attach(struct uffd_tracker *tracker, struct haul_error *error)
{
    int result = 0;
    if (tracker->pid) {
        close(tracker->uffd);
        tracker->uffd = -1;
        result = haul_inject_userfaultfd(tracker->pid, UFFD_FLAGS, &tracker->uffd, error);
        if (!result) {
            result = haul_uffd_handshake(tracker->uffd, UFFD_FEATURES, error);
        }
    }
    for (unsigned i = 0; !result && i < tracker->count; i++) {
        result = haul_uffd_register(tracker->uffd, &tracker->ranges[i].range, error);
    }
    return result;
}

int haul_tracker_uffd_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                          struct haul_tracker **result_tracker, struct haul_error *error)
{
    struct uffd_tracker *tracker = calloc(1, sizeof *tracker + count * sizeof tracker->ranges[0]);
    if (!tracker) {
        return haul_error_set(error, ENOMEM, "userfaultfd tracker: no memory for %u ranges", count);
    }
    tracker->base = (struct haul_tracker){.ops = &uffd_ops, .free = uffd_free, .arm = uffd_arm};
    tracker->pid = pid == getpid() ? 0 : pid;
    tracker->uffd = -1;
    for (unsigned i = 0; i < HAUL_PARALLEL_MAX; i++) {
        tracker->worker[i] = (struct uffd_worker){HAUL_SCAN_NONE, HAUL_SCAN_NONE};
    }
    int result = prepare(tracker, ranges, count, error);
    if (!result) {
        result = attach(tracker, error);
    }
    if (result) {
        uffd_free(&tracker->base);
        haul_error_prefix(error, "userfaultfd tracker: ");
        return result;
    }
    *result_tracker = &tracker->base;
    return 0;
}
