/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's dirty ring: each vCPU has a ring of pages that it wrote first since they were write-protected. A page
 * is protected again only by KVM_RESET_DIRTY_RINGS, so taking entries and the reset are one step under the
 * lock.
 */
#include "engine/trackers/kvm_slots.h"
#include "engine/trackers/tracker.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_IDLE_RESETS 1000 /* each may be one more signal */

struct kvm_ring {
    struct kvm_dirty_gfn *entries; /* shared with the kernel */
    uint32_t next;                 /* runs freely */
};

struct kvm_ring_tracker {
    struct haul_tracker base;
    /* Written once at creation. */
    uint32_t ring_bytes;
    uint32_t ring_entries;
    unsigned vcpus;
    /* Under the lock: migration_thread syncs, vCPU threads collect. */
    pthread_mutex_t lock;
    struct haul_kvm_slots slots; /* its bits hold what was collected and not yet reported */
    uint64_t taken;              /* entries that KVM has not yet reset */
    bool overrun;                /* once and for all */
    bool logging;
    struct kvm_ring rings[];
};

static void note(struct kvm_ring_tracker *tracker, uint32_t slot, uint64_t page)
{
    for (unsigned i = 0; i < tracker->slots.count; i++) {
        if (tracker->slots.slot[i].slot == slot && page < tracker->slots.slot[i].pages) {
            tracker->slots.bits[i][page / 64] |= UINT64_C(1) << (page % 64);
            return;
        }
    }
    /* Logging was on for a slot that is not ours: nobody here waits for it. */
}

/*
 * Takes all entries of one ring. KVM stops a vCPU well before its ring is full; where it does not (seen where
 * it emulates the guest's code), it overwrites entries and its position no longer matches ours: nothing can
 * be trusted from then on.
 */
static void drain(struct kvm_ring_tracker *tracker, struct kvm_ring *ring)
{
    uint32_t taken = 0;
    while (taken < tracker->ring_entries) {
        struct kvm_dirty_gfn *entry = &ring->entries[ring->next % tracker->ring_entries];
        /* Acquire pairs with KVM's release of the flag after slot and offset (kvm_dirty_ring_push). */
        if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY)) {
            break;
        }
        note(tracker, entry->slot, entry->offset);
        /* Release pairs with KVM's acquire in kvm_dirty_ring_reset: the entry was read before it is given
         * back. */
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY | KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        ring->next++;
        taken++;
    }
    tracker->taken += taken;
    tracker->overrun |= taken == tracker->ring_entries;
}

/*
 * Write-protects again what was taken. A reset that a signal interrupts stops early and tells only how far it
 * came (Linux 6.16); the pages after that point would stay unprotected, and their next write unseen.
 */
static int reset(struct kvm_ring_tracker *tracker, struct haul_error *error)
{
    unsigned idle = 0;
    while (tracker->taken > 0) {
        int done = ioctl(tracker->slots.vm_fd, KVM_RESET_DIRTY_RINGS, 0);
        if (done < 0 && errno != EINTR) {
            return haul_error_set(error, errno, "cannot reset KVM's dirty rings: %s", strerror(errno));
        }
        if (done > 0) {
            tracker->taken -= (uint64_t)done < tracker->taken ? (uint64_t)done : tracker->taken;
            idle = 0;
        } else if (++idle == MAX_IDLE_RESETS) {
            tracker->overrun = true; /* what was taken was overwritten before it could be reset */
            return 0;
        }
    }
    return 0;
}

static int collect(struct kvm_ring_tracker *tracker, struct haul_error *error)
{
    for (unsigned i = 0; i < tracker->vcpus && !tracker->overrun; i++) {
        drain(tracker, &tracker->rings[i]);
    }
    int result = tracker->overrun ? 0 : reset(tracker, error);
    if (tracker->overrun) {
        result = haul_error_set(
            error, EOVERFLOW,
            "KVM overran a dirty ring of %u bytes, so writes of the guest are lost to it: use a larger "
            "ring, or KVM's dirty log",
            tracker->ring_bytes);
    }
    return result;
}

int haul_tracker_kvm_ring_collect(struct haul_tracker *base, struct haul_error *error)
{
    struct kvm_ring_tracker *tracker = (struct kvm_ring_tracker *)base;
    pthread_mutex_lock(&tracker->lock);
    int result = collect(tracker, error);
    pthread_mutex_unlock(&tracker->lock);
    return result;
}

static int kvm_ring_start(void *opaque, struct haul_error *error)
{
    struct kvm_ring_tracker *tracker = opaque;
    pthread_mutex_lock(&tracker->lock);
    tracker->logging = true; /* also when it fails half way: stop switches all off */
    int result = haul_kvm_slots_log(&tracker->slots, true, error);
    if (!result) {
        result = collect(tracker, error); /* what the VMM may have logged before */
    }
    haul_kvm_slots_forget(&tracker->slots);
    pthread_mutex_unlock(&tracker->lock);
    return result;
}

static int kvm_ring_sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error)
{
    struct kvm_ring_tracker *tracker = opaque;
    pthread_mutex_lock(&tracker->lock);
    int result = collect(tracker, error);
    if (!result) {
        *pages = haul_kvm_slots_report(&tracker->slots, bitmaps);
    }
    pthread_mutex_unlock(&tracker->lock);
    return result;
}

static void kvm_ring_stop(void *opaque)
{
    struct kvm_ring_tracker *tracker = opaque;
    pthread_mutex_lock(&tracker->lock);
    if (tracker->logging) {
        haul_kvm_slots_log(&tracker->slots, false, NULL);
        collect(tracker, NULL); /* leaves the rings empty for whoever uses them next */
        haul_kvm_slots_forget(&tracker->slots);
        tracker->logging = false;
    }
    pthread_mutex_unlock(&tracker->lock);
}

static const struct haul_tracker_ops kvm_ring_ops = {
    .name = "kvm-dirty-ring",
    .start = kvm_ring_start,
    .sync = kvm_ring_sync,
    .stop = kvm_ring_stop,
};

static void kvm_ring_free(struct haul_tracker *base)
{
    struct kvm_ring_tracker *tracker = (struct kvm_ring_tracker *)base;
    kvm_ring_stop(tracker);
    for (unsigned i = 0; i < tracker->vcpus; i++) {
        munmap(tracker->rings[i].entries, tracker->ring_bytes);
    }
    haul_kvm_slots_cleanup(&tracker->slots);
    pthread_mutex_destroy(&tracker->lock);
    free(tracker);
}

/*
 * KVM maps anything there, and only touching it tells, by SIGBUS, that no ring is there or a shorter one; a
 * longer one would be read wrongly. Populating asks the same question without the signal.
 */
static int map_ring(struct kvm_ring_tracker *tracker, int vcpu_fd, struct haul_error *error)
{
    long page = sysconf(_SC_PAGESIZE);
    off_t offset = (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * page;
    size_t length = tracker->ring_bytes + (size_t)page;
    char *entries = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, offset);
    if (entries == MAP_FAILED) {
        return haul_error_set(error, errno, "cannot map the dirty ring of vCPU %u: %s", tracker->vcpus,
                              strerror(errno));
    }
    bool whole = madvise(entries, tracker->ring_bytes, MADV_POPULATE_READ) == 0;
    bool longer = madvise(entries + tracker->ring_bytes, (size_t)page, MADV_POPULATE_READ) == 0;
    munmap(entries + tracker->ring_bytes, (size_t)page);
    if (!whole || longer) {
        munmap(entries, tracker->ring_bytes);
        return haul_error_set(
            error, EINVAL,
            "vCPU %u has no dirty ring of %u bytes: it must be enabled on the VM, with this size, before "
            "its vCPUs are made",
            tracker->vcpus, tracker->ring_bytes);
    }
    tracker->rings[tracker->vcpus++].entries = (void *)entries;
    return 0;
}

static int check(int vm_fd, uint32_t ring_bytes, struct haul_error *error)
{
    int largest = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    if (largest <= 0) {
        largest = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);
    }
    if (largest <= 0) {
        return haul_error_set(error, ENOTSUP, "this KVM has no dirty ring: use its dirty log");
    }
    uint32_t smallest = (uint32_t)sysconf(_SC_PAGESIZE);
    if (ring_bytes < smallest || ring_bytes & (ring_bytes - 1) || ring_bytes > (uint32_t)largest) {
        return haul_error_set(error, EINVAL,
                              "a dirty ring of %u bytes: it must be a power of two from %u to %d", ring_bytes,
                              smallest, largest);
    }
    return 0;
}

int haul_tracker_kvm_ring_new(int vm_fd, const int *vcpu_fds, unsigned vcpus, uint32_t ring_bytes,
                              const struct haul_kvm_slot *slots, unsigned count,
                              struct haul_tracker **result_tracker, struct haul_error *error)
{
    int result = check(vm_fd, ring_bytes, error);
    if (result) {
        return result;
    }
    struct kvm_ring_tracker *tracker = calloc(1, sizeof *tracker + vcpus * sizeof tracker->rings[0]);
    if (!tracker) {
        return haul_error_set(error, ENOMEM, "no memory for the KVM dirty ring tracker");
    }
    tracker->base = (struct haul_tracker){.ops = &kvm_ring_ops, .free = kvm_ring_free};
    tracker->ring_bytes = ring_bytes;
    tracker->ring_entries = ring_bytes / sizeof(struct kvm_dirty_gfn);
    pthread_mutex_init(&tracker->lock, NULL);
    result = haul_kvm_slots_init(&tracker->slots, vm_fd, slots, count, error);
    for (unsigned i = 0; !result && i < vcpus; i++) {
        result = map_ring(tracker, vcpu_fds[i], error);
    }
    if (result) {
        kvm_ring_free(&tracker->base);
        return result;
    }
    *result_tracker = &tracker->base;
    return 0;
}
