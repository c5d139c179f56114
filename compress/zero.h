/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_ZERO_H
#define HAUL_COMPRESS_ZERO_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * haul_is_zero tells whether all `length` bytes at `memory` are zero. `memory` is 64-byte aligned and
 * `length` a non-zero multiple of 4096. The widest of AVX-512, AVX2 and portable code that the CPU has is
 * chosen once, at load time. Thread-safe. Reads only until the first non-zero byte is known.
 */
bool haul_is_zero(const void *memory, size_t length);

/* haul_zero_implementation names the chosen code: "avx512", "avx2" or "portable". */
const char *haul_zero_implementation(void);

#ifdef __cplusplus
}
#endif
#endif
