/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The choice between raw and LZ4 predicts what an input byte costs either way, in wall-clock nanoseconds:
 *     raw:     link
 *     encoded: the greater of  encode + share * copy  and  share * link
 * where `link` is what a byte on the wire costs while the channel is busy, `copy` what the socket call costs
 * when it does not wait, and `encode` and `share` (wire bytes per input byte) what the codec does to such
 * content. On a fast link `link` is the kernel's copy, and encoding must be cheaper than what it saves of
 * that. On a slow one the socket call waits for the link; whatever the link drains during encoding is no
 * longer waited for, so the greater of the two counts.
 *
 * Measuring `link`: a socket does not wait evenly. It takes several batches at once, then sleeps until a good
 * part of its buffer is free. So `link` is time over wire bytes of a whole window that is larger than the
 * buffers. A window spent mostly on encoding says nothing about the link, but that it is not slower than
 * this.
 *
 * Staying right: `link` is measured all the time while it matters, so a change of the link is noticed in
 * a window or two. What goes stale are a codec's figures while batches go raw (renewed by encoding one
 * batch), and `link` while encoding holds the channel up (renewed by sending raw for as long as that does
 * better). Either trial is made only when the loss that it risks fits into TRIAL_SHARE of the time spent
 * since the last: a way that is k times slower is tried once in about 200 * (k - 1) batches.
 *
 * The codec's figures are kept apart for batches whose sample looks random, which are sent raw until LZ4
 * has proved itself on them in a trial, and for all others.
 */
#include "compress/choice.h"
#include "compress/live.h"

#include <errno.h>
#include <string.h>

#define CONTENT_PLAIN 0
#define CONTENT_RANDOM 1

#define WINDOW_BYTES (8.0 * 1024 * 1024) /* on the wire; usual socket buffers hold less */
#define WINDOW_WEIGHT 0.5                /* of a window in link_ns */
#define MOSTLY_RAW 0.25  /* of a window's time spent encoding: up to this the link set its pace */
#define COPY_GROWTH 1.01 /* copy_ns is a minimum that forgets slowly, by batch */

#define ENCODE_WEIGHT 0.25 /* of a batch in a content's figures */
#define ENCODE_OUTLIER 4.0 /* a batch counts as at most this multiple of the figure: a preempted thread */
#define RANDOM_GUESS 2.0   /* cost of encoding random content against raw, until it was tried */
#define MUST_SAVE 0.03     /* of the raw cost: a smaller gain is not worth the CPU time of both hosts */

#define TRIAL_SHARE 0.005  /* of the time: what trials of the slower way may lose */
#define TRIAL_LOSS_MIN 0.3 /* of a batch: the least that a trial is taken to lose; equal ways rarely swap */
#define TRIAL_BATCHES 32   /* a trial of raw that did better for so long has filled the window twice */
#define MEASURABLE (64.0 * 1024) /* bytes below which a batch's overhead hides its cost per byte */

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

static double raw_cost(const struct haul_choice *choice)
{
    return choice->link_ns;
}

static double encoded_cost(const struct haul_choice *choice, unsigned content)
{
    const struct haul_choice_content *state = &choice->contents[content];
    if (state->samples == 0)
        return content == CONTENT_RANDOM ? RANDOM_GUESS * choice->link_ns : 0;
    double busy = state->encode_ns + state->share * choice->copy_ns;
    double link = state->share * choice->link_ns;
    return busy > link ? busy : link;
}

void haul_choice_init(struct haul_choice *choice, enum haul_compress_mode mode)
{
    memset(choice, 0, sizeof(*choice));
    choice->mode = mode;
}

/* Whether to try the way that loses by `loss` per input byte, of `best`. Spends the credit. */
static bool may_try(struct haul_choice *choice, double loss, double best)
{
    double least = TRIAL_LOSS_MIN * best;
    double *credit_ns = &choice->contents[choice->picked].credit_ns;
    if (*credit_ns <= (loss > least ? loss : least) * (double)choice->last_bytes)
        return false;
    *credit_ns = 0;
    return true;
}

const struct haul_codec *haul_choice_pick(struct haul_choice *choice, const void *sample, size_t length)
{
    const struct haul_codec *raw = haul_codec_by_id(HAUL_CODEC_RAW);
    const struct haul_codec *lz4 = haul_codec_by_id(HAUL_CODEC_LZ4);
    if (choice->mode != HAUL_COMPRESS_AUTO)
        return choice->mode == HAUL_COMPRESS_LZ4 ? lz4 : raw;

    choice->picked = looks_random(sample, length) ? CONTENT_RANDOM : CONTENT_PLAIN;
    if (choice->link_ns == 0)
        return raw; /* the first window is not over */
    double raw_ns = raw_cost(choice);
    double encoded_ns = encoded_cost(choice, choice->picked);
    if (encoded_ns < (1.0 - MUST_SAVE) * raw_ns) {
        if (choice->trial_left == 0 && may_try(choice, raw_ns - encoded_ns, encoded_ns)) {
            choice->trial_left = TRIAL_BATCHES;
            choice->trial_ns = 0;
            choice->trial_bytes = 0;
        }
        return choice->trial_left > 0 ? raw : lz4;
    }
    return may_try(choice, encoded_ns - raw_ns, raw_ns) ? lz4 : raw;
}

static double smooth(double figure, double sample, double weight)
{
    return figure + weight * (sample - figure);
}

static void learn_content(struct haul_choice_content *state, double encode_ns, double share)
{
    if (state->samples++ == 0) {
        state->encode_ns = encode_ns;
        state->share = share;
        return;
    }
    if (encode_ns > ENCODE_OUTLIER * state->encode_ns)
        encode_ns = ENCODE_OUTLIER * state->encode_ns;
    state->encode_ns = smooth(state->encode_ns, encode_ns, ENCODE_WEIGHT);
    state->share = smooth(state->share, share, ENCODE_WEIGHT);
}

static void learn_link(struct haul_choice *choice, double wire_bytes, double encode_ns, double send_ns)
{
    double copy_ns = send_ns / wire_bytes;
    choice->copy_ns *= COPY_GROWTH;
    if (wire_bytes >= MEASURABLE && (choice->copy_ns == 0 || copy_ns < choice->copy_ns))
        choice->copy_ns = copy_ns;

    choice->window_encode_ns += encode_ns;
    choice->window_send_ns += send_ns;
    choice->window_wire_bytes += wire_bytes;
    if (choice->window_wire_bytes < WINDOW_BYTES)
        return;
    double total_ns = choice->window_encode_ns + choice->window_send_ns;
    double link_ns = total_ns / choice->window_wire_bytes;
    bool raw = choice->window_encode_ns < MOSTLY_RAW * total_ns;
    if (choice->link_ns == 0)
        choice->link_ns = link_ns;
    else if (raw || link_ns < choice->link_ns)
        choice->link_ns = smooth(choice->link_ns, link_ns, WINDOW_WEIGHT);
    choice->window_encode_ns = 0;
    choice->window_send_ns = 0;
    choice->window_wire_bytes = 0;
}

/* Ends a trial of raw as soon as it does not pay. */
static void learn_trial(struct haul_choice *choice, double ns, double bytes)
{
    choice->trial_left--;
    choice->trial_ns += ns;
    choice->trial_bytes += bytes;
    if (choice->trial_ns >= encoded_cost(choice, choice->picked) * choice->trial_bytes)
        choice->trial_left = 0;
}

void haul_choice_learn(struct haul_choice *choice, const struct haul_codec *codec, size_t input_bytes,
                       size_t wire_bytes, uint64_t encode_ns, uint64_t send_ns)
{
    if (choice->mode != HAUL_COMPRESS_AUTO || input_bytes == 0 || wire_bytes == 0)
        return;
    double bytes = (double)input_bytes;
    double wire = (double)wire_bytes;
    double encode = (double)encode_ns;
    double send = (double)send_ns;
    choice->last_bytes = input_bytes;
    choice->contents[choice->picked].credit_ns += TRIAL_SHARE * (encode + send);
    learn_link(choice, wire, encode, send);
    if (codec->id != HAUL_CODEC_RAW)
        learn_content(&choice->contents[choice->picked], encode / bytes, wire / bytes);
    else if (choice->trial_left > 0)
        learn_trial(choice, encode + send, bytes);
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
