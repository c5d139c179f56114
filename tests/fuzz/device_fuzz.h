/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_FUZZ_DEVICE_FUZZ_H
#define HAUL_TESTS_FUZZ_DEVICE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The name that libFuzzer calls. Returns 0; aborts when the loader or the printer broke a promise. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A good stream of the device that the fuzzer loads into, to be freed with free(). */
unsigned char *haul_device_fuzz_sample(size_t *size);

#ifdef __cplusplus
}
#endif
#endif
