/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_MIGRATION_H
#define HAUL_ENGINE_MIGRATION_H

/* The migration object as the engine's own files see it: what both ends share. */

#include "channels/atomic.h"
#include "channels/batch.h"
#include "channels/placement/placement.h"
#include "channels/sender.h"
#include "channels/thread_list.h"
#include "channels/transport/transport.h"
#include "channels/wire.h"
#include "compress/choice.h"
#include "engine/control.h"
#include "engine/haul.h"
#include "engine/stream.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_BLOCKS_MAX 1024
#define HAUL_HANDLERS_MAX 64
#define HAUL_NAME_MAX 255
#define HAUL_DESCRIPTION_MAX 4095
#define HAUL_FDS_MAX (2 * (HAUL_CHANNELS_MAX + 1)) /* a pair of pipes for each connection */
#define HAUL_TRANSPORT_STRINGS 5

struct haul_block {
    char name[HAUL_NAME_MAX + 1];
    unsigned char *host;
    uint64_t length;
    uint32_t page_size;
    int fd;
    uint64_t fd_offset;
};

struct haul_handler {
    const struct haul_state_ops *ops;
    void *opaque;
};

/* Who won the race between haul_cancel and HANDOVER; moves once, from OPEN. */
enum haul_gate { HAUL_GATE_OPEN, HAUL_GATE_CANCELLED, HAUL_GATE_COMMITTED };

/* What haul_continue and the held migration_thread say to each other. */
enum haul_hold { HAUL_HOLD_NONE, HAUL_HOLD_HELD, HAUL_HOLD_RELEASED };

#define HAUL_THROTTLE_UNASKED (-1)

/* What may be set while the migration runs. The values are relaxed: each is a number of its own, and the
 * generation publishes it. */
struct haul_knobs {
    HAUL_ATOMIC(uint64_t) max_bandwidth; /* read on its own by the rate limit, without the generation */
    HAUL_ATOMIC(uint64_t) switchover_bandwidth;
    HAUL_ATOMIC(uint32_t) downtime_limit_ms;
    HAUL_ATOMIC(int) throttle; /* percent wanted, or HAUL_THROTTLE_UNASKED; taken by the migration_thread */
    HAUL_ATOMIC(uint32_t) throttle_steps; /* see haul_throttle_steps_pack */
    HAUL_ATOMIC(uint32_t) generation;     /* of the other four; see haul_source_take_knobs */
};

struct haul_source;
struct haul_disks;
struct haul_destination;
struct haul_rma;
struct haul_streams;

struct haul_migration {
    /* ---- written before haul_start, then read by every thread ---- */
    struct haul_options options; /* strings point to the copies below */
    char placement[256];
    int compress;                          /* a mode of compress/choice.h */
    char *strings[HAUL_TRANSPORT_STRINGS]; /* copies of the transport's options */
    struct haul_named_fd *fds;             /* handed over; fd_count entries */
    unsigned fd_count;
    enum haul_mode mode;
    struct haul_transport_limits limits;
    char *uri;
    const char *file_path; /* of file:PATH, in `uri`; else NULL */
    struct haul_block blocks[HAUL_BLOCKS_MAX];
    uint32_t block_count;
    struct haul_disks *disks;      /* NULL: none */
    uint32_t view_count;           /* block_count and the disks */
    struct haul_block_view *views; /* RAM blocks, then disks */
    struct haul_handler handlers[HAUL_HANDLERS_MAX];
    uint32_t handler_count;
    const struct haul_tracker_ops *tracker;
    void *tracker_opaque;
    const struct haul_write_guard_ops *guard; /* mode background-snapshot */
    void *guard_opaque;
    struct haul_guest_ops guest;
    void *guest_opaque;
    struct haul_events events;
    void *events_opaque;
    struct haul_topology *topology;
    bool started;
    bool joined;
    pthread_t thread; /* migration_thread or loader */

    /* ---- shared by atomics ---- */
    HAUL_ATOMIC(int) state; /* enum haul_state; written by the migration's own thread only */
    HAUL_ATOMIC(int) gate;  /* enum haul_gate; see haul_cancel */
    HAUL_ATOMIC(int) hold;  /* enum haul_hold; see haul_continue */
    struct haul_knobs knobs;
    struct haul_thread_list threads; /* has a lock of its own */
    int cancel_fd;                   /* eventfd, readable once cancelled: ends connect and accept */

    /* ---- under `lock` ---- */
    pthread_mutex_t lock;
    struct haul_stats stats;      /* all but what haul_get_stats computes from the channels */
    struct haul_control *control; /* NULL before it connected; freed by haul_free only */
    int greeting_fd; /* a connection whose handshake is under way, or -1; haul_cancel ends its incoming half
                      */
    struct haul_streams *streams; /* NULL: none; changed by the migration's own thread only */
    uint64_t started_ns;
    uint64_t ended_ns;
    unsigned char id[HAUL_MIGRATION_ID_SIZE];

    /* ---- the thread's own, until it is joined ---- */
    int result;
    struct haul_error error;

    struct haul_connector *connector; /* source only; the migration_thread's */
    struct haul_listener
        *listener;              /* destination only; the loader's, stopped when nobody is to come any more */
    struct haul_rma *rma;       /* rdma: else NULL; the migration's own thread, and cleanup */
    struct haul_source *source; /* source only */
    struct haul_destination *destination; /* destination only */
};

/* haul_migration_set_state takes one step of the state table; -EINVAL (and a message event) for an illegal
 * one. Own thread. */
int haul_migration_set_state(struct haul_migration *migration, enum haul_state to);

/* haul_migration_say sends a plain sentence to the message event. Own thread. */
void haul_migration_say(struct haul_migration *migration, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* haul_migration_step tells the owner's record of a step; its refusal is returned. Own thread. */
int haul_migration_step(struct haul_migration *migration, enum haul_step step, struct haul_error *error);

#define HAUL_TRIAL_MOST_US 60000000 /* of BLOCKS_OK */

/* haul_migration_try_step has the owner try TRIAL out and stores how long that takes; *ns stays as it is
 * where nobody is told of steps. Own thread. */
int haul_migration_try_step(struct haul_migration *migration, uint64_t *ns, struct haul_error *error);

/* haul_migration_guest tells the guest event that the guest runs, or stands still, here. Own thread. */
void haul_migration_guest(struct haul_migration *migration, bool running);

/* haul_migration_cancelled tells whether haul_cancel came in time. Any thread. */
bool haul_migration_cancelled(const struct haul_migration *migration);

/*
 * haul_migration_reason tells what really ended the source's migration when something broke: its own cancel,
 * which looks like many a failure, or what the destination says within HAUL_ASKS_MS. 0: neither, and `error`
 * is unchanged; else -ECANCELED or the destination's errno. Own thread.
 */
int haul_migration_reason(struct haul_migration *migration, struct haul_error *error);

/* haul_migration_commit closes the gate for HANDOVER; false when haul_cancel was first. Own thread. */
bool haul_migration_commit(struct haul_migration *migration);

/* haul_migration_set_control publishes the control connection to haul_cancel and haul_free. Own thread. */
void haul_migration_set_control(struct haul_migration *migration, struct haul_control *control);

/* haul_migration_copy_options checks `options` and keeps a copy, in options.c. -EINVAL, -ENOMEM. */
int haul_migration_copy_options(struct haul_migration *migration, const struct haul_options *options,
                                struct haul_error *error);

/* haul_migration_transport gives the connector or listener what a URI does not say. */
struct haul_transport_options haul_migration_transport(struct haul_migration *migration);

/* haul_migration_copy_strings makes the transport's options the migration's own. -ENOMEM. */
int haul_migration_copy_strings(struct haul_migration *migration, struct haul_error *error);

/* haul_migration_close_transport ends what the connections hang on, once all of them are closed. */
void haul_migration_close_transport(struct haul_migration *migration);

/* haul_allowed_cpus returns how many CPUs this process may use, at least 1. Any thread. */
unsigned haul_allowed_cpus(void);

/*
 * haul_migration_greet lets haul_cancel interrupt the handshake on `fd`; -1 ends that, and must come before
 * `fd` is closed. Own thread.
 */
void haul_migration_greet(struct haul_migration *migration, int fd);

/* haul_knobs_publish makes the migration_thread look at the knobs now. Any thread. */
void haul_knobs_publish(struct haul_migration *migration);

/* haul_knobs_downtime_limit_ms returns the downtime limit as it is set now. Any thread. */
uint32_t haul_knobs_downtime_limit_ms(const struct haul_migration *migration);

/* haul_migration_count_channel adds one channel's counters to `stats`. */
void haul_migration_count_channel(const struct haul_channel_counters *counters, struct haul_stats *stats);

/* The two ends; source.c and destination.c. */
int haul_source_init(struct haul_migration *migration, struct haul_error *error);
int haul_source_start(struct haul_migration *migration, const char *uri, struct haul_error *error);
void haul_source_counters(struct haul_migration *migration, struct haul_stats *stats);
int haul_source_channel(struct haul_migration *migration, unsigned index,
                        struct haul_channel_counters *counters);
void haul_source_wake(struct haul_migration *migration);
void haul_source_cleanup(struct haul_migration *migration);

int haul_destination_init(struct haul_migration *migration, struct haul_error *error);
int haul_destination_start(struct haul_migration *migration, const char *uri, struct haul_error *error);
const char *haul_destination_uri(const struct haul_migration *migration);
void haul_destination_counters(struct haul_migration *migration, struct haul_stats *stats);
int haul_destination_channel(struct haul_migration *migration, unsigned index,
                             struct haul_channel_counters *counters);
void haul_destination_wake(struct haul_migration *migration);
void haul_destination_cleanup(struct haul_migration *migration);

#ifdef __cplusplus
}
#endif
#endif
