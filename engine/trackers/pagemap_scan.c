/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/pagemap_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int haul_scan_init(struct haul_scan *scan, int pid, struct haul_error *error)
{
    char name[64];
    if (pid) {
        snprintf(name, sizeof name, "/proc/%d/pagemap", pid);
    } else {
        snprintf(name, sizeof name, "/proc/self/pagemap");
    }
    scan->pagemap = open(name, O_RDONLY | O_CLOEXEC);
    if (scan->pagemap < 0) {
        int code = errno == ENOENT ? ESRCH : errno == EACCES ? EPERM : errno;
        return haul_error_set(error, code, "cannot open %s: %s", name, strerror(code));
    }
    scan->regions = calloc(HAUL_SCAN_REGIONS, sizeof scan->regions[0]);
    if (!scan->regions) {
        haul_scan_cleanup(scan);
        return haul_error_set(error, ENOMEM, "no memory for the vector of page regions");
    }
    struct pm_scan_arg nothing = {.size = sizeof nothing, .category_mask = PAGE_IS_PRESENT};
    if (ioctl(scan->pagemap, PAGEMAP_SCAN, &nothing) < 0 && errno == ENOTTY) {
        haul_scan_cleanup(scan);
        return haul_error_set(error, ENOSYS, "this kernel has no PAGEMAP_SCAN: it takes Linux 6.7 or newer");
    }
    return 0;
}

void haul_scan_cleanup(struct haul_scan *scan)
{
    free(scan->regions);
    if (scan->pagemap >= 0) {
        close(scan->pagemap);
    }
    *scan = HAUL_SCAN_NONE;
}

static int scan_all(struct haul_scan *scan, struct pm_scan_arg request, haul_scan_visit *visit, void *opaque,
                    struct haul_error *error)
{
    request.size = sizeof request;
    request.vec = (uint64_t)(uintptr_t)scan->regions;
    request.vec_len = HAUL_SCAN_REGIONS;
    while (request.start < request.end) {
        long found = ioctl(scan->pagemap, PAGEMAP_SCAN, &request);
        if (found < 0 && errno == EINTR) {
            continue;
        }
        if (found < 0) {
            int code = errno;
            return haul_error_set(
                error, code, "cannot scan the pages from 0x%" PRIx64 " to 0x%" PRIx64 ": %s",
                (uint64_t)request.start, (uint64_t)request.end,
                code == EPERM ? "other memory was mapped there since the tracking began" : strerror(code));
        }
        for (long i = 0; i < found; i++) {
            visit(opaque, &scan->regions[i]);
        }
        if (request.walk_end <= request.start) {
            return haul_error_set(error, EIO, "the scan of pages makes no progress at 0x%" PRIx64,
                                  (uint64_t)request.start);
        }
        request.start = request.walk_end;
    }
    return 0;
}

int haul_scan_written(struct haul_scan *scan, uint64_t start, uint64_t end, haul_scan_visit *visit,
                      void *opaque, struct haul_error *error)
{
    /*
     * Exactly this category and nothing else: kernels up to 6.18 at least count an emptied page table entry
     * as written only on the path that this combination takes.
     */
    struct pm_scan_arg request = {
        .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
        .start = start,
        .end = end,
        .category_mask = PAGE_IS_WRITTEN,
        .return_mask = PAGE_IS_WRITTEN,
    };
    return scan_all(scan, request, visit, opaque, error);
}

int haul_scan_present(struct haul_scan *scan, uint64_t start, uint64_t end, haul_scan_visit *visit,
                      void *opaque, struct haul_error *error)
{
    struct pm_scan_arg request = {
        .start = start, .end = end, .category_mask = PAGE_IS_PRESENT, .return_mask = PAGE_IS_PRESENT};
    return scan_all(scan, request, visit, opaque, error);
}

int haul_scan_absent(struct haul_scan *scan, uint64_t start, uint64_t end, haul_scan_visit *visit,
                     void *opaque, struct haul_error *error)
{
    struct pm_scan_arg request = {.start = start,
                                  .end = end,
                                  .category_inverted = PAGE_IS_PRESENT,
                                  .category_mask = PAGE_IS_PRESENT,
                                  .return_mask = PAGE_IS_SWAPPED};
    return scan_all(scan, request, visit, opaque, error);
}

bool haul_scan_alive(const struct haul_scan *scan)
{
    /* The kernel reads nothing here once the last thread has left the memory. */
    uint64_t entry;
    return pread(scan->pagemap, &entry, sizeof entry, 0) == (ssize_t)sizeof entry;
}
