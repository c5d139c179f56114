/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_BACKGROUND_BACKGROUND_H
#define HAUL_ENGINE_BACKGROUND_BACKGROUND_H

/*
 * Background snapshot (mode background-snapshot): what its files share. bg_migration_thread.c coordinates,
 * pages.c knows which page is saved, faults.c is the thread that serves waiting writers, writer.c
 * the threads that read memory in order and write the file, priority.c says who runs first.
 *
 * The rule that everything rests on: each thread copies a page, then takes it (sets its bit in `taken`), then
 * releases it. Whoever sets the bit keeps its copy; whoever finds it set throws its own away. So a page that
 * is taken has been copied by its taker while it was still protected, anybody may release it, and no waiting
 * writer depends on a thread that is in the middle of a copy or of a write to the disk.
 */

#include "channels/account.h"
#include "channels/doorbell.h"
#include "channels/snapshot/writer.h"
#include "engine/background/patience.h"
#include "engine/background/wait_histogram.h"
#include "engine/migration.h"
#include "engine/source/source.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_BG_CLUSTER_PAGES 16u /* saved and released at once for a write, at least */
#define HAUL_BG_CHUNK_PAGES 256u  /* read and released at once by a writer, at least */
#define HAUL_BG_HUGE_PAGES 512u   /* the largest page that can be saved at once: 2 MiB */
#define HAUL_BG_POOL_BYTES ((size_t)64 << 20)

/* What a write that hits protection does; moves forward only. */
enum haul_bg_phase {
    HAUL_BG_ARMING, /* before the moment: released, and noted so that it is protected again */
    HAUL_BG_SAVING, /* saved first */
    HAUL_BG_ENDING  /* the snapshot failed: released */
};

/* One RAM block. Sizes are in pages of 4096 bytes; cluster and chunk are whole pages of its backing. */
struct haul_bg_block {
    const struct haul_block *ram;
    const unsigned char *host;
    uint64_t pages;
    uint32_t cluster;
    uint32_t chunk;
    uint64_t first_chunk; /* of the chunks of all blocks */
    HAUL_ATOMIC(uint64_t) * taken;
    uint64_t *present;         /* may hold content at the moment; written before it, then read by all */
    HAUL_ATOMIC(bool) * armed; /* per cluster, up to the moment: protected, and not let go since */
};

struct haul_bg_pages {
    const struct haul_write_guard_ops *guard;
    void *guard_opaque;
    struct haul_bg_block *blocks;
    uint32_t block_count;
    uint64_t chunks;
    uint64_t total;
    pthread_mutex_t lock;   /* orders the moment and the writes before it; the fault thread waits */
    HAUL_ATOMIC(int) phase; /* enum haul_bg_phase; ARMING is left under the lock */
    HAUL_ATOMIC(uint64_t) taken_pages; /* relaxed: for progress */
};

/* A cluster that the fault thread copied, on its way to the file. */
struct haul_bg_slot {
    struct haul_bg_slot *next;
    unsigned char *bytes; /* page-aligned */
    uint32_t block;
    uint64_t first;
    uint32_t count;
    uint64_t won[HAUL_BG_HUGE_PAGES / 64]; /* bit i: page first + i is to be stored from here */
};

typedef HAUL_ATOMIC(struct haul_bg_slot *) haul_bg_stack;

/* Slots, free or full. The fault thread takes free ones and puts full ones, writers the other way round. */
struct haul_bg_pool {
    struct haul_doorbell freed; /* the fault thread sleeps at it, where no slot is free */
    haul_bg_stack free;
    haul_bg_stack full;
    pthread_mutex_t lock;         /* one writer takes at a time */
    HAUL_ATOMIC(bool) closed;     /* nobody waits for a free slot any more */
    HAUL_ATOMIC(uint32_t) filled; /* how many are full; relaxed, a hint that spares the lock */
    uint32_t count;
    struct haul_bg_slot *slots; /* all of them */
    unsigned char *bytes;
    size_t size;
};

struct haul_background;

struct haul_bg_writer {
    struct haul_background *background;
    unsigned index;
    pthread_t thread;
    bool started;
    struct haul_placement_slot slot;
    unsigned char *copy; /* one chunk; on the slot's node */
    size_t copy_size;
    uint64_t *sums; /* of its pages */
    struct haul_doorbell bell;
    struct haul_account account;
};

/* See priority.c. */
struct haul_bg_priority {
    bool changeable;          /* this process may change its threads' priority; written once */
    pthread_mutex_t lock;     /* of who changes it, and `over` */
    bool over;                /* writers are about to be joined */
    HAUL_ATOMIC(bool) modest; /* relaxed, a hint that spares the lock */
    uint64_t looked_ns;       /* the coordinator's, as is the rest */
    uint64_t used_ns[HAUL_CHANNELS_MAX];
    struct haul_patience patience;
};

struct haul_background {
    struct haul_migration *migration;
    struct haul_snapshot_writer *file; /* of source->file */
    struct haul_bg_pages pages;
    struct haul_bg_pool pool;
    struct haul_bg_priority priority;
    struct haul_wait_histogram waits; /* written by the fault thread */

    pthread_t fault_thread;
    bool fault_started;
    int fault_stop_fd; /* eventfd: ends the fault thread */

    struct haul_bg_writer *writers;   /* options.channels */
    unsigned writer_count;            /* made */
    HAUL_ATOMIC(uint64_t) next_chunk; /* relaxed: hands out chunks */
    HAUL_ATOMIC(bool) begun;          /* release once the guest was resumed; acquire in the writers */
    HAUL_ATOMIC(bool) draining;       /* release once no slot is filled any more; acquire in the writers */
    HAUL_ATOMIC(bool) aborted;        /* relaxed: ends the writers sooner */
    HAUL_ATOMIC(unsigned)
    streaming;                      /* writers that may still take chunks; acq_rel, the last rings the bell */
    HAUL_ATOMIC(uint64_t) streamed; /* bytes of chunks, relaxed: for max-bandwidth */

    pthread_mutex_t lock; /* for `limit` and `error` */
    struct haul_rate_limit limit;
    struct haul_error error; /* of the first thread that failed */
    HAUL_ATOMIC(int) failed; /* its code; release when set, acquire in the coordinator */
};

/* ---- pages.c ---- */

/* -ENOTSUP: a block has pages larger than 2 MiB. */
int haul_bg_pages_init(struct haul_bg_pages *pages, struct haul_migration *migration,
                       struct haul_error *error);
void haul_bg_pages_cleanup(struct haul_bg_pages *pages);

/*
 * haul_bg_pages_arm protects everything and finds what may hold content, and goes over what was written
 * meanwhile until little is left or it gets no less; the guest runs.
 */
int haul_bg_pages_arm(struct haul_bg_pages *pages, struct haul_error *error);

/* haul_bg_pages_moment protects again what was written since, and begins to save; the guest stands still. */
int haul_bg_pages_moment(struct haul_bg_pages *pages, struct haul_error *error);

/* haul_bg_pages_give_up lets every write go on unsaved. */
void haul_bg_pages_give_up(struct haul_bg_pages *pages);

/* haul_bg_pages_let_go is for a write in the phases ARMING and ENDING; false: it is to be saved. */
bool haul_bg_pages_let_go(struct haul_bg_pages *pages, const struct haul_waiting_write *write, int *result,
                          struct haul_error *error);

/* haul_bg_pages_find writes to `wanted` (bit i: page first + i) the pages that are present and not taken.
 * False: all are taken. */
bool haul_bg_pages_find(const struct haul_bg_block *block, uint64_t first, uint32_t count, uint64_t *wanted);

/*
 * haul_bg_pages_check makes sure that pages still have the content that they had at the moment: -ENODATA when
 * one of `wanted` became a hole (balloon, discard: trap T8). Before they are copied, which fills holes. For
 * pages that are not in memory it may wait for locks of the file, which a thread that was preempted may hold.
 */
int haul_bg_pages_check(const struct haul_bg_block *block, uint64_t first, uint32_t count,
                        const uint64_t *wanted, struct haul_error *error);

/*
 * haul_bg_pages_take takes pages and keeps in `wanted`, which haul_bg_pages_find filled and whose pages were
 * copied since, those that it was first to take; returns how many of all it was first to take.
 */
uint64_t haul_bg_pages_take(struct haul_bg_pages *pages, uint32_t block, uint64_t first, uint32_t count,
                            uint64_t *wanted);

/* haul_bg_pages_release lets the writers of pages go on, all of which are taken. */
int haul_bg_pages_release(struct haul_bg_pages *pages, uint32_t block, uint64_t first, uint32_t count,
                          struct haul_error *error);

/* haul_bg_bit tells whether bit `index` is set. */
static inline bool haul_bg_bit(const uint64_t *bits, uint32_t index)
{
    return bits[index / 64] >> (index % 64) & 1;
}

/* haul_bg_copy copies a page that may be released, and written, at the same moment. */
void haul_bg_copy(unsigned char *to, const unsigned char *page);

/* ---- pool.c ---- */

/* -ENOMEM. */
int haul_bg_pool_init(struct haul_bg_pool *pool, size_t bytes, size_t slot_bytes, struct haul_error *error);
void haul_bg_pool_cleanup(struct haul_bg_pool *pool);
/* Fault thread only: haul_bg_pool_get waits for a free slot; NULL once the pool is closed. */
struct haul_bg_slot *haul_bg_pool_get(struct haul_bg_pool *pool);
void haul_bg_pool_put_full(struct haul_bg_pool *pool, struct haul_bg_slot *slot);
struct haul_bg_slot *haul_bg_pool_take_full(struct haul_bg_pool *pool); /* NULL: there is none */
/* haul_bg_pool_filled tells about how many slots are full. */
uint32_t haul_bg_pool_filled(struct haul_bg_pool *pool);
void haul_bg_pool_put_free(struct haul_bg_pool *pool, struct haul_bg_slot *slot);
void haul_bg_pool_close(struct haul_bg_pool *pool);

/* ---- priority.c ---- */

/* haul_bg_priority_init notes what this process may do; before the threads start. */
void haul_bg_priority_init(struct haul_bg_priority *priority);

/* haul_bg_priority_faults puts the calling thread before everybody, as far as it may. */
void haul_bg_priority_faults(void);

/* The coordinator calls haul_bg_priority_begin once the writers are started, which makes them modest;
 * haul_bg_priority_look now and then from when they have work, which looks at what that does to them; and
 * haul_bg_priority_end before it joins them. */
void haul_bg_priority_begin(struct haul_background *background);
void haul_bg_priority_look(struct haul_background *background);
void haul_bg_priority_end(struct haul_background *background);

/* haul_bg_priority_hurry makes writers modest no longer when slots get short. Fault thread. */
void haul_bg_priority_hurry(struct haul_background *background);

/* ---- threads ---- */

/* Started before the moment. The writers read no memory before `begun`, and end once `draining` or `aborted`
 * is set and haul_bg_writers_ring was called; the fault thread ends when fault_stop_fd is readable. */
int haul_bg_faults_start(struct haul_background *background, struct haul_error *error);
int haul_bg_writer_start(struct haul_bg_writer *writer, struct haul_error *error);
void haul_bg_writers_ring(struct haul_background *background);

/* haul_bg_fail notes the first failure, lets every write go on, and tells the coordinator. */
void haul_bg_fail(struct haul_background *background, const struct haul_error *error);

/* ---- for the rest of the engine ---- */

/* haul_background_check refuses what does not go together; before the thread starts. */
int haul_background_check(const struct haul_migration *migration, struct haul_error *error);

/* haul_bg_migration_thread is the migration's own thread, in place of the migration_thread; the argument is
 * the migration. */
void *haul_bg_migration_thread(void *argument);

/* Counters; under migration->lock. */
void haul_background_counters(struct haul_background *background, struct haul_stats *stats);
int haul_background_channel(struct haul_background *background, unsigned index,
                            struct haul_channel_counters *counters);
void haul_background_free(struct haul_background *background); /* NULL is accepted */

#ifdef __cplusplus
}
#endif
#endif
