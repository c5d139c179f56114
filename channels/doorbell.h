/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_DOORBELL_H
#define HAUL_CHANNELS_DOORBELL_H

/*
 * A doorbell lets one thread sleep until another has something for it: a short spin, then a futex. Use:
 *     ticket = haul_doorbell_ticket(bell);
 *     if (nothing_to_do()) haul_doorbell_wait(bell, ticket, timeout_ns);
 * A ring between the ticket and the wait is never lost. Any number of ringers, one waiter.
 */

#include "channels/atomic.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_doorbell {
    alignas(HAUL_CACHE_LINE) HAUL_ATOMIC(uint32_t) value;
    HAUL_ATOMIC(uint32_t) sleeping;
};

void haul_doorbell_init(struct haul_doorbell *bell);

/* haul_doorbell_ticket is called by the waiter before it looks for work. */
uint32_t haul_doorbell_ticket(struct haul_doorbell *bell);

/* haul_doorbell_wait returns true when the bell rang after `ticket` was taken, false after timeout_ns
 * nanoseconds (UINT64_MAX: no limit). */
bool haul_doorbell_wait(struct haul_doorbell *bell, uint32_t ticket, uint64_t timeout_ns);

/* haul_doorbell_ring wakes the waiter; cheap (no system call) while it is awake. From any thread. */
void haul_doorbell_ring(struct haul_doorbell *bell);

#ifdef __cplusplus
}
#endif
#endif
