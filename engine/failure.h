/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_FAILURE_H
#define HAUL_ENGINE_FAILURE_H

/* The frames by which a side gives up, FAILED and NOT_STARTED: an errno and a sentence. */

#include "channels/error.h"
#include "channels/wire.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_FAILURE_MAX (sizeof(struct haul_error) + 16) /* bytes of payload */

bool haul_is_failure(enum haul_frame_type type);

/* haul_failure_encode writes the payload and returns its length. */
size_t haul_failure_encode(const struct haul_error *error, unsigned char payload[HAUL_FAILURE_MAX]);

/* haul_failure_read makes the payload of `peer` our own error; false when it cannot be read, which is an
 * error too. */
bool haul_failure_read(const void *payload, size_t length, const char *peer, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
