/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SNAPSHOT_PLACE_H
#define HAUL_CHANNELS_SNAPSHOT_PLACE_H

/* A file that gets its name only when it is complete, in one step, and never over another file. */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>

struct haul_snapshot_place {
    char *path;    /* as the user gave it */
    char *partial; /* the name meanwhile, in the directory, or NULL: none (O_TMPFILE) */
    const char *name;
    int directory; /* or -1 */
    int fd;        /* read and write, or -1 */
    bool published;
};

/*
 * haul_snapshot_place_open makes the file, mode 0600, `length` bytes of hole. -EEXIST: `path` is there; and
 * others as haul_snapshot_writer_new says. On failure only haul_snapshot_place_close is due.
 */
int haul_snapshot_place_open(struct haul_snapshot_place *place, const char *path, uint64_t length,
                             struct haul_error *error);

/* haul_snapshot_place_publish: see haul_snapshot_publish. */
int haul_snapshot_place_publish(struct haul_snapshot_place *place, bool *published, struct haul_error *error);

void haul_snapshot_place_discard(struct haul_snapshot_place *place);

/* haul_snapshot_place_close discards what is not published. Both descriptors -1, the rest zero: nothing. */
void haul_snapshot_place_close(struct haul_snapshot_place *place);

#endif
