/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_FUZZ_QMP_FUZZ_H
#define HAUL_TESTS_FUZZ_QMP_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The name that libFuzzer calls. Returns 0; aborts when the QMP session broke a promise. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef __cplusplus
}
#endif
#endif
