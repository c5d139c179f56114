/* SPDX-License-Identifier: Apache-2.0 */
/* The codec that changes nothing. */
#include "compress/codecs.h"

#include <errno.h>
#include <string.h>

static size_t raw_bound(size_t length)
{
    return length;
}

static size_t raw_scratch_size(void)
{
    return 0;
}

static ptrdiff_t raw_encode(const void *source, size_t length, void *destination, size_t capacity,
                            void *scratch)
{
    (void)scratch;
    if (length > capacity)
        return -ENOSPC;
    memcpy(destination, source, length);
    return (ptrdiff_t)length;
}

static int raw_decode(const void *source, size_t length, void *destination, size_t expected)
{
    if (length != expected)
        return -EPROTO;
    memcpy(destination, source, length);
    return 0;
}

const struct haul_codec haul_codec_raw = {
    .id = HAUL_CODEC_RAW,
    .name = "none",
    .needs_copy = 0,
    .encode_bound = raw_bound,
    .scratch_size = raw_scratch_size,
    .encode = raw_encode,
    .decode = raw_decode,
};
