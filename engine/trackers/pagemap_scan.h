/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_PAGEMAP_SCAN_H
#define HAUL_ENGINE_TRACKERS_PAGEMAP_SCAN_H

/* PAGEMAP_SCAN over a range of any length with an output vector of fixed size. */

#include "engine/trackers.h"
#include "engine/trackers/kernel_compat.h"

/* How many regions one call of the kernel returns at most; the vector is 24 bytes each. */
#define HAUL_SCAN_REGIONS 1024

struct haul_scan {
    int pagemap; /* /proc/PID/pagemap: holds on to that process's memory, so a reused PID cannot mislead */
    struct page_region *regions;
};

/* A scan that was not initialised; safe to clean up. */
#define HAUL_SCAN_NONE ((struct haul_scan){.pagemap = -1})

/* Called for each region found, by address. */
typedef void haul_scan_visit(void *opaque, const struct page_region *region);

/* pid 0: this process. -ENOSYS: the kernel has no PAGEMAP_SCAN; -ESRCH; -EPERM; -ENOMEM. */
int haul_scan_init(struct haul_scan *scan, int pid, struct haul_error *error);
void haul_scan_cleanup(struct haul_scan *scan);

/*
 * haul_scan_written visits the pages of [start, end) that were written since they were last write-protected,
 * and protects them again before it returns. Pages without a page table are not seen; see haul_scan_absent.
 */
int haul_scan_written(struct haul_scan *scan, uint64_t start, uint64_t end, haul_scan_visit *visit,
                      void *opaque, struct haul_error *error);

/* haul_scan_present visits the pages that are mapped to memory now. */
int haul_scan_present(struct haul_scan *scan, uint64_t start, uint64_t end, haul_scan_visit *visit,
                      void *opaque, struct haul_error *error);

/*
 * haul_scan_absent visits the pages that are not mapped to memory now. Their category PAGE_IS_SWAPPED is set
 * where the page table remembers something: swapped out, or write-protected while absent.
 */
int haul_scan_absent(struct haul_scan *scan, uint64_t start, uint64_t end, haul_scan_visit *visit,
                     void *opaque, struct haul_error *error);

/* haul_scan_alive says whether the scanned memory still belongs to a process (to be asked after a scan). */
bool haul_scan_alive(const struct haul_scan *scan);

#endif
