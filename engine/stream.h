/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_STREAM_H
#define HAUL_ENGINE_STREAM_H

#include "engine/haul.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A side stream carries bytes in both directions between the two machines, over one more connection of the
 * migration's transport, for what is neither memory nor state: a disk that the VMM copies by itself. The
 * engine does not look at the bytes. They count as stream_bytes, and streams and memory share max_bandwidth;
 * while the guest is stopped neither is limited. A stream whose connection breaks closes the machine's
 * socket, and fails nothing by itself. All are closed when the migration ends, and already when it is
 * cancelled or the other side is gone: a hook that waits for what a stream carries is not left waiting.
 */
struct haul_stream {
    const char *name;        /* 1..255 bytes, unique within the migration */
    const char *description; /* up to 4095 bytes from the source's machine to the destination's */
};

#define HAUL_STREAMS_MAX 32

/*
 * haul_add_stream gives a source a side stream. `fd` is a stream socket of the machine's, connected, or
 * listening, whose first connection is taken; the migration's on success. Before haul_start. -EINVAL (a name
 * or description too long, a destination), -EEXIST, -ENOSPC (over HAUL_STREAMS_MAX), -EBUSY.
 */
int haul_add_stream(struct haul_migration *migration, const char *name, const char *description, int fd,
                    struct haul_error *error);

/*
 * haul_stream_progress lets those who watch the move see how far the machine is with what the stream `index`
 * (in the order of haul_add_stream) is for: `offset` of `length` bytes are done, both may grow; `ready`: all
 * but what the guest writes meanwhile. Source, from the guest's hooks.
 */
void haul_stream_progress(struct haul_migration *migration, unsigned index, uint64_t offset, uint64_t length,
                          bool ready);

struct haul_stream_stats {
    char name[256];
    uint64_t bytes; /* carried, both ways */
    /* Source: what haul_stream_progress said. */
    uint64_t offset;
    uint64_t length;
    bool ready;
};

/* haul_get_stream_stats copies the counters of one side stream. Any thread. -ENOENT: no such stream, which is
 * so at a destination until its source came. */
int haul_get_stream_stats(struct haul_migration *migration, unsigned index, struct haul_stream_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
