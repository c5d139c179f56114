/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_CLOCK_H
#define HAUL_ENGINE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t haul_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* CPU time of the calling thread in nanoseconds. */
static inline uint64_t haul_thread_cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The absolute CLOCK_MONOTONIC time `timeout_ms` from now (a negative timeout counts as 0). */
static inline struct timespec haul_deadline(int timeout_ms)
{
    uint64_t at = haul_now_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000u;
    return (struct timespec){.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)};
}

#endif
