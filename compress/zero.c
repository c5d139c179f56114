/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Zero detection. The choice among the implementations rests on __builtin_cpu_supports: the compiler's
 * run-time library asks the CPU (and whether the kernel saves the wide registers) once, before any
 * constructor of the program, and each call here tests one bit of that record. The branch is always predicted
 * and costs about a nanosecond per page. An ifunc would save it, but its resolver runs before the sanitizers'
 * own start-up, which ThreadSanitizer does not survive; and a function pointer of ours would be a mutable
 * global.
 */
#include "compress/zero.h"
#include "compress/live.h"
#include "compress/zero_codes.h"

#include <stdint.h>

#define STEP ((size_t)256) /* bytes between two looks: far enough to be fast, near enough to stop early */

typedef uint64_t __attribute__((may_alias)) word;

HAUL_READS_LIVE_MEMORY static bool zero_portable(const void *memory, size_t length)
{
    const word *at = memory;
    const word *end = at + length / sizeof(*at);
    if (at[0] != 0)
        return false;
    for (; at < end; at += 8) {
        if ((at[0] | at[1] | at[2] | at[3] | at[4] | at[5] | at[6] | at[7]) != 0)
            return false;
    }
    return true;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) HAUL_READS_LIVE_MEMORY static bool zero_avx2(const void *memory,
                                                                             size_t length)
{
    const char *at = memory;
    const char *end = at + length;
    __m256i first = _mm256_load_si256((const __m256i *)at);
    if (!_mm256_testz_si256(first, first))
        return false;
    for (; at < end; at += STEP) {
        const __m256i *v = (const __m256i *)at;
        __m256i a = _mm256_or_si256(_mm256_load_si256(v), _mm256_load_si256(v + 1));
        __m256i b = _mm256_or_si256(_mm256_load_si256(v + 2), _mm256_load_si256(v + 3));
        __m256i c = _mm256_or_si256(_mm256_load_si256(v + 4), _mm256_load_si256(v + 5));
        __m256i d = _mm256_or_si256(_mm256_load_si256(v + 6), _mm256_load_si256(v + 7));
        __m256i all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        if (!_mm256_testz_si256(all, all))
            return false;
    }
    return true;
}

__attribute__((target("avx512f"))) HAUL_READS_LIVE_MEMORY static bool zero_avx512(const void *memory,
                                                                                  size_t length)
{
    const char *at = memory;
    const char *end = at + length;
    __m512i first = _mm512_load_si512(at);
    if (_mm512_test_epi64_mask(first, first) != 0)
        return false;
    for (; at < end; at += STEP) {
        __m512i a = _mm512_or_si512(_mm512_load_si512(at), _mm512_load_si512(at + 64));
        __m512i b = _mm512_or_si512(_mm512_load_si512(at + 128), _mm512_load_si512(at + 192));
        __m512i all = _mm512_or_si512(a, b);
        if (_mm512_test_epi64_mask(all, all) != 0)
            return false;
    }
    return true;
}

bool haul_is_zero(const void *memory, size_t length)
{
    if (__builtin_cpu_supports("avx512f"))
        return zero_avx512(memory, length);
    if (__builtin_cpu_supports("avx2"))
        return zero_avx2(memory, length);
    return zero_portable(memory, length);
}

size_t haul_zero_codes(struct haul_zero_code codes[HAUL_ZERO_CODES])
{
    codes[0] = (struct haul_zero_code){"avx512", __builtin_cpu_supports("avx512f") != 0, zero_avx512};
    codes[1] = (struct haul_zero_code){"avx2", __builtin_cpu_supports("avx2") != 0, zero_avx2};
    codes[2] = (struct haul_zero_code){"portable", true, zero_portable};
    return 3;
}

#else

bool haul_is_zero(const void *memory, size_t length)
{
    return zero_portable(memory, length);
}

size_t haul_zero_codes(struct haul_zero_code codes[HAUL_ZERO_CODES])
{
    codes[0] = (struct haul_zero_code){"portable", true, zero_portable};
    return 1;
}

#endif

const char *haul_zero_implementation(void)
{
    struct haul_zero_code codes[HAUL_ZERO_CODES];
    size_t count = haul_zero_codes(codes);
    for (size_t i = 0; i < count; i++) {
        if (codes[i].supported)
            return codes[i].name;
    }
    return "portable";
}
