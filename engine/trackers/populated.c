/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/populated.h"

#include "engine/trackers/content.h"
#include "engine/trackers/tracker.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

int haul_populated_init(struct haul_populated *populated, const struct haul_tracked_range *range,
                        struct haul_error *error)
{
    uint64_t first = range->block_offset / HAUL_TRACKER_PAGE_SIZE;
    uint64_t pages = range->length / HAUL_TRACKER_PAGE_SIZE;
    *populated = (struct haul_populated){.range = *range, .first_page = first, .first_word = first / 64};
    populated->bits = calloc(haul_bits_words(first % 64 + pages), sizeof(uint64_t));
    if (!populated->bits) {
        return haul_error_set(error, ENOMEM, "no memory for the page bitmap of a range of %llu bytes",
                              (unsigned long long)range->length);
    }
    /* Other file systems either call everything data (hugetlbfs) or may write pages back and drop them. */
    struct statfs fs;
    populated->seekable =
        range->memory_fd >= 0 && fstatfs(range->memory_fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
    return 0;
}

void haul_populated_cleanup(struct haul_populated *populated)
{
    free(populated->bits);
    *populated = (struct haul_populated){0};
}

/* The page of the block that is mapped at `address`, or stored at `offset` of the object. */
static uint64_t page_at_address(const struct haul_populated *populated, uint64_t address)
{
    return populated->first_page + (address - populated->range.address) / HAUL_TRACKER_PAGE_SIZE;
}

static uint64_t page_at_offset(const struct haul_populated *populated, uint64_t offset)
{
    return populated->first_page + (offset - populated->range.memory_offset) / HAUL_TRACKER_PAGE_SIZE;
}

/* Finds the next hole in [*start, end) of the object and moves both ends to it. 0: found, -ENODATA: none. */
static int next_hole(int fd, uint64_t *start, uint64_t *stop, uint64_t end, struct haul_error *error)
{
    off_t first = lseek(fd, (off_t)*start, SEEK_HOLE);
    if (first < 0 && errno != ENXIO) {
        return haul_error_set(error, errno, "cannot find the holes of the memory object: %s",
                              strerror(errno));
    }
    if (first < 0 || (uint64_t)first >= end) {
        return -ENODATA;
    }
    off_t last = lseek(fd, first, SEEK_DATA);
    if (last < 0 && errno != ENXIO) {
        return haul_error_set(error, errno, "cannot find the holes of the memory object: %s",
                              strerror(errno));
    }
    *start = (uint64_t)first;
    *stop = last < 0 || (uint64_t)last > end ? end : (uint64_t)last;
    return 0;
}

static bool in_known_data(const struct haul_populated *populated, uint64_t offset)
{
    return offset >= populated->data_start && offset < populated->data_stop;
}

/* Moves *start to the next data and knows the whole stretch that it belongs to. -ENODATA: none before `end`.
 */
static int find_data(struct haul_populated *populated, uint64_t *start, uint64_t end,
                     struct haul_error *error)
{
    if (in_known_data(populated, *start)) {
        return 0;
    }
    off_t data = lseek(populated->range.memory_fd, (off_t)*start, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        return haul_error_set(error, errno, "cannot find the data of the memory object: %s", strerror(errno));
    }
    if (data < 0 || (uint64_t)data >= end) {
        return -ENODATA;
    }
    *start = (uint64_t)data;
    if (!in_known_data(populated, *start)) {
        uint64_t whole = populated->range.memory_offset + populated->range.length;
        off_t hole = haul_content_end(populated->range.memory_fd, data, (off_t)whole);
        populated->data_start = *start;
        populated->data_stop = hole < 0 || (uint64_t)hole > whole ? whole : (uint64_t)hole;
    }
    return 0;
}

int haul_populated_load(struct haul_populated *populated, uint64_t start, uint64_t end,
                        struct haul_error *error)
{
    if (!populated->seekable) {
        return 0;
    }
    uint64_t delta = populated->range.memory_offset - populated->range.address;
    start += delta;
    end += delta;
    int result = 0;
    while (start < end && !(result = find_data(populated, &start, end, error))) {
        uint64_t stop = populated->data_stop < end ? populated->data_stop : end;
        uint64_t first = page_at_offset(populated, start);
        haul_bits_set(populated->bits, first - populated->first_word * 64,
                      page_at_offset(populated, stop + HAUL_TRACKER_PAGE_SIZE - 1) - first);
        start = stop;
    }
    return result == -ENODATA ? 0 : result;
}

bool haul_populated_empty(const struct haul_populated *populated, uint64_t start, uint64_t end)
{
    if (!populated->seekable) {
        return false;
    }
    uint64_t delta = populated->range.memory_offset - populated->range.address;
    off_t data = lseek(populated->range.memory_fd, (off_t)(start + delta), SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= end + delta;
}

uint64_t haul_populated_add(struct haul_populated *populated, uint64_t start, uint64_t end, uint64_t *bitmap)
{
    uint64_t first = page_at_address(populated, start);
    uint64_t count = (end - start) / HAUL_TRACKER_PAGE_SIZE;
    haul_bits_set(populated->bits, first - populated->first_word * 64, count);
    if (bitmap) {
        haul_bits_set(bitmap, first, count);
    }
    return count;
}

void haul_populated_clear_holes(const struct haul_populated *populated, uint64_t *bitmap)
{
    uint64_t first = populated->first_page;
    uint64_t end = first + populated->range.length / HAUL_TRACKER_PAGE_SIZE;
    for (uint64_t word = first / 64; word * 64 < end; word++) {
        bitmap[word] &= populated->bits[word - populated->first_word] | ~haul_bits_mask(word, first, end);
    }
}

/* Moves the bits of pages [first, end) of the block from `populated` to `bitmap`. */
static uint64_t move_bits(struct haul_populated *populated, uint64_t first, uint64_t end, uint64_t *bitmap)
{
    uint64_t moved = 0;
    for (uint64_t word = first / 64; word * 64 < end; word++) {
        uint64_t *own = &populated->bits[word - populated->first_word];
        uint64_t bits = *own & haul_bits_mask(word, first, end);
        *own &= ~bits;
        __atomic_fetch_or(&bitmap[word], bits, __ATOMIC_RELAXED); /* as haul_bits_set does */
        moved += (uint64_t)__builtin_popcountll(bits);
    }
    return moved;
}

int haul_populated_drop(struct haul_populated *populated, uint64_t start, uint64_t end, uint64_t *bitmap,
                        uint64_t *pages, struct haul_error *error)
{
    uint64_t first = page_at_address(populated, start);
    uint64_t last = page_at_address(populated, end);
    *pages = 0;
    if (!haul_bits_any(populated->bits, first - populated->first_word * 64, last - first)) {
        return 0;
    }
    if (!populated->seekable) {
        *pages = move_bits(populated, first, last, bitmap);
        return 0;
    }
    uint64_t delta = populated->range.memory_offset - populated->range.address;
    uint64_t from = start + delta, to = end + delta, stop = 0;
    int result;
    while (!(result = next_hole(populated->range.memory_fd, &from, &stop, to, error))) {
        *pages +=
            move_bits(populated, page_at_offset(populated, from), page_at_offset(populated, stop), bitmap);
        from = stop;
    }
    return result == -ENODATA ? 0 : result;
}
