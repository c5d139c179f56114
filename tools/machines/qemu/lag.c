/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that writes to its drives as fast as they are mirrored: the move would never end. */
#include "tools/clock.h"
#include "tools/machines/qemu/source.h"

#include <stdio.h>

#define WINDOW_NS 5000000000u
#define AGAIN_NS 60000000000u
#define NEGLIGIBLE 65536u /* bytes left: what is on its way at any moment */

static uint64_t left_of(const struct haul_qemu_mirror_job *job)
{
    return job->total_bytes > job->done_bytes ? job->total_bytes - job->done_bytes : 0;
}

static void begin_window(struct haul_qemu_source *source, uint64_t now)
{
    struct haul_qemu_lag *lag = &source->lag;
    lag->since_ns = now;
    for (unsigned i = 0; i < source->mirror.drives.count; i++) {
        lag->done_bytes[i] = source->mirror.jobs[i].done_bytes;
        lag->total_bytes[i] = source->mirror.jobs[i].total_bytes;
        lag->least_left[i] = left_of(&source->mirror.jobs[i]);
    }
}

/* What a job counts may also shrink, when a write turns out to be there already. */
static uint64_t growth(uint64_t now, uint64_t then)
{
    return now > then ? now - then : 0;
}

/* Whether one drive's end does not come nearer: before it is ready, the guest writes nearly what is mirrored;
 * later, what is always left does not go out within half of the downtime limit. */
static bool lags(const struct haul_qemu_source *source, unsigned index, uint64_t limit_ns)
{
    const struct haul_qemu_lag *lag = &source->lag;
    const struct haul_qemu_mirror_job *job = &source->mirror.jobs[index];
    uint64_t done = growth(job->done_bytes, lag->done_bytes[index]);
    uint64_t written = growth(job->total_bytes, lag->total_bytes[index]);
    if (lag->least_left[index] <= NEGLIGIBLE) {
        return false;
    }
    if (!job->ready) {
        return written > 0 && written >= done - done / 5;
    }
    double rate = source->mirror.bytes_per_s;
    return rate > 0 && (double)lag->least_left[index] * 1e9 / rate > (double)limit_ns / 2;
}

static void advise(struct haul_qemu_source *source, unsigned index, uint64_t elapsed_ns)
{
    struct haul_qemu_lag *lag = &source->lag;
    const struct haul_qemu_mirror_job *job = &source->mirror.jobs[index];
    double seconds = (double)elapsed_ns / 1e9;
    snprintf(
        lag->advice, sizeof lag->advice,
        "drive %.64s does not get ready: the guest writes %.1f MB/s to it and %.1f MB/s are mirrored; let "
        "it write less (QEMU's block_set_io_throttle), or give the move more bandwidth",
        source->mirror.drives.list[index].name,
        (double)growth(job->total_bytes, lag->total_bytes[index]) / 1e6 / seconds,
        (double)growth(job->done_bytes, lag->done_bytes[index]) / 1e6 / seconds);
    haul_say(source->migration, lag->advice);
}

void haul_qemu_lag_watch(struct haul_qemu_source *source)
{
    struct haul_qemu_lag *lag = &source->lag;
    struct haul_stats stats = {0};
    uint64_t now = haul_clock_ns();
    if (!lag->since_ns) {
        begin_window(source, now);
        return;
    }
    for (unsigned i = 0; i < source->mirror.drives.count; i++) {
        uint64_t left = left_of(&source->mirror.jobs[i]);
        lag->least_left[i] = left < lag->least_left[i] ? left : lag->least_left[i];
    }
    if (now - lag->since_ns < WINDOW_NS) {
        return;
    }
    haul_get_stats(source->migration, &stats);
    for (unsigned i = 0; i < source->mirror.drives.count; i++) {
        if ((!lag->said_ns || now - lag->said_ns > AGAIN_NS) && lags(source, i, stats.downtime_limit_ns)) {
            advise(source, i, now - lag->since_ns);
            lag->said_ns = now;
        }
    }
    begin_window(source, now);
}
