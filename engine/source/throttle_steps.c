/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/throttle_steps.h"

#include <errno.h>

static bool is_percent(uint32_t value, uint32_t least)
{
    return value >= least && value <= HAUL_THROTTLE_MOST_PERCENT;
}

int haul_throttle_steps_check(const struct haul_throttle_steps *steps, struct haul_error *error)
{
    if (!is_percent(steps->initial_percent, 1) || !is_percent(steps->increment_percent, 1) ||
        !is_percent(steps->most_percent, steps->initial_percent)) {
        return haul_error_set(error, EINVAL,
                              "the throttle begins with %u %%, grows by %u and ends at %u: each must be 1 to "
                              "%d, and the end not less than the beginning",
                              steps->initial_percent, steps->increment_percent, steps->most_percent,
                              HAUL_THROTTLE_MOST_PERCENT);
    }
    return 0;
}

uint32_t haul_throttle_steps_pack(const struct haul_throttle_steps *steps)
{
    return steps->initial_percent | steps->increment_percent << 8 | steps->most_percent << 16 |
           (uint32_t)steps->tailslow << 24;
}

struct haul_throttle_steps haul_throttle_steps_unpack(uint32_t packed)
{
    return (struct haul_throttle_steps){packed & 0xff, packed >> 8 & 0xff, packed >> 16 & 0xff,
                                        packed >> 24 != 0};
}

static unsigned increment(const struct haul_throttle_steps *steps, unsigned now, double dirty_bytes_per_s,
                          double bandwidth_bytes_per_s)
{
    if (!steps->tailslow || dirty_bytes_per_s <= 0) {
        return steps->increment_percent;
    }
    double speed = 100.0 - now;
    double enough = speed - speed * bandwidth_bytes_per_s / dirty_bytes_per_s;
    if (enough < 1) {
        return 1; /* the guest still writes too much for its limit */
    }
    return enough < steps->increment_percent ? (unsigned)enough : steps->increment_percent;
}

unsigned haul_throttle_steps_next(const struct haul_throttle_steps *steps, unsigned now,
                                  double dirty_bytes_per_s, double bandwidth_bytes_per_s)
{
    unsigned next = now == 0 ? steps->initial_percent
                             : now + increment(steps, now, dirty_bytes_per_s, bandwidth_bytes_per_s);
    return next > steps->most_percent ? steps->most_percent : next;
}
