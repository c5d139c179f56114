/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_CODECS_H
#define HAUL_COMPRESS_CODECS_H

/* Internal to compress/: the codecs that the table of codec.c lists, one file each. */

#include "compress/codec.h"

extern const struct haul_codec haul_codec_raw;
extern const struct haul_codec haul_codec_lz4;

#endif
