/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_MACHINE_H
#define HAUL_TOOLS_MACHINES_MACHINE_H

/*
 * A machine is what the CLI moves: a QEMU process, a shared memory object, or the reference guest, each an
 * engine client behind this small ops table. All calls come from the CLI's main thread.
 */

#include "engine/haul.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_machine {
    const struct haul_machine_ops *ops;
};

struct haul_machine_ops {
    const char *kind; /* "qemu", "memory" or "guest" */
    /*
     * Registers blocks, tracker, state handlers and guest hooks with `migration` (before haul_start). The
     * machine outlives the migration; after a failed migration was freed it may be attached to the next one.
     */
    int (*attach)(struct haul_machine *machine, struct haul_migration *migration, struct haul_error *error);
    /*
     * When the move has ended, however, and the machine runs here: waits for up to `seconds` while the
     * machine proves itself, and writes a one-line result ("self-check passed: 512 MiB, 1234 pages checked").
     * NULL: has no self-check. -EIO: it found lost, stale or torn pages.
     */
    int (*self_check)(struct haul_machine *machine, unsigned seconds, char *report, size_t size,
                      struct haul_error *error);
    /*
     * One line for the end of the report about what moving this kind of machine took, "" when there is
     * nothing to say. NULL: never has.
     */
    void (*summary)(struct haul_machine *machine, char *text, size_t size);
    /* Text for the record file that lets `haul resume|abandon` find the machine again, e.g. the QMP socket
     * path. */
    const char *(*locator)(struct haul_machine *machine);
    /* Tells whether the machine stood still of itself when it was last looked at: its operator paused it, and
     * it is moved as it is. Also called on threads of the migration, in its hooks and events. NULL: never. */
    bool (*paused)(struct haul_machine *machine);
    /* Tells whether the process that is the machine has ended. After the move. NULL: it has none, or is this
     * one. */
    bool (*ended)(struct haul_machine *machine);
    /* After ownership was left uncertain, or it could not be resumed: run it here again / give this copy up.
     */
    int (*resume)(struct haul_machine *machine, struct haul_error *error);
    int (*abandon)(struct haul_machine *machine, struct haul_error *error);
    void (*free)(struct haul_machine *machine);
};

/* ---- for who makes one ---- */
/*
 * haul_machine_alloc returns `size` zeroed bytes that begin with a struct haul_machine of these ops, or NULL
 * with -ENOMEM in *error. ops->free takes it in every state from here.
 */
void *haul_machine_alloc(size_t size, const struct haul_machine_ops *ops, struct haul_error *error);
/*
 * haul_machine_process_ended tells whether process `pid` has ended; one that is ending is waited for.
 * `pidfd`: of that process, or -1.
 */
bool haul_machine_process_ended(int pid, int pidfd);
/* haul_machine_finish ends a constructor: after a failure it frees what was made, else *machine is that.
 * Returns `result`. */
int haul_machine_finish(struct haul_machine *made, int result, struct haul_machine **machine);

/* ---- a QEMU machine, by its QMP socket (path, or unix:path) ---- */
/* `disks`: a source moves its writable drives too, a destination lets its own be overwritten by them. */
int haul_qemu_source_new(const char *qmp, bool disks, struct haul_machine **machine,
                         struct haul_error *error);
int haul_qemu_destination_new(const char *qmp, bool disks, struct haul_machine **machine,
                              struct haul_error *error);
/* For resume and abandon after a crash: only the QMP connection, no checks. */
int haul_qemu_attach_existing(const char *qmp, struct haul_machine **machine, struct haul_error *error);

/* ---- a shared memory object ---- */
/*
 * Source: `path` is a file in a tmpfs or hugetlbfs (or /proc/PID/fd/N of a memfd); `pid` > 0 names the one
 * process that writes it, by a shared mapping; 0: it is at rest. The process is stopped (SIGSTOP) for the
 * last pass, goes on when the move fails or this process dies, and stays stopped after the handover. Refused
 * (-EBUSY): another process that maps it writable, and direct I/O, io_uring, VFIO or RDMA in that process.
 * Not seen: write() calls to the file, and a process that maps it, writes and unmaps it during the move.
 */
int haul_memory_source_new(const char *path, int pid, struct haul_machine **machine,
                           struct haul_error *error);
/* Destination: an existing file of the source's size, or with `size` > 0 created (removed again if the move
 * fails). */
int haul_memory_destination_new(const char *path, uint64_t size, struct haul_machine **machine,
                                struct haul_error *error);
/* Source, for resume and abandon after a crash: `locator` as the record file has it. -ESRCH: that process is
 * gone. */
int haul_memory_attach_existing(const char *locator, struct haul_machine **machine, struct haul_error *error);

/* ---- the reference guest (tools/machines/guest) ---- */
struct haul_guest_options {
    uint64_t memory_bytes;      /* default 256 MiB */
    uint64_t dirty_bytes_per_s; /* default 100 MB/s; 0: never writes after its start */
    uint64_t hot_bytes;  /* size of the set that is rewritten; 0 (default): 1/4 of memory, less where zero and
                            untouched pages leave less */
    const char *content; /* "random" (default) or "text" */
    unsigned zero_percent;      /* share of pages left zero, 0..100, default 25 */
    unsigned untouched_percent; /* share of pages never touched, 0..100, default 0 */
    const char *tracker;        /* "auto" (default), "kvm-log", "kvm-ring", "uffd", "bitmap", "soft-dirty" */
    const char *vcpu;           /* "auto" (default), "kvm" or "thread" */
    uint64_t seed;              /* default 1 */
    /*
     * A disk, or NULL (default). Source: with disk_bytes its image is created at the path `disk`, else it is
     * there, of such a guest. Destination: as haul_disk_file_receive (engine/disk_file.h).
     */
    const char *disk;
    uint64_t disk_bytes;       /* a multiple of 4096, 64 KiB or more */
    uint64_t disk_bytes_per_s; /* that it writes, default 10 MB/s; source only */
    /*
     * Source: asked again and again, by several threads, while memory and disk are filled; true ends that
     * with -ECANCELED. NULL (default): nothing ends it.
     */
    bool (*cancelled)(void *opaque);
    void *opaque;
};
void haul_guest_options_default(struct haul_guest_options *options);
/* Source: starts running at once. Destination: memory allocated, waits for state. `options` of the
 * destination: memory_bytes, tracker, vcpu, disk and disk_bytes only. */
int haul_guest_source_new(const struct haul_guest_options *options, struct haul_machine **machine,
                          struct haul_error *error);
int haul_guest_destination_new(const struct haul_guest_options *options, struct haul_machine **machine,
                               struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
