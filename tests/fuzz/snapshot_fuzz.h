/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_FUZZ_SNAPSHOT_FUZZ_H
#define HAUL_TESTS_FUZZ_SNAPSHOT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The input is what somebody did to a good snapshot file: a byte of flags, which say what was mended
 * afterwards, and any number of changes. A change is 4 bytes of offset (modulo the file's length + 8192) and
 * 1 byte n, little endian, and n bytes that are written there; with n 0 the file is cut or grown to that
 * offset.
 */
enum haul_snapshot_mended {
    HAUL_SNAPSHOT_MEND_HEADER = 1, /* its checksum */
    HAUL_SNAPSHOT_MEND_TABLE = 2,  /* the block table's */
    HAUL_SNAPSHOT_MEND_LEAVES = 4, /* of each leaf, and of all of them */
    HAUL_SNAPSHOT_MEND_STATE = 8,  /* of each frame that can be found, and of all of them */
    HAUL_SNAPSHOT_MEND_LENGTH = 16 /* the file length in the header */
};

/* The name that libFuzzer calls. Returns 0; aborts when the reader broke a promise. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where the sections of the good file are. */
#define HAUL_SNAPSHOT_FUZZ_SUMS_AT 8192
#define HAUL_SNAPSHOT_FUZZ_TABLES_AT 12288
#define HAUL_SNAPSHOT_FUZZ_MEMORY_AT (2 << 20)
#define HAUL_SNAPSHOT_FUZZ_PAGES 600
#define HAUL_SNAPSHOT_FUZZ_STATE_AT (HAUL_SNAPSHOT_FUZZ_MEMORY_AT + HAUL_SNAPSHOT_FUZZ_PAGES * 4096)

#ifdef __cplusplus
}
#endif
#endif
