/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_CHOICE_H
#define HAUL_COMPRESS_CHOICE_H

/*
 * The per-batch decision of `--compress auto`: is it faster to send this batch raw or through the codec?
 * One object per sender thread; it learns from what each batch cost. No allocation, no clock of its own.
 */

#include "compress/codec.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum haul_compress_mode {
    HAUL_COMPRESS_NONE, /* always raw */
    HAUL_COMPRESS_LZ4,  /* always LZ4; a chunk that does not shrink goes raw */
    HAUL_COMPRESS_AUTO  /* per batch */
};

struct haul_choice {
    enum haul_compress_mode mode;
    /* Learned state, private to the owner thread; see choice.c. Zeroed means "nothing learned". */
    double raw_ns_per_byte;
    double encode_ns_per_byte;
    double encode_ratio;
    unsigned batches_since_probe;
    unsigned probe_interval;
};

void haul_choice_init(struct haul_choice *choice, enum haul_compress_mode mode);

/*
 * haul_choice_pick returns the codec for the next batch. `sample` is up to 4096 readable bytes of the batch
 * (may change while it is read: it is only a hint), or NULL.
 */
const struct haul_codec *haul_choice_pick(struct haul_choice *choice, const void *sample, size_t length);

/*
 * haul_choice_learn reports what the last batch cost: `codec` used, `input_bytes` of pages, `wire_bytes`
 * produced, `encode_ns` spent encoding and `send_ns` spent in the socket call.
 */
void haul_choice_learn(struct haul_choice *choice, const struct haul_codec *codec, size_t input_bytes,
                       size_t wire_bytes, uint64_t encode_ns, uint64_t send_ns);

/* haul_compress_mode_parse turns "none", "lz4" or "auto" into a mode; returns 0 or -EINVAL. */
int haul_compress_mode_parse(const char *text, enum haul_compress_mode *mode);

#ifdef __cplusplus
}
#endif
#endif
