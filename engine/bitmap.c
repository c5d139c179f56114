/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/bitmap.h"

void haul_bitmap_set(uint64_t *bitmap, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;
    for (uint64_t word = first / 64; word * 64 < end; word++) {
        bitmap[word] |= haul_bits_mask(word, first, end);
    }
}

void haul_bitmap_clear(uint64_t *bitmap, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;
    for (uint64_t word = first / 64; word * 64 < end; word++) {
        bitmap[word] &= ~haul_bits_mask(word, first, end);
    }
}

uint64_t haul_bitmap_count(const uint64_t *bitmap, uint64_t bits)
{
    uint64_t total = 0;
    for (size_t i = 0; i < haul_bits_words(bits); i++) {
        total += (uint64_t)__builtin_popcountll(bitmap[i]);
    }
    return total;
}

/* First bit at or after `from` that equals `value`; `bits` when there is none. */
static uint64_t find(const uint64_t *bitmap, uint64_t bits, uint64_t from, bool value)
{
    uint64_t flip = value ? 0 : ~UINT64_C(0);
    while (from < bits) {
        uint64_t word = (bitmap[from / 64] ^ flip) >> (from % 64);
        if (word != 0) {
            uint64_t at = from + (uint64_t)__builtin_ctzll(word);
            return at < bits ? at : bits;
        }
        from = (from / 64 + 1) * 64;
    }
    return bits;
}

bool haul_bitmap_next_run(const uint64_t *bitmap, uint64_t bits, uint64_t from, uint64_t most,
                          uint64_t *first, uint64_t *count)
{
    uint64_t start = find(bitmap, bits, from, true);
    if (start >= bits) {
        return false;
    }
    uint64_t limit = most < bits - start ? start + most : bits;
    *first = start;
    *count = find(bitmap, limit, start, false) - start;
    return true;
}

bool haul_bitmap_next_gap(const uint64_t *bitmap, uint64_t bits, uint64_t from, uint64_t *first,
                          uint64_t *count)
{
    uint64_t start = find(bitmap, bits, from, false);
    if (start >= bits) {
        return false;
    }
    *first = start;
    *count = find(bitmap, bits, start, true) - start;
    return true;
}
