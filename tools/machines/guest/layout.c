/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/layout.h"

#include "tools/machines/guest/content.h"
#include "tools/machines/guest/workload.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Zero and untouched pages come in runs of this many pages, as real memory has them. */
#define RUN_PAGES 16

static const char header_magic[8] = "haulgst1";

static uint32_t greatest_common_divisor(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A stride near the golden ratio spreads consecutive writes over the hot set. */
static uint32_t pick_stride(uint32_t hot_pages)
{
    uint32_t stride = (uint32_t)((uint64_t)hot_pages * 618 / 1000);
    while (stride > 1 && greatest_common_divisor(hot_pages, stride) != 1) {
        stride--;
    }
    return hot_pages == 1 ? 0 : (stride ? stride : 1);
}

/* The i with i * stride mod hot_pages == 1, by the extended Euclidean algorithm. */
static uint32_t invert_stride(uint32_t hot_pages, uint32_t stride)
{
    int64_t old_rest = stride, rest = hot_pages, old_factor = 1, factor = 0;
    while (rest) {
        int64_t quotient = old_rest / rest, next = old_rest - quotient * rest;
        old_rest = rest;
        rest = next;
        next = old_factor - quotient * factor;
        old_factor = factor;
        factor = next;
    }
    return (uint32_t)(old_factor < 0 ? old_factor + hot_pages : old_factor);
}

static int read_options(struct haul_guest_layout *layout, const struct haul_guest_options *options,
                        struct haul_error *error)
{
    if (options->memory_bytes % HAUL_GUEST_PAGE_SIZE ||
        options->memory_bytes < (uint64_t)HAUL_GUEST_MIN_PAGES * HAUL_GUEST_PAGE_SIZE ||
        options->memory_bytes > HAUL_GUEST_MAX_PAGES * HAUL_GUEST_PAGE_SIZE) {
        return haul_error_set(error, EINVAL,
                              "guest memory of %" PRIu64
                              " bytes is refused: it must be a multiple of 4096 from 256 KiB to 1 TiB",
                              options->memory_bytes);
    }
    if (options->zero_percent > 100 || options->untouched_percent > 100 - options->zero_percent) {
        return haul_error_set(
            error, EINVAL,
            "zero share of %u %% and untouched share of %u %% are refused: together they must be "
            "at most 100 %%",
            options->zero_percent, options->untouched_percent);
    }
    if (!options->content || !strcmp(options->content, "random")) {
        layout->content = HAUL_GUEST_CONTENT_RANDOM;
    } else if (!strcmp(options->content, "text")) {
        layout->content = HAUL_GUEST_CONTENT_TEXT;
    } else {
        return haul_error_set(error, EINVAL, "unknown guest content '%s': use random or text",
                              options->content);
    }
    return 0;
}

int haul_guest_layout_init(struct haul_guest_layout *layout, const struct haul_guest_options *options,
                           struct haul_error *error)
{
    *layout = (struct haul_guest_layout){.seed = options->seed};
    int result = read_options(layout, options, error);
    if (result) {
        return result;
    }
    layout->pages = options->memory_bytes / HAUL_GUEST_PAGE_SIZE;
    layout->zero_pages = layout->pages * options->zero_percent / 100;
    layout->untouched_pages = layout->pages * options->untouched_percent / 100;

    uint64_t taken = layout->zero_pages + layout->untouched_pages;
    uint64_t room = layout->pages - HAUL_GUEST_RESERVED_PAGES;
    room = taken < room ? room - taken : 0;
    uint64_t hot = options->hot_bytes / HAUL_GUEST_PAGE_SIZE;
    if (!options->hot_bytes) {
        hot = layout->pages / 4 < room ? layout->pages / 4 : room;
    } else if (hot > room || !hot) {
        return haul_error_set(error, EINVAL,
                              "a hot set of %" PRIu64 " bytes is refused: it must be 4096 to %" PRIu64
                              " bytes with this memory size, zero share and untouched share",
                              options->hot_bytes, room * HAUL_GUEST_PAGE_SIZE);
    }
    /* A share of 100 % still leaves the workload one page, next to the header and the code. */
    layout->hot_pages = hot ? (uint32_t)hot : 1;
    layout->stride = pick_stride(layout->hot_pages);
    layout->inverse = invert_stride(layout->hot_pages, layout->stride);
    uint64_t cold = layout->pages - HAUL_GUEST_RESERVED_PAGES - layout->hot_pages;
    if (layout->zero_pages > cold) {
        layout->zero_pages = cold;
    }
    if (layout->untouched_pages > cold - layout->zero_pages) {
        layout->untouched_pages = cold - layout->zero_pages;
    }
    return 0;
}

int haul_guest_layout_check(const struct haul_guest_layout *layout, struct haul_error *error)
{
    bool fits = layout->pages >= HAUL_GUEST_MIN_PAGES && layout->pages <= HAUL_GUEST_MAX_PAGES &&
                layout->hot_pages >= 1 && layout->hot_pages <= layout->pages - HAUL_GUEST_RESERVED_PAGES &&
                layout->content < HAUL_GUEST_CONTENT_COUNT;
    uint64_t cold = fits ? layout->pages - HAUL_GUEST_RESERVED_PAGES - layout->hot_pages : 0;
    fits = fits && layout->zero_pages <= cold && layout->untouched_pages <= cold - layout->zero_pages &&
           layout->stride == pick_stride(layout->hot_pages) &&
           layout->inverse == invert_stride(layout->hot_pages, layout->stride);
    return fits ? 0 : haul_error_set(error, EINVAL, "the guest's layout contradicts itself");
}

static enum haul_guest_kind cold_kind(const struct haul_guest_layout *layout, uint64_t page)
{
    uint64_t first = HAUL_GUEST_RESERVED_PAGES + layout->hot_pages;
    uint64_t runs = (layout->pages - first) / RUN_PAGES;
    uint64_t run = (page - first) / RUN_PAGES;
    uint64_t blank = (layout->zero_pages + layout->untouched_pages) / RUN_PAGES;
    if (run >= runs) { /* the short run at the end */
        return HAUL_GUEST_KIND_CONTENT;
    }
    /* Spread `blank` of `runs` evenly, and the untouched ones evenly among those. */
    uint64_t ordinal = run * blank / runs;
    if ((run + 1) * blank / runs == ordinal) {
        return HAUL_GUEST_KIND_CONTENT;
    }
    uint64_t untouched = layout->untouched_pages / RUN_PAGES;
    return (ordinal + 1) * untouched / blank == ordinal * untouched / blank ? HAUL_GUEST_KIND_ZERO
                                                                            : HAUL_GUEST_KIND_UNTOUCHED;
}

enum haul_guest_kind haul_guest_page_kind(const struct haul_guest_layout *layout, uint64_t page)
{
    if (page == HAUL_GUEST_HEADER_ADDRESS / HAUL_GUEST_PAGE_SIZE) {
        return HAUL_GUEST_KIND_HEADER;
    }
    if (page == HAUL_GUEST_CODE_ADDRESS / HAUL_GUEST_PAGE_SIZE) {
        return HAUL_GUEST_KIND_CODE;
    }
    return page - HAUL_GUEST_RESERVED_PAGES < layout->hot_pages ? HAUL_GUEST_KIND_HOT
                                                                : cold_kind(layout, page);
}

uint32_t haul_guest_page_version(const struct haul_guest_layout *layout, uint64_t page,
                                 struct haul_guest_position position)
{
    if (haul_guest_page_kind(layout, page) != HAUL_GUEST_KIND_HOT) {
        return 0;
    }
    uint64_t slot = page - HAUL_GUEST_RESERVED_PAGES;
    uint64_t order = slot * layout->inverse % layout->hot_pages;
    return order < position.index ? position.version : position.version - 1;
}

static bool blinks(uint64_t slot)
{
    return (slot & HAUL_GUEST_BLINK_MASK) == HAUL_GUEST_BLINK_MASK;
}

uint32_t haul_guest_stamp(uint64_t slot, uint32_t version)
{
    return blinks(slot) && version % 2 == 0 ? 0 : version;
}

static void build_header(const struct haul_guest_layout *layout, unsigned char *bytes)
{
    const struct {
        unsigned offset;
        uint32_t value;
    } numbers[] = {
        {HAUL_GUEST_HEADER_HOT_BASE, HAUL_GUEST_RESERVED_PAGES * HAUL_GUEST_PAGE_SIZE},
        {HAUL_GUEST_HEADER_HOT_PAGES, layout->hot_pages},
        {HAUL_GUEST_HEADER_STRIDE, layout->stride},
    };
    memcpy(bytes, header_magic, sizeof header_magic);
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        memcpy(bytes + numbers[i].offset, &numbers[i].value, sizeof numbers[i].value);
    }
}

static void build_hot(const struct haul_guest_layout *layout, uint64_t page, uint32_t version,
                      unsigned char *bytes)
{
    uint64_t slot = page - HAUL_GUEST_RESERVED_PAGES;
    if (!blinks(slot)) {
        haul_guest_content_build(layout->content, layout->seed, page, bytes);
    }
    uint32_t stamp = haul_guest_stamp(slot, version);
    for (size_t i = 0; i < HAUL_GUEST_STAMPS; i++) {
        memcpy(bytes + i * HAUL_GUEST_STAMP_DISTANCE, &stamp, sizeof stamp);
    }
}

void haul_guest_page_build(const struct haul_guest_layout *layout, uint64_t page, uint32_t version,
                           unsigned char *bytes)
{
    memset(bytes, 0, HAUL_GUEST_PAGE_SIZE);
    switch (haul_guest_page_kind(layout, page)) {
    case HAUL_GUEST_KIND_HEADER:
        build_header(layout, bytes);
        break;
    case HAUL_GUEST_KIND_CODE:
        memcpy(bytes, haul_guest_code_start, (size_t)(haul_guest_code_end - haul_guest_code_start));
        break;
    case HAUL_GUEST_KIND_HOT:
        build_hot(layout, page, version, bytes);
        break;
    case HAUL_GUEST_KIND_CONTENT:
        haul_guest_content_build(layout->content, layout->seed, page, bytes);
        break;
    case HAUL_GUEST_KIND_ZERO:
    case HAUL_GUEST_KIND_UNTOUCHED:
        break;
    }
}

uint64_t haul_guest_writes_between(const struct haul_guest_layout *layout, struct haul_guest_position from,
                                   struct haul_guest_position to)
{
    return (uint64_t)(uint32_t)(to.version - from.version) * layout->hot_pages + to.index - from.index;
}
