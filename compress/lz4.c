/* SPDX-License-Identifier: Apache-2.0 */
/* LZ4 blocks, each chunk on its own: no dictionary, so that chunks decode in any order. */
#include "compress/codecs.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>

/*
 * LZ4's own default. It already strides faster over data that does not match, so that a random chunk is
 * rejected at more than 10 GB/s; higher values lose more of the ratio of text-like memory than they save time
 * (benchmarks/compress/codec_benchmark.cc shows both).
 */
#define ACCELERATION 1

_Static_assert(HAUL_CODEC_CHUNK <= LZ4_MAX_INPUT_SIZE, "a chunk is one LZ4 block");

static size_t lz4_bound(size_t length)
{
    return length > LZ4_MAX_INPUT_SIZE ? 0 : (size_t)LZ4_COMPRESSBOUND(length);
}

static size_t lz4_scratch_size(void)
{
    return (size_t)LZ4_sizeofState();
}

static ptrdiff_t lz4_encode(const void *source, size_t length, void *destination, size_t capacity,
                            void *scratch)
{
    if (length == 0 || length > HAUL_CODEC_CHUNK)
        return -ENOSPC; /* outside the contract: raw is always right */
    int room = capacity > INT_MAX ? INT_MAX : (int)capacity;
    int written = LZ4_compress_fast_extState(scratch, source, destination, (int)length, room, ACCELERATION);
    return written > 0 ? written : -ENOSPC;
}

static int lz4_decode(const void *source, size_t length, void *destination, size_t expected)
{
    if (length > INT_MAX || expected > INT_MAX)
        return -EPROTO;
    int expanded = LZ4_decompress_safe(source, destination, (int)length, (int)expected);
    return expanded >= 0 && (size_t)expanded == expected ? 0 : -EPROTO;
}

const struct haul_codec haul_codec_lz4 = {
    .id = HAUL_CODEC_LZ4,
    .name = "lz4",
    .needs_copy = 1,
    .encode_bound = lz4_bound,
    .scratch_size = lz4_scratch_size,
    .encode = lz4_encode,
    .decode = lz4_decode,
};
