/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The choice between raw and the codec compares what an input byte costs either way, in wall-clock
 * nanoseconds. Both costs are measured, never computed from parts: how far encoding, the kernel's work and
 * the link overlap depends on the socket and on the machine. Raw costs `link_ns` for each byte. Encoded costs
 * `cost_ns`, but no less than its share of the bytes costs on the link.
 *
 * Measuring: a socket does not wait evenly. It takes several batches at once, then sleeps until a good part
 * of its buffer is free. So a cost is time over bytes of a whole window that is larger than the buffers. On a
 * fast link a window is so short that one preemption multiplies it; such a short one counts only as far as
 * the next confirms it. A window spent mostly on encoding says nothing about the link, but that it is not
 * slower than this.
 *
 * Staying right: the cost of the way that is taken is measured all the time. That of the other goes stale,
 * and is renewed by a trial. A trial of raw goes on for as long as raw does better. One encoded batch among
 * raw ones tells little of the codec: its code and scratch are in no cache, and the kernel takes the same CPU
 * to drain what went raw before; it can look three times as slow as it is. So a trial of the codec is a row
 * of batches, of which the first are not counted. It ends at once if not even the fastest chunk was fast
 * enough (mostly within the first batch, which then goes raw after all), and when it has lost TRIAL_LOSS_MAX.
 *
 * A trial is made only when the loss that it risks fits into TRIAL_SHARE of the time spent since the last: a
 * way that is k times slower is tried once in about 200 * (k - 1) batches.
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

#define WINDOW_BYTES (8.0 * 1024 * 1024)   /* on the wire; usual socket buffers hold less */
#define SETTLING_BYTES (4.0 * 1024 * 1024) /* at first: they only fill the buffers */
#define FIRST_WINDOW_BYTES (4.0 * 1024 * 1024)
#define CONTENT_WINDOW_BYTES (16.0 * 1024 * 1024) /* of input: LZ4 makes about half of it */
#define WINDOW_LONG_NS 20e6                       /* no scheduler takes a thread away for most of so long */
#define WINDOW_WEIGHT 0.5                         /* of a window in a cost */
#define MOSTLY_RAW 0.25  /* of a window's time spent encoding: up to this the link set its pace */
#define COPY_GROWTH 1.01 /* copy_ns is a minimum that forgets slowly, by batch */

#define BATCH_WEIGHT 0.25 /* of a batch in what the codec does to a content */
#define RANDOM_GUESS 2.0  /* cost of encoding random content against raw, until it was tried */
#define MUST_SAVE 0.03    /* of the raw cost: a smaller gain is not worth the CPU time of both hosts */

#define TRIAL_SHARE 0.005  /* of the time: what trials of the slower way may lose */
#define TRIAL_LOSS_MIN 0.3 /* of a batch: the least that a trial is taken to lose; equal ways rarely swap */
#define TRIAL_BATCHES 32   /* a trial of raw that did better for so long has filled the window twice */
#define TRIAL_WARM_UP 3    /* batches of a trial of the codec before it counts */
#define TRIAL_LOSS_MAX 5.0 /* batches' raw cost that a trial of the codec may lose */
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
    if (state->cost_ns == 0)
        return content == CONTENT_RANDOM ? RANDOM_GUESS * choice->link_ns : 0;
    /* Waiting for what other content put on the link may have been counted here: sending cannot take more. */
    double link = state->share * choice->link_ns;
    double most = state->encode_ns + link;
    double cost = state->cost_ns < most ? state->cost_ns : most;
    return cost > link ? cost : link;
}

/* What the codec must cost less than, to be chosen. */
static double worth_encoding(const struct haul_choice *choice)
{
    return (1.0 - MUST_SAVE) * raw_cost(choice);
}

void haul_choice_init(struct haul_choice *choice, int mode)
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

/* Whether raw is to be tried although the codec costs less. */
static bool tries_raw(struct haul_choice *choice, double raw_ns, double encoded_ns)
{
    if (choice->trial_left == 0 && may_try(choice, raw_ns - encoded_ns, encoded_ns)) {
        choice->trial_left = TRIAL_BATCHES;
        choice->trial_ns = 0;
        choice->trial_bytes = 0;
    }
    return choice->trial_left > 0;
}

/* Whether the codec is to be tried although raw costs less, or although nothing is known of it yet. */
static bool tries_codec(struct haul_choice *choice, double raw_ns, double encoded_ns)
{
    struct haul_choice_content *state = &choice->contents[choice->picked];
    double loss = (encoded_ns - raw_ns) * (double)choice->last_bytes;
    loss = (loss > state->trial_lost ? loss : state->trial_lost) / (double)choice->last_bytes;
    if (encoded_ns > 0 && !may_try(choice, loss, raw_ns))
        return false;
    state->trial = 1;
    state->trial_lost = 0;
    state->chunk_ns = 0;
    state->samples = 0;
    state->window = (struct haul_choice_window){0};
    return true;
}

const struct haul_codec *haul_choice_pick(struct haul_choice *choice, const void *sample, size_t length)
{
    const struct haul_codec *raw = haul_codec_by_id(HAUL_CODEC_RAW);
    const struct haul_codec *codec = haul_codec_by_id(HAUL_COMPRESS_AUTO_CODEC);
    if (choice->mode != HAUL_COMPRESS_AUTO)
        return haul_codec_by_id((unsigned)choice->mode);

    choice->picked = looks_random(sample, length) ? CONTENT_RANDOM : CONTENT_PLAIN;
    if (choice->link_ns == 0)
        return raw; /* the first window is not over */
    if (choice->contents[choice->picked].trial > 0)
        return codec;
    double raw_ns = raw_cost(choice);
    double encoded_ns = encoded_cost(choice, choice->picked);
    if (encoded_ns > 0 && encoded_ns < worth_encoding(choice))
        return tries_raw(choice, raw_ns, encoded_ns) ? raw : codec;
    return tries_codec(choice, raw_ns, encoded_ns) ? codec : raw;
}

double haul_choice_patience(const struct haul_choice *choice)
{
    bool trial = choice->mode == HAUL_COMPRESS_AUTO && choice->contents[choice->picked].trial > 0;
    return trial ? worth_encoding(choice) : 0;
}

static double smooth(double figure, double sample, double weight)
{
    return figure + weight * (sample - figure);
}

/* Adds to the window. Returns its figure when it holds `enough` bytes and so ends, else 0. */
static double window_add(struct haul_choice_window *window, double ns, double bytes, double enough)
{
    window->ns += ns;
    window->bytes += bytes;
    if (window->bytes < enough)
        return 0;
    double figure = window->ns / window->bytes;
    double last = window->last;
    bool confirmed = window->ns >= WINDOW_LONG_NS || last == 0 || figure < last;
    *window = (struct haul_choice_window){.last = figure};
    return confirmed ? figure : last;
}

/*
 * A batch of a trial of the codec. Returns false when the trial is over because it cannot win or has lost
 * enough; its cost is then known as far as it came. Waiting for the link is no loss: raw would wait too.
 */
static bool trial_goes_on(struct haul_choice *choice, struct haul_choice_content *state,
                          const struct haul_choice_cost *cost)
{
    double bytes = (double)cost->input_bytes;
    double raw_ns = raw_cost(choice);
    double enough = worth_encoding(choice);
    double busy_ns = (double)cost->encode_ns / bytes + state->share * choice->copy_ns;
    state->trial++;
    state->trial_lost += (busy_ns - raw_ns) * bytes;
    if (state->chunk_ns == 0 || cost->chunk_ns < state->chunk_ns)
        state->chunk_ns = cost->chunk_ns;
    bool hopeless = state->chunk_ns + state->share * choice->copy_ns >= enough ||
                    state->share * choice->link_ns >= enough;
    if (!cost->gave_up && !hopeless && state->trial_lost <= TRIAL_LOSS_MAX * raw_ns * bytes)
        return true;
    state->trial = 0;
    state->cost_ns = busy_ns > raw_ns ? busy_ns : raw_ns;
    return false;
}

static void learn_codec(struct haul_choice *choice, const struct haul_choice_cost *cost)
{
    struct haul_choice_content *state = &choice->contents[choice->picked];
    double bytes = (double)cost->input_bytes;
    double wall_ns = (double)(cost->encode_ns + cost->send_ns);
    double share = (double)cost->wire_bytes / bytes;
    double weight = state->samples++ == 0 ? 1.0 : BATCH_WEIGHT;
    state->share = smooth(state->share, share, weight);
    state->encode_ns = smooth(state->encode_ns, (double)cost->encode_ns / bytes, weight);
    bool trial = state->trial > 0;
    if (trial && (!trial_goes_on(choice, state, cost) || state->trial <= 1 + TRIAL_WARM_UP))
        return;
    double cost_ns = window_add(&state->window, wall_ns, bytes, CONTENT_WINDOW_BYTES);
    if (cost_ns == 0)
        return;
    state->cost_ns = trial ? cost_ns : smooth(state->cost_ns, cost_ns, WINDOW_WEIGHT);
    state->trial = 0;
}

static void learn_link(struct haul_choice *choice, double wire_bytes, double encode_ns, double send_ns)
{
    double copy_ns = send_ns / wire_bytes;
    choice->copy_ns *= COPY_GROWTH;
    if (wire_bytes >= MEASURABLE && (choice->copy_ns == 0 || copy_ns < choice->copy_ns))
        choice->copy_ns = copy_ns;

    if (choice->settled_bytes < SETTLING_BYTES) {
        choice->settled_bytes += wire_bytes;
        return;
    }
    choice->window_encode_ns += encode_ns;
    double total_ns = choice->window.ns + encode_ns + send_ns;
    double enough = choice->link_ns == 0 ? FIRST_WINDOW_BYTES : WINDOW_BYTES;
    double link_ns = window_add(&choice->window, encode_ns + send_ns, wire_bytes, enough);
    if (link_ns == 0)
        return;
    bool raw = choice->window_encode_ns < MOSTLY_RAW * total_ns;
    if (choice->link_ns == 0)
        choice->link_ns = link_ns;
    else if (raw || link_ns < choice->link_ns)
        choice->link_ns = smooth(choice->link_ns, link_ns, WINDOW_WEIGHT);
    choice->window_encode_ns = 0;
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

void haul_choice_learn(struct haul_choice *choice, const struct haul_codec *codec,
                       const struct haul_choice_cost *cost)
{
    if (choice->mode != HAUL_COMPRESS_AUTO || cost->input_bytes == 0 || cost->wire_bytes == 0)
        return;
    struct haul_choice_content *state = &choice->contents[choice->picked];
    double bytes = (double)cost->input_bytes;
    double wire = (double)cost->wire_bytes;
    double encode = (double)cost->encode_ns;
    double send = (double)cost->send_ns;
    choice->last_bytes = cost->input_bytes;
    state->credit_ns += TRIAL_SHARE * (encode + send);
    learn_link(choice, wire, encode, send);
    if (codec->id == HAUL_CODEC_RAW) {
        if (choice->trial_left > 0)
            learn_trial(choice, encode + send, bytes);
        return;
    }
    learn_codec(choice, cost);
}

int haul_compress_mode_parse(const char *text, int *mode)
{
    if (strcmp(text, "auto") == 0) {
        *mode = HAUL_COMPRESS_AUTO;
        return 0;
    }
    const struct haul_codec *codec = haul_codec_by_name(text);
    if (!codec)
        return -EINVAL;
    *mode = codec->id;
    return 0;
}
