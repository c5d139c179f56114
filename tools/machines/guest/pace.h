/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_PACE_H
#define HAUL_TOOLS_MACHINES_GUEST_PACE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * How fast the workload writes: `bytes_per_s` at most, and `percent` less than that and than the CPU allows
 * while the migration throttles. Times are CLOCK_MONOTONIC nanoseconds given by the caller; the runner's lock
 * protects it.
 */
struct haul_guest_pace {
    uint64_t bytes_per_s;
    unsigned percent;
    double credit; /* pages that may be written now */
    uint64_t last_ns;
    uint64_t idle_until_ns; /* the CPU's share of throttling */
};

void haul_guest_pace_init(struct haul_guest_pace *pace, uint64_t bytes_per_s, uint64_t now_ns);
/* haul_guest_pace_restart forgets the time that passed while the guest did not run. */
void haul_guest_pace_restart(struct haul_guest_pace *pace, uint64_t now_ns);
/* haul_guest_pace_take returns how many pages to write now; 0: ask again in *wait_ns. */
uint32_t haul_guest_pace_take(struct haul_guest_pace *pace, uint64_t now_ns, uint64_t *wait_ns);
/* haul_guest_pace_ran tells that the guest ran from `from_ns` to `to_ns`. */
void haul_guest_pace_ran(struct haul_guest_pace *pace, uint64_t from_ns, uint64_t to_ns);

#ifdef __cplusplus
}
#endif
#endif
