/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/state.h"

#define TO(name) (1u << HAUL_STATE_##name)

/*
 * Legal transitions, one row per state. In pre-switchover the guest stands still and the last scan fits the
 * downtime limit. The postcopy states are named but nothing leads to them. A background
 * snapshot saves device state first: setup, device, active, completed.
 */
static const unsigned transitions[HAUL_STATE_COUNT] = {
    [HAUL_STATE_NONE] = TO(SETUP) | TO(CANCELLING) | TO(FAILED),
    [HAUL_STATE_SETUP] = TO(ACTIVE) | TO(DEVICE) | TO(CANCELLING) | TO(FAILED),
    [HAUL_STATE_ACTIVE] = TO(PRE_SWITCHOVER) | TO(DEVICE) | TO(COMPLETED) | TO(CANCELLING) | TO(FAILED),
    [HAUL_STATE_PRE_SWITCHOVER] = TO(DEVICE) | TO(CANCELLING) | TO(FAILED),
    [HAUL_STATE_DEVICE] = TO(ACTIVE) | TO(COMPLETED) | TO(CANCELLING) | TO(FAILED),
    [HAUL_STATE_CANCELLING] = TO(CANCELLED),
};

static const char *const names[HAUL_STATE_COUNT] = {
#define X(name, text) [HAUL_STATE_##name] = (text),
    HAUL_STATES(X)
#undef X
};

const char *haul_state_name(enum haul_state state)
{
    return (unsigned)state < HAUL_STATE_COUNT ? names[state] : "unknown";
}

bool haul_state_allowed(enum haul_state from, enum haul_state to)
{
    if ((unsigned)from >= HAUL_STATE_COUNT || (unsigned)to >= HAUL_STATE_COUNT) {
        return false;
    }
    return (transitions[from] & (1u << to)) != 0;
}

bool haul_state_ended(enum haul_state state)
{
    return state == HAUL_STATE_COMPLETED || state == HAUL_STATE_FAILED || state == HAUL_STATE_CANCELLED;
}
