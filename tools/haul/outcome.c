/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/outcome.h"

enum cli_exit cli_outcome_exit(const struct cli_outcome *outcome)
{
    if (outcome->stats.ownership == HAUL_OWNER_UNCERTAIN) {
        return CLI_EXIT_UNCERTAIN;
    }
    if (outcome->stats.ownership != HAUL_OWNER_DESTINATION || outcome->self_check_code < 0) {
        return CLI_EXIT_FAILED;
    }
    return CLI_EXIT_MOVED;
}

const char *cli_ownership_name(enum haul_ownership ownership)
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

static const char *subject(const struct cli_outcome *outcome)
{
    return outcome->machine && outcome->machine[0] == 'm' ? "memory" : "guest";
}

void cli_outcome_headline(const struct cli_outcome *outcome, char *text, size_t size)
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
