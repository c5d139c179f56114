/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_FILE_SOURCE_H
#define HAUL_ENGINE_FILE_SOURCE_H

/*
 * A source that saves into a snapshot file (file:PATH) in place of moving to a destination: the same rounds,
 * estimate and switchover, and no other side. The file's name is the handover (rule R1): before it every
 * failure resumes the guest, after it the guest is the file's. All calls on the migration_thread.
 */

#include "channels/snapshot/writer.h"
#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_file_source; /* opaque; in source->file, NULL for a move to a destination */

/* haul_file_source_check refuses options that mean nothing for a file: -ENOTSUP. Before the thread starts. */
int haul_file_source_check(const struct haul_migration *migration, struct haul_error *error);

/* haul_file_source_open makes the file and sets source->file. Errors as haul_snapshot_writer_new. */
int haul_file_source_open(struct haul_migration *migration, struct haul_error *error);

/* haul_file_source_cost_ns returns what completing and naming the file takes when nothing is left to write.
 */
uint64_t haul_file_source_cost_ns(const struct haul_file_source *file);

/* haul_file_source_carrier makes what a sender sends through. */
int haul_file_source_carrier(struct haul_file_source *file, int node, struct haul_carrier **carrier,
                             struct haul_error *error);

/* haul_file_source_writer returns what writes the file, for who has a stable copy of a page. */
struct haul_snapshot_writer *haul_file_source_writer(const struct haul_file_source *file);

/* haul_file_source_rounds_done returns the latest round that is in the file whole. */
uint32_t haul_file_source_rounds_done(const struct haul_file_source *file);

/* haul_file_source_stopped: the guest stands still until the file has its name, so what is written need not
 * be on the disk round by round. */
void haul_file_source_stopped(struct haul_file_source *file);

/* haul_file_source_save adds the state of one handler. */
int haul_file_source_save(struct haul_file_source *file, const struct haul_handler *handler,
                          struct haul_error *error);

/* haul_file_source_complete compares the file with memory if asked to (`verify`), and puts all of it on the
 * disk. -EBADMSG: a page of the file is not as in memory. */
int haul_file_source_complete(struct haul_migration *migration, struct haul_error *error);

/* haul_file_source_publish gives the file its name; *uncertain as haul_source_switchover has it. */
int haul_file_source_publish(struct haul_file_source *file, bool *uncertain, struct haul_error *error);

/* haul_file_source_discard leaves nothing behind of a file that has no name yet. */
void haul_file_source_discard(struct haul_file_source *file);

/* haul_file_source_free: after the senders; NULL is accepted. */
void haul_file_source_free(struct haul_file_source *file);

#ifdef __cplusplus
}
#endif
#endif
