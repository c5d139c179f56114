/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_BITS_H
#define HAUL_CHANNELS_BITS_H

/* Bitmaps in 64-bit words: bit b is bit b % 64 of word b / 64. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* haul_bits_words returns how many words hold `bits` bits. */
static inline size_t haul_bits_words(uint64_t bits)
{
    return (size_t)((bits + 63) / 64);
}

/* haul_bits_mask returns the bits of word `word` that lie in [first, end), both bit numbers. */
static inline uint64_t haul_bits_mask(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t low = word * 64;
    if (end <= low || first >= low + 64) {
        return 0;
    }
    uint64_t mask = UINT64_MAX;
    if (first > low) {
        mask <<= first - low;
    }
    if (end < low + 64) {
        mask &= ~(UINT64_MAX << (end - low));
    }
    return mask;
}

/* haul_bits_take_run takes the first run of set bits out of a word that has any, no more than `most`: from
 * *first on, *count of them. Returns the bits that are left. */
static inline uint64_t haul_bits_take_run(uint64_t bits, unsigned most, unsigned *first, unsigned *count)
{
    unsigned from = (unsigned)__builtin_ctzll(bits);
    uint64_t clear = ~(bits >> from);
    unsigned length = clear ? (unsigned)__builtin_ctzll(clear) : 64;
    *first = from;
    *count = length < most ? length : most;
    return bits & ~haul_bits_mask(0, from, from + *count);
}

#ifdef __cplusplus
}
#endif
#endif
