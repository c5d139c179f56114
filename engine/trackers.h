/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_H
#define HAUL_ENGINE_TRACKERS_H

/*
 * Dirty trackers that come with haul, each a `struct haul_tracker_ops` plus a constructor. A VMM with its own
 * tracking needs none of them. All constructors: 0 or a negative errno with a message; *tracker is the
 * caller's, freed with haul_tracker_free after the migration that uses it.
 */

#include "engine/haul.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_tracker; /* opaque */

/*
 * What a tracker watches: memory of one process that backs (part of) a RAM block. A block may be covered by
 * several ranges, and a process may map only some blocks (vhost-user): what no range covers is never
 * reported.
 */
struct haul_tracked_range {
    uint64_t address; /* in the tracked process; page-aligned */
    uint64_t length;  /* bytes, a non-zero multiple of the page size */
    /*
     * The shared object behind the range, and where in it the range starts: the range must then be a shared
     * mapping of it, and holes that appear in the object are reported. -1: not known, any memory; a discarded
     * page is then noticed if it was mapped to memory when tracking began, or written since. The caller's;
     * its file position moves.
     */
    int memory_fd;
    uint64_t memory_offset;
    /*
     * Where this process maps the same memory, or NULL: a page that is mapped to memory here was not
     * discarded, which spares most looks into the object.
     */
    const void *own_mapping;
    uint32_t block;        /* which RAM block, in the order of haul_add_ram */
    uint64_t block_offset; /* bytes into the block at which the range starts; page-aligned */
};

/* haul_tracker_get_ops and haul_tracker_get_opaque give what haul_set_tracker takes; valid until
 * haul_tracker_free, which takes NULL too. */
const struct haul_tracker_ops *haul_tracker_get_ops(const struct haul_tracker *tracker);
void *haul_tracker_get_opaque(struct haul_tracker *tracker);
void haul_tracker_free(struct haul_tracker *tracker);

/*
 * haul_tracker_arm, before start: from its return on no write is missed. For a caller who must hold the guest
 * still for that moment (trap T2): start does the same where it was not called, and then looks for content,
 * which takes far longer and during which the guest may run. Errors as the tracker's start.
 */
int haul_tracker_arm(struct haul_tracker *tracker, struct haul_error *error);

/*
 * haul_tracker_bitmap_new: an explicit bitmap for writers that say what they write. `block_pages` has the
 * pages of 4096 bytes of each of `blocks` RAM blocks, in the order of haul_add_ram. haul_tracker_mark may be
 * called from any thread: pages [first, first + count) of `block` were written (call it after the write).
 * What lies outside of the block is ignored. -ENOMEM.
 */
int haul_tracker_bitmap_new(const uint64_t *block_pages, unsigned blocks, struct haul_tracker **tracker,
                            struct haul_error *error);
void haul_tracker_mark(struct haul_tracker *tracker, unsigned block, uint64_t first, uint64_t count);

/*
 * haul_tracker_uffd_new: userfaultfd write-protect in async mode plus PAGEMAP_SCAN (Linux 6.7). pid 0: this
 * process; any other: that process, by two system calls injected with ptrace (x86-64; userfaultfd, and close
 * of its copy). Only what that process writes through its own mapping is seen (rule for all process
 * trackers): other processes that map the object need trackers of their own, see haul_find_mappers. -ENOSYS:
 * the kernel is too old; -ESRCH: no such process; -EPERM: it may not be traced; -EBUSY: a debugger traces it,
 * or its memory is already under a userfaultfd; -EINVAL: memory that is not mapped, not shared as said, or
 * cannot be write-protected; -ENOTSUP: a 32-bit process. The message says what to change.
 * The tracked process is left as it was by stop and by the death of this process (trap T7).
 * Discarded pages (trap T8): a page whose content was discarded, in any way, is reported by the next sync if
 * it is still a hole then, or was written again. One that was discarded and then only read again between two
 * syncs is a new page of zeros that nothing in the kernel tells from the old page; it is not reported. sync
 * fails with -ESRCH once the process has exited or replaced its program, -EPERM where it mapped something
 * else over a range.
 */
int haul_tracker_uffd_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                          struct haul_tracker **tracker, struct haul_error *error);

/*
 * haul_tracker_soft_dirty_new: /proc/PID/clear_refs and pagemap bit 55. -ENOSYS where the kernel is built
 * without CONFIG_MEM_SOFT_DIRTY; else errors as haul_tracker_uffd_new. The kernel cannot read and clear the
 * bits in one step, so each sync stops the threads of the tracked process with ptrace meanwhile (all but the
 * calling one if it is this process). It cannot stop what the kernel writes outside of them (vhost, io_uring
 * workers): with those, bracket each sync by a stop of the guest (trap T2). Nobody else may use the
 * soft-dirty bits of that process (CRIU). A page taken out of its page table counts as written, unless it was
 * put in, written and taken out between two syncs (which only heavy reclaim or MADV_DONTNEED does). Holes as
 * above.
 */
int haul_tracker_soft_dirty_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                                struct haul_tracker **tracker, struct haul_error *error);

/*
 * haul_tracker_process_new: the first of the two above that works here, for any process. Its error is that of
 * the first, and its message says why each was refused.
 */
int haul_tracker_process_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                             struct haul_tracker **tracker, struct haul_error *error);

/*
 * haul_tracker_group_new: several trackers as one, for memory that several processes map (trap T1); start,
 * sync and stop go to each in turn. Takes ownership of `members` (also on failure). A page that two members
 * report counts twice in sync's number of pages. -EINVAL (no members), -ENOMEM.
 */
int haul_tracker_group_new(struct haul_tracker *const *members, unsigned count, struct haul_tracker **tracker,
                           struct haul_error *error);

/* One KVM memory slot that backs (part of) a block. */
struct haul_kvm_slot {
    uint32_t slot;
    uint32_t block;
    uint64_t first_page; /* of the block */
    uint64_t pages;
    uint64_t guest_physical_address;
    uint64_t userspace_address;
};

/*
 * haul_tracker_kvm_log_new: KVM_GET_DIRTY_LOG on `vm_fd` (the caller's); start sets KVM_MEM_LOG_DIRTY_PAGES
 * on the slots, stop clears it. Rule for both KVM trackers: they see what vCPUs write. What the VMM's own
 * threads write or discard (device models, balloon) it says itself to a bitmap tracker beside this one, in a
 * group. The slots are plain RAM, without other flags, and must not be changed while they are tracked.
 * -EINVAL: a slot is empty or unaligned; -ENOMEM; start: the errors of KVM_SET_USER_MEMORY_REGION.
 */
int haul_tracker_kvm_log_new(int vm_fd, const struct haul_kvm_slot *slots, unsigned count,
                             struct haul_tracker **tracker, struct haul_error *error);

/*
 * haul_tracker_kvm_ring_new: KVM's dirty ring (KVM_CAP_DIRTY_LOG_RING_ACQ_REL or KVM_CAP_DIRTY_LOG_RING
 * enabled on the VM before its vCPUs were made). `vcpu_fds` are the caller's. `ring_bytes` is the size given
 * to KVM_ENABLE_CAP. A vCPU thread that exits with KVM_EXIT_DIRTY_RING_FULL calls
 * haul_tracker_kvm_ring_collect, from any thread, and goes on. A write of a vCPU that is within KVM_RUN may
 * be reported one sync late (page-modification logging); once it has left, nothing is missing. -ENOTSUP: this
 * KVM has no dirty ring; -EINVAL: a vCPU has none of this size, or a bad slot; -ENOMEM. sync and collect:
 * -EOVERFLOW when KVM overran a ring, which it does only where it emulates the guest's code; the tracker is
 * of no use from then on.
 */
int haul_tracker_kvm_ring_new(int vm_fd, const int *vcpu_fds, unsigned vcpus, uint32_t ring_bytes,
                              const struct haul_kvm_slot *slots, unsigned count,
                              struct haul_tracker **tracker, struct haul_error *error);
int haul_tracker_kvm_ring_collect(struct haul_tracker *tracker, struct haul_error *error);

/* ---- write guard -------------------------------------------------------------------------------------- */

struct haul_write_guard; /* opaque */

/*
 * haul_write_guard_uffd_new: userfaultfd write protection in synchronous mode, of this process (pid 0) or of
 * another by injected system calls as haul_tracker_uffd_new; the ranges must cover every place where the
 * process maps the blocks writable. Writes through other processes are not seen. A process that exits is no
 * error: its memory stands still then. When this process dies the
 * kernel lets every writer go on (trap T7). The kernel's own writes (KVM, vhost, direct I/O) are seen, which
 * takes a privilege of the watched process: -EPERM unless it has CAP_SYS_PTRACE or the sysctl
 * vm.unprivileged_userfaultfd is 1. Else errors as haul_tracker_uffd_new. Freed after the migration.
 */
int haul_write_guard_uffd_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                              struct haul_write_guard **guard, struct haul_error *error);
const struct haul_write_guard_ops *haul_write_guard_get_ops(const struct haul_write_guard *guard);
void *haul_write_guard_get_opaque(struct haul_write_guard *guard);
void haul_write_guard_free(struct haul_write_guard *guard); /* NULL is accepted */

/* ---- who maps a memory object ------------------------------------------------------------------------- */

/* One place where a process maps a memory object. */
struct haul_mapping {
    uint64_t address; /* in that process */
    uint64_t length;
    uint64_t object_offset; /* where in the object it starts */
    bool shared;
    bool writable;
};

/*
 * haul_find_mappings: where `pid` (0: this process) maps the object behind `memory_fd`, by address; adjacent
 * pieces are joined. *count may become 0. -ESRCH, -EPERM, -ENOSPC (more than `capacity` places).
 */
int haul_find_mappings(int pid, int memory_fd, struct haul_mapping *mappings, size_t capacity, size_t *count,
                       struct haul_error *error);

/*
 * haul_find_mappers: every process that maps the object behind `memory_fd` (trap T1), this one too unless
 * `skip_self`. *unreadable gets the number of processes whose mappings this process may not read: any of them
 * may be one more, so a caller that must be certain refuses, or runs as root. Processes that vanish meanwhile
 * are left out. Not seen: processes outside this PID namespace, and a process that holds the object open
 * (/proc/PID/fd) and maps it only later; ask again before the guest is handed over. -ENOSPC: more than
 * `capacity`.
 */
int haul_find_mappers(int memory_fd, bool skip_self, int *pids, size_t capacity, size_t *count,
                      size_t *unreadable, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
