/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_FILE_DESTINATION_H
#define HAUL_ENGINE_FILE_DESTINATION_H

/* A destination that takes its machine from a snapshot file (file:PATH): no source, no rounds. */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_file_destination; /* opaque; in destination->file, NULL for a destination with a source */

/*
 * haul_file_destination_open opens and checks the file, and compares its blocks with the destination's; sets
 * destination->file. Errors as haul_snapshot_reader_new and haul_block_table_match. Before the thread starts.
 */
int haul_file_destination_open(struct haul_migration *migration, struct haul_error *error);

/*
 * haul_file_destination_load fills memory, checks all that it read, and then runs the load handlers. The
 * guest must not run unless it returns 0. -EPROTO: the file is damaged, the message says where. Loader
 * thread.
 */
int haul_file_destination_load(struct haul_migration *migration, struct haul_error *error);

/* Called with migration->lock held; `index` as haul_get_channel_stats. */
void haul_file_destination_wake(struct haul_file_destination *file);
int haul_file_destination_channel(const struct haul_file_destination *file, unsigned index,
                                  struct haul_channel_counters *counters);

/* haul_file_destination_free: after the loader thread; NULL is accepted. */
void haul_file_destination_free(struct haul_file_destination *file);

#ifdef __cplusplus
}
#endif
#endif
