/* SPDX-License-Identifier: Apache-2.0 */
/* Slowing the guest down: as the caller says, or step by step when a move does not converge. */
#include "engine/source/source.h"

#include <errno.h>

#define THROTTLE_MOST_PERCENT 99

/* ---- the caller's side ---- */

int haul_set_throttle(struct haul_migration *migration, unsigned percent, struct haul_error *error)
{
    if (percent > THROTTLE_MOST_PERCENT) {
        return haul_error_set(error, EINVAL, "the throttle is %u %%; it must be 0 to %d", percent,
                              THROTTLE_MOST_PERCENT);
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

static bool is_percent(uint32_t value, uint32_t least)
{
    return value >= least && value <= THROTTLE_MOST_PERCENT;
}

int haul_throttle_steps_check(const struct haul_throttle_steps *steps, struct haul_error *error)
{
    if (!is_percent(steps->initial_percent, 1) || !is_percent(steps->increment_percent, 1) ||
        !is_percent(steps->most_percent, steps->initial_percent)) {
        return haul_error_set(error, EINVAL,
                              "the throttle begins with %u %%, grows by %u and ends at %u: each must be 1 to "
                              "%d, and the end not less than the beginning",
                              steps->initial_percent, steps->increment_percent, steps->most_percent,
                              THROTTLE_MOST_PERCENT);
    }
    return 0;
}

/* All in one number, so that they change together. */
uint32_t haul_throttle_steps_pack(const struct haul_throttle_steps *steps)
{
    return steps->initial_percent | steps->increment_percent << 8 | steps->most_percent << 16 |
           (uint32_t)steps->tailslow << 24;
}

static struct haul_throttle_steps current_steps(const struct haul_migration *migration)
{
    uint32_t packed = atomic_load_explicit(&migration->knobs.throttle_steps, memory_order_relaxed);
    return (struct haul_throttle_steps){packed & 0xff, packed >> 8 & 0xff, packed >> 16 & 0xff,
                                        packed >> 24 != 0};
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

/* The step after `now` percent. With tailslow none is larger than what brings the dirty rate, if it falls as
 * the guest's speed does, down to the bandwidth. */
static unsigned step(const struct haul_source *source, const struct haul_throttle_steps *steps, unsigned now)
{
    double dirty = source->dirty_pages_per_s * source->estimate.wire_bytes_per_page;
    double bandwidth = source->estimate.bandwidth_bytes_per_s;
    if (!steps->tailslow || dirty <= 0) {
        return steps->increment_percent;
    }
    double speed = 100.0 - now;
    double enough = speed - speed * bandwidth / dirty;
    if (enough < 1) {
        return 1; /* the guest still writes too much for its limit */
    }
    return enough < steps->increment_percent ? (unsigned)enough : steps->increment_percent;
}

int haul_source_throttle_more(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    struct haul_throttle_steps steps = current_steps(migration);
    unsigned now = source->throttle_percent;
    unsigned next = now == 0 ? steps.initial_percent : now + step(source, &steps, now);
    source->throttle_percent = next > steps.most_percent ? steps.most_percent : next;
    source->slow_rounds = 0;
    return migration->guest.throttle(migration->guest_opaque, source->throttle_percent, error);
}
