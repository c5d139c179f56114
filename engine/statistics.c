/* SPDX-License-Identifier: Apache-2.0 */
/* What a migration tells of itself. */
#include "engine/migration.h"

#include "engine/clock.h"
#include "engine/streams.h"

#include <errno.h>
#include <stdio.h>

void haul_get_stats(struct haul_migration *migration, struct haul_stats *stats)
{
    pthread_mutex_lock(&migration->lock);
    *stats = migration->stats;
    stats->state = haul_get_state(migration);
    uint64_t end = migration->ended_ns ? migration->ended_ns : haul_now_ns();
    stats->downtime_limit_ns = (uint64_t)haul_knobs_downtime_limit_ms(migration) * 1000000;
    stats->total_time_ns = migration->started_ns ? end - migration->started_ns : 0;
    stats->round_trip_ns = migration->control ? haul_control_round_trip_ns(migration->control) : 0;
    if (migration->source) {
        haul_source_counters(migration, stats);
    } else {
        haul_destination_counters(migration, stats);
    }
    haul_streams_count_up(migration->streams, stats);
    pthread_mutex_unlock(&migration->lock);
    stats->pages_per_second =
        stats->total_time_ns
            ? (uint64_t)((double)(stats->normal + stats->duplicate) * 1e9 / (double)stats->total_time_ns)
            : 0;
}

void haul_migration_count_channel(const struct haul_channel_counters *counters, struct haul_stats *stats)
{
    stats->transferred += counters->bytes_delivered;
    uint64_t data_pages = counters->raw_pages + counters->compressed_pages;
    /* Each counter is read at a moment of its own. */
    if (counters->zero_pages > counters->disk_zero_pages) {
        stats->duplicate += counters->zero_pages - counters->disk_zero_pages;
    }
    if (data_pages > counters->disk_data_pages) {
        stats->normal += data_pages - counters->disk_data_pages;
    }
    stats->disk.transferred += counters->disk_bytes_written;
    stats->disk.duplicate += counters->disk_zero_pages;
    stats->disk.normal += counters->disk_data_pages;
}

int haul_get_channel_stats(struct haul_migration *migration, unsigned index, struct haul_channel_stats *stats)
{
    struct haul_channel_counters counters;
    pthread_mutex_lock(&migration->lock);
    int rc = migration->source ? haul_source_channel(migration, index, &counters)
                               : haul_destination_channel(migration, index, &counters);
    pthread_mutex_unlock(&migration->lock);
    if (rc == 0) {
        *stats = (struct haul_channel_stats){
            .bytes = counters.bytes_delivered,
            .pages = counters.pages,
            .zero = counters.zero_pages,
            .raw = counters.raw_pages,
            .compressed = counters.compressed_pages,
            .busy_ns = counters.busy_ns,
            .stalled_ns = counters.stalled_ns,
            .cpu = counters.cpu,
            .node = counters.node,
            .tid = counters.tid,
        };
    }
    return rc;
}

struct thread_listing {
    struct haul_thread *threads;
    unsigned capacity;
    unsigned count;
};

static void list_thread(void *opaque, const struct haul_thread_entry *entry)
{
    struct thread_listing *listing = opaque;
    if (listing->count < listing->capacity) {
        struct haul_thread *thread = &listing->threads[listing->count];
        snprintf(thread->name, sizeof thread->name, "%s", entry->name);
        thread->tid = entry->tid;
    }
    listing->count++;
}

unsigned haul_threads(struct haul_migration *migration, struct haul_thread *threads, unsigned capacity)
{
    struct thread_listing listing = {.threads = threads, .capacity = capacity};
    haul_thread_each(&migration->threads, list_thread, &listing);
    return listing.count;
}

void haul_id(const struct haul_migration *migration, char text[33])
{
    struct haul_migration *own = (struct haul_migration *)migration;
    pthread_mutex_lock(&own->lock);
    for (size_t i = 0; i < HAUL_MIGRATION_ID_SIZE; i++) {
        snprintf(text + 2 * i, 3, "%02x", migration->id[i]);
    }
    pthread_mutex_unlock(&own->lock);
}
