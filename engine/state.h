/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_STATE_H
#define HAUL_ENGINE_STATE_H

#include "engine/haul.h"

#ifdef __cplusplus
extern "C" {
#endif

/* haul_state_allowed tells whether the one table of legal transitions has `from` -> `to`. Any thread. */
bool haul_state_allowed(enum haul_state from, enum haul_state to);

/* haul_state_ended tells whether `state` is final. */
bool haul_state_ended(enum haul_state state);

#ifdef __cplusplus
}
#endif
#endif
