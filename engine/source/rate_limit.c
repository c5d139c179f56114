/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/rate_limit.h"

#define BURST_NS 50000000u

static void begin(struct haul_rate_limit *limit, uint64_t rate_bytes_per_s, uint64_t since_ns, uint64_t used)
{
    *limit = (struct haul_rate_limit){
        .rate_bytes_per_s = rate_bytes_per_s, .since_ns = since_ns, .base_bytes = used};
}

uint64_t haul_rate_limit_wait(struct haul_rate_limit *limit, uint64_t rate_bytes_per_s, uint64_t used,
                              uint64_t now_ns)
{
    if (rate_bytes_per_s == 0) {
        limit->rate_bytes_per_s = 0;
        return 0;
    }
    if (limit->rate_bytes_per_s != rate_bytes_per_s) {
        begin(limit, rate_bytes_per_s, now_ns, used);
    }
    if (used < limit->base_bytes) {
        limit->base_bytes = used; /* what was under way at `since_ns` became less than it was taken for */
    }
    double due = (double)(used - limit->base_bytes) * 1e9 / (double)rate_bytes_per_s; /* what they need */
    double elapsed = now_ns > limit->since_ns ? (double)(now_ns - limit->since_ns) : 0;
    if (elapsed > due + BURST_NS) {
        begin(limit, rate_bytes_per_s, now_ns - BURST_NS, used);
        return 0;
    }
    double wait = due - elapsed;
    if (wait <= 0) {
        return 0;
    }
    return wait < HAUL_RATE_LIMIT_LONGEST_NS ? (uint64_t)wait + 1 : HAUL_RATE_LIMIT_LONGEST_NS;
}
