/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/kvm_slots.h"

#include "engine/trackers/tracker.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int haul_kvm_slots_init(struct haul_kvm_slots *slots, int vm_fd, const struct haul_kvm_slot *slot,
                        unsigned count, struct haul_error *error)
{
    *slots = (struct haul_kvm_slots){.vm_fd = vm_fd, .count = count};
    slots->slot = calloc(count + 1, sizeof *slot);
    slots->bits = calloc(count + 1, sizeof *slots->bits);
    if (!slots->slot || !slots->bits) {
        goto no_memory;
    }
    for (unsigned i = 0; i < count; i++) {
        slots->slot[i] = slot[i];
        if (slot[i].pages == 0 || slot[i].guest_physical_address % HAUL_TRACKER_PAGE_SIZE ||
            slot[i].userspace_address % HAUL_TRACKER_PAGE_SIZE) {
            haul_kvm_slots_cleanup(slots);
            return haul_error_set(error, EINVAL,
                                  "KVM slot %u has no pages, or its addresses are not page-aligned",
                                  slot[i].slot);
        }
        slots->bits[i] = calloc(haul_bits_words(slot[i].pages), sizeof(uint64_t));
        if (!slots->bits[i]) {
            goto no_memory;
        }
    }
    return 0;

no_memory:
    haul_kvm_slots_cleanup(slots);
    return haul_error_set(error, ENOMEM, "no memory for the dirty bitmaps of %u KVM slots", count);
}

void haul_kvm_slots_cleanup(struct haul_kvm_slots *slots)
{
    for (unsigned i = 0; slots->bits && i < slots->count; i++) {
        free(slots->bits[i]);
    }
    free(slots->bits);
    free(slots->slot);
    *slots = (struct haul_kvm_slots){0};
}

int haul_kvm_slots_log(const struct haul_kvm_slots *slots, bool on, struct haul_error *error)
{
    for (unsigned i = 0; i < slots->count; i++) {
        const struct haul_kvm_slot *slot = &slots->slot[i];
        struct kvm_userspace_memory_region region = {
            .slot = slot->slot,
            .flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
            .guest_phys_addr = slot->guest_physical_address,
            .memory_size = slot->pages * HAUL_TRACKER_PAGE_SIZE,
            .userspace_addr = slot->userspace_address,
        };
        if (ioctl(slots->vm_fd, KVM_SET_USER_MEMORY_REGION, &region)) {
            return haul_error_set(error, errno, "cannot switch KVM's dirty logging %s for slot %u: %s",
                                  on ? "on" : "off", slot->slot, strerror(errno));
        }
    }
    return 0;
}

uint64_t haul_kvm_slots_report(struct haul_kvm_slots *slots, uint64_t *const *bitmaps)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < slots->count; i++) {
        const struct haul_kvm_slot *slot = &slots->slot[i];
        pages += haul_bits_merge(bitmaps[slot->block], slot->first_page, slots->bits[i], slot->pages);
    }
    haul_kvm_slots_forget(slots);
    return pages;
}

void haul_kvm_slots_forget(struct haul_kvm_slots *slots)
{
    for (unsigned i = 0; i < slots->count; i++) {
        memset(slots->bits[i], 0, haul_bits_words(slots->slot[i].pages) * sizeof(uint64_t));
    }
}
