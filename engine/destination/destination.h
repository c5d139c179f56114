/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DESTINATION_DESTINATION_H
#define HAUL_ENGINE_DESTINATION_DESTINATION_H

/* The destination's end: its start and its end in destination.c. accept.c lets the source in, loader.c takes
 * what it says, up to the guest's start. */

#include "channels/receiver.h"
#include "engine/destination/barrier.h"
#include "engine/destination/populate.h"
#include "engine/disk.h"
#include "engine/migration.h"

struct haul_destination {
    /* ---- written before the receivers start ---- */
    struct haul_file_destination *file; /* file:PATH, else NULL: there is a source */
    char *uri;                          /* with the real port */
    /* The source's block i is our block order[i]; behind the blocks the same for disks. */
    uint32_t order[HAUL_BLOCKS_MAX + HAUL_DISKS_MAX];
    bool adopts;                          /* the source hands its memory over: no receivers, no rounds */
    struct haul_block_view *source_views; /* our memory in the source's order, for the receivers */
    unsigned channels;
    bool has_streams; /* STREAMS follows the block table */
    struct haul_placement_slot slots[HAUL_CHANNELS_MAX];
    struct haul_barrier barrier;
    bool barrier_made; /* under migration->lock too: see haul_destination_wake */

    /* ---- under migration->lock ---- */
    struct haul_receiver *receivers[HAUL_CHANNELS_MAX];
    bool receiver_failed;
    struct haul_error receiver_error; /* of the first that failed */

    /* ---- the loader's own ---- */
    struct haul_populate *populate;
    bool loaded[HAUL_HANDLERS_MAX]; /* handlers whose state came */
    bool adopted;                   /* the adopt hook was called */
    bool prepared;                  /* PREPARE was answered: nothing but HANDOVER may come now */
    bool took;                      /* HANDOVER came: the step event was told */
    bool handed_over;               /* the guest is ours, and was or may have been started */
};

/* haul_destination_loader is the loader thread: from the wait for a source to the guest's start, or to the
 * end of a move that failed. `argument` is the migration; returns NULL. */
void *haul_destination_loader(void *argument);

/*
 * haul_destination_accept waits for a source: the control connection, the block table, and every data
 * connection; receivers run when it returns. Connections that do not say a valid HELLO are closed and do not
 * disturb.
 */
int haul_destination_accept(struct haul_migration *migration, struct haul_error *error);

/* haul_destination_find_handler finds the handler of state that comes, which must not have come before.
 * -EINVAL: there is none of that name; -EPROTO: it came twice. Loader thread. */
int haul_destination_find_handler(struct haul_migration *migration, const char *name, uint32_t *index,
                                  struct haul_error *error);

/* haul_destination_all_loaded: -EPROTO unless the state of every handler that loads any has come. `before`
 * what it was due, for the message. */
int haul_destination_all_loaded(const struct haul_migration *migration, const char *before,
                                struct haul_error *error);

/* haul_destination_stop_listening turns away whoever waits to be let in, and everybody after. Loader thread.
 */
void haul_destination_stop_listening(struct haul_migration *migration);

#endif
