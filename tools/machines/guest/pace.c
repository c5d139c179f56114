/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/pace.h"

#include "tools/machines/guest/layout.h"

#define TICK_NS 1000000ull
#define CREDIT_NS 20000000ull /* a guest that falls behind catches up this much, no more */
#define BATCH_PAGES 256u
#define IDLE_NS 1000000000ull

void haul_guest_pace_init(struct haul_guest_pace *pace, uint64_t bytes_per_s, uint64_t now_ns)
{
    *pace = (struct haul_guest_pace){.bytes_per_s = bytes_per_s, .last_ns = now_ns};
}

void haul_guest_pace_restart(struct haul_guest_pace *pace, uint64_t now_ns)
{
    pace->last_ns = now_ns;
    pace->idle_until_ns = 0;
}

uint32_t haul_guest_pace_take(struct haul_guest_pace *pace, uint64_t now_ns, uint64_t *wait_ns)
{
    double pages_per_ns =
        (double)pace->bytes_per_s / HAUL_GUEST_PAGE_SIZE / 1e9 * (100 - pace->percent) / 100;
    double limit = pages_per_ns * CREDIT_NS;
    limit = limit < 1 ? 1 : limit;
    pace->credit += pages_per_ns * (double)(now_ns - pace->last_ns);
    pace->credit = pace->credit > limit ? limit : pace->credit;
    pace->last_ns = now_ns;

    *wait_ns = IDLE_NS;
    if (now_ns < pace->idle_until_ns) {
        *wait_ns = pace->idle_until_ns - now_ns;
        return 0;
    }
    if (pace->credit < 1) {
        if (pages_per_ns > 0 && (1 - pace->credit) / pages_per_ns < (double)IDLE_NS) {
            *wait_ns = (uint64_t)((1 - pace->credit) / pages_per_ns) + 1;
            *wait_ns = *wait_ns < TICK_NS ? TICK_NS : *wait_ns;
        }
        return 0;
    }
    uint32_t pages = pace->credit < BATCH_PAGES ? (uint32_t)pace->credit : BATCH_PAGES;
    pace->credit -= pages;
    return pages;
}

void haul_guest_pace_ran(struct haul_guest_pace *pace, uint64_t from_ns, uint64_t to_ns)
{
    if (pace->percent) {
        pace->idle_until_ns = to_ns + (to_ns - from_ns) * pace->percent / (100 - pace->percent);
    }
}
