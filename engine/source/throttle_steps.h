/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_SOURCE_THROTTLE_STEPS_H
#define HAUL_ENGINE_SOURCE_THROTTLE_STEPS_H

/* By how much auto_converge slows a guest down, as plain arithmetic without threads or clocks. */

#include "engine/haul.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_THROTTLE_MOST_PERCENT 99

/* haul_throttle_steps_check: -EINVAL as haul_set_throttle_steps. */
int haul_throttle_steps_check(const struct haul_throttle_steps *steps, struct haul_error *error);

/* haul_throttle_steps_pack puts steps that were checked into one number, so that they change together;
 * haul_throttle_steps_unpack undoes it. */
uint32_t haul_throttle_steps_pack(const struct haul_throttle_steps *steps);
struct haul_throttle_steps haul_throttle_steps_unpack(uint32_t packed);

/*
 * haul_throttle_steps_next returns the percentage that follows `now` (0: not slowed down yet). With tailslow
 * no increment is larger than what brings `dirty_bytes_per_s`, if it falls as the guest's speed does, down to
 * `bandwidth_bytes_per_s`, but for the least one of 1 %. Rates of 0 are not known.
 */
unsigned haul_throttle_steps_next(const struct haul_throttle_steps *steps, unsigned now,
                                  double dirty_bytes_per_s, double bandwidth_bytes_per_s);

#ifdef __cplusplus
}
#endif
#endif
