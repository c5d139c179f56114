/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/estimate.h"

#include "channels/batch.h"

#define WINDOW_TIME_CONSTANT_NS 300e6 /* busy time after which a new bandwidth outweighs the old one */
#define WINDOW_LEAST_NS 1000
#define ROUND_WEIGHT 0.5     /* of the newest round: the last pass resembles the late rounds */
#define ROUND_LEAST_PAGES 64 /* fewer pages measure the latency of a round, not the cost of a page */
#define MOST 2e18            /* of nanoseconds (63 years) or bytes: a few of them still fit 64 bits */

void haul_estimate_init(struct haul_estimate *estimate)
{
    *estimate = (struct haul_estimate){
        .sending_ns = 200000, /* a record written to memory */
        .costs = {.stop_ns = 5000000, .start_ns = 5000000, .state_bytes = 65536},
        .wire_bytes_per_page = HAUL_PAGE_SIZE,
    };
}

/* A number that does not fit would come out as any, 0 among them. */
static uint64_t whole(double value)
{
    return (uint64_t)(value < MOST ? value : MOST);
}

static double blend(double old, double sample, double weight)
{
    return old == 0 ? sample : old + (sample - old) * weight;
}

uint64_t haul_estimate_carrying_ns(uint64_t *seen_ns, uint64_t busy_ns, uint64_t encode_ns)
{
    uint64_t carrying = busy_ns > encode_ns ? busy_ns - encode_ns : 0;
    uint64_t since = carrying > *seen_ns ? carrying - *seen_ns : 0;
    *seen_ns += since;
    return since;
}

void haul_estimate_add_window(struct haul_estimate *estimate, const struct haul_window *window)
{
    if (window->delivered_bytes < HAUL_WINDOW_LEAST_BYTES || window->busiest_ns < WINDOW_LEAST_NS) {
        return;
    }
    double busy = (double)window->busiest_ns;
    double sample = (double)window->delivered_bytes * 1e9 / busy;
    estimate->bandwidth_bytes_per_s =
        blend(estimate->bandwidth_bytes_per_s, sample, busy / (busy + WINDOW_TIME_CONSTANT_NS));
}

/* What a round takes without pages: from the mark to ROUND_DONE. */
static uint64_t round_latency(const struct haul_estimate *estimate)
{
    return estimate->round_latency_ns ? estimate->round_latency_ns : estimate->round_trip_ns;
}

void haul_estimate_add_round(struct haul_estimate *estimate, const struct haul_round_sample *sample)
{
    if (sample->pages < ROUND_LEAST_PAGES) {
        bool waited = sample->limited && sample->pages > 0; /* for max-bandwidth, which is no latency */
        if (waited) {
            return;
        }
        if (estimate->round_latency_ns == 0 || sample->elapsed_ns < estimate->round_latency_ns) {
            estimate->round_latency_ns = sample->elapsed_ns;
        }
        return;
    }
    double wire = (double)sample->wire_bytes / (double)sample->pages;
    bool replace = !sample->first && !estimate->late_round_seen;
    if (replace || estimate->round_pages == 0) {
        estimate->wire_bytes_per_page = wire;
    } else {
        estimate->wire_bytes_per_page = blend(estimate->wire_bytes_per_page, wire, ROUND_WEIGHT);
    }
    if (!sample->limited) {
        if (replace) {
            estimate->round_ns = estimate->round_pages = 0;
        }
        estimate->round_ns = blend(estimate->round_ns, (double)sample->elapsed_ns, ROUND_WEIGHT);
        estimate->round_pages = blend(estimate->round_pages, (double)sample->pages, ROUND_WEIGHT);
        estimate->late_round_seen = !sample->first;
    }
}

double haul_estimate_ns_per_page(const struct haul_estimate *estimate)
{
    double carrying = estimate->round_ns - (double)round_latency(estimate);
    double least = estimate->round_ns / 4; /* the latency is of other rounds, and may have been a worse one */
    return estimate->round_pages > 0 ? (carrying > least ? carrying : least) / estimate->round_pages : 0;
}

uint64_t haul_estimate_bandwidth(const struct haul_estimate *estimate)
{
    return estimate->switchover_bandwidth_bytes_per_s ? estimate->switchover_bandwidth_bytes_per_s
                                                      : (uint64_t)estimate->bandwidth_bytes_per_s;
}

uint64_t haul_estimate_threshold(const struct haul_estimate *estimate, uint64_t downtime_limit_ns)
{
    return whole((double)haul_estimate_bandwidth(estimate) * (double)downtime_limit_ns / 1e9);
}

/* Nanoseconds to carry `bytes`; a guess stands in while nothing was measured. */
static uint64_t carry_ns(const struct haul_estimate *estimate, double bytes)
{
    double bandwidth = (double)haul_estimate_bandwidth(estimate);
    double guess = estimate->shares_memory ? 1e9 : 100e6;
    return whole(bytes * 1e9 / (bandwidth > 0 ? bandwidth : guess));
}

void haul_estimate_downtime(const struct haul_estimate *estimate, uint64_t pages,
                            struct haul_downtime *downtime)
{
    const struct haul_guest_costs *costs = &estimate->costs;
    bool measured = !estimate->switchover_bandwidth_bytes_per_s && estimate->round_pages > 0;
    uint64_t pass = measured ? whole((double)pages * haul_estimate_ns_per_page(estimate))
                             : carry_ns(estimate, (double)pages * estimate->wire_bytes_per_page);
    uint64_t latency = round_latency(estimate);
    uint64_t trip = latency < estimate->round_trip_ns ? latency : estimate->round_trip_ns;
    *downtime = (struct haul_downtime){
        .stop_ns = costs->stop_ns,
        /* Two rounds, the last pass and what saving the device state wrote; only the second is waited for. */
        .last_pass_ns = 2 * costs->sync_ns + 2 * latency - trip + pass + estimate->flush_ns +
                        estimate->verify_ns + estimate->sending_ns,
        /* With the trip of PREPARE. */
        .device_ns = costs->device_ns + carry_ns(estimate, (double)costs->state_bytes) + trip,
        .start_ns = costs->start_ns + estimate->receiving_ns + trip,
    };
    if (estimate->shares_memory) {
        downtime->last_pass_ns = estimate->sending_ns;
    }
    downtime->total_ns =
        downtime->stop_ns + downtime->last_pass_ns + downtime->device_ns + downtime->start_ns;
}

const char *haul_estimate_longest_part(const struct haul_estimate *estimate,
                                       const struct haul_downtime *downtime, uint64_t *ns)
{
    const struct {
        const char *what;
        uint64_t ns;
    } parts[] = {
        {"to stop the guest", downtime->stop_ns},
        {"to look for written pages", 2 * estimate->costs.sync_ns},
        {"for round trips", 2 * round_latency(estimate)},
        {"to flush the destination's disks", estimate->flush_ns},
        {"to hash the memory (verify)", estimate->verify_ns},
        {"to save, carry and load the state of devices", downtime->device_ns},
        {"to write the record of the handover here", estimate->sending_ns},
        {"to write the record of the handover at the destination", estimate->receiving_ns},
        {"to start the guest", estimate->costs.start_ns},
    };
    size_t longest = 0;
    for (size_t i = 1; i < sizeof parts / sizeof parts[0]; i++) {
        longest = parts[i].ns > parts[longest].ns ? i : longest;
    }
    *ns = parts[longest].ns;
    return parts[longest].what;
}
