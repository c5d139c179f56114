/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/outcome.h"

const char *haul_ownership_name(enum haul_ownership ownership)
{
    switch (ownership) {
    case HAUL_OWNER_SOURCE:
        return "source";
    case HAUL_OWNER_DESTINATION:
        return "destination";
    case HAUL_OWNER_UNCERTAIN:
        break;
    }
    return "uncertain";
}

static const char *subject(const struct haul_outcome *outcome)
{
    return outcome->machine && outcome->machine[0] == 'm' ? "memory" : "guest";
}

void haul_outcome_headline(const struct haul_outcome *outcome, char *text, size_t size)
{
    const char *noun = subject(outcome);
    switch (outcome->stats.ownership) {
    case HAUL_OWNER_DESTINATION:
        if (outcome->source) {
            snprintf(text, size, "Moved: the %s is now at %s.", noun, outcome->uri);
        } else {
            snprintf(text, size, "Received: the %s is now here.", noun);
        }
        break;
    case HAUL_OWNER_SOURCE:
        if (outcome->source) {
            snprintf(text, size, "Not moved (%s): the %s goes on here.", outcome->status, noun);
        } else {
            snprintf(text, size, "Not received (%s): the %s stays with the source.", outcome->status, noun);
        }
        break;
    case HAUL_OWNER_UNCERTAIN:
        snprintf(text, size, "Uncertain: it is not known which side owns the %s; this copy %s.", noun,
                 outcome->gave_up ? "was given up" : "is paused");
        break;
    }
}
