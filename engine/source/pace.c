/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/pace.h"

#define WEIGHT 0.25             /* of the latest measurement */
#define WORTH_MEASURING 5000000 /* nanoseconds of work that say something */
#define ABOUT_AS_FAST 0.75      /* of the fastest: what scheduling does to channels of the same speed */

void haul_pace_measure(struct haul_pace *pace, uint64_t delivered_bytes, uint64_t busy_ns)
{
    if (busy_ns < WORTH_MEASURING || delivered_bytes == 0) {
        return;
    }
    double now = (double)delivered_bytes / (double)busy_ns;
    pace->bytes_per_ns += pace->bytes_per_ns > 0 ? WEIGHT * (now - pace->bytes_per_ns) : now;
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
    }
}
