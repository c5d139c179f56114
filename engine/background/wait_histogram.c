/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/background/wait_histogram.h"

#include <stdbool.h>

static uint64_t get(const HAUL_ATOMIC(uint64_t) * counter)
{
    return atomic_load_explicit((HAUL_ATOMIC(uint64_t) *)counter, memory_order_relaxed);
}

/* Below HAUL_WAIT_STEPS a bucket is one nanosecond wide; above, each power of two has so many of them. */
static unsigned bucket_of(uint64_t nanoseconds)
{
    if (nanoseconds < HAUL_WAIT_STEPS) {
        return (unsigned)nanoseconds;
    }
    unsigned shift = 63u - (unsigned)__builtin_clzll(nanoseconds) - 4u;
    uint64_t bucket = (uint64_t)shift * HAUL_WAIT_STEPS + (nanoseconds >> shift);
    const unsigned last = HAUL_WAIT_BUCKETS - 1;
    return bucket < last ? (unsigned)bucket : last;
}

/* The first value that is too large for the bucket. */
static uint64_t end_of(unsigned bucket)
{
    if (bucket < HAUL_WAIT_STEPS) {
        return bucket + 1;
    }
    unsigned shift = bucket / HAUL_WAIT_STEPS - 1;
    return (uint64_t)(bucket % HAUL_WAIT_STEPS + HAUL_WAIT_STEPS + 1) << shift;
}

void haul_wait_histogram_add(struct haul_wait_histogram *histogram, uint64_t nanoseconds)
{
    HAUL_ATOMIC(uint64_t) *bucket = &histogram->buckets[bucket_of(nanoseconds)];
    /* A single writer: no read-modify-write needed. */
    atomic_store_explicit(bucket, get(bucket) + 1, memory_order_relaxed);
    atomic_store_explicit(&histogram->count, get(&histogram->count) + 1, memory_order_relaxed);
    if (nanoseconds > get(&histogram->longest_ns)) {
        atomic_store_explicit(&histogram->longest_ns, nanoseconds, memory_order_relaxed);
    }
}

uint64_t haul_wait_histogram_percentile(const struct haul_wait_histogram *histogram, double percent)
{
    double wanted = (double)get(&histogram->count) * percent / 100;
    uint64_t longest = get(&histogram->longest_ns);
    uint64_t seen = 0;
    for (unsigned i = 0; i < HAUL_WAIT_BUCKETS; i++) {
        seen += get(&histogram->buckets[i]);
        if (seen > 0 && (double)seen >= wanted) {
            bool last = i == HAUL_WAIT_BUCKETS - 1; /* which has no end */
            return !last && end_of(i) < longest ? end_of(i) : longest;
        }
    }
    return longest;
}
