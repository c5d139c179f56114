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

/* Batches are told apart by whether their sample looks random; this is what the codec does to one kind. */
struct haul_choice_content {
    double encode_ns; /* per input byte */
    double share;     /* wire bytes per input byte */
    unsigned samples; /* batches that these come from */
    double credit_ns; /* what the next trial of the slower way may lose */
};
#define HAUL_CHOICE_CONTENTS 2

struct haul_choice {
    enum haul_compress_mode mode;
    /* Learned state, private to the owner thread; see choice.c. Zeroed means "nothing learned". */
    double copy_ns; /* per wire byte: the socket call when it does not wait */
    double link_ns; /* per wire byte: what the channel takes when it is kept busy */
    struct haul_choice_content contents[HAUL_CHOICE_CONTENTS];
    /* The window that link_ns is measured over. */
    double window_encode_ns;
    double window_send_ns;
    double window_wire_bytes;
    /* The trial of raw that is under way: batches left (0: none), and what it cost until now. */
    unsigned trial_left;
    double trial_ns;
    double trial_bytes;
    unsigned picked;   /* the content of the batch that was picked last */
    size_t last_bytes; /* input of the last batch learned */
};

void haul_choice_init(struct haul_choice *choice, enum haul_compress_mode mode);

/*
 * haul_choice_pick returns the codec for the next batch. `sample` is up to 4096 readable bytes of the batch
 * (may change while it is read: it is only a hint), or NULL. Every pick is followed by its own learn, or by
 * none, before the next pick.
 */
const struct haul_codec *haul_choice_pick(struct haul_choice *choice, const void *sample, size_t length);

/*
 * haul_choice_learn reports what the last batch cost: `codec` used, `input_bytes` of non-zero pages,
 * `wire_bytes` produced for them, `encode_ns` spent gathering and encoding (0 for raw) and `send_ns` spent in
 * the socket call.
 */
void haul_choice_learn(struct haul_choice *choice, const struct haul_codec *codec, size_t input_bytes,
                       size_t wire_bytes, uint64_t encode_ns, uint64_t send_ns);

/* haul_compress_mode_parse turns "none", "lz4" or "auto" into a mode; returns 0 or -EINVAL. */
int haul_compress_mode_parse(const char *text, enum haul_compress_mode *mode);

#ifdef __cplusplus
}
#endif
#endif
