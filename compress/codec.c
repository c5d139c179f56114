/* SPDX-License-Identifier: Apache-2.0 */
#include "compress/codec.h"
#include "compress/codecs.h"

#include <string.h>

static const struct haul_codec *const table[HAUL_CODEC_COUNT] = {
    [HAUL_CODEC_RAW] = &haul_codec_raw,
    [HAUL_CODEC_LZ4] = &haul_codec_lz4,
};

const struct haul_codec *haul_codec_by_id(unsigned id)
{
    return id < HAUL_CODEC_COUNT ? table[id] : NULL;
}

const struct haul_codec *haul_codec_by_name(const char *name)
{
    for (unsigned id = 0; id < HAUL_CODEC_COUNT; id++) {
        if (strcmp(table[id]->name, name) == 0)
            return table[id];
    }
    return NULL;
}
