/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_HAUL_H
#define HAUL_ENGINE_HAUL_H

/*
 * haul: live migration as a library. A migration object is one end of one move, source or destination. The
 * caller describes the guest (RAM blocks, dirty tracker, state handlers, hooks), starts the migration with
 * a URI, and waits. Everything hangs off the object: any number of migrations may live in one process.
 *
 * Order of calls: haul_source_new or haul_destination_new; haul_add_ram, haul_set_tracker,
 * haul_add_state, haul_set_guest, haul_set_events; haul_start; haul_wait; haul_free.
 * Unless a declaration says otherwise, calls on one object come from one thread at a time.
 * haul_cancel, haul_continue, haul_get_stats, haul_get_channel_stats, haul_get_state, haul_threads and the
 * haul_set_ functions for what changes while a migration runs (haul_set_max_bandwidth, _downtime_limit,
 * _switchover_bandwidth, _throttle, _throttle_steps) may be called from any thread between haul_start and
 * haul_free.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_VERSION "0.1.0"

/* ---- states ------------------------------------------------------------------------------------------- */

/* QEMU's names (qapi/migration.json, MigrationStatus), as query-migrate shows them. */
#define HAUL_STATES(X)                                                                                       \
    X(NONE, "none")                                                                                          \
    X(SETUP, "setup")                                                                                        \
    X(ACTIVE, "active")                                                                                      \
    X(PRE_SWITCHOVER, "pre-switchover")                                                                      \
    X(DEVICE, "device")                                                                                      \
    X(COMPLETED, "completed")                                                                                \
    X(FAILED, "failed")                                                                                      \
    X(CANCELLING, "cancelling")                                                                              \
    X(CANCELLED, "cancelled")                                                                                \
    X(POSTCOPY_ACTIVE, "postcopy-active")                                                                    \
    X(POSTCOPY_PAUSED, "postcopy-paused")                                                                    \
    X(POSTCOPY_RECOVER, "postcopy-recover")

enum haul_state {
#define X(name, text) HAUL_STATE_##name,
    HAUL_STATES(X)
#undef X
        HAUL_STATE_COUNT
};

/* haul_state_name returns QEMU's name of `state`; static storage. Any thread. */
const char *haul_state_name(enum haul_state state);

/*
 * How memory gets to the destination; QEMU's names (MigMode, and its capability background-snapshot).
 * cpr-transfer: both ends are on one host and
 * memory is in memfds or files; the source hands their descriptors over and nothing is copied, so that a move
 * of any size takes the time of its device state. It needs a unix socket (unix:PATH, or fd: with one), and
 * both ends to run as the same user. The destination may not write that memory before
 * HANDOVER, the source not after it; a failure before HANDOVER resumes the source, whose memory nobody
 * touched.
 * background-snapshot: the guest is saved into a file (file:PATH) as it is at one moment, and goes on here.
 * It stands still for its device state only; then each page is saved before it is written for the first time.
 * The source needs a write guard (haul_set_write_guard) and no tracker, and owns the guest whatever happens.
 */
#define HAUL_MODES(X)                                                                                        \
    X(NORMAL, "normal")                                                                                      \
    X(CPR_TRANSFER, "cpr-transfer")                                                                          \
    X(BACKGROUND_SNAPSHOT, "background-snapshot")

enum haul_mode {
#define X(name, text) HAUL_MODE_##name,
    HAUL_MODES(X)
#undef X
        HAUL_MODE_COUNT
};

/* haul_mode_name returns QEMU's name of `mode`; static storage. Any thread. */
const char *haul_mode_name(enum haul_mode mode);

/* Who may run the guest (rule R1). Only haul_wait's caller acts on it. */
enum haul_ownership {
    HAUL_OWNER_SOURCE,      /* the guest is the source's: it runs there, or was resumed there */
    HAUL_OWNER_DESTINATION, /* RUNNING was confirmed */
    HAUL_OWNER_UNCERTAIN /* HANDOVER was sent, neither RUNNING nor NOT_STARTED came: the source stays paused
                          */
};

/* ---- options ------------------------------------------------------------------------------------------ */

/* How auto_converge slows a guest down; QEMU's cpu-throttle-initial, -increment, max-cpu-throttle and
 * cpu-throttle-tailslow. */
struct haul_throttle_steps {
    uint32_t initial_percent;   /* 1..99, default 20 */
    uint32_t increment_percent; /* 1..99, default 10; each time that the move still does not converge */
    uint32_t most_percent;      /* initial_percent..99, default 99 */
    bool tailslow; /* increments no larger than bring the guest's writing down to the bandwidth; default
                      false */
};

/*
 * Options are copied and checked by haul_source_new and haul_destination_new. Call haul_options_default
 * first: it sets `size`, which lets the library tell an older caller's struct from a newer one's.
 */
struct haul_options {
    size_t size;
    uint32_t channels;                  /* source: 1..128, default 2. The destination follows the source,
                                           or reads a file with as many threads. */
    const char *compress;               /* source: "none", "lz4" or "auto" (default "none") */
    uint32_t downtime_limit_ms;         /* source: 0..2000000, default 300 */
    uint64_t max_bandwidth_bytes_per_s; /* source: cap over all channels; 0 (default): none */
    uint64_t switchover_bandwidth_bytes_per_s; /* source: used for the threshold instead of the estimate; 0:
                                                  none */
    const char *placement;                     /* "auto" (default), "none" or a CPU list "0-3,8" */
    bool verify;               /* source: hash both sides before HANDOVER (rule R3); default false */
    uint32_t timeout_s;        /* connecting, handshakes and silence: 1..3600, default 30 */
    bool populate;             /* destination: populate memory ahead of the data; default true */
    unsigned populate_threads; /* destination: 0 (default) means one per allowed CPU */
    uint32_t max_rounds; /* source: give up (-ETIME) after this many rounds without convergence; 0 (default):
                            never */
    bool auto_converge; /* source: slow the guest down by its throttle hook when it does not converge; default
                           false */
    const char *bind;   /* source, tcp: own addresses to connect from, separated by commas; channel i takes
                           number i modulo their count. NULL (default): the kernel chooses */
    const char *ssh;    /* source, ssh: the command, with options; NULL (default): "ssh" */
    const char *remote_haul;    /* source, ssh: the program on the other host; NULL (default): "haul" */
    const char *remote_options; /* source, ssh: options of the `haul receive` there (which machine), quoted
                                   for its shell; needed with ssh: */
    /*
     * "normal" (default), "cpr-transfer" or "background-snapshot" (a source only: channels is the number of
     * threads that write the file, compression, limits of downtime and verify mean nothing). A source of mode
     * cpr-transfer needs no tracker, and channels,
     * compression and limits mean nothing to it; verify is refused, there is nothing to compare. A
     * destination follows its source, but one of mode cpr-transfer populates nothing and refuses a source
     * that would copy.
     */
    const char *mode;
    bool pause_before_switchover; /* source: hold in pre-switchover, the guest stopped, until haul_continue;
                                     default false */
    bool direct_io;               /* file:PATH only: pages bypass the page cache; default false */
    const char *rdma_provider;    /* rdma: a provider of libfabric ("verbs", "tcp;ofi_rxm", `fi_info` lists
                                     them), the same on both sides; NULL (default): the best at the address */
    struct haul_throttle_steps throttle_steps; /* source: how auto_converge slows the guest down */
};
void haul_options_default(struct haul_options *options);

/* ---- the guest ---------------------------------------------------------------------------------------- */

struct haul_migration; /* opaque */

/* One piece of guest memory. Same names, lengths and page sizes on both sides, in any order. */
struct haul_ram_block {
    const char *name;   /* 1..255 bytes, unique within the migration; copied */
    void *host;         /* mapped readable (source) or writable (destination), page-aligned; the caller's */
    uint64_t length;    /* bytes, a non-zero multiple of page_size */
    uint32_t page_size; /* of the backing: 4096, or the huge page size of hugetlbfs */
    int fd;             /* file behind the mapping, for finding holes (SEEK_DATA); -1: none. The caller's. */
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
    uint32_t block; /* in the order of haul_add_ram */
    uint64_t page;  /* of 4096 bytes */
};

/*
 * A write guard, for mode background-snapshot: whoever writes a protected page (vCPUs, device models, the
 * kernel in a system call) waits until the page is released. Ranges are in pages of 4096 bytes, whole huge
 * pages where the block has them.
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
     * been released meanwhile. One thread of its own.
     */
    int (*wait)(void *opaque, int interrupt_fd, struct haul_waiting_write *writes, unsigned capacity,
                struct haul_error *error);
    /* Called once on every path, when no other callback is running: no page is protected and nobody waits
     * any more. */
    void (*stop)(void *opaque);
};

/* Writes one handler's state to the stream; see haul_state_ops.save. */
struct haul_state_writer;
int haul_state_write(struct haul_state_writer *writer, const void *bytes, size_t length,
                     struct haul_error *error);

/* Reads one handler's state; see haul_state_ops.load. Returns 1..capacity bytes read, 0 at its end, or a
 * negative errno. */
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

struct haul_stream; /* engine/stream.h */

/* ---- the hooks of a guest ---- */

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
     * Also called when `stop` was never called or failed (then harmless).
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
    /* Source, migration_thread, guest running: slow the guest down by `percent` (0 to 99; 0 ends it). */
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

/* ---- events ------------------------------------------------------------------------------------------- */

/* Steps of ownership, for the record on disk (rule R1). */
enum haul_step {
    HAUL_STEP_HANDOVER_SENDING,  /* source: about to send HANDOVER */
    HAUL_STEP_HANDOVER_RECEIVED, /* destination: about to start the guest */
    HAUL_STEP_RUNNING,           /* destination: the guest runs; source: RUNNING came */
    HAUL_STEP_RESUMED,           /* source: not handed over, the guest runs here */
    /* destination: HANDOVER may have come, but the guest never ran here and never will, about to tell the
     * source, which runs it again: a record of HANDOVER_RECEIVED has to go first */
    HAUL_STEP_NOT_STARTED,
    /* both, in setup: nothing is owned by it. The caller does what will cost it time at HANDOVER_SENDING or
     * HANDOVER_RECEIVED (a record that is synced) once for trial; how long that takes counts in the
     * prediction */
    HAUL_STEP_TRIAL
};

struct haul_events {
    /* After each change of state; on the migration_thread or loader thread. Must not call haul_free or
     * haul_wait. */
    void (*state)(void *opaque, enum haul_state from, enum haul_state to);
    /* At the start of each pass over memory (source), those with the guest stopped included, from 1. */
    void (*pass)(void *opaque, uint32_t pass);
    /* After each round (source) with the guest running, with its number from 1. */
    void (*round)(void *opaque, uint32_t round);
    /* The guest's hooks stopped it here (false), or made it run here (true). It stands still meanwhile, or
     * another step waits: be quick. */
    void (*guest)(void *opaque, bool running);
    /* Before the named step is taken; a negative result at HANDOVER_SENDING, HANDOVER_RECEIVED or TRIAL
     * refuses the step and fails the move (the record could not be written); at NOT_STARTED the source is
     * told nothing certain, and stays paused. */
    int (*step)(void *opaque, enum haul_step step, struct haul_error *error);
    /* A plain sentence for the operator: which tracker, early "cannot converge" advice. */
    void (*message)(void *opaque, const char *text);
};

/* ---- statistics --------------------------------------------------------------------------------------- */

/* Downtime and its parts, nanoseconds. */
struct haul_downtime {
    uint64_t total_ns;
    uint64_t stop_ns;      /* stop hook */
    uint64_t last_pass_ns; /* scan and pages of the last pass, verify included; background-snapshot: write
                              protection */
    uint64_t device_ns;    /* state handlers */
    uint64_t start_ns;     /* HANDOVER to RUNNING */
    uint64_t held_ns;      /* by pause_before_switchover, until haul_continue; never predicted */
};

/* Disks (engine/disk.h), named after query-migrate's `disk`; all zero where none moves. */
struct haul_disk_stats {
    uint64_t transferred; /* bytes handed to the channels for disks, headers included */
    uint64_t remaining;   /* bytes of pages not yet handed out */
    uint64_t total;       /* bytes of all disks */
    uint64_t duplicate;   /* zero pages sent, holes included */
    uint64_t normal;      /* pages sent with content */
    uint64_t flush_ns;    /* the last flush at the destination, as the source heard of it */
    uint64_t dirty_pages_rate;
    uint32_t count;
};

struct haul_stats {
    size_t size;
    enum haul_state state;
    uint64_t total_time_ns; /* haul_start to the end, or to now */
    uint64_t setup_time_ns;
    struct haul_downtime expected; /* the latest prediction; frozen when the guest is stopped */
    struct haul_downtime actual;   /* zero until completed */
    uint64_t downtime_limit_ns;
    uint64_t transferred; /* bytes delivered over all channels, headers and disks included */
    /* RAM, named after query-migrate's `ram` */
    uint64_t remaining;        /* bytes of dirty pages not yet handed out */
    uint64_t total;            /* bytes of all blocks */
    uint64_t duplicate;        /* zero pages sent */
    uint64_t normal;           /* pages sent with content */
    uint64_t holes;            /* of `duplicate`, pages never touched at the source and so never read */
    uint64_t dirty_pages_rate; /* pages per second, last round */
    uint64_t dirty_sync_count; /* rounds */
    uint64_t pages_per_second;
    uint64_t bandwidth_bytes_per_s; /* the smoothed estimate behind the threshold */
    uint64_t threshold_size;        /* bytes: bandwidth * downtime limit */
    double compression_ratio;       /* page bytes over wire bytes of compressed pages; 1 when none */
    uint32_t page_size;
    uint32_t channels;
    uint64_t round_trip_ns;
    uint64_t migration_thread_cpu_ns; /* CPU time of the coordinator */
    uint32_t throttle_percent;        /* by which the guest is slowed down now */
    enum haul_ownership ownership;
    char tracker[32];
    enum haul_mode mode;            /* of a destination: its source's, once one came */
    char rdma_provider[64];         /* rdma: only, else "" */
    uint64_t rdma_registered_bytes; /* rdma: guest memory registered with the provider at this end */
    uint32_t rdma_regions;          /* in so many pieces */
    /* Mode background-snapshot: how often a write had to wait, and for how long from when this process was
     * told; the guest feels the time until then, too. */
    uint64_t write_faults;
    uint64_t write_fault_p50_ns;
    uint64_t write_fault_p99_ns;
    uint64_t write_fault_longest_ns;
    uint32_t streams;      /* side streams, engine/stream.h */
    uint64_t stream_bytes; /* carried by them, both ways; not in `transferred` */
    /* Source: of all that haul_stream_progress said. */
    uint64_t stream_offset;
    uint64_t stream_length;
    uint32_t streams_ready;
    struct haul_disk_stats disk;
};

struct haul_channel_stats {
    size_t size;
    uint64_t bytes;
    uint64_t pages;
    uint64_t zero;
    uint64_t raw;
    uint64_t compressed;
    uint64_t busy_ns;
    uint64_t stalled_ns;
    int cpu;
    int node;
    int tid;
};

/* One live thread of a migration. */
struct haul_thread {
    char name[16]; /* as the kernel and `top` show it, "multifdsend_0" */
    int tid;
};

/* ---- calls -------------------------------------------------------------------------------------------- */

/*
 * haul_source_new, haul_destination_new: create one end. *migration is the caller's, to be freed with
 * haul_free. -EINVAL: an option out of range (the message names it and its range); -ENOMEM.
 */
int haul_source_new(const struct haul_options *options, struct haul_migration **migration,
                    struct haul_error *error);
int haul_destination_new(const struct haul_options *options, struct haul_migration **migration,
                         struct haul_error *error);

/*
 * The set_ and add_ functions register the guest; before haul_start only (-EBUSY after). Ops structs must
 * outlive the migration; `opaque` is handed back to every callback.
 * haul_add_ram: -EINVAL (empty or long name, unaligned, zero length), -EEXIST (name taken), -ENOSPC (over
 * 1024 blocks).
 */
int haul_add_ram(struct haul_migration *migration, const struct haul_ram_block *block,
                 struct haul_error *error);
int haul_set_tracker(struct haul_migration *migration, const struct haul_tracker_ops *ops, void *opaque,
                     struct haul_error *error);
int haul_set_write_guard(struct haul_migration *migration, const struct haul_write_guard_ops *ops,
                         void *opaque, struct haul_error *error);
int haul_add_state(struct haul_migration *migration, const struct haul_state_ops *ops, void *opaque,
                   struct haul_error *error);
int haul_set_guest(struct haul_migration *migration, const struct haul_guest_ops *ops, void *opaque,
                   struct haul_error *error);
int haul_set_events(struct haul_migration *migration, const struct haul_events *events, void *opaque,
                    struct haul_error *error);

/*
 * haul_add_fd hands a descriptor to the migration, which closes it in the end; fd:NAME in the URI refers to
 * it. How it came (inherited, or by SCM_RIGHTS) is the caller's matter. Before haul_start. On failure the
 * descriptor stays the caller's: -EINVAL (a name of 1 to 63 bytes without commas and slashes, no digit
 * first), -EEXIST, -ENOSPC, -EBUSY.
 */
int haul_add_fd(struct haul_migration *migration, const char *name, int fd, struct haul_error *error);

/* haul_say sends a plain sentence to the message event; from the guest's hooks and handlers only. */
void haul_say(struct haul_migration *migration, const char *text);

/*
 * haul_start: the source connects to `uri` and its migration_thread takes over; the destination listens on
 * `uri` and starts to populate its memory, its loader thread takes over. Returns once the URI is checked and,
 * for the destination, bound.
 * file:PATH is a snapshot file (docs/file.md) in place of the other side. A source writes it: the guest runs
 * until all of it fits the downtime limit, and once the file has its name the guest is the file's
 * (HAUL_OWNER_DESTINATION). PATH must not exist. A destination starts its guest from it, with
 * options.channels reader threads; whether the file is sound and fits is checked before haul_start returns
 * (header and blocks) and before the guest runs (every byte).
 */
int haul_start(struct haul_migration *migration, const char *uri, struct haul_error *error);

/*
 * haul_check_uri returns 0 when `uri` is well formed for a destination (`listening`) or a source, else
 * -EINVAL with a message that shows the right form. docs/transports.md describes them. Any thread.
 */
int haul_check_uri(const char *uri, bool listening, struct haul_error *error);

/* haul_get_mode returns the mode of the options; an adapter may ask it when it registers a guest. */
enum haul_mode haul_get_mode(const struct haul_migration *migration);

/* haul_writes_file tells whether a started source goes to a file:. Any thread. */
bool haul_writes_file(const struct haul_migration *migration);

/*
 * haul_relay connects to `uri` and carries bytes between the connection and `in` and `out` (which may be the
 * same), until the other end closes it. Belongs to no migration. The caller ignores SIGPIPE. Any thread.
 */
int haul_relay(const char *uri, int in, int out, uint32_t timeout_s, struct haul_error *error);

/* haul_local_uri returns the destination's URI with the real port, after haul_start; valid until haul_free.
 */
const char *haul_local_uri(const struct haul_migration *migration);

/*
 * haul_wait blocks until the migration ended, its threads are joined and the guest is where it belongs.
 * Returns 0 for completed, -ECANCELED for cancelled, or the negative errno of the failure, with its message.
 * Ask haul_get_stats for `ownership`.
 */
int haul_wait(struct haul_migration *migration, struct haul_error *error);

/* haul_cancel asks for the end; the guest goes on at the source. Too late after HANDOVER: then it returns
 * -EALREADY. Async: see haul_wait. Safe in any state. */
int haul_cancel(struct haul_migration *migration);

enum haul_state haul_get_state(const struct haul_migration *migration);
void haul_get_stats(struct haul_migration *migration, struct haul_stats *stats);
/* -ENOENT for a channel that does not exist (yet). */
int haul_get_channel_stats(struct haul_migration *migration, unsigned index,
                           struct haul_channel_stats *stats);

/*
 * What may be changed while a migration runs, as its options say, at a source only. The migration_thread
 * takes each within 100 ms. What the channels hold by then is still sent: some 50 ms of work at the speed at
 * which each of them was seen to carry it, and what the transport has taken. A changed downtime limit,
 * switchover bandwidth or throttle does not wait for the end of a round that takes long: the round is cut
 * short as soon as stopping the guest would fit. haul_set_downtime_limit: -EINVAL over 2000000.
 * haul_set_throttle slows the guest down by `percent` (0: not at all), from where auto_converge goes on;
 * -EINVAL over 99, -ENOTSUP for a guest without the hook and at a destination. haul_set_throttle_steps is for
 * what auto_converge does from then on, and a lower end for what it has done; -EINVAL: see
 * haul_throttle_steps.
 */
void haul_set_max_bandwidth(struct haul_migration *migration, uint64_t bytes_per_s);
void haul_set_switchover_bandwidth(struct haul_migration *migration, uint64_t bytes_per_s);
int haul_set_downtime_limit(struct haul_migration *migration, uint32_t limit_ms, struct haul_error *error);
int haul_set_throttle(struct haul_migration *migration, unsigned percent, struct haul_error *error);
int haul_set_throttle_steps(struct haul_migration *migration, const struct haul_throttle_steps *steps,
                            struct haul_error *error);

/* haul_continue lets a migration go on that pause_before_switchover holds in pre-switchover. -EINVAL: it is
 * not held (any more). */
int haul_continue(struct haul_migration *migration);

/* haul_threads writes the live threads of the migration to `threads` (room for `capacity`), in the order of
 * their names, and returns how many there are. */
unsigned haul_threads(struct haul_migration *migration, struct haul_thread *threads, unsigned capacity);

/* haul_id writes the migration id as 32 hexadecimal digits (the destination's is known once a source
 * connected; until then all zero). */
void haul_id(const struct haul_migration *migration, char text[33]);

/* haul_free cancels, waits, and frees. NULL is accepted. */
void haul_free(struct haul_migration *migration);

#ifdef __cplusplus
}
#endif
#endif
