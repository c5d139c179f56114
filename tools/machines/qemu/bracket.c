/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trap T2: direct I/O pins guest pages; a page is marked written when it is pinned, and the data lands later,
 * so a scan between the two loses the write. The same holds for other processes that serve the machine's
 * queues. So where there is either, the machine is stopped for the moment of each scan: `stop` returns when
 * all I/O is drained.
 */
#include "tools/clock.h"
#include "tools/machines/qemu/source.h"

#include <errno.h>
#include <string.h>

static int open_bracket(struct haul_qemu_source *source, struct haul_error *error)
{
    char status[32];
    if (!source->bracket_why || source->switching) {
        return 0; /* in the switchover QEMU has stopped and drained the machine already */
    }
    int result = haul_qemu_status(source->qmp, status, sizeof status, error);
    if (result || strcmp(status, "running") != 0) {
        return result; /* paused by the operator: drained, and not ours to continue */
    }
    result = haul_qemu_source_rearm(source, "{\"execute\":\"cont\"}\n", error);
    if (result) {
        return result;
    }
    source->bracket_open = true;
    result = haul_qmp_execute(source->qmp, "stop", NULL, NULL, error);
    uint64_t drain = haul_clock_ns() - haul_qmp_stopped_at_ns(source->qmp);
    uint64_t faded = source->drain_ns - source->drain_ns / 4;
    source->drain_ns = drain > faded ? drain : faded;
    return result;
}

static int close_bracket(struct haul_qemu_source *source, struct haul_error *error)
{
    if (!source->bracket_open) {
        return 0;
    }
    int result = haul_qemu_continue(source->qmp, error);
    if (result) {
        return result; /* still open: the guest's resume hook tries once more, and the guardian stays armed */
    }
    source->bracket_open = false;
    return haul_qemu_source_rearm(source, "", error);
}

typedef int scan_function(struct haul_qemu_source *source, void *context, struct haul_error *error);

static int bracketed(struct haul_qemu_source *source, scan_function *scan, void *context,
                     struct haul_error *error)
{
    uint64_t begun = haul_clock_ns();
    int result = open_bracket(source, error);
    bool opened = source->bracket_open;
    uint64_t stopped = haul_clock_ns();
    if (!result) {
        result = scan(source, context, error);
    }
    source->scan_ns = haul_clock_ns() - stopped;
    int closed = close_bracket(source, result ? NULL : error);
    if (opened) {
        uint64_t took = haul_clock_ns() - begun;
        source->brackets++;
        source->bracket_total_ns += took;
        source->bracket_longest_ns = took > source->bracket_longest_ns ? took : source->bracket_longest_ns;
    }
    return result ? result : closed;
}

static int inner_arm(struct haul_qemu_source *source, void *context, struct haul_error *error)
{
    (void)context;
    return haul_tracker_arm(source->tracker, error);
}

static int bracket_start(void *opaque, struct haul_error *error)
{
    struct haul_qemu_source *source = opaque;
    int result = bracketed(source, inner_arm, NULL, error);
    return result ? result
                  : haul_tracker_get_ops(source->tracker)
                        ->start(haul_tracker_get_opaque(source->tracker), error);
}

struct sync_arguments {
    uint64_t *const *bitmaps;
    uint64_t *pages;
};

static int inner_sync(struct haul_qemu_source *source, void *context, struct haul_error *error)
{
    struct sync_arguments *arguments = context;
    return haul_tracker_get_ops(source->tracker)
        ->sync(haul_tracker_get_opaque(source->tracker), arguments->bitmaps, arguments->pages, error);
}

static int bracket_sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error)
{
    struct sync_arguments arguments = {bitmaps, pages};
    return bracketed(opaque, inner_sync, &arguments, error);
}

static void bracket_clear_holes(void *opaque, uint64_t *const *bitmaps)
{
    struct haul_qemu_source *source = opaque;
    haul_tracker_get_ops(source->tracker)->clear_holes(haul_tracker_get_opaque(source->tracker), bitmaps);
}

static void bracket_stop(void *opaque)
{
    struct haul_qemu_source *source = opaque;
    haul_tracker_get_ops(source->tracker)->stop(haul_tracker_get_opaque(source->tracker));
}

void haul_qemu_bracket_tracker_init(struct haul_qemu_source *source)
{
    const struct haul_tracker_ops *inner = haul_tracker_get_ops(source->tracker);
    source->tracker_ops = (struct haul_tracker_ops){
        .name = inner->name,
        .start = bracket_start,
        .clear_holes = inner->clear_holes ? bracket_clear_holes : NULL,
        .sync = bracket_sync,
        .stop = bracket_stop,
    };
}
