/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SNAPSHOT_CARRIER_FILE_H
#define HAUL_CHANNELS_SNAPSHOT_CARRIER_FILE_H

/* Senders that write into one snapshot file, and the marks at which they meet. */

#include "channels/carrier.h"
#include "channels/snapshot/writer.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_file_rounds; /* opaque: how far the carriers of one file came */

/* haul_file_rounds_new: for `channels` carriers of `writer`, which outlives it. -ENOMEM. */
int haul_file_rounds_new(struct haul_snapshot_writer *writer, unsigned channels,
                         struct haul_file_rounds **rounds, struct haul_error *error);
void haul_file_rounds_free(struct haul_file_rounds *rounds); /* after its carriers; NULL is accepted */

/* haul_file_rounds_done returns the latest round whose mark came through every carrier; any thread. */
uint32_t haul_file_rounds_done(const struct haul_file_rounds *rounds);

/*
 * haul_file_rounds_hurry: from the next mark on, a round is done once it is written; until then, once it is
 * on the disk too. For when the guest stands still and one flush is to come. Any thread.
 */
void haul_file_rounds_hurry(struct haul_file_rounds *rounds);

/* haul_file_rounds_settled says that everything is on the disk: no byte is undelivered from here on. */
void haul_file_rounds_settled(struct haul_file_rounds *rounds);

/* haul_carrier_file_new makes one of the carriers; its scratch lies on `node`. -ENOMEM. */
int haul_carrier_file_new(struct haul_file_rounds *rounds, int node, struct haul_carrier **carrier,
                          struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
