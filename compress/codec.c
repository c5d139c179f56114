/* SPDX-License-Identifier: Apache-2.0 */
#include "compress/codec.h"
#include "compress/codecs.h"

#include <string.h>

#define ROW(id, number, symbol, name) [number] = &haul_codec_##symbol,
static const struct haul_codec *const table[HAUL_CODEC_COUNT] = {HAUL_CODECS(ROW)};

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

size_t haul_codec_scratch_max(void)
{
    size_t most = 0;
    for (unsigned id = 0; id < HAUL_CODEC_COUNT; id++) {
        size_t size = table[id]->scratch_size();
        most = size > most ? size : most;
    }
    return most;
}
