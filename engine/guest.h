/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_GUEST_H
#define HAUL_ENGINE_GUEST_H

/*
 * What a VMM tells the engine of its guest: memory, how writes to it are found or held back, the state that
 * is no memory, and hooks for what only the VMM can do. engine/haul.h includes this.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- memory ------------------------------------------------------------------------------------------- */

/* One piece of guest memory. Same names, lengths and page sizes on both sides, in any order. */
struct haul_ram_block {
    const char *name;   /* 1..255 bytes, unique within the migration; copied */
    void *host;         /* mapped readable (source) or writable (destination), page-aligned; the caller's */
    uint64_t length;    /* bytes, a non-zero multiple of page_size */
    uint32_t page_size; /* of the backing: 4096, or the huge page size of hugetlbfs */
    /* File behind the mapping, for finding holes (SEEK_DATA); -1: none, or `host` is a private mapping of it
     * (MAP_PRIVATE), whose written pages the file lacks: haul_start refuses that. The caller's. */
    int fd;
    uint64_t fd_offset; /* where `host` starts in the file */
};

/*
 * A dirty tracker. All callbacks come from the migration_thread. Bitmaps have one bit per 4096-byte page,
 * bit p of block b is bitmaps[b][p / 64] >> (p % 64) & 1, blocks in the order of haul_add_ram.
 */
struct haul_tracker_ops {
    const char *name; /* "kvm-dirty-log", "uffd-wp", ... for reports */
    /* Called once, before any page is read. Every write that lands after it returns is reported by a later
     * sync. */
    int (*start)(void *opaque, struct haul_error *error);
    /*
     * Optional, called once after start: clears in `bitmaps` pages that were never touched and so read as
     * zero. A tracker that knows them spares the engine a look into every block's file. NULL: the engine
     * looks.
     */
    void (*clear_holes)(void *opaque, uint64_t *const *bitmaps);
    /*
     * Sets (never clears) in `bitmaps` every page written since start or the last sync, and re-arms those
     * pages. A page that became a hole (balloon, discard: trap T8) counts as written. *pages gets the number
     * of pages reported.
     */
    int (*sync)(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error);
    /* Called once on every path; leaves the guest as if it had never been tracked (trap T7). */
    void (*stop)(void *opaque);
};

/* A thread of the guest that waits because it writes a protected page. */
struct haul_waiting_write {
    uint32_t block;    /* in the order of haul_add_ram */
    uint64_t page;     /* of 4096 bytes */
    uint64_t since_ns; /* CLOCK_MONOTONIC; for reports: see haul_write_guard_ops.wait */
};

/*
 * A write guard, for mode background-snapshot: whoever writes a protected page (vCPUs, device models, the
 * kernel in a system call) waits until the page is released. Ranges are in pages of 4096 bytes, whole huge
 * pages where the block has them. Nobody may discard pages (balloon) while it is in use: a hole that the
 * engine comes upon fails the snapshot, but one that was written again before is saved as it is then.
 */
struct haul_write_guard_ops {
    const char *name; /* for reports */
    /* From its return on the pages are protected, also those that were never touched. Migration thread. */
    int (*protect)(void *opaque, uint32_t block, uint64_t first, uint64_t count, struct haul_error *error);
    /* Lifts the protection and lets the writers of these pages go on. Pages that are not protected may be
     * among them. Any thread. */
    int (*release)(void *opaque, uint32_t block, uint64_t first, uint64_t count, struct haul_error *error);
    /*
     * Waits until somebody writes a protected page, or `interrupt_fd` is readable: the number of `writes`
     * filled in, 0 for an interrupt. A writer is reported once; several may wait for one page, which may have
     * been released meanwhile. One thread of its own, which also serves the writes that it was told of: who
     * came while it did so waits from then on, and since_ns says so, or an earlier time when nobody knows.
     */
    int (*wait)(void *opaque, int interrupt_fd, struct haul_waiting_write *writes, unsigned capacity,
                struct haul_error *error);
    /* Called once on every path, when no other callback is running: no page is protected and nobody waits
     * any more. */
    void (*stop)(void *opaque);
};

/* ---- state that is no memory -------------------------------------------------------------------------- */

/* haul_state_write appends `length` bytes to one handler's state; for haul_state_ops.save, in whose thread.
 * After an error, which is that of the connection or file, save returns it. */
struct haul_state_writer;
int haul_state_write(struct haul_state_writer *writer, const void *bytes, size_t length,
                     struct haul_error *error);

/* haul_state_read takes up to `capacity` bytes of one handler's state; for haul_state_ops.load, in whose
 * thread. Returns 1..capacity bytes read, 0 at its end, or a negative errno: -EPROTO (frames that do not
 * fit), -ETIMEDOUT, -ECANCELED, or that of the connection. */
struct haul_state_reader;
ptrdiff_t haul_state_read(struct haul_state_reader *reader, void *bytes, size_t capacity,
                          struct haul_error *error);

/*
 * A state handler: whatever is not RAM (vCPU, devices). RAM goes first, then handlers in the order of
 * haul_add_state, matched by name on both sides. Callbacks may be NULL where a side has nothing to do.
 */
struct haul_state_ops {
    const char *name; /* 1..255 bytes, unique within the migration */
    /*
     * Early setup: `save` is called in the setup state, after all `setup`s, guest running, and `load` as soon
     * as that came, before any memory: for what a destination must know or refuse before memory is copied. A
     * snapshot file has it first, and loads it after the memory.
     */
    bool early;
    /* Source, migration_thread, setup state, guest running. */
    int (*setup)(void *opaque, struct haul_error *error);
    /* Source, migration_thread, after each round, guest running: *pending_bytes gets the bytes that `save`
     * would write now. */
    int (*iterate)(void *opaque, uint64_t *pending_bytes, struct haul_error *error);
    /* Source, migration_thread, device state, guest stopped. It may still write guest memory: the engine
     * scans once more after it (trap T9). */
    int (*save)(void *opaque, struct haul_state_writer *writer, struct haul_error *error);
    /* Destination, loader thread, all RAM of the rounds before loaded (early: none). An error fails the move
     * and the source goes on. The guest must not run yet. */
    int (*load)(void *opaque, struct haul_state_reader *reader, struct haul_error *error);
};

/* ---- hooks -------------------------------------------------------------------------------------------- */

struct haul_stream; /* engine/stream.h */

/* What moving a guest costs whatever its memory does; nanoseconds unless the name says otherwise. */
struct haul_guest_costs {
    uint64_t lead_ns; /* the guest runs on for this long after `stop` was called */
    uint64_t stop_ns; /* from then to the return of `stop` */
    uint64_t sync_ns; /* one scan of the tracker while the guest is stopped */
    uint64_t state_bytes;
    uint64_t device_ns; /* to save and load the state, beside carrying its bytes */
    uint64_t start_ns;
};

/* Guest hooks. NULL members mean that there is nothing to do. */
struct haul_guest_ops {
    /*
     * Source, migration_thread. On return no vCPU, device or host process writes guest memory (until
     * `resume`), except by state handlers' `save`. *stopped_ns holds the time of the call (CLOCK_MONOTONIC,
     * nanoseconds); a guest that knows when it really stopped running stores that time, from which downtime
     * counts. On error the guest runs as before.
     */
    int (*stop)(void *opaque, uint64_t *stopped_ns, struct haul_error *error);
    /*
     * Source, migration_thread: undo `stop` after a failure or a cancelled switchover; the guest runs again.
     * Also called when `stop` was never called or failed, or when a call before it failed (then harmless).
     * An error says that the guest does not run, be it that its process has ended; the caller of the engine
     * sees it in haul_stats.resume_error.
     */
    int (*resume)(void *opaque, struct haul_error *error);
    /* Destination, loader thread, after HANDOVER: run the guest. On return it runs. */
    int (*start)(void *opaque, struct haul_error *error);
    /*
     * Destination, loader thread, after `start` failed: true only if the guest ran nothing at all here and
     * from now on cannot, whoever tries; the source then runs it again. The hook may do what makes that
     * certain. NULL: false.
     */
    bool (*never_ran)(void *opaque);
    /*
     * Source, migration_thread, guest running: slow the guest down by `percent` (0 to 99; 0 ends it). An
     * error is told as a message, and the move goes on.
     */
    int (*throttle)(void *opaque, unsigned percent, struct haul_error *error);
    /*
     * Source, migration_thread, in setup and after each round, for the prediction: *costs holds what the
     * engine measured or assumes (5 ms to stop and to start, 64 KiB of state), and the guest replaces what it
     * knows better. Must be quick. state_bytes is what handlers' `iterate` says, where one is there.
     */
    void (*estimate)(void *opaque, struct haul_guest_costs *costs);
    /*
     * Source, migration_thread, the last thing before HANDOVER goes out (after the step event
     * HANDOVER_SENDING): from here nothing but the operator may run this copy, so a guest that arranged to be
     * resumed if this process dies takes that back now. An error fails the move like any other before
     * HANDOVER.
     */
    int (*handing_over)(void *opaque, struct haul_error *error);
    /* Source: the destination confirmed RUNNING; this copy must never run again. */
    void (*handed_over)(void *opaque);
    /*
     * Source, migration_thread, guest running, streams open: called about ten times a second until it returns
     * 1, and not before that does any memory go; then before each decision to stop the guest, which needs a 1
     * as well. 0: not ready to be stopped; negative: the move fails. For what must be copied ahead of memory.
     * NULL: always ready.
     */
    int (*ready)(void *opaque, struct haul_error *error);
    /*
     * Source, mode background-snapshot, migration_thread, guest running: all memory was read. An error fails
     * the snapshot: for a guest that knows of memory that was lost or replaced unseen by the write guard.
     * NULL: there is none.
     */
    int (*saved)(void *opaque, struct haul_error *error);
    /*
     * Destination, loader thread, setup state: the source has these side streams. fds[i] gets a connected
     * stream socket for each, the migration's on success; an error refuses the move, and then none is taken.
     * Names and descriptions come from the peer. NULL: a source with side streams is refused.
     */
    int (*streams)(void *opaque, const struct haul_stream *streams, unsigned count, int *fds,
                   struct haul_error *error);
    /*
     * Destination, mode cpr-transfer, loader thread, once for each RAM block before any state is loaded: the
     * block's memory is from now on what the file behind `fd` holds from `fd_offset` on, and the guest must
     * be started on it. The hook puts it in the place of the memory that the block was registered with (if
     * that is the same file, nothing is to be put). The source's guest still runs on it: until `start`
     * nothing on this side may write or discard any of it, so map it without the right to write, and give
     * that right in `start`, which also frees what the block had before, or leaves that for later. `fd` is
     * open for reading and writing and checked: a regular file with room for the whole block at that offset,
     * in pages of the block's size. It is the engine's: dup it to keep it. NULL: a source of this mode is
     * refused.
     */
    int (*adopt)(void *opaque, const char *block, int fd, uint64_t fd_offset, struct haul_error *error);
    /*
     * Destination, loader thread: the move ends before HANDOVER and after the first call of `adopt`, also a
     * failed one. This copy must not run, and lets go of the source's memory. NULL: nothing to do.
     */
    void (*disown)(void *opaque);
};

#ifdef __cplusplus
}
#endif
#endif
