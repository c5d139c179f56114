/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_CPR_H
#define HAUL_ENGINE_CPR_H

/* Mode cpr-transfer: memory changes hands by its descriptors, between two processes of one host. */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * haul_cpr_check_peer makes sure that the connected socket `fd` carries descriptors and that its other end
 * may have them. -EOPNOTSUPP: not a unix socket; -EPERM: another user's process.
 */
int haul_cpr_check_peer(int fd, struct haul_error *error);

/*
 * haul_cpr_check_memory makes sure that `block`'s memory, the file behind `fd` from `offset` on, can be
 * handed over. -EINVAL: the message names the block and what to change.
 */
int haul_cpr_check_memory(const struct haul_block *block, int fd, uint64_t offset, struct haul_error *error);

/* haul_cpr_check_source does so for all blocks of a source, and looks at the kind of `uri`, before anything
 * is connected. */
int haul_cpr_check_source(const struct haul_migration *migration, const char *uri, struct haul_error *error);

/* haul_cpr_hand_over sends the memory of every block and waits until the destination has taken it over.
 * migration_thread. */
int haul_cpr_hand_over(struct haul_migration *migration, struct haul_error *error);

/*
 * haul_cpr_adopt receives the memory of every block, `order` being that of the block table, and gives it to
 * the guest's adopt hook. *began tells whether the hook was called, so that disown is due after a failure.
 * Loader thread.
 */
int haul_cpr_adopt(struct haul_migration *migration, const uint32_t *order, bool *began,
                   struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
