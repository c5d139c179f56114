/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_HAUL_H
#define HAUL_ENGINE_HAUL_H

/*
 * haul: live migration as a library. A migration object is one end of one move, source or destination. The
 * caller describes the guest (RAM blocks, dirty tracker, state handlers, hooks: engine/guest.h), starts the
 * migration with a URI, and waits. Everything hangs off the object: any number of migrations may live in one
 * process.
 *
 * Order of calls: haul_source_new or haul_destination_new; haul_add_ram, haul_set_tracker,
 * haul_add_state, haul_set_guest, haul_set_events; haul_start; haul_wait; haul_free.
 * There is no promise of a stable ABI: a caller is compiled with the headers of the library that it is linked
 * with.
 * Functions that return int give 0 or a negative errno, and take a NULL `error` where the message is not
 * wanted. Unless a declaration says otherwise, calls on one object come from one thread at a time.
 * haul_cancel, haul_continue, haul_get_stats, haul_get_channel_stats, haul_get_state, haul_threads, haul_id
 * and the haul_set_ functions for what changes while a migration runs (haul_set_max_bandwidth,
 * _downtime_limit, _switchover_bandwidth, _throttle, _throttle_steps) may be called from any thread between
 * haul_start and haul_free.
 */

#include "channels/error.h"
#include "engine/guest.h"

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
    HAUL_OWNER_SOURCE,      /* the guest is the source's, and runs there but for haul_stats.resume_error */
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

/* What haul_options.compress may be: "none|lz4|auto", and the same as a list that ends with NULL. */
extern const char haul_compress_names[];
extern const char *const haul_compress_list[];

/*
 * Options are copied and checked by haul_source_new and haul_destination_new. Call haul_options_default
 * first: it sets `size`, without which options are refused.
 */
struct haul_options {
    size_t size;
    uint32_t channels;    /* source: 1..128, default 2. The destination follows the source,
                             or reads a file with as many threads. */
    const char *compress; /* source: one of haul_compress_names (default "none") */
    /* Source: 0..2000000, default 300. The guest is stopped when the predicted downtime fits; with nothing
     * left to send it is stopped whatever is predicted, and the event `message` says so. 0: only then. */
    uint32_t downtime_limit_ms;
    uint64_t max_bandwidth_bytes_per_s;        /* source: cap over all channels; 0 (default): none */
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

/* haul_options_default fills `options`, the caller's, with the defaults above and sets `size`. Any thread. */
void haul_options_default(struct haul_options *options);

/* ---- events ------------------------------------------------------------------------------------------- */

/* Steps of ownership, for the record on disk (rule R1). */
enum haul_step {
    HAUL_STEP_HANDOVER_SENDING,  /* source: about to send HANDOVER */
    HAUL_STEP_HANDOVER_RECEIVED, /* destination: about to start the guest */
    HAUL_STEP_RUNNING,           /* destination: the guest runs; source: RUNNING came */
    HAUL_STEP_RESUMED,           /* source: not handed over, the guest runs here; not said where `resume`
                                    failed */
    /* destination: HANDOVER may have come, but the guest never ran here and never will, about to tell the
     * source, which runs it again: a record of HANDOVER_RECEIVED has to go first. A file has nobody to tell,
     * it can be loaded again */
    HAUL_STEP_NOT_STARTED,
    /* both, in setup: nothing is owned by it. The caller does what will cost it time at HANDOVER_SENDING or
     * HANDOVER_RECEIVED (a record that is synced) once for trial; how long that takes counts in the
     * prediction */
    HAUL_STEP_TRIAL
};

/*
 * What a migration tells its owner. Events come on its own threads, `message` also on the caller's inside
 * haul_start; so they must not take a lock that is held while haul_start is called, nor call haul_free or
 * haul_wait. All may be NULL.
 */
struct haul_events {
    /* After each change of state; on the migration_thread or loader thread. A final state comes before
     * haul_wait returns: an owner with an event loop may raise a descriptor of its own here, and then wait.
     */
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
    uint64_t bandwidth_bytes_per_s; /* as measured, smoothed; 0: not yet */
    uint64_t threshold_size;        /* bytes: downtime limit * that bandwidth, or switchover_bandwidth */
    double compression_ratio;       /* page bytes over wire bytes of compressed pages; 1 when none */
    uint32_t page_size;
    uint32_t channels;
    uint64_t round_trip_ns;
    uint64_t migration_thread_cpu_ns; /* CPU time of the coordinator */
    uint32_t throttle_percent;        /* by which the guest is slowed down now */
    enum haul_ownership ownership;
    int resume_error; /* source, after a failure: 0, or the negative errno with which the last call of the
                         guest's `resume` failed: the guest is the source's and does not run */
    char tracker[32];
    enum haul_mode mode;            /* of a destination: its source's, once one came */
    char rdma_provider[64];         /* rdma: only, else "" */
    uint64_t rdma_registered_bytes; /* rdma: guest memory registered with the provider at this end */
    uint32_t rdma_regions;          /* in so many pieces */
    /* Mode background-snapshot: how often a write had to wait, and for how long: until its page was released,
     * from when it began to wait, but for the time that a thread which slept until then took to wake up. */
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
    /* Mode background-snapshot: the file is complete and has its name. With HAUL_STATE_FAILED a crash of the
     * host could lose it: its directory could not be written to the disk. */
    bool file_complete;
};

/* One channel. Disks are counted in. */
struct haul_channel_stats {
    uint64_t bytes;      /* delivered (source) or received, headers included */
    uint64_t pages;      /* of 4096 bytes: the sum of the next three */
    uint64_t zero;       /* without content, holes included */
    uint64_t raw;        /* sent as they are */
    uint64_t compressed; /* sent by a codec */
    uint64_t busy_ns;    /* its thread had something to do, waiting for the link included */
    uint64_t stalled_ns; /* its thread had nothing to do */
    int cpu;             /* where its thread ran last; -1: not yet */
    int node;            /* NUMA node that its thread is placed on; -1: any */
    int tid;             /* of its thread; 0: not yet */
};

/* One live thread of a migration. */
struct haul_thread {
    char name[16]; /* as the kernel and `top` show it, "multifdsend_0" */
    int tid;
};

/* ---- calls -------------------------------------------------------------------------------------------- */

struct haul_migration; /* opaque */

/*
 * haul_source_new, haul_destination_new: create one end. *migration is the caller's, to be freed with
 * haul_free. -EINVAL: an option out of range (the message names it and its range), or a placement with a CPU
 * that the process may not use; -ENOMEM; -EIO: no random number for an id; what the system says of reading
 * the machine's topology or of making an eventfd (-EMFILE). Any thread.
 */
int haul_source_new(const struct haul_options *options, struct haul_migration **migration,
                    struct haul_error *error);
int haul_destination_new(const struct haul_options *options, struct haul_migration **migration,
                         struct haul_error *error);

/*
 * The set_ and add_ functions register the guest; before haul_start only (-EBUSY after). Ops structs of
 * trackers, guards and state handlers must outlive the migration, the others and blocks are copied; `opaque`
 * is handed back to every callback.
 * haul_set_tracker, haul_set_write_guard: -EINVAL (a member is NULL that is not optional).
 * haul_add_ram: -EINVAL (empty or long name, unaligned, zero length), -EEXIST (name taken), -ENOSPC (over
 * 1024 blocks).
 * haul_add_state: -EINVAL (empty or long name), -EEXIST (name taken), -ENOSPC (over 64 handlers).
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
 * it. How it came (inherited, or by SCM_RIGHTS) is the caller's matter; a number in the URI is only for one
 * that the process inherited, and is refused when it is close-on-exec. Before haul_start. On failure the
 * descriptor stays the caller's: -EINVAL (a name has 1 to 63 bytes without commas and slashes, no digit
 * first), -EEXIST (name taken), -ENOSPC (over 258 descriptors), -ENOMEM, -EBUSY (started).
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
 * From here until HANDOVER nobody but the engine and state handlers may write a destination's memory: which
 * pages are zero already is found out once. With options.verify `load` may not write it either.
 * exec: and ssh: start children, which the application must not reap (waitpid for any, SIGCHLD ignored).
 * -EINVAL (the URI; what is registered does not fit: a private mapping with a file, no tracker), -EBUSY
 * (started before), -ENOTSUP (this transport or mode cannot do it), -ENOMEM, and what the system said of
 * binding, of the file or of starting a thread. After a failure it may be called again.
 */
int haul_start(struct haul_migration *migration, const char *uri, struct haul_error *error);

/*
 * haul_check_uri returns 0 when `uri` is well formed for a destination (`listening`) or a source, else
 * -EINVAL with a message that shows the right form. docs/transports.md describes them. Any thread.
 */
int haul_check_uri(const char *uri, bool listening, struct haul_error *error);

/* haul_get_mode returns the mode of the options; an adapter may ask it when it registers a guest. Any thread.
 */
enum haul_mode haul_get_mode(const struct haul_migration *migration);

/* haul_writes_file tells whether a started source goes to a file:. Any thread. */
bool haul_writes_file(const struct haul_migration *migration);

/*
 * haul_relay connects to `uri` and carries bytes between the connection and the descriptors `in` and `out`
 * (the caller's; they may be the same), until the other end closes it. timeout_s, in seconds, is for
 * connecting. Belongs to no migration. The caller ignores SIGPIPE. Any thread. -EINVAL: the URI; -ETIMEDOUT;
 * what the system says of connecting, reading or writing.
 */
int haul_relay(const char *uri, int in, int out, uint32_t timeout_s, struct haul_error *error);

/* haul_local_uri returns the destination's URI with the real port, after haul_start; valid until haul_free.
 * NULL for a source. */
const char *haul_local_uri(const struct haul_migration *migration);

/*
 * haul_wait blocks until the migration ended, its threads are joined and the guest is where it belongs.
 * Returns 0 for completed, -ECANCELED for cancelled, or the negative errno of the failure, with its message;
 * -EINVAL if it was not started. Called again it returns the same. Ask haul_get_stats for `ownership`.
 */
int haul_wait(struct haul_migration *migration, struct haul_error *error);

/* haul_cancel asks for the end; the guest goes on at the source. Too late after HANDOVER: then it returns
 * -EALREADY. Async: see haul_wait. Safe in any state, any number of times. */
int haul_cancel(struct haul_migration *migration);

/* haul_get_state returns the state of this moment. haul_get_stats copies the counters of this moment into
 * `stats`, the caller's; also after the end, until haul_free. */
enum haul_state haul_get_state(const struct haul_migration *migration);
void haul_get_stats(struct haul_migration *migration, struct haul_stats *stats);

/* haul_get_channel_stats does so for channel `index`, from 0. -ENOENT: it does not exist (yet). */
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
 * their names, and returns how many there are, which may be more. */
unsigned haul_threads(struct haul_migration *migration, struct haul_thread *threads, unsigned capacity);

/* haul_id writes the migration id as 32 hexadecimal digits (the destination's is known once a source
 * connected; until then all zero). */
void haul_id(const struct haul_migration *migration, char text[33]);

/* haul_free cancels, waits, and frees. NULL is accepted. Not from an event or hook. */
void haul_free(struct haul_migration *migration);

#ifdef __cplusplus
}
#endif
#endif
