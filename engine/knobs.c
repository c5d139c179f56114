/* SPDX-License-Identifier: Apache-2.0 */
/* What may be set while a migration runs, from the caller's threads to the migration_thread. */
#include "engine/source/source.h"

#include <errno.h>

#define DOWNTIME_LIMIT_MOST_MS 2000000

/* ---- the caller's side ---- */

void haul_knobs_publish(struct haul_migration *migration)
{
    /* Release, pairs with the acquire in haul_source_take_knobs: the values were stored before. */
    atomic_fetch_add_explicit(&migration->knobs.generation, 1, memory_order_release);
    if (migration->source) {
        haul_source_wake(migration);
    }
}

void haul_set_max_bandwidth(struct haul_migration *migration, uint64_t bytes_per_s)
{
    atomic_store_explicit(&migration->knobs.max_bandwidth, bytes_per_s, memory_order_relaxed);
    if (migration->source) {
        haul_source_wake(migration); /* it may sleep by the old limit */
    }
}

void haul_set_switchover_bandwidth(struct haul_migration *migration, uint64_t bytes_per_s)
{
    atomic_store_explicit(&migration->knobs.switchover_bandwidth, bytes_per_s, memory_order_relaxed);
    haul_knobs_publish(migration);
}

int haul_set_downtime_limit(struct haul_migration *migration, uint32_t limit_ms, struct haul_error *error)
{
    if (limit_ms > DOWNTIME_LIMIT_MOST_MS) {
        return haul_error_set(error, EINVAL, "downtime_limit_ms is %u; it must be 0 to %d", limit_ms,
                              DOWNTIME_LIMIT_MOST_MS);
    }
    atomic_store_explicit(&migration->knobs.downtime_limit_ms, limit_ms, memory_order_relaxed);
    haul_knobs_publish(migration);
    return 0;
}

int haul_continue(struct haul_migration *migration)
{
    int expected = HAUL_HOLD_HELD;
    /* Pairs with the load in hold (engine/source/switchover.c). */
    if (!atomic_compare_exchange_strong(&migration->hold, &expected, HAUL_HOLD_RELEASED)) {
        return -EINVAL;
    }
    haul_source_wake(migration);
    return 0;
}

/* ---- the migration_thread's side ---- */

uint32_t haul_knobs_downtime_limit_ms(const struct haul_migration *migration)
{
    return atomic_load_explicit(&migration->knobs.downtime_limit_ms, memory_order_relaxed);
}

bool haul_source_take_knobs(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    struct haul_knobs *knobs = &migration->knobs;
    /* Acquire, pairs with the release in haul_knobs_publish. */
    uint32_t generation = atomic_load_explicit(&knobs->generation, memory_order_acquire);
    if (generation == source->knobs_generation) {
        return false;
    }
    source->knobs_generation = generation;
    source->estimate.switchover_bandwidth_bytes_per_s =
        atomic_load_explicit(&knobs->switchover_bandwidth, memory_order_relaxed);
    if (!source->stopped) {
        haul_source_take_throttle(migration);
    }
    source->reconsider = true;
    source->advised = false;
    source->slow_rounds = 0;
    return true;
}
