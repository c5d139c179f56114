/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_LAYOUT_H
#define HAUL_TOOLS_MACHINES_GUEST_LAYOUT_H

/*
 * What every byte of the guest's memory must be, as a function of a few numbers.
 *
 * Memory is a header page, a code page, the hot set, and the rest. Hot pages are rewritten for ever in one
 * fixed order: the i-th write of a cycle goes to slot i * stride mod hot_pages, and a cycle writes every slot
 * once. So the position (version, index) tells, without any table, which version each page holds. A write
 * puts the version into eight stamps spread over the page; all other bytes are fixed by (seed, page). Nothing
 * of this depends on memory, so memory cannot vouch for itself: a lost, stale or torn page always shows.
 */

#include "channels/error.h"
#include "tools/machines/machine.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_GUEST_PAGE_SIZE 4096u

enum haul_guest_content { HAUL_GUEST_CONTENT_RANDOM, HAUL_GUEST_CONTENT_TEXT, HAUL_GUEST_CONTENT_COUNT };

struct haul_guest_layout {
    uint64_t pages; /* of the whole memory, HAUL_GUEST_MIN_PAGES..HAUL_GUEST_MAX_PAGES */
    uint64_t seed;
    uint32_t hot_pages; /* from page HAUL_GUEST_RESERVED_PAGES on; at least 1 */
    uint32_t stride;    /* coprime with hot_pages and less than it (0 when hot_pages is 1) */
    uint32_t inverse;   /* inverse * stride mod hot_pages is 1: from a slot to its place in the cycle */
    uint64_t zero_pages;
    uint64_t untouched_pages;
    uint32_t content; /* enum haul_guest_content */
};
#define HAUL_GUEST_MIN_PAGES 64u
#define HAUL_GUEST_MAX_PAGES (1ull << 28)

/* Where the workload stands: `index` pages of this cycle already hold `version`, the others version - 1. */
struct haul_guest_position {
    uint32_t version; /* from 1 */
    uint32_t index;   /* less than hot_pages */
};

/*
 * haul_guest_layout_init works out the layout that `options` ask for. -EINVAL: a number out of range, or
 * shares that do not fit together; the message names the option.
 */
int haul_guest_layout_init(struct haul_guest_layout *layout, const struct haul_guest_options *options,
                           struct haul_error *error);
/* haul_guest_layout_check accepts only layouts that init could have made, from whatever source. -EINVAL. */
int haul_guest_layout_check(const struct haul_guest_layout *layout, struct haul_error *error);

/* What a page holds. */
enum haul_guest_kind {
    HAUL_GUEST_KIND_HEADER,
    HAUL_GUEST_KIND_CODE,
    HAUL_GUEST_KIND_HOT,
    HAUL_GUEST_KIND_CONTENT,
    HAUL_GUEST_KIND_ZERO,
    HAUL_GUEST_KIND_UNTOUCHED
};
enum haul_guest_kind haul_guest_page_kind(const struct haul_guest_layout *layout, uint64_t page);

/* haul_guest_page_version returns the version that a hot `page` holds at `position`; 0 for other pages. */
uint32_t haul_guest_page_version(const struct haul_guest_layout *layout, uint64_t page,
                                 struct haul_guest_position position);
/* The stamp that slot `slot` carries at `version`. */
uint32_t haul_guest_stamp(uint64_t slot, uint32_t version);

/* haul_guest_page_build writes the 4096 bytes that `page` must hold at `version`. */
void haul_guest_page_build(const struct haul_guest_layout *layout, uint64_t page, uint32_t version,
                           unsigned char *bytes);

/* Hot pages written from `from` to `to`. */
uint64_t haul_guest_writes_between(const struct haul_guest_layout *layout, struct haul_guest_position from,
                                   struct haul_guest_position to);

#ifdef __cplusplus
}
#endif
#endif
