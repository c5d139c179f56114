/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_KVM_SLOTS_H
#define HAUL_ENGINE_TRACKERS_KVM_SLOTS_H

/* The memory slots that both KVM trackers watch. */

#include "engine/trackers.h"

struct haul_kvm_slots {
    int vm_fd;
    unsigned count;
    struct haul_kvm_slot *slot; /* a copy */
    uint64_t **bits;            /* per slot, one bit per page, for the tracker's use */
};

int haul_kvm_slots_init(struct haul_kvm_slots *slots, int vm_fd, const struct haul_kvm_slot *slot,
                        unsigned count, struct haul_error *error);
void haul_kvm_slots_cleanup(struct haul_kvm_slots *slots);

/* haul_kvm_slots_log turns the logging of dirty pages on or off for all slots. */
int haul_kvm_slots_log(const struct haul_kvm_slots *slots, bool on, struct haul_error *error);

/* haul_kvm_slots_report moves the slots' bits into the blocks' bitmaps; returns how many pages. */
uint64_t haul_kvm_slots_report(struct haul_kvm_slots *slots, uint64_t *const *bitmaps);

/* haul_kvm_slots_forget clears the slots' bits. */
void haul_kvm_slots_forget(struct haul_kvm_slots *slots);

#endif
