/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/outcome.h"

#include "engine/snapshot.h"

#include <string.h>

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

bool haul_outcome_is_snapshot(const struct haul_outcome *outcome)
{
    return outcome->stats.mode == HAUL_MODE_BACKGROUND_SNAPSHOT;
}

bool haul_outcome_done(const struct haul_outcome *outcome)
{
    return haul_outcome_is_snapshot(outcome) ? outcome->stats.state == HAUL_STATE_COMPLETED
                                             : outcome->stats.ownership == HAUL_OWNER_DESTINATION;
}

bool haul_outcome_stands_still(const struct haul_outcome *outcome)
{
    return outcome->source && outcome->stats.ownership == HAUL_OWNER_SOURCE &&
           outcome->stats.resume_error < 0;
}

bool haul_outcome_undecided(const struct haul_outcome *outcome)
{
    bool asks = outcome->stats.ownership == HAUL_OWNER_UNCERTAIN || haul_outcome_stands_still(outcome);
    return asks && !outcome->machine_ended && !outcome->gave_up;
}

#define FATE_SIZE 64

/* What became of a guest that is the source's. */
static const char *fate(const struct haul_outcome *outcome, char text[FATE_SIZE])
{
    const char *noun = subject(outcome);
    if (outcome->unbegun) {
        snprintf(text, FATE_SIZE, "nothing was begun");
    } else if (outcome->machine_ended) {
        snprintf(text, FATE_SIZE, "the process of the %s has ended here", noun);
    } else {
        snprintf(text, FATE_SIZE, "the %s %s", noun,
                 !haul_outcome_stands_still(outcome) ? "goes on here"
                 : outcome->gave_up                  ? "was given up here"
                                                     : "is stopped here; see 'haul help resume'");
    }
    return text;
}

/* The same of a file in place of the other side; false where there is nothing else to say. */
static bool file_headline(const struct haul_outcome *outcome, const char *noun, char *text, size_t size)
{
    bool owned = outcome->stats.ownership == HAUL_OWNER_DESTINATION;
    char here[FATE_SIZE];
    if (outcome->stats.ownership == HAUL_OWNER_UNCERTAIN) {
        return false;
    }
    if (haul_outcome_is_snapshot(outcome) && haul_outcome_done(outcome)) {
        snprintf(text, size, "Saved: the %s as it was is in %s, and %s here.", noun, outcome->uri,
                 outcome->machine_ended ? "its process has ended" : "goes on");
    } else if (haul_outcome_is_snapshot(outcome) && outcome->stats.file_complete) {
        snprintf(text, size,
                 "Not surely saved (%s): %s is complete, but a crash of this host could lose it; %s.",
                 outcome->status, outcome->uri, fate(outcome, here));
    } else if (outcome->source && owned) {
        snprintf(text, size, "Saved: the %s is now in %s, and stopped here.", noun, outcome->uri);
    } else if (outcome->source) {
        snprintf(text, size, "Not saved (%s): %s.", outcome->status, fate(outcome, here));
    } else if (owned) {
        snprintf(text, size, "Restored: the %s is now here.", noun);
    } else {
        snprintf(text, size, "Not restored (%s): the file is as it was, and no %s is here.", outcome->status,
                 noun);
    }
    return true;
}

void haul_outcome_headline(const struct haul_outcome *outcome, char *text, size_t size)
{
    const char *noun = subject(outcome);
    char here[FATE_SIZE];
    if (outcome->uri && haul_file_path(outcome->uri) && file_headline(outcome, noun, text, size)) {
        return;
    }
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
            snprintf(text, size, "Not moved (%s): %s.", outcome->status, fate(outcome, here));
        } else {
            snprintf(text, size, "Not received (%s): the %s stays with the source.", outcome->status, noun);
        }
        break;
    case HAUL_OWNER_UNCERTAIN:
        snprintf(text, size, "Uncertain: it is not known which side owns the %s; this copy %s.", noun,
                 outcome->machine_ended ? "has ended"
                 : outcome->gave_up     ? "was given up"
                                        : "is paused");
        break;
    }
}
