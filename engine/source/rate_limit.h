/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SOURCE_RATE_LIMIT_H
#define HAUL_ENGINE_SOURCE_RATE_LIMIT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The token bucket behind max-bandwidth; a zeroed one is ready for use. */
struct haul_rate_limit {
    uint64_t rate_bytes_per_s; /* what `since_ns` and `base_bytes` belong to; 0: none */
    uint64_t since_ns;
    uint64_t base_bytes; /* bytes used at `since_ns` */
};

#define HAUL_RATE_LIMIT_LONGEST_NS 1000000000u /* of a wait: then it is asked again */

/*
 * haul_rate_limit_wait returns for how many nanoseconds nothing more may be sent at `rate` (0: no limit),
 * when `used` bytes were sent up to `now_ns`, 0 for none. After idling, 50 ms worth may go at once. `used`
 * may hold a guess of what is under way, and be less the next time.
 */
uint64_t haul_rate_limit_wait(struct haul_rate_limit *limit, uint64_t rate_bytes_per_s, uint64_t used,
                              uint64_t now_ns);

#ifdef __cplusplus
}
#endif
#endif
