/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_CLOCK_H
#define HAUL_TOOLS_CLOCK_H

#include <stdint.h>
#include <time.h>

/* haul_clock_ns returns nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t haul_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* haul_clock_ms returns its milliseconds, signed: what is left until a deadline may be negative. */
static inline int64_t haul_clock_ms(void)
{
    return (int64_t)(haul_clock_ns() / 1000000);
}

#endif
