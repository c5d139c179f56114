/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_KVM_STATE_H
#define HAUL_TOOLS_MACHINES_GUEST_KVM_STATE_H

/* The state of a KVM vCPU and its clock as devices: read from KVM before saving, given to KVM after loading.
 */

#include "engine/device_state.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_guest_kvm_state;

/* The descriptors stay the caller's and must outlive the state. -ENOMEM, or what KVM says. */
int haul_guest_kvm_state_new(int kvm_fd, int vm_fd, int vcpu_fd, struct haul_guest_kvm_state **state,
                             struct haul_error *error);
void haul_guest_kvm_state_free(struct haul_guest_kvm_state *state); /* NULL is accepted */

/* haul_guest_kvm_state_add adds "vcpu/0" and "clock/0". */
int haul_guest_kvm_state_add(struct haul_guest_kvm_state *state, struct haul_devices *devices,
                             struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
