/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_RDMA_H
#define HAUL_ENGINE_RDMA_H

/* rdma: on both ends, the provider is opened and memory registered, between BLOCKS and the first page. */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

/* haul_rdma_wanted tells whether this end's URI is rdma:. */
bool haul_rdma_wanted(const struct haul_migration *migration);

/*
 * haul_rdma_prepare does nothing unless rdma: is wanted. Else it does ahead what needs no other side and
 * takes a while, so that neither side waits for the other's: the destination before it looks who connected,
 * the source while the destination registers its memory. -ENOSYS: there is no libfabric; -ENODEV: it has no
 * such provider. migration_thread or loader thread.
 */
int haul_rdma_prepare(struct haul_migration *migration, struct haul_error *error);

/* haul_rdma_check_hello refuses a source that would not use rdma: as this destination does, or the other way
 * round. Loader thread. */
int haul_rdma_check_hello(const struct haul_migration *migration, const struct haul_hello *hello,
                          struct haul_error *error);

/*
 * haul_rdma_register opens the provider and registers `views`, our memory in the source's order;
 * haul_rdma_offer then tells the source. Loader thread.
 */
int haul_rdma_register(struct haul_migration *migration, const struct haul_block_view *views,
                       struct haul_error *error);
int haul_rdma_offer(struct haul_migration *migration, struct haul_error *error);

/*
 * haul_rdma_take_offer waits for the offer and opens the same provider here. It waits as long as the
 * destination answers: registering much memory takes a while. migration_thread.
 */
int haul_rdma_take_offer(struct haul_migration *migration, struct haul_error *error);

/* haul_rdma_end deregisters; all channels are closed. Does nothing where nothing was registered. */
void haul_rdma_end(struct haul_migration *migration);

#ifdef __cplusplus
}
#endif
#endif
