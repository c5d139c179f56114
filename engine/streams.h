/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_STREAMS_H
#define HAUL_ENGINE_STREAMS_H

/*
 * Side streams: bytes of the two machines' own, each over one more connection of the migration's transport.
 * A thread per stream and side carries them between that connection and the machine's socket.
 */

#include "channels/transport/pump.h"
#include "engine/migration.h"
#include "engine/source/rate_limit.h"

#include <pthread.h>

/* How much of max-bandwidth the streams may take. */
enum haul_streams_share {
    HAUL_STREAMS_ALL,      /* nobody else sends */
    HAUL_STREAMS_HALF,     /* memory does too */
    HAUL_STREAMS_UNLIMITED /* the guest is stopped */
};

struct haul_side_stream {
    /* ---- written before its thread starts ---- */
    struct haul_streams *all;
    unsigned index;
    char name[HAUL_NAME_MAX + 1];
    char *description;
    int local;      /* the machine's socket, perhaps still listening; -1: none yet */
    int connection; /* to the other side; -1: none yet */
    bool started;
    pthread_t thread;
    struct haul_pump_meter meter;
    /* ---- under `lock` of the list ---- */
    uint64_t offset; /* what haul_stream_progress said */
    uint64_t length;
    bool ready;
};

struct haul_streams {
    struct haul_migration *migration;
    int stop_fd; /* eventfd, ends the threads */
    unsigned count;
    struct haul_side_stream list[HAUL_STREAMS_MAX];
    HAUL_ATOMIC(int) share; /* enum haul_streams_share; relaxed, a hint to the limit */
    pthread_mutex_t lock;   /* of `limit`, which the threads share, and of each stream's progress */
    struct haul_rate_limit limit;
};

/* haul_streams_count returns how many there are; `streams` may be NULL in all of these. */
static inline unsigned haul_streams_count(const struct haul_streams *streams)
{
    return streams ? streams->count : 0;
}

/* ---- source, migration_thread ---- */

/* haul_streams_check: -EINVAL where the streams do not fit the migration's other options. */
int haul_streams_check(const struct haul_migration *migration, struct haul_error *error);

/* haul_streams_announce tells the destination of them and waits until its machine is ready for all. */
int haul_streams_announce(struct haul_migration *migration, struct haul_error *error);

/* haul_streams_connect connects them, once all channels are, and starts to carry. */
int haul_streams_connect(struct haul_migration *migration, struct haul_error *error);

/* haul_streams_set_share says how much of max-bandwidth they may take from now on. */
void haul_streams_set_share(struct haul_streams *streams, enum haul_streams_share share);

/* ---- destination, loader thread ---- */

/* haul_streams_accept takes STREAMS in and has the machine open a socket for each. */
int haul_streams_accept(struct haul_migration *migration, struct haul_error *error);

/* haul_streams_expects tells whether the connection of `channel` is a stream that has not connected yet. */
bool haul_streams_expects(const struct haul_migration *migration, unsigned channel);

/* haul_streams_begin starts to carry the stream of `channel` over the connection `fd`, which it takes over
 * also when it fails. */
int haul_streams_begin(struct haul_migration *migration, unsigned channel, int fd, struct haul_error *error);

/* ---- both ---- */

/* haul_streams_carried returns the bytes sent by all streams, those received too if `both`. Any thread. */
uint64_t haul_streams_carried(const struct haul_streams *streams, bool both);

/* haul_streams_count_up fills in the streams' part of `stats`. Under migration->lock. */
void haul_streams_count_up(struct haul_streams *streams, struct haul_stats *stats);

/* haul_streams_abort ends what the streams carry, as if all connections had broken. Any thread. */
void haul_streams_abort(const struct haul_streams *streams);

/* haul_streams_stop ends the threads and closes everything; the counters stay. */
void haul_streams_stop(struct haul_streams *streams);

void haul_streams_free(struct haul_streams *streams);

#endif
