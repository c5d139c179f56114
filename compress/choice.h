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

/* A mode is the id of a codec, which is then always used (a chunk that does not shrink goes raw), or: */
#define HAUL_COMPRESS_AUTO (-1) /* raw or this codec, as each batch has it: */
#define HAUL_COMPRESS_AUTO_CODEC HAUL_CODEC_LZ4

/* Time per byte over a stretch that is long enough to even out what a socket does. */
struct haul_choice_window {
    double ns;
    double bytes;
    double last; /* the figure of the stretch before; 0: none */
};

/* Batches are told apart by whether their sample looks random; this is what the codec does to one kind. */
struct haul_choice_content {
    double cost_ns;    /* per input byte, encoding and sending; 0: not known */
    double encode_ns;  /* per input byte, encoding alone */
    double share;      /* wire bytes per input byte */
    unsigned samples;  /* batches that these two come from */
    double credit_ns;  /* what the next trial of the slower way may lose */
    unsigned trial;    /* batches of the codec's trial that is under way, and one more; 0: none is */
    double trial_lost; /* at most, by encoding in the last trial, against raw: nanoseconds */
    double chunk_ns;   /* the fastest chunk of it, per input byte */
    struct haul_choice_window window; /* for cost_ns */
};
#define HAUL_CHOICE_CONTENTS 2

struct haul_choice {
    int mode;
    /* Learned state, private to the owner thread; see choice.c. Zeroed means "nothing learned". */
    double copy_ns; /* per wire byte: the socket call when it does not wait */
    double link_ns; /* per wire byte: what the channel takes when it is kept busy */
    struct haul_choice_content contents[HAUL_CHOICE_CONTENTS];
    struct haul_choice_window window; /* for link_ns */
    double window_encode_ns;          /* of its time, spent encoding */
    double settled_bytes;             /* that went before the first window */
    /* The trial of raw that is under way: batches left (0: none), and what it cost until now. */
    unsigned trial_left;
    double trial_ns;
    double trial_bytes;
    unsigned picked;   /* the content of the batch that was picked last */
    size_t last_bytes; /* input of the last batch learned */
};

/* What a batch cost. */
struct haul_choice_cost {
    size_t input_bytes; /* of non-zero pages */
    size_t wire_bytes;  /* produced for them */
    uint64_t encode_ns; /* spent gathering and encoding, 0 for raw */
    uint64_t send_ns;   /* spent in the socket call */
    double chunk_ns;    /* per input byte: what its fastest chunk took to gather and encode, 0 for raw */
    bool gave_up;       /* after `encode_ns` the batch went raw, see haul_choice_patience */
};

/* Bytes of a good sample: eight pages of the batch, four words of each. */
#define HAUL_CHOICE_SAMPLE 256

void haul_choice_init(struct haul_choice *choice, int mode);

/*
 * haul_choice_pick returns the codec for the next batch. `sample` is up to 4096 bytes from all over the batch
 * (may change while they are read: they are only a hint), or NULL. Every pick is followed by its own learn,
 * or by none, before the next pick.
 */
const struct haul_codec *haul_choice_pick(struct haul_choice *choice, const void *sample, size_t length);

/*
 * haul_choice_patience returns what the batch that was picked last may cost to encode, in nanoseconds per
 * input byte: if none of its first chunks takes less, the codec cannot win, and the batch had better go raw.
 * 0: no limit.
 */
double haul_choice_patience(const struct haul_choice *choice);

/* haul_choice_learn reports what the last batch cost with `codec`, the one that was picked. */
void haul_choice_learn(struct haul_choice *choice, const struct haul_codec *codec,
                       const struct haul_choice_cost *cost);

/* haul_compress_mode_parse turns one of HAUL_COMPRESS_NAMES into a mode; returns 0 or -EINVAL. */
int haul_compress_mode_parse(const char *text, int *mode);

#ifdef __cplusplus
}
#endif
#endif
