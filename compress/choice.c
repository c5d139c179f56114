/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The choice between raw and LZ4 compares what the two ways really cost: wall-clock nanoseconds per byte of
 * input, encoding and socket call together. That one number is right on any link. On a fast link the socket
 * call is the kernel's copy, so the sum compares CPU time with CPU time. On a slow link the call blocks until
 * the link has drained what is before it; whatever the link drained during encoding is no longer waited for,
 * so the sum is the larger of encoding time and link time, which is how long the batch occupied the channel.
 *
 * The way in use is measured all the time. The other way's cost goes stale, so it is tried again, but only
 * when the loss that its last figure predicts fits into TRIAL_SHARE of the time spent since the last trial:
 * a way that is k times slower is used for one batch in about 200 * (k - 1). A figure from few batches
 * is believed to be better than it looks, so that one unlucky first batch (cold caches, a preempted thread)
 * is soon corrected.
 *
 * LZ4's cost depends on the content, so there are two figures for it: for batches whose sample looks random,
 * which are sent raw until LZ4 has proved itself on such batches in a trial, and for all others.
 */
#include "compress/choice.h"
#include "compress/live.h"

#include <errno.h>
#include <string.h>

#define CONTENT_PLAIN 0
#define CONTENT_RANDOM 1

#define TRIAL_SHARE 0.005 /* of the time: what trials of the slower way may lose */
/* Of a batch: what a trial is taken to lose at least, so that two equal ways are not swapped all the time. */
#define TRIAL_LOSS_MIN 0.3
#define CODEC_MUST_SAVE 0.03 /* of the raw cost: a smaller gain is not worth the CPU time of both hosts */
#define RANDOM_GUESS 2.0     /* cost of the codec on random content against raw, until it was tried */

#define SETTLED 4                 /* samples until a cost is smoothed; before, the least one counts */
#define WEIGHT 0.25               /* of a new batch in the smoothed cost */
#define WEIGHT_FULL (64.0 * 1024) /* input bytes that a batch needs for all of this weight */
#define OUTLIER 4.0               /* one batch counts as at most this multiple of the smoothed cost, */
#define HIGH 1.5                  /* but when so many in a row are above this multiple, */
#define HIGH_RUN 3                /* the link has become slow, and the least of them is the cost */

#define SAMPLE_WORDS 32
#define WORD_BYTES 8
/*
 * Pairs of equal bytes among the 256 sampled: 127.5 on average (standard deviation 11) in random data;
 * 500 for base64, 2000 for English text.
 */
#define RANDOM_PAIRS_MAX 190

HAUL_READS_LIVE_MEMORY static bool looks_random(const unsigned char *sample, size_t length)
{
    if (!sample || length < (size_t)SAMPLE_WORDS * WORD_BYTES)
        return false;
    unsigned seen[256] = {0};
    unsigned pairs = 0;
    size_t stride = length / SAMPLE_WORDS;
    for (size_t word = 0; word < SAMPLE_WORDS; word++) {
        const unsigned char *at = sample + word * stride;
        for (size_t i = 0; i < WORD_BYTES; i++)
            pairs += seen[at[i]]++;
    }
    return pairs <= RANDOM_PAIRS_MAX;
}

/* The cost to reckon with: a figure from n batches is believed to be n / (n + 1) of itself. */
static double believed(const struct haul_choice_cost *cost)
{
    if (cost->samples >= SETTLED)
        return cost->ns_per_byte;
    return cost->ns_per_byte * cost->samples / (cost->samples + 1.0);
}

/* True when this batch completes a run that says: the cost has risen for good. */
static bool has_risen(struct haul_choice_cost *cost, double ns_per_byte)
{
    if (ns_per_byte <= HIGH * cost->ns_per_byte) {
        cost->high = 0;
        return false;
    }
    if (cost->high == 0 || ns_per_byte < cost->least_high)
        cost->least_high = ns_per_byte;
    return ++cost->high >= HIGH_RUN;
}

static void update(struct haul_choice_cost *cost, double ns_per_byte, double input_bytes)
{
    if (cost->samples < SETTLED) {
        if (cost->samples == 0 || ns_per_byte < cost->ns_per_byte)
            cost->ns_per_byte = ns_per_byte;
        cost->samples++;
        return;
    }
    if (input_bytes >= WEIGHT_FULL && has_risen(cost, ns_per_byte)) {
        cost->ns_per_byte = cost->least_high;
        cost->high = 0;
        return;
    }
    if (ns_per_byte > OUTLIER * cost->ns_per_byte)
        ns_per_byte = OUTLIER * cost->ns_per_byte;
    double weight = input_bytes < WEIGHT_FULL ? WEIGHT * input_bytes / WEIGHT_FULL : WEIGHT;
    cost->ns_per_byte += weight * (ns_per_byte - cost->ns_per_byte);
}

static double believed_encoded(const struct haul_choice *choice, unsigned content)
{
    const struct haul_choice_cost *cost = &choice->encoded[content];
    if (content == CONTENT_RANDOM && cost->samples == 0)
        return RANDOM_GUESS * believed(&choice->raw);
    return believed(cost);
}

/* The way that the figures favour for this content. */
static bool encoding_wins(const struct haul_choice *choice, unsigned content)
{
    return believed_encoded(choice, content) < (1.0 - CODEC_MUST_SAVE) * believed(&choice->raw);
}

/* What one batch of the way that does not win would lose against the one that does. */
static double trial_loss_ns(const struct haul_choice *choice, unsigned content, bool encoding)
{
    double raw = believed(&choice->raw);
    double encoded = believed_encoded(choice, content);
    double loss = encoding ? raw - encoded : encoded - raw;
    double least = TRIAL_LOSS_MIN * (encoding ? encoded : raw);
    return (loss > least ? loss : least) * (double)choice->last_bytes;
}

void haul_choice_init(struct haul_choice *choice, enum haul_compress_mode mode)
{
    memset(choice, 0, sizeof(*choice));
    choice->mode = mode;
}

const struct haul_codec *haul_choice_pick(struct haul_choice *choice, const void *sample, size_t length)
{
    if (choice->mode != HAUL_COMPRESS_AUTO)
        return haul_codec_by_id(choice->mode == HAUL_COMPRESS_LZ4 ? HAUL_CODEC_LZ4 : HAUL_CODEC_RAW);

    unsigned content = looks_random(sample, length) ? CONTENT_RANDOM : CONTENT_PLAIN;
    choice->content = content;
    bool encode = encoding_wins(choice, content);
    if (choice->raw.samples > 0 && choice->credit_ns[content] > trial_loss_ns(choice, content, encode)) {
        choice->credit_ns[content] = 0;
        encode = !encode;
    }
    return haul_codec_by_id(encode ? HAUL_CODEC_LZ4 : HAUL_CODEC_RAW);
}

void haul_choice_learn(struct haul_choice *choice, const struct haul_codec *codec, size_t input_bytes,
                       size_t wire_bytes, uint64_t encode_ns, uint64_t send_ns)
{
    if (choice->mode != HAUL_COMPRESS_AUTO || input_bytes == 0)
        return;
    double bytes = (double)input_bytes;
    double ns = (double)encode_ns + (double)send_ns;
    choice->last_bytes = input_bytes;
    choice->credit_ns[choice->content] += TRIAL_SHARE * ns;
    if (codec->id == HAUL_CODEC_RAW) {
        update(&choice->raw, ns / bytes, bytes);
        return;
    }
    update(&choice->encoded[choice->content], ns / bytes, bytes);
    /*
     * The channel carries wire_bytes in the time of one encoded batch, so raw bytes cannot cost more than
     * that each: after a link became faster, this makes a trial of raw affordable soon.
     */
    if (wire_bytes == 0)
        return;
    double bound = choice->encoded[choice->content].ns_per_byte * bytes / (double)wire_bytes;
    if (choice->raw.ns_per_byte > bound)
        choice->raw.ns_per_byte = bound;
}

int haul_compress_mode_parse(const char *text, enum haul_compress_mode *mode)
{
    if (strcmp(text, "none") == 0)
        *mode = HAUL_COMPRESS_NONE;
    else if (strcmp(text, "lz4") == 0)
        *mode = HAUL_COMPRESS_LZ4;
    else if (strcmp(text, "auto") == 0)
        *mode = HAUL_COMPRESS_AUTO;
    else
        return -EINVAL;
    return 0;
}
