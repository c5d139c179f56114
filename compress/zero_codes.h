/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_ZERO_CODES_H
#define HAUL_COMPRESS_ZERO_CODES_H

/* Internal to compress/, its tests and its benchmarks: every implementation behind haul_is_zero. */

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_zero_code {
    const char *name;
    bool supported;                        /* by this CPU and this kernel; else is_zero must not run */
    bool (*is_zero)(const void *, size_t); /* contract of haul_is_zero */
};

#define HAUL_ZERO_CODES 3

/* haul_zero_codes fills `codes`, widest first, and returns how many this architecture has. */
size_t haul_zero_codes(struct haul_zero_code codes[HAUL_ZERO_CODES]);

#ifdef __cplusplus
}
#endif
#endif
