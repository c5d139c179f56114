/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_STATE_STREAM_H
#define HAUL_ENGINE_STATE_STREAM_H

/* The state of handlers as STATE_BEGIN, STATE and STATE_END frames. */

#include "engine/control.h"
#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

/* haul_state_save runs handler->ops->save into frames; its loading will wait until `round` is in memory.
 * Migration_thread. */
int haul_state_save(struct haul_control *control, const struct haul_handler *handler, uint32_t round,
                    struct haul_error *error);

/* haul_state_begin_decode reads STATE_BEGIN. -EPROTO when it is malformed. */
int haul_state_begin_decode(const struct haul_frame *frame, uint32_t *round, char *name, size_t size,
                            struct haul_error *error);

/* haul_state_load runs handler->ops->load on the STATE frames that follow, up to STATE_END. Loader thread. */
int haul_state_load(struct haul_control *control, const struct haul_handler *handler, int timeout_ms,
                    struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
