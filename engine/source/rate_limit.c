/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/rate_limit.h"

#include "engine/clock.h"

#define BURST_NS 50000000u

uint64_t haul_rate_limit_wait(struct haul_rate_limit *limit, uint64_t rate_bytes_per_s, uint64_t used)
{
    if (rate_bytes_per_s == 0) {
        limit->rate_bytes_per_s = 0;
        return 0;
    }
    uint64_t now = haul_now_ns();
    if (limit->rate_bytes_per_s != rate_bytes_per_s) {
        *limit = (struct haul_rate_limit){
            .rate_bytes_per_s = rate_bytes_per_s, .since_ns = now, .base_bytes = used};
    }
    double due = (double)(used - limit->base_bytes) * 1e9 / (double)rate_bytes_per_s; /* what they need */
    double elapsed = (double)(now - limit->since_ns);
    if (elapsed > due + BURST_NS) {
        *limit = (struct haul_rate_limit){
            .rate_bytes_per_s = rate_bytes_per_s, .since_ns = now - BURST_NS, .base_bytes = used};
        return 0;
    }
    return due > elapsed ? (uint64_t)(due - elapsed) + 1 : 0;
}
