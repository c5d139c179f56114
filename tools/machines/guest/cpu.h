/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_CPU_H
#define HAUL_TOOLS_MACHINES_GUEST_CPU_H

/*
 * What runs the workload: a KVM vCPU or, where there is none, plain C on a thread. `run` is called by the
 * runner's thread only, the others while it is not running, unless said otherwise.
 */

#include "engine/device_state.h"
#include "engine/trackers.h"
#include "tools/machines/guest/layout.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_guest_cpu {
    const struct haul_guest_cpu_ops *ops;
};

enum haul_guest_run {
    HAUL_GUEST_RUN_INTERRUPTED, /* by a kick; call again with 0 pages to go on */
    HAUL_GUEST_RUN_BOUNDARY     /* every page is whole; the workload asks how many to write next */
};

struct haul_guest_cpu_ops {
    const char *name;    /* "KVM vCPU" or "thread" */
    uint32_t state_kind; /* tells the destination which kind to make */
    /* Sets the state in which a freshly filled guest begins, and proves that it runs. */
    int (*boot)(struct haul_guest_cpu *cpu, struct haul_error *error);
    /*
     * At a boundary, writes `pages` pages (0: just reach the boundary again). Returns an enum haul_guest_run
     * or a negative errno: -EIO when the workload found a wrong page.
     */
    int (*run)(struct haul_guest_cpu *cpu, uint32_t pages, struct haul_error *error);
    /* Makes `run` return soon; any thread, `runner` is the one that runs. NULL: `run` is always short. */
    void (*kick)(struct haul_guest_cpu *cpu, pthread_t runner);
    /* After `run` returned, before state and position are looked at. */
    int (*settle)(struct haul_guest_cpu *cpu, struct haul_error *error);
    /* Adds the devices that hold the state, saved and loaded while it does not run. They live in the cpu. */
    int (*add_devices)(struct haul_guest_cpu *cpu, struct haul_devices *devices, struct haul_error *error);
    /* At a boundary. -EIO: the state cannot be the workload's. */
    int (*position)(struct haul_guest_cpu *cpu, struct haul_guest_position *position,
                    struct haul_error *error);
    /*
     * Makes the tracker `name` that only this kind of cpu has; -ENOTSUP: it has no such tracker. The guest
     * must be told with use_tracker before it runs on, and with NULL before the tracker is freed.
     */
    int (*new_tracker)(struct haul_guest_cpu *cpu, const char *name, struct haul_tracker **tracker,
                       struct haul_error *error);
    void (*use_tracker)(struct haul_guest_cpu *cpu, struct haul_tracker *tracker);
    void (*free)(struct haul_guest_cpu *cpu);
};

/* The cpu's devices come before the guest's own (HAUL_GUEST_PRIORITY_CPU over 0). */
#define HAUL_GUEST_PRIORITY_CPU 10

#define HAUL_GUEST_STATE_KIND_THREAD 1u
#define HAUL_GUEST_STATE_KIND_KVM 2u

/* `layout` and `memory` must outlive the cpu; the layout may be filled in later, but before boot, run and
 * state. */
int haul_guest_thread_cpu_new(const struct haul_guest_layout *layout, unsigned char *memory,
                              struct haul_guest_cpu **cpu, struct haul_error *error);
/*
 * haul_guest_kvm_cpu_new makes a virtual machine over `length` bytes at `memory`, with KVM's dirty ring when
 * `dirty_ring`. Any error means that /dev/kvm cannot be used here; the message says why.
 */
int haul_guest_kvm_cpu_new(const struct haul_guest_layout *layout, unsigned char *memory, uint64_t length,
                           bool dirty_ring, struct haul_guest_cpu **cpu, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
