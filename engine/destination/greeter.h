/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DESTINATION_GREETER_H
#define HAUL_ENGINE_DESTINATION_GREETER_H

/*
 * Who connects to a destination, up to a valid HELLO. Many are listened to at the same time, so that one that
 * stays silent keeps nobody waiting.
 */

#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_greeter; /* opaque */

/* haul_greeter_new makes one for the migration's listener; NULL when memory is short. */
struct haul_greeter *haul_greeter_new(struct haul_migration *migration);

/* haul_greeter_free turns away who has not said HELLO by now. NULL is accepted. */
void haul_greeter_free(struct haul_greeter *greeter);

/*
 * haul_greeter_next waits for a connection that says a valid HELLO, and turns away those that say anything
 * else or nothing for too long. `expected` as in haul_listener_accept. *fd is the caller's. -ETIMEDOUT after
 * timeout_ms (-1: never), -ECANCELED after haul_cancel, or why nobody can connect any more.
 */
int haul_greeter_next(struct haul_greeter *greeter, uint16_t expected, int timeout_ms, int *fd,
                      struct haul_hello *hello, struct haul_error *error);

/* haul_greeter_refuse tells the peer on `fd` and the operator why it is turned away, and closes it. */
void haul_greeter_refuse(struct haul_migration *migration, int fd, const struct haul_error *why);

#ifdef __cplusplus
}
#endif
#endif
