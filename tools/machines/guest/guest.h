/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_GUEST_H
#define HAUL_TOOLS_MACHINES_GUEST_GUEST_H

/*
 * The reference guest as a library: memory, a workload that rewrites it, and a check that proves every page.
 * The CLI sees it as a machine (tools/machines/machine.h); tests and benchmarks may use it without a
 * migration. Unless said otherwise, calls on one guest come from one thread at a time.
 */

#include "engine/device_state.h"
#include "engine/trackers.h"
#include "tools/machines/guest/layout.h"
#include "tools/machines/machine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_guest; /* opaque */

/*
 * haul_guest_new makes a guest: at the source its memory is filled and it runs at once; at the destination
 * memory is fresh and it waits for its state (haul_guest_devices). -EINVAL: an option (the message names it);
 * -ENOMEM; -ECANCELED (options->cancelled); with vcpu "kvm", whatever kept /dev/kvm from being used.
 */
enum haul_guest_side { HAUL_GUEST_SOURCE, HAUL_GUEST_DESTINATION };
int haul_guest_new(const struct haul_guest_options *options, enum haul_guest_side side,
                   struct haul_guest **guest, struct haul_error *error);
void haul_guest_free(struct haul_guest *guest);
/* haul_guest_cancelled returns -ECANCELED once options->cancelled says so; any thread, while one is made. */
int haul_guest_cancelled(const struct haul_guest_options *options, struct haul_error *error);

/* Mapped shared from a memfd, for as long as the guest lives. */
unsigned char *haul_guest_memory(struct haul_guest *guest, uint64_t *length);
int haul_guest_memory_fd(const struct haul_guest *guest);
/* "KVM vCPU" or "thread"; at the destination it may change with its state. */
const char *haul_guest_vcpu(const struct haul_guest *guest);
/* Why the guest runs on a thread although vcpu is "auto"; "" otherwise. */
const char *haul_guest_vcpu_reason(const struct haul_guest *guest);
/* Known at the source from the start, at the destination after its state; NULL before. */
const struct haul_guest_layout *haul_guest_get_layout(const struct haul_guest *guest);

/*
 * haul_guest_stop stops it between any two instructions (KVM) or pages (thread). *stopped_ns may be NULL.
 * -EIO: it found a wrong page itself. haul_guest_resume lets it run on, at the destination for the first
 * time; -EPERM after haul_guest_retire, -EINVAL at a destination that was not loaded.
 */
int haul_guest_stop(struct haul_guest *guest, uint64_t *stopped_ns, struct haul_error *error);
int haul_guest_resume(struct haul_guest *guest, struct haul_error *error);
void haul_guest_throttle(struct haul_guest *guest, unsigned percent);
/*
 * haul_guest_adopt, at a destination that was not loaded: its memory is from now on that of `fd` (the
 * caller's), which is mapped in its place without the right to write; haul_guest_resume gives that right.
 * haul_guest_disown gives it fresh memory of its own again. Errors of dup, mmap and memfd_create.
 */
int haul_guest_adopt(struct haul_guest *guest, int fd, struct haul_error *error);
int haul_guest_disown(struct haul_guest *guest, struct haul_error *error);
/* haul_guest_retire ends its thread: this copy never writes again. */
void haul_guest_retire(struct haul_guest *guest);

/*
 * haul_guest_devices returns the state outside memory, as long as the guest lives. The guest must be stopped
 * while it is saved. "setup" is early: it must be loaded first, and then the rest, which gets the guest
 * ready; -EINVAL when what comes is of another size or kind of vCPU.
 */
struct haul_devices *haul_guest_devices(struct haul_guest *guest);

/*
 * haul_guest_check lets a running guest run until it has rewritten its hot set once, for `seconds` at most,
 * then pauses it, compares every byte of its memory with what it must be, and lets it run on. `report` gets
 * one line. -EIO: wrong pages (the message names the first), or the guest makes no progress; it is then left
 * paused. -EINVAL: it does not run.
 */
int haul_guest_check(struct haul_guest *guest, unsigned seconds, char *report, size_t size,
                     struct haul_error *error);

/*
 * haul_guest_new_tracker makes the tracker that the options ask for, or the best that works here; *name gets
 * which. It must be given back with haul_guest_free_tracker, before the guest is freed and after the
 * migration that used it.
 */
int haul_guest_new_tracker(struct haul_guest *guest, struct haul_tracker **tracker, const char **name,
                           struct haul_error *error);
void haul_guest_free_tracker(struct haul_guest *guest, struct haul_tracker *tracker);

#ifdef __cplusplus
}
#endif
#endif
