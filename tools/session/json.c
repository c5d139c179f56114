/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/outcome.h"

#include "tools/session/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* json_int_t is signed; no counter of ours comes near its end. */
static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* Whole milliseconds, as query-migrate has them. */
static json_t *whole_ms(uint64_t nanoseconds)
{
    return integer((nanoseconds + 500000) / 1000000);
}

/* Milliseconds with three decimals, for parts that are often shorter than one. */
static json_t *fine_ms(uint64_t nanoseconds)
{
    uint64_t microseconds = (nanoseconds + 500) / 1000;
    return json_real((double)microseconds / 1e3);
}

static json_t *ram_json(const struct haul_stats *stats)
{
    /* What disks were given may not have left this host yet. */
    uint64_t disk = stats->disk.transferred;
    uint64_t own = stats->transferred > disk ? stats->transferred - disk : 0;
    double megabits = (double)stats->transferred * 8 / 1e6;
    double seconds = (double)stats->total_time_ns / 1e9;
    return json_pack("{s:o s:o s:o s:o s:o s:o s:o s:o s:f s:o s:o s:i s:o s:o s:i s:i}", "transferred",
                     integer(own), "remaining", integer(stats->remaining), "total", integer(stats->total),
                     "duplicate", integer(stats->duplicate), "normal", integer(stats->normal), "normal-bytes",
                     integer(stats->normal * stats->page_size), "holes", integer(stats->holes),
                     "dirty-pages-rate", integer(stats->dirty_pages_rate), "mbps",
                     seconds > 0 ? megabits / seconds : 0.0, "pages-per-second",
                     integer(stats->pages_per_second), "dirty-sync-count", integer(stats->dirty_sync_count),
                     "page-size", (int)stats->page_size, "threshold-size", integer(stats->threshold_size),
                     "multifd-bytes", integer(stats->transferred), "skipped", 0, "postcopy-requests", 0);
}

static json_t *disk_json(const struct haul_stats *stats)
{
    const struct haul_disk_stats *disk = &stats->disk;
    return json_pack("{s:o s:o s:o s:o s:o s:o s:o s:o s:o}", "transferred", integer(disk->transferred),
                     "remaining", integer(disk->remaining), "total", integer(disk->total), "duplicate",
                     integer(disk->duplicate), "normal", integer(disk->normal), "normal-bytes",
                     integer(disk->normal * stats->page_size), "dirty-pages-rate",
                     integer(disk->dirty_pages_rate), "flush-time", fine_ms(disk->flush_ns), "disks",
                     integer(disk->count));
}

static json_t *parts_json(const struct haul_downtime *part)
{
    return json_pack("{s:o s:o s:o s:o s:o s:o}", "total", fine_ms(part->total_ns), "stop",
                     fine_ms(part->stop_ns), "last-pass", fine_ms(part->last_pass_ns), "device",
                     fine_ms(part->device_ns), "start", fine_ms(part->start_ns), "held",
                     fine_ms(part->held_ns));
}

static json_t *channels_json(const struct haul_outcome *outcome)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < outcome->channel_count; i++) {
        const struct haul_channel_stats *channel = &outcome->channels[i];
        json_array_append_new(
            array, json_pack("{s:i s:o s:o s:o s:o s:o s:o s:o s:i s:i s:i}", "id", (int)i, "bytes",
                             integer(channel->bytes), "pages", integer(channel->pages), "zero",
                             integer(channel->zero), "raw", integer(channel->raw), "compressed",
                             integer(channel->compressed), "busy-time", fine_ms(channel->busy_ns),
                             "stalled-time", fine_ms(channel->stalled_ns), "cpu", channel->cpu, "node",
                             channel->node, "thread-id", channel->tid));
    }
    return array;
}

/* "ECONNREFUSED": scripts compare names, not this machine's numbers. */
static json_t *error_json(int code, const char *sentence)
{
    const char *name = strerrorname_np(abs(code));
    return json_pack("{s:s s:o}", "code", name ? name : "EIO", "desc", haul_text_json(sentence));
}

static void add_failure(json_t *json, int code, const char *sentence)
{
    json_object_set_new(json, "error-desc", haul_text_json(sentence));
    json_object_set_new(json, "error", error_json(code, sentence));
}

/* The drives that QEMU mirrors, in the names of its query-block-jobs; `device` is the drive. */
static json_t *jobs_json(const struct haul_outcome *outcome)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < outcome->stats.streams; i++) {
        const struct haul_stream_stats *stream = &outcome->streams[i];
        json_array_append_new(array, json_pack("{s:o s:s s:o s:o s:b s:o}", "device",
                                               haul_text_json(stream->name), "type", "mirror", "len",
                                               integer(stream->length), "offset", integer(stream->offset),
                                               "ready", (int)stream->ready, "bytes", integer(stream->bytes)));
    }
    return array;
}

json_t *haul_outcome_json_failure(int code, const char *sentence)
{
    json_t *json = json_pack("{s:s}", "status", "failed");
    if (json) {
        add_failure(json, code, sentence);
    }
    return json;
}

json_t *haul_outcome_json(const struct haul_outcome *outcome)
{
    const struct haul_stats *stats = &outcome->stats;
    bool moved = stats->ownership == HAUL_OWNER_DESTINATION;
    json_t *json = json_pack(
        "{s:s s:s s:s s:s s:s s:o s:o s:o s:o s:o}", "status", outcome->status, "side",
        outcome->source ? "source" : "destination", "ownership", haul_ownership_name(stats->ownership),
        "migration-id", outcome->id, "machine", outcome->machine ? outcome->machine : "", "total-time",
        whole_ms(stats->total_time_ns), "setup-time", whole_ms(stats->setup_time_ns), "downtime",
        whole_ms(stats->actual.total_ns), "expected-downtime", whole_ms(stats->expected.total_ns),
        "downtime-limit", whole_ms(stats->downtime_limit_ns));
    if (!json) {
        return NULL;
    }
    json_object_set_new(json, "downtime-detail",
                        json_pack("{s:o s:o}", "predicted", parts_json(&stats->expected), "actual",
                                  parts_json(&stats->actual)));
    if (outcome->machine_ended || haul_outcome_stands_still(outcome)) {
        json_object_set_new(json, "guest", json_string(outcome->machine_ended ? "ended" : "stopped"));
    }
    json_object_set_new(json, "ram", ram_json(stats));
    if (stats->disk.count) {
        json_object_set_new(json, "disk", disk_json(stats));
    }
    json_object_set_new(json, "channels", channels_json(outcome));
    json_object_set_new(json, "mode", json_string(outcome->mode ? outcome->mode : "normal"));
    json_object_set_new(json, "tracker", json_string(stats->tracker));
    if (haul_outcome_is_snapshot(outcome)) {
        json_object_set_new(json, "write-faults",
                            json_pack("{s:o s:o s:o s:o}", "count", integer(stats->write_faults), "p50",
                                      fine_ms(stats->write_fault_p50_ns), "p99",
                                      fine_ms(stats->write_fault_p99_ns), "longest",
                                      fine_ms(stats->write_fault_longest_ns)));
    }
    if (stats->rdma_provider[0]) {
        json_object_set_new(json, "rdma",
                            json_pack("{s:s s:o s:o}", "provider", stats->rdma_provider, "registered-bytes",
                                      integer(stats->rdma_registered_bytes), "regions",
                                      integer(stats->rdma_regions)));
    }
    if (outcome->source && stats->stream_length) {
        json_object_set_new(json, "block-jobs", jobs_json(outcome));
    }
    if (stats->streams) {
        json_object_set_new(json, "streams",
                            json_pack("{s:o s:o}", "connections", integer(stats->streams), "bytes",
                                      integer(stats->stream_bytes)));
    }
    json_object_set_new(json, "bandwidth", integer(stats->bandwidth_bytes_per_s));
    json_object_set_new(json, "threshold-size", integer(stats->threshold_size));
    json_object_set_new(json, "compression-ratio", json_real(stats->compression_ratio));
    json_object_set_new(json, "round-trip-time", fine_ms(stats->round_trip_ns));
    json_object_set_new(json, "migration-thread-cpu-time", fine_ms(stats->migration_thread_cpu_ns));
    json_object_set_new(json, "verified", json_boolean(outcome->verify && moved));
    if (outcome->summary[0]) {
        json_object_set_new(json, "summary", haul_text_json(outcome->summary));
    }
    if (outcome->self_check[0]) {
        json_object_set_new(
            json, "self-check",
            json_pack("{s:b s:s}", "passed", outcome->self_check_code == 0, "desc", outcome->self_check));
    }
    if (stats->throttle_percent) {
        json_object_set_new(json, "cpu-throttle-percentage", integer(stats->throttle_percent));
    }
    if (outcome->code < 0) {
        add_failure(json, outcome->code, outcome->error.message);
    } else if (outcome->self_check_code < 0) {
        json_object_set_new(json, "error", error_json(outcome->self_check_code, outcome->self_check));
    }
    return json;
}
