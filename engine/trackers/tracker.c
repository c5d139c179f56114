/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/tracker.h"

const struct haul_tracker_ops *haul_tracker_get_ops(const struct haul_tracker *tracker)
{
    return tracker->ops;
}

void *haul_tracker_get_opaque(struct haul_tracker *tracker)
{
    return tracker;
}

int haul_tracker_arm(struct haul_tracker *tracker, struct haul_error *error)
{
    return tracker->arm ? tracker->arm(tracker, error) : 0;
}

void haul_tracker_free(struct haul_tracker *tracker)
{
    if (tracker) {
        tracker->free(tracker);
    }
}

void haul_bits_set(uint64_t *bits, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;
    for (uint64_t word = first / 64; word * 64 < end; word++) {
        /* Threads that set bits of neighbouring pages meet in a word; relaxed, their joins order the rest. */
        __atomic_fetch_or(&bits[word], haul_bits_mask(word, first, end), __ATOMIC_RELAXED);
    }
}

uint64_t haul_bits_merge(uint64_t *to, uint64_t first, const uint64_t *from, uint64_t count)
{
    uint64_t found = 0;
    unsigned shift = first % 64;
    for (uint64_t word = 0; word * 64 < count; word++) {
        uint64_t bits = from[word] & haul_bits_mask(word, 0, count);
        if (!bits) {
            continue; /* also keeps the second store below within `to`, where the last word has nothing to
                         carry */
        }
        found += (uint64_t)__builtin_popcountll(bits);
        to[first / 64 + word] |= bits << shift;
        if (shift && bits >> (64 - shift)) {
            to[first / 64 + word + 1] |= bits >> (64 - shift);
        }
    }
    return found;
}

bool haul_bits_any(const uint64_t *bits, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;
    for (uint64_t word = first / 64; word * 64 < end; word++) {
        if (bits[word] & haul_bits_mask(word, first, end)) {
            return true;
        }
    }
    return false;
}
