/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/source/source.h"

#include "engine/bitmap.h"
#include "engine/clock.h"
#include "engine/disks.h"
#include "engine/file/source.h"
#include "engine/streams.h"
#include "engine/verify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READY_POLL_NS 100000000u /* between two questions whether the guest is ready */
#define WINDOW_NS 100000000u
#define FIRST_WINDOW_NS 10000000u /* until something is known of the channels */
#define LINK_STEP_NS 4000000u     /* of the kernel's clock, in which it counts how long a link is busy */
#define SLOW_ROUNDS_BEFORE_ADVICE 3
#define ROUND_WORTH_MEASURING 64 /* pages sent before a round may be cut short */
#define LATENCY_ROUNDS 3
#define LATENCY_NS 5000000u /* no further one after so long */
#define MARGIN 10           /* a tenth of the limit is for what no prediction knows */
#define SAMPLES 3           /* at most, of what hashing will take, and of the latency */

/* ---- measuring ---- */

/* Bounds what waits in the kernel: what a lower max-bandwidth, or the end of a round, would have to wait for.
 */
static void keep_short(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    bool limited = haul_source_rate_limit(migration) > 0;
    source->kept_short = limited;
    for (unsigned i = 0; i < source->sender_count; i++) {
        if (haul_pace_unsent(&source->paces[i], limited)) {
            haul_sender_keep_short(source->senders[i], source->paces[i].unsent_bytes);
        }
    }
}

/*
 * For how long channel `index` worked since the last window. Under max-bandwidth its thread puts a piece into
 * an empty socket, which takes it at once however slow the link is, so the kernel is asked.
 */
static uint64_t worked_ns(struct haul_source *source, unsigned index,
                          const struct haul_channel_counters *counters)
{
    uint64_t busy =
        haul_estimate_carrying_ns(&source->carrying_ns[index], counters->busy_ns, counters->encode_ns);
    uint64_t link = haul_sender_link_busy_ns(source->senders[index]);
    uint64_t since = link - source->link_base_ns[index];
    source->link_base_ns[index] = link;
    if (!source->kept_short || link == 0) {
        return busy;
    }
    since = since > LINK_STEP_NS ? since : LINK_STEP_NS;
    return busy > since ? busy : since;
}

/* Under a low max-bandwidth a window is as long as it takes to deliver something worth measuring. */
static bool too_little_to_measure(const struct haul_source *source)
{
    uint64_t delivered = 0;
    for (unsigned i = 0; i < source->sender_count; i++) {
        struct haul_channel_counters counters;
        haul_sender_counters(source->senders[i], &counters);
        delivered += counters.bytes_delivered - source->window_base[i].bytes_delivered;
    }
    return delivered < HAUL_WINDOW_LEAST_BYTES;
}

void haul_source_measure(struct haul_migration *migration, bool force)
{
    struct haul_source *source = migration->source;
    uint64_t now = haul_now_ns();
    if (haul_source_take_knobs(migration)) {
        haul_source_publish(migration);
    }
    if (source->kept_short != (haul_source_rate_limit(migration) > 0)) {
        keep_short(migration); /* at once: the last pass must not wait for the next window */
    }
    bool unknown = source->sender_count > 0 && source->paces[0].ns_per_page == 0;
    if (!force && now - source->window_started_ns < (unknown ? FIRST_WINDOW_NS : WINDOW_NS)) {
        return;
    }
    source->window_started_ns = now;
    if (!force && source->kept_short && too_little_to_measure(source)) {
        haul_source_publish(migration);
        return;
    }
    struct haul_window window = {0};
    for (unsigned i = 0; i < source->sender_count; i++) {
        struct haul_channel_counters *base = &source->window_base[i];
        struct haul_channel_counters counters;
        haul_sender_counters(source->senders[i], &counters);
        /* Delivered bytes can lag behind a base that was read at another moment, never by much. */
        uint64_t delivered = counters.bytes_delivered > base->bytes_delivered
                                 ? counters.bytes_delivered - base->bytes_delivered
                                 : 0;
        window.delivered_bytes += delivered;
        uint64_t busy = worked_ns(source, i, &counters);
        if (source->kept_short) {
            window.busiest_ns += busy; /* the pieces go one after the other, by turns */
        } else {
            window.busiest_ns = busy > window.busiest_ns ? busy : window.busiest_ns;
        }
        struct haul_pace_sample sample = {.delivered_bytes = delivered,
                                          .pages = counters.pages - base->pages,
                                          .busy_ns = counters.busy_ns - base->busy_ns};
        haul_pace_measure(&source->paces[i], &sample);
        *base = counters;
    }
    haul_pace_share(source->paces, source->sender_count, HAUL_SENDER_DEPTH);
    keep_short(migration);
    haul_estimate_add_window(&source->estimate, &window);
    haul_source_publish(migration);
}

void haul_source_publish(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    source->estimate.round_trip_ns = source->file ? 0 : haul_control_round_trip_ns(migration->control);
    struct haul_downtime expected;
    haul_estimate_downtime(&source->estimate, source->dirty_pages, &expected);
    uint64_t limit_ns = (uint64_t)haul_knobs_downtime_limit_ms(migration) * 1000000;
    pthread_mutex_lock(&migration->lock);
    struct haul_stats *stats = &migration->stats;
    stats->remaining = (source->dirty_pages - source->dirty_disk_pages) * HAUL_PAGE_SIZE;
    stats->dirty_pages_rate = (uint64_t)(source->dirty_pages_per_s - source->dirty_disk_pages_per_s);
    stats->disk.remaining = source->dirty_disk_pages * HAUL_PAGE_SIZE;
    stats->disk.dirty_pages_rate = (uint64_t)source->dirty_disk_pages_per_s;
    stats->dirty_sync_count = source->passes;
    stats->bandwidth_bytes_per_s = (uint64_t)source->estimate.bandwidth_bytes_per_s;
    stats->threshold_size = haul_estimate_threshold(&source->estimate, limit_ns);
    stats->throttle_percent = source->throttle_percent;
    stats->migration_thread_cpu_ns = haul_thread_cpu_ns();
    if (!source->stopped) {
        stats->expected = expected;
    }
    pthread_mutex_unlock(&migration->lock);
}

void haul_source_count_dirty(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    source->dirty_pages = source->dirty_disk_pages = 0;
    for (uint32_t i = 0; i < migration->view_count; i++) {
        uint64_t pages = haul_bitmap_count(source->bitmaps[i], migration->views[i].pages);
        source->dirty_pages += pages;
        source->dirty_disk_pages += migration->views[i].io ? pages : 0;
    }
}

int haul_source_sync(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    uint64_t begun = haul_now_ns();
    uint64_t pages = 0;
    uint64_t disk_pages = 0;
    int rc = migration->tracker->sync(migration->tracker_opaque, source->bitmaps, &pages, error);
    if (rc < 0) {
        return haul_error_prefix(error, "reading the dirty tracker: ");
    }
    rc = haul_disks_fetch(migration, source->bitmaps + migration->block_count, &disk_pages, error);
    if (rc < 0) {
        return rc;
    }
    uint64_t now = haul_now_ns();
    haul_source_count_dirty(migration);
    source->estimate.flush_ns = source->dirty_disk_pages > 0 ? source->flush_cost_ns : 0;
    source->estimate.costs.sync_ns = now - begun;
    uint64_t since = begun - source->last_sync_ns;
    if (since > 0) {
        source->dirty_pages_per_s = (double)(pages + disk_pages) * 1e9 / (double)since;
        source->dirty_disk_pages_per_s = (double)disk_pages * 1e9 / (double)since;
    }
    source->last_sync_ns = begun;
    return 0;
}

/* ---- rounds ---- */

void haul_source_begin_pass(struct haul_migration *migration)
{
    migration->source->round++;
    migration->source->passes++;
    if (migration->events.pass) {
        migration->events.pass(migration->events_opaque, migration->source->passes);
    }
}

/* Learns from a round what making disks durable costs. What a bulk round had to flush says little of that. */
static void learn_flush(struct haul_source *source, bool first)
{
    if (source->flush_ns == 0) {
        return;
    }
    source->flush_cost_ns =
        first || !source->late_flush_seen ? source->flush_ns : (source->flush_cost_ns + source->flush_ns) / 2;
    source->late_flush_seen = !first;
}

/* Sends what is dirty as one round and waits until the destination has it. */
static int send_round(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    struct haul_round_sample sample = {
        .pages = source->dirty_pages,
        .first = source->passes == 0,
        .limited = atomic_load_explicit(&migration->knobs.max_bandwidth, memory_order_relaxed) != 0,
    };
    source->round_pages = source->dirty_pages;
    uint64_t begun = haul_now_ns();
    struct haul_source_sum before = haul_source_add_up(source);
    haul_source_begin_pass(migration);
    int rc = sample.first ? haul_dispatch_holes(migration, error) : 0;
    if (rc == 0) {
        rc = haul_dispatch_pages(migration, error);
    }
    sample.pages -= source->dirty_pages; /* what a round that was cut short left */
    if (rc == 0) {
        rc = haul_dispatch_mark(migration, error);
    }
    if (rc == 0) {
        rc = haul_source_wait_round(migration, source->round, error);
    }
    if (rc < 0) {
        return rc;
    }
    struct haul_source_sum after = haul_source_add_up(source);
    if (sample.first) {
        sample.pages = after.content - before.content; /* zero pages cost next to nothing */
    }
    sample.elapsed_ns = haul_now_ns() - begun;
    if (sample.first) {
        haul_source_forget_present(migration);
    }
    if (source->flush_ns > sample.elapsed_ns) {
        return haul_error_set(error, EPROTO,
                              "the destination says that round %u flushed its disks for %llu ms, which is "
                              "longer than the round took",
                              source->round, (unsigned long long)(source->flush_ns / 1000000));
    }
    sample.elapsed_ns -= source->flush_ns;
    sample.wire_bytes = after.written - before.written;
    learn_flush(source, sample.first);
    haul_source_measure(migration, true);
    haul_estimate_add_round(&source->estimate, &sample);
    haul_source_publish(migration);
    if (migration->events.round) {
        migration->events.round(migration->events_opaque, source->passes);
    }
    return 0;
}

/* ---- convergence ---- */

/* "memory at 10 MB/s", "its disks at 10 MB/s", or both: what the guest writes, on the wire. */
static void tell_dirt(const struct haul_source *source, char *text, size_t size)
{
    double megabytes = source->estimate.wire_bytes_per_page / 1e6;
    double disks = source->dirty_disk_pages_per_s * megabytes;
    double memory = source->dirty_pages_per_s * megabytes - disks;
    if (disks < memory / 10) {
        snprintf(text, size, "memory at %.0f MB/s", memory + disks);
    } else if (memory < disks / 10) {
        snprintf(text, size, "its disks at %.0f MB/s", memory + disks);
    } else {
        snprintf(text, size, "memory at %.0f MB/s and its disks at %.0f MB/s", memory, disks);
    }
}

static void advise(struct haul_migration *migration, uint64_t predicted_ns)
{
    struct haul_source *source = migration->source;
    uint64_t bandwidth = (uint64_t)source->estimate.bandwidth_bytes_per_s;
    uint64_t cap = haul_source_rate_limit(migration);
    uint64_t flush_ns = source->estimate.flush_ns;
    bool capped = cap > 0 && cap < bandwidth;
    bool flushes = flush_ns > predicted_ns / 2; /* then it is the destination's disks that are too slow */
    char dirt[96];
    char flush[64] = "";
    tell_dirt(source, dirt, sizeof dirt);
    if (flush_ns > predicted_ns / 10) {
        snprintf(flush, sizeof flush, ", %llu ms of it to flush the destination's disks",
                 (unsigned long long)(flush_ns / 1000000));
    }
    haul_migration_say(
        migration,
        "does not converge: the guest dirties %s on the wire, %s %.0f MB/s, and stopping now would take %llu "
        "ms%s (limit %u ms); a longer downtime limit, %sor %s would help",
        dirt, capped ? "max-bandwidth allows" : "the channels carry",
        (double)(capped ? cap : bandwidth) / 1e6, (unsigned long long)(predicted_ns / 1000000), flush,
        haul_knobs_downtime_limit_ms(migration),
        migration->guest.throttle && !migration->options.auto_converge ? "auto-converge " : "",
        flushes ? "a faster disk there" : "more bandwidth");
    source->advised = true;
}

/* Called when the prediction does not fit: says so early, and does what the options allow. */
static int not_converged(struct haul_migration *migration, uint64_t predicted_ns, uint64_t best_ns,
                         struct haul_error *error)
{
    struct haul_source *source = migration->source;
    uint32_t most = migration->options.max_rounds;
    if (most != 0 && source->passes >= most) {
        if (!source->advised) {
            advise(migration, predicted_ns);
        }
        return haul_error_set(
            error, ETIME,
            "not converged after %u rounds: stopping now would take %llu ms, the downtime limit is %u "
            "ms; raise the limit or the number of rounds",
            source->passes, (unsigned long long)(predicted_ns / 1000000),
            haul_knobs_downtime_limit_ms(migration));
    }
    bool closer = predicted_ns < best_ns - best_ns / 10;
    source->slow_rounds = closer ? 0 : source->slow_rounds + 1;
    if (source->slow_rounds < SLOW_ROUNDS_BEFORE_ADVICE) {
        return 0;
    }
    if (!source->advised) {
        advise(migration, predicted_ns);
    }
    if (migration->options.auto_converge && migration->guest.throttle) {
        haul_source_throttle_more(migration);
    }
    return 0;
}

void haul_source_ask_costs(struct haul_migration *migration)
{
    struct haul_guest_costs *costs = &migration->source->estimate.costs;
    if (migration->guest.estimate) {
        migration->guest.estimate(migration->guest_opaque, costs);
    }
    if (migration->source->file) {
        costs->start_ns = haul_file_source_cost_ns(migration->source->file);
    }
}

/* Asks every handler how much state it would save now. */
static int iterate_handlers(struct haul_migration *migration, struct haul_error *error)
{
    uint64_t total = 0;
    bool known = false;
    for (uint32_t i = 0; i < migration->handler_count; i++) {
        const struct haul_handler *handler = &migration->handlers[i];
        uint64_t pending = 0;
        if (!handler->ops->iterate) {
            continue;
        }
        int rc = handler->ops->iterate(handler->opaque, &pending, error);
        if (rc < 0) {
            return haul_error_prefix(error, "state handler %s: ", handler->ops->name);
        }
        total += pending;
        known = true;
    }
    haul_source_ask_costs(migration);
    if (known) {
        migration->source->estimate.costs.state_bytes = total;
    }
    return 0;
}

static bool is_within_limit(const struct haul_migration *migration, uint64_t ns)
{
    uint64_t limit = (uint64_t)haul_knobs_downtime_limit_ms(migration) * 1000000;
    return ns <= limit - limit / MARGIN;
}

/* Predicts the downtime if the guest were stopped now, and tells whether it fits the limit. */
static bool fits_now(const struct haul_migration *migration, struct haul_downtime *expected)
{
    const struct haul_source *source = migration->source;
    /* What was written since the last scan, and is while the guest is being stopped, comes on top of what the
     * scan saw. */
    uint64_t unseen_ns = haul_now_ns() - source->last_sync_ns + source->estimate.costs.lead_ns;
    uint64_t unseen = (uint64_t)(source->dirty_pages_per_s * (double)unseen_ns / 1e9);
    unseen = unseen > source->late_pages ? unseen : source->late_pages;
    haul_estimate_downtime(&source->estimate, source->dirty_pages + unseen, expected);
    return is_within_limit(migration, expected->total_ns);
}

/* Samples what hashing will take, which counts if it is the least so far. */
static void sample_verify(struct haul_migration *migration)
{
    struct haul_source *source = migration->source;
    uint64_t ns = haul_verify_cost_ns(migration, haul_allowed_cpus());
    bool least = source->verify_samples++ == 0 || ns < source->estimate.verify_ns;
    source->estimate.verify_ns = least ? ns : source->estimate.verify_ns;
}

/*
 * As fits_now. One sample that was disturbed must not keep the guest from ever being stopped: where hashing
 * alone is in the way, it is sampled again.
 */
static bool fits_once_sampled(struct haul_migration *migration, struct haul_downtime *expected)
{
    struct haul_source *source = migration->source;
    bool fits = fits_now(migration, expected);
    while (!fits && source->verify_samples > 0 && source->verify_samples < SAMPLES &&
           is_within_limit(migration, expected->total_ns - source->estimate.verify_ns)) {
        sample_verify(migration);
        fits = fits_now(migration, expected);
    }
    return fits;
}

bool haul_source_cut_short(struct haul_migration *migration)
{
    const struct haul_source *source = migration->source;
    struct haul_downtime expected;
    if (!source->reconsider || source->stopped) {
        return false;
    }
    bool measured = haul_estimate_bandwidth(&source->estimate) > 0 ||
                    source->round_pages - source->dirty_pages >= ROUND_WORTH_MEASURING;
    return measured && fits_now(migration, &expected);
}

/* Rounds without pages: what the quickest of a few takes is the latency of a round. */
static int measure_latency(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    uint64_t begun = haul_now_ns();
    uint64_t ended = begun;
    int rc = 0;
    source->latency_samples++;
    for (int i = 0; rc == 0 && i < LATENCY_ROUNDS && ended - begun < LATENCY_NS; i++) {
        struct haul_round_sample sample = {0};
        source->round++;
        rc = haul_dispatch_mark(migration, error);
        rc = rc == 0 ? haul_source_wait_round(migration, source->round, error) : rc;
        sample.elapsed_ns = haul_now_ns() - ended;
        ended += sample.elapsed_ns;
        if (rc == 0) {
            haul_estimate_add_round(&source->estimate, &sample);
        }
    }
    return rc;
}

/* Whether the latency alone is in the way: one that was disturbed must not be for ever. */
static bool doubts_latency(const struct haul_migration *migration, const struct haul_downtime *expected)
{
    const struct haul_source *source = migration->source;
    return source->latency_samples > 0 && source->latency_samples < SAMPLES &&
           is_within_limit(migration, expected->total_ns - 2 * source->estimate.round_latency_ns);
}

/* 1: the guest may be stopped; 0: not yet. */
static int ask_ready(struct haul_migration *migration, struct haul_error *error)
{
    return migration->guest.ready ? migration->guest.ready(migration->guest_opaque, error) : 1;
}

/* Waits for what the guest has to get done ahead of memory. */
static int await_ready(struct haul_migration *migration, struct haul_error *error)
{
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(&migration->source->bell);
        int rc = haul_source_check(migration, error);
        rc = rc < 0 ? rc : ask_ready(migration, error);
        if (rc != 0) {
            haul_streams_set_share(migration->streams, HAUL_STREAMS_HALF);
            return rc < 0 ? rc : 0;
        }
        haul_source_measure(migration, false);
        haul_doorbell_wait(&migration->source->bell, ticket, READY_POLL_NS);
    }
}

/*
 * With nothing to send the guest is stopped whatever is predicted: no round would make that less, and what is
 * left of it (device state, verify, records) would be the same for ever. The operator is told. A limit of 0
 * asks for just that.
 */
static void tell_beyond(struct haul_migration *migration, const struct haul_downtime *expected)
{
    struct haul_source *source = migration->source;
    uint32_t limit_ms = haul_knobs_downtime_limit_ms(migration);
    if (limit_ms == 0 || expected->total_ns <= (uint64_t)limit_ms * 1000000 || source->told_beyond) {
        return;
    }
    uint64_t longest_ns;
    const char *longest = haul_estimate_longest_part(&source->estimate, expected, &longest_ns);
    haul_migration_say(migration,
                       "beyond the downtime limit: nothing is left to send, so the guest is stopped though "
                       "%llu ms are predicted (limit %u ms), %llu ms of it %s; waiting would not help",
                       (unsigned long long)(expected->total_ns / 1000000), limit_ms,
                       (unsigned long long)(longest_ns / 1000000), longest);
    source->told_beyond = true;
}

/* Scans, predicts, and decides. 1: stop the guest now; 0: another round. */
static int decide(struct haul_migration *migration, uint64_t *best_ns, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    int ready = ask_ready(migration, error);
    int rc = ready < 0 ? ready : haul_source_sync(migration, error);
    if (rc == 0) {
        rc = iterate_handlers(migration, error);
    }
    if (rc < 0) {
        return rc;
    }
    haul_source_take_knobs(migration);
    haul_source_publish(migration);
    struct haul_downtime expected;
    bool fits = fits_once_sampled(migration, &expected) && ready == 1;
    bool burst = source->late_pages > 0;
    source->late_pages /= 2; /* a single burst must not keep the move from ending */
    source->decided_pages = source->dirty_pages;
    /*
     * The bulk round may have met fresh memory and says little of the last pass. What follows measures that,
     * and leaves fewer pages for it.
     */
    if (fits && source->estimate.round_latency_ns == 0 && !source->file) {
        return measure_latency(migration, error);
    }
    source->reconsider = false;
    bool nothing_left = source->dirty_pages == 0 && !burst && ready == 1;
    if (fits || nothing_left) {
        tell_beyond(migration, &expected);
        pthread_mutex_lock(&migration->lock);
        migration->stats.expected = expected;
        pthread_mutex_unlock(&migration->lock);
        return 1;
    }
    if (ready == 1 && doubts_latency(migration, &expected)) {
        return measure_latency(migration, error);
    }
    rc = not_converged(migration, expected.total_ns, *best_ns, error);
    *best_ns = expected.total_ns < *best_ns ? expected.total_ns : *best_ns;
    return rc;
}

int haul_source_predict(struct haul_migration *migration, struct haul_error *error)
{
    int rc = haul_source_check(migration, error);
    if (rc == 0) {
        rc = iterate_handlers(migration, error);
    }
    if (rc == 0) {
        haul_source_publish(migration);
    }
    return rc;
}

int haul_source_rounds(struct haul_migration *migration, struct haul_error *error)
{
    if (migration->options.verify && migration->source->verify_samples == 0) {
        sample_verify(migration);
    }
    uint64_t best_ns = UINT64_MAX; /* the least predicted downtime so far */
    int rc = await_ready(migration, error);
    while (rc == 0) {
        rc = send_round(migration, error);
        if (rc == 0) {
            rc = decide(migration, &best_ns, error);
        }
    }
    return rc < 0 ? rc : 0;
}
