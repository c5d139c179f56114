/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/codec.h"

void haul_guest_codec_number(struct haul_guest_codec *codec, uint64_t *value, unsigned bytes)
{
    if (codec->bad || codec->size - codec->at < bytes) {
        codec->bad = true;
        *value = codec->writing ? *value : 0;
        return;
    }
    unsigned char *here = codec->bytes + codec->at;
    codec->at += bytes;
    if (codec->writing) {
        for (unsigned i = 0; i < bytes; i++) {
            here[i] = (unsigned char)(*value >> (8 * i));
        }
        return;
    }
    *value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        *value |= (uint64_t)here[i] << (8 * i);
    }
}
