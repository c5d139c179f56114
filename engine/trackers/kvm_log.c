/* SPDX-License-Identifier: Apache-2.0 */
/* KVM's dirty log: one bitmap per slot, fetched, cleared and write-protected again in one call. */
#include "engine/trackers/kvm_slots.h"
#include "engine/trackers/tracker.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

struct kvm_log_tracker {
    struct haul_tracker base;
    struct haul_kvm_slots slots;
    bool logging;
};

static int fetch(struct kvm_log_tracker *tracker, struct haul_error *error)
{
    for (unsigned i = 0; i < tracker->slots.count; i++) {
        struct kvm_dirty_log log = {.slot = tracker->slots.slot[i].slot,
                                    .dirty_bitmap = tracker->slots.bits[i]};
        if (ioctl(tracker->slots.vm_fd, KVM_GET_DIRTY_LOG, &log)) {
            return haul_error_set(error, errno, "cannot fetch KVM's dirty log of slot %u: %s", log.slot,
                                  strerror(errno));
        }
    }
    return 0;
}

static int kvm_log_start(void *opaque, struct haul_error *error)
{
    struct kvm_log_tracker *tracker = opaque;
    tracker->logging = true; /* also when it fails half way: stop switches all off */
    int result = haul_kvm_slots_log(&tracker->slots, true, error);
    if (!result) {
        result = fetch(tracker, error); /* what the VMM may have logged before */
    }
    haul_kvm_slots_forget(&tracker->slots);
    return result;
}

static int kvm_log_sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error)
{
    struct kvm_log_tracker *tracker = opaque;
    int result = fetch(tracker, error);
    if (!result) {
        *pages = haul_kvm_slots_report(&tracker->slots, bitmaps);
    }
    return result;
}

static void kvm_log_stop(void *opaque)
{
    struct kvm_log_tracker *tracker = opaque;
    if (tracker->logging) {
        haul_kvm_slots_log(&tracker->slots, false, NULL);
        tracker->logging = false;
    }
}

static const struct haul_tracker_ops kvm_log_ops = {
    .name = "kvm-dirty-log",
    .start = kvm_log_start,
    .sync = kvm_log_sync,
    .stop = kvm_log_stop,
};

static void kvm_log_free(struct haul_tracker *base)
{
    struct kvm_log_tracker *tracker = (struct kvm_log_tracker *)base;
    kvm_log_stop(tracker);
    haul_kvm_slots_cleanup(&tracker->slots);
    free(tracker);
}

int haul_tracker_kvm_log_new(int vm_fd, const struct haul_kvm_slot *slots, unsigned count,
                             struct haul_tracker **result_tracker, struct haul_error *error)
{
    struct kvm_log_tracker *tracker = calloc(1, sizeof *tracker);
    if (!tracker) {
        return haul_error_set(error, ENOMEM, "no memory for the KVM dirty log tracker");
    }
    tracker->base = (struct haul_tracker){.ops = &kvm_log_ops, .free = kvm_log_free};
    int result = haul_kvm_slots_init(&tracker->slots, vm_fd, slots, count, error);
    if (result) {
        kvm_log_free(&tracker->base);
        return result;
    }
    *result_tracker = &tracker->base;
    return 0;
}
