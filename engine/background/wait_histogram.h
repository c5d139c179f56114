/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_BACKGROUND_WAIT_HISTOGRAM_H
#define HAUL_ENGINE_BACKGROUND_WAIT_HISTOGRAM_H

/* How long each of very many waits took: written by one thread, read by any. Relaxed throughout: each bucket
 * stands for itself. */

#include "channels/atomic.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_WAIT_STEPS 16 /* buckets between one power of two and the next: 6 % at most between them */
#define HAUL_WAIT_BUCKETS (HAUL_WAIT_STEPS * 40)

/* A zeroed histogram is an empty one. */
struct haul_wait_histogram {
    HAUL_ATOMIC(uint64_t) buckets[HAUL_WAIT_BUCKETS];
    HAUL_ATOMIC(uint64_t) count;
    HAUL_ATOMIC(uint64_t) longest_ns;
};

/* haul_wait_histogram_add counts one wait. One thread. */
void haul_wait_histogram_add(struct haul_wait_histogram *histogram, uint64_t nanoseconds);

/*
 * haul_wait_histogram_percentile returns what `percent` of the waits did not exceed, up to a bucket's width
 * too much, and never more than the longest; 0 without waits.
 */
uint64_t haul_wait_histogram_percentile(const struct haul_wait_histogram *histogram, double percent);

#ifdef __cplusplus
}
#endif
#endif
