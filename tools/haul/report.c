/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/report.h"

#include "engine/snapshot.h"
#include "tools/haul/number.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LABEL "  %-12s "

enum cli_exit cli_outcome_exit(const struct haul_outcome *outcome)
{
    if (outcome->stats.ownership == HAUL_OWNER_UNCERTAIN || haul_outcome_stands_still(outcome)) {
        return CLI_EXIT_UNCERTAIN;
    }
    if (!haul_outcome_done(outcome)) {
        return CLI_EXIT_FAILED;
    }
    return outcome->self_check_code < 0 ? CLI_EXIT_UNSOUND : CLI_EXIT_MOVED;
}

/* Only a source knows its setup from the wait for the other side. */
static void print_times(const struct haul_outcome *outcome, FILE *out)
{
    char total[CLI_NUMBER_SIZE], setup[CLI_NUMBER_SIZE];
    fprintf(out, LABEL "%s", "Total time", cli_format_duration(total, outcome->stats.total_time_ns));
    if (outcome->source) {
        fprintf(out, ", of it setup %s", cli_format_duration(setup, outcome->stats.setup_time_ns));
    }
    fputc('\n', out);
}

static void print_downtime_row(const char *name, const struct haul_downtime *part, FILE *out)
{
    char total[CLI_NUMBER_SIZE], stop[CLI_NUMBER_SIZE], pass[CLI_NUMBER_SIZE], device[CLI_NUMBER_SIZE],
        start[CLI_NUMBER_SIZE];
    fprintf(out, LABEL "%-10s %10s %10s %10s %10s %10s\n", "", name,
            cli_format_duration(total, part->total_ns), cli_format_duration(stop, part->stop_ns),
            cli_format_duration(pass, part->last_pass_ns), cli_format_duration(device, part->device_ns),
            cli_format_duration(start, part->start_ns));
}

static void print_downtime(const struct haul_stats *stats, FILE *out)
{
    char limit[CLI_NUMBER_SIZE];
    fprintf(out, LABEL "%-10s %10s %10s %10s %10s %10s\n", "Downtime", "", "total", "stop", "last pass",
            "device", "start");
    print_downtime_row("predicted", &stats->expected, out);
    if (stats->actual.total_ns) {
        print_downtime_row("actual", &stats->actual, out);
    }
    fprintf(out, LABEL "%-10s %10s\n", "", "limit", cli_format_duration(limit, stats->downtime_limit_ns));
}

/* The stop of a background snapshot, and what it cost the guest afterwards. */
static void print_disturbance(const struct haul_stats *stats, FILE *out)
{
    char total[CLI_NUMBER_SIZE], stop[CLI_NUMBER_SIZE], device[CLI_NUMBER_SIZE], protect[CLI_NUMBER_SIZE],
        start[CLI_NUMBER_SIZE];
    const struct haul_downtime *part = &stats->actual;
    fprintf(out, LABEL "%s (stop %s, device state %s, write protection %s, start %s)\n", "Stood still",
            cli_format_duration(total, part->total_ns), cli_format_duration(stop, part->stop_ns),
            cli_format_duration(device, part->device_ns), cli_format_duration(protect, part->last_pass_ns),
            cli_format_duration(start, part->start_ns));
    fprintf(out, LABEL "%" PRIu64, "Writes held", stats->write_faults);
    if (stats->write_faults) {
        fprintf(out, ": half of them for up to %s, 99 %% for up to %s, the longest for %s",
                cli_format_duration(total, stats->write_fault_p50_ns),
                cli_format_duration(stop, stats->write_fault_p99_ns),
                cli_format_duration(device, stats->write_fault_longest_ns));
    }
    fputc('\n', out);
}

static void print_volume(const struct haul_outcome *outcome, FILE *out)
{
    const struct haul_stats *stats = &outcome->stats;
    char total[CLI_NUMBER_SIZE], sent[CLI_NUMBER_SIZE], rate[CLI_NUMBER_SIZE];
    bool file = outcome->uri && haul_file_path(outcome->uri);
    const char *where = !file ? "on the wire" : outcome->source ? "to the file" : "from the file";
    double seconds = (double)stats->total_time_ns / 1e9;
    uint64_t mean = seconds > 0 ? (uint64_t)((double)stats->transferred / seconds) : 0;
    if (stats->mode == HAUL_MODE_CPR_TRANSFER) {
        fprintf(out, LABEL "%s, handed over as it is (--mode %s)\n", "Memory",
                cli_format_bytes(total, stats->total), outcome->mode);
        return;
    }
    fprintf(out, LABEL "%s\n", "Memory", cli_format_bytes(total, stats->total));
    if (outcome->source && !haul_outcome_is_snapshot(outcome)) {
        fprintf(out, LABEL "%" PRIu64 "\n", "Rounds", stats->dirty_sync_count);
    }
    if (outcome->source) {
        fprintf(out, LABEL "%s %s, %s on average\n", "Sent", cli_format_bytes(sent, stats->transferred),
                where, cli_format_rate(rate, mean));
    } else {
        fprintf(out, LABEL "%s %s\n", file ? "Read" : "Received", cli_format_bytes(sent, stats->transferred),
                where);
    }
    fprintf(out, LABEL "%" PRIu64 " with content, %" PRIu64 " zero", "Pages", stats->normal,
            stats->duplicate);
    if (outcome->source) { /* the other side sees no difference */
        fprintf(out, " (%" PRIu64 " of them never touched)", stats->holes);
    }
    fputc('\n', out);
    if (outcome->source && !file) {
        fprintf(out, LABEL "%.2f for compressed pages (--compress %s)\n", "Ratio", stats->compression_ratio,
                outcome->compress ? outcome->compress : "none");
    }
    if (stats->disk.count) {
        fprintf(out, LABEL "%" PRIu32 " disk%s of %s, %s %s, flushed in %s\n", "Disks", stats->disk.count,
                stats->disk.count == 1 ? "" : "s", cli_format_bytes(total, stats->disk.total),
                cli_format_bytes(sent, stats->disk.transferred), outcome->source ? "sent" : "received",
                cli_format_duration(rate, stats->disk.flush_ns));
    }
    if (stats->tracker[0]) {
        fprintf(out, LABEL "%s\n", "Tracker", stats->tracker);
    }
    if (stats->rdma_provider[0]) {
        fprintf(out, LABEL "%s, %s registered in %" PRIu32 " region%s\n", "RDMA", stats->rdma_provider,
                cli_format_bytes(sent, stats->rdma_registered_bytes), stats->rdma_regions,
                stats->rdma_regions == 1 ? "" : "s");
    }
}

static void format_place(char *text, size_t size, int value)
{
    if (value < 0) {
        snprintf(text, size, "any");
    } else {
        snprintf(text, size, "%d", value);
    }
}

static void print_channels(const struct haul_outcome *outcome, FILE *out)
{
    if (!outcome->channel_count) {
        return;
    }
    fprintf(out,
            "\n  Channel  CPU Node      Bytes     Pages      Zero       Raw   Encoded      Busy   Stalled\n");
    for (unsigned i = 0; i < outcome->channel_count; i++) {
        const struct haul_channel_stats *channel = &outcome->channels[i];
        char cpu[16], node[16], bytes[CLI_NUMBER_SIZE], busy[CLI_NUMBER_SIZE], stalled[CLI_NUMBER_SIZE];
        format_place(cpu, sizeof cpu, channel->cpu);
        format_place(node, sizeof node, channel->node);
        fprintf(out, "  %7u %4s %4s %10s %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %9s %9s\n", i,
                cpu, node, cli_format_bytes(bytes, channel->bytes), channel->pages, channel->zero,
                channel->raw, channel->compressed, cli_format_duration(busy, channel->busy_ns),
                cli_format_duration(stalled, channel->stalled_ns));
    }
}

void cli_report_print(const struct haul_outcome *outcome, FILE *out)
{
    char headline[HAUL_OUTCOME_HEADLINE_SIZE];
    haul_outcome_headline(outcome, headline, sizeof headline);
    fprintf(out, "%s\n", headline);
    /* Nothing of a move that never got to its memory is worth a table. */
    bool handed_over =
        outcome->stats.mode == HAUL_MODE_CPR_TRANSFER && outcome->stats.ownership == HAUL_OWNER_DESTINATION;
    if (outcome->stats.transferred || handed_over) {
        fputc('\n', out);
        print_times(outcome, out);
        if (haul_outcome_is_snapshot(outcome)) {
            print_disturbance(&outcome->stats, out);
        } else if (outcome->source) {
            print_downtime(&outcome->stats, out);
        }
        print_volume(outcome, out);
    }
    if (outcome->verify && outcome->stats.ownership == HAUL_OWNER_DESTINATION) {
        fprintf(out, LABEL "%s\n", "Verified", "yes: the hashes of both sides' memory are equal");
    }
    if (outcome->self_check[0]) {
        fprintf(out, LABEL "%s\n", "Guest", outcome->self_check);
    }
    if (outcome->summary[0]) {
        fprintf(out, LABEL "%s\n", "Machine", outcome->summary);
    }
    if (outcome->id[0]) {
        fprintf(out, LABEL "%s\n", "Move ID", outcome->id);
    }
    print_channels(outcome, out);
    fflush(out);
}

static int print_object(json_t *json, FILE *out)
{
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(json);
    if (!text) {
        return -ENOMEM;
    }
    fprintf(out, "%s\n", text);
    free(text);
    return fflush(out) == 0 ? 0 : -EIO;
}

int cli_json_print(const struct haul_outcome *outcome, FILE *out)
{
    return print_object(haul_outcome_json(outcome), out);
}

int cli_json_print_failure(int code, const char *sentence, FILE *out)
{
    return print_object(haul_outcome_json_failure(code, sentence), out);
}
