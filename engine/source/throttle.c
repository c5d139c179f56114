/* SPDX-License-Identifier: Apache-2.0 */
/* Slowing the guest down: as the caller says, or step by step when a move does not converge. */
#include "engine/source/source.h"
#include "engine/source/throttle_steps.h"

#include <errno.h>

/* ---- the caller's side ---- */

int haul_set_throttle(struct haul_migration *migration, unsigned percent, struct haul_error *error)
{
    if (percent > HAUL_THROTTLE_MOST_PERCENT) {
        return haul_error_set(error, EINVAL, "the throttle is %u %%; it must be 0 to %d", percent,
                              HAUL_THROTTLE_MOST_PERCENT);
    }
    if (!migration->source || !migration->guest.throttle) {
        return haul_error_set(error, ENOTSUP,
                              migration->source ? "this kind of guest cannot be slowed down"
                                                : "a guest is slowed down at its source");
    }
    atomic_store_explicit(&migration->knobs.throttle, (int)percent, memory_order_relaxed);
    haul_knobs_publish(migration);
    return 0;
}

static struct haul_throttle_steps current_steps(const struct haul_migration *migration)
{
    return haul_throttle_steps_unpack(
        atomic_load_explicit(&migration->knobs.throttle_steps, memory_order_relaxed));
}

int haul_set_throttle_steps(struct haul_migration *migration, const struct haul_throttle_steps *steps,
                            struct haul_error *error)
{
    int rc = haul_throttle_steps_check(steps, error);
    if (rc == 0) {
        atomic_store_explicit(&migration->knobs.throttle_steps, haul_throttle_steps_pack(steps),
                              memory_order_relaxed);
        haul_knobs_publish(migration);
    }
    return rc;
}

/* ---- the migration_thread's side ---- */

static void set_throttle(struct haul_migration *migration, unsigned percent)
{
    struct haul_error error = {0};
    if (migration->guest.throttle(migration->guest_opaque, percent, &error) < 0) {
        haul_migration_say(migration, "the guest could not be slowed down by %u %%: %s", percent,
                           error.message);
        return;
    }
    migration->source->throttle_percent = percent;
}

void haul_source_take_throttle(struct haul_migration *migration)
{
    /* Relaxed: a number that is set meanwhile is taken now or, by its generation, the next time. */
    int asked =
        atomic_exchange_explicit(&migration->knobs.throttle, HAUL_THROTTLE_UNASKED, memory_order_relaxed);
    unsigned most = current_steps(migration).most_percent;
    if (asked != HAUL_THROTTLE_UNASKED) {
        set_throttle(migration, (unsigned)asked);
    } else if (migration->options.auto_converge && migration->source->throttle_percent > most) {
        set_throttle(migration, most);
    }
}

void haul_source_throttle_more(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    struct haul_throttle_steps steps = current_steps(migration);
    double dirty_bytes_per_s = source->dirty_pages_per_s * source->estimate.wire_bytes_per_page;
    source->slow_rounds = 0;
    set_throttle(migration, haul_throttle_steps_next(&steps, source->throttle_percent, dirty_bytes_per_s,
                                                     source->estimate.bandwidth_bytes_per_s));
}
