/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/pace.h"

#define WEIGHT 0.25             /* of the latest measurement */
#define WORTH_MEASURING 5000000 /* nanoseconds of work that say something */
#define ABOUT_AS_FAST 0.75      /* of the fastest: what scheduling does to channels of the same speed */
#define BATCH_NS 20e6           /* what a batch may take */
#define QUEUE_NS 50e6           /* and all that a channel holds */

#define FIRST_PAGES 64 /* of a batch while nothing is known */
#define UNSENT_NS 10e6 /* what may wait in the kernel of a slow channel */
#define UNSENT_LEAST 16384

static double blend(double old, double now)
{
    return old > 0 ? old + WEIGHT * (now - old) : now;
}

void haul_pace_measure(struct haul_pace *pace, const struct haul_pace_sample *sample)
{
    struct haul_pace_sample *sum = &pace->pending;
    sum->delivered_bytes += sample->delivered_bytes;
    sum->pages += sample->pages;
    sum->busy_ns += sample->busy_ns;
    if (sum->busy_ns < WORTH_MEASURING || sum->pages == 0) {
        return; /* over a slow link a batch takes longer than what is measured at a time */
    }
    double slowest =
        BATCH_NS / HAUL_PACE_LEAST_PAGES; /* that makes a difference: a stall is soon forgotten */
    double page = (double)sum->busy_ns / (double)sum->pages;
    pace->ns_per_page = blend(pace->ns_per_page, page < slowest ? page : slowest);
    pace->bytes_per_ns = blend(pace->bytes_per_ns, (double)sum->delivered_bytes / (double)sum->busy_ns);
    *sum = (struct haul_pace_sample){0};
}

static uint32_t within(double value, uint32_t least, uint32_t most)
{
    return value < least ? least : value < most ? (uint32_t)value : most;
}

/* Keeps what the channel holds short. */
static void bound(struct haul_pace *pace)
{
    if (pace->ns_per_page == 0) { /* perhaps the link is slow: little at first */
        pace->batch_pages = FIRST_PAGES;
        pace->depth = HAUL_PACE_LEAST;
    } else {
        pace->batch_pages = within(BATCH_NS / pace->ns_per_page, HAUL_PACE_LEAST_PAGES, HAUL_BATCH_PAGES);
        pace->depth =
            within(QUEUE_NS / (pace->ns_per_page * pace->batch_pages), HAUL_PACE_LEAST, pace->depth);
    }
}

void haul_pace_share(struct haul_pace *paces, unsigned count, unsigned most)
{
    double fastest = 0;
    for (unsigned i = 0; i < count; i++) {
        fastest = paces[i].bytes_per_ns > fastest ? paces[i].bytes_per_ns : fastest;
    }
    for (unsigned i = 0; i < count; i++) {
        double share = fastest > 0 && paces[i].bytes_per_ns > 0 ? paces[i].bytes_per_ns / fastest : 1;
        unsigned depth = share < ABOUT_AS_FAST ? (unsigned)(share * most + 0.5) : most;
        paces[i].depth = depth > HAUL_PACE_LEAST ? depth : HAUL_PACE_LEAST;
        bound(&paces[i]);
    }
}

int haul_pace_unsent(struct haul_pace *pace, int limited)
{
    uint32_t bytes = 0;
    if (limited) {
        bytes = UNSENT_LEAST;
    } else if (pace->ns_per_page > 0 && pace->batch_pages < HAUL_BATCH_PAGES) {
        /* In powers of two, so that it seldom changes. */
        for (bytes = UNSENT_LEAST; bytes < pace->bytes_per_ns * UNSENT_NS; bytes *= 2) {
        }
    }
    int changed = bytes != pace->unsent_bytes;
    pace->unsent_bytes = bytes;
    return changed;
}

/* Whether the share of channel `i` is less full than that of `k`. */
static int less_full(const struct haul_pace_choice *choice, unsigned i, unsigned k)
{
    return choice->loads[i] * choice->paces[k].depth < choice->loads[k] * choice->paces[i].depth;
}

int haul_pace_pick(const struct haul_pace_choice *choice)
{
    int best = -1;
    int best_is_local = 0;
    for (unsigned k = 0; k < choice->count; k++) {
        unsigned i = (choice->first + k) % choice->count;
        if (choice->loads[i] >= choice->paces[i].depth) {
            continue;
        }
        int local = choice->node >= 0 && choice->nodes[i] == choice->node;
        if (best < 0 || less_full(choice, i, (unsigned)best) ||
            (local && !best_is_local && !less_full(choice, (unsigned)best, i))) {
            best = (int)i;
            best_is_local = local;
        }
    }
    return best;
}
