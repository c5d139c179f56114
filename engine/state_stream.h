/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_STATE_STREAM_H
#define HAUL_ENGINE_STATE_STREAM_H

/* The state of handlers as STATE_BEGIN, STATE and STATE_END frames, on a control connection or elsewhere. */

#include "engine/control.h"
#include "engine/migration.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the frames go: each is taken whole before `take` returns. */
struct haul_state_sink {
    int (*take)(void *opaque, enum haul_frame_type type, const void *payload, size_t length,
                struct haul_error *error);
    void *opaque;
};

/* Where they come from: the next one, to be freed with free(). */
struct haul_state_origin {
    int (*next)(void *opaque, struct haul_frame **frame, struct haul_error *error);
    void *opaque;
};

/* haul_state_save_to and haul_state_load_from do the same as the two below for any sink and origin. */
int haul_state_save_to(const struct haul_state_sink *sink, const struct haul_handler *handler, uint32_t round,
                       struct haul_error *error);
int haul_state_load_from(const struct haul_state_origin *origin, const struct haul_handler *handler,
                         struct haul_error *error);

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
