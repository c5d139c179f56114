/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_CODECS_H
#define HAUL_COMPRESS_CODECS_H

/* Internal to compress/: the codecs, one file each. */

#include "compress/codec.h"

#define HAUL_CODEC_OBJECT(id, number, symbol, name) extern const struct haul_codec haul_codec_##symbol;
HAUL_CODECS(HAUL_CODEC_OBJECT)
#undef HAUL_CODEC_OBJECT

#endif
