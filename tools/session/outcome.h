/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_SESSION_OUTCOME_H
#define HAUL_TOOLS_SESSION_OUTCOME_H

/* What a move came to: everything that the report and the JSON object show. */

#include "engine/haul.h"
#include "engine/stream.h"

#include <jansson.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_OUTCOME_URI_SIZE 4300 /* a list of addresses, or a path with what leads to it */
#define HAUL_OUTCOME_HEADLINE_SIZE (HAUL_OUTCOME_URI_SIZE + 140)

struct haul_outcome {
    bool source;          /* this side */
    const char *status;   /* QEMU's name of the last state */
    const char *uri;      /* the peer's, or the one listened on */
    const char *machine;  /* "qemu", "memory" or "guest" */
    const char *compress; /* "none", "lz4" or "auto"; NULL at the destination */
    const char *mode;     /* its name; NULL before there was a migration */
    bool verify;          /* was asked for */
    char id[33];          /* empty before there was one */
    struct haul_stats stats;
    struct haul_channel_stats *channels; /* stats.channels entries at most; `channel_count` are known */
    unsigned channel_count;
    struct haul_stream_stats streams[HAUL_STREAMS_MAX]; /* stats.streams of them */
    int code;                                           /* 0, or the negative errno of the failure */
    struct haul_error error;                            /* its sentence */
    int self_check_code;                                /* 0, or the negative errno of a failed self-check */
    char self_check[256]; /* the self-check's sentence, empty when there was none */
    char summary[256];    /* the machine's own line for the report, or empty */
    bool ended;           /* the migration did; before, the numbers are of a moment */
    bool unbegun;         /* there was no machine to move yet */
    bool gave_up;         /* after uncertainty, the operator abandoned this copy */
    bool machine_ended;   /* the process that is this copy has ended; looked at where it is uncertain, stands
                             still, or was to go on after a snapshot */
};

/* haul_ownership_name returns "source", "destination" or "uncertain". */
const char *haul_ownership_name(enum haul_ownership ownership);

/* haul_outcome_is_snapshot tells whether the machine was to go on here whatever happened; haul_outcome_done
 * whether what was asked for came about. */
bool haul_outcome_is_snapshot(const struct haul_outcome *outcome);
bool haul_outcome_done(const struct haul_outcome *outcome);

/*
 * haul_outcome_stands_still tells whether the guest is the source's, this side's, and does not run: it could
 * not be resumed, or its process has ended. haul_outcome_undecided: its copy here is still there, stopped,
 * and `haul resume` or `haul abandon` has to say what becomes of it.
 */
bool haul_outcome_stands_still(const struct haul_outcome *outcome);
bool haul_outcome_undecided(const struct haul_outcome *outcome);

/* haul_outcome_headline writes one line, shorter than HAUL_OUTCOME_HEADLINE_SIZE, that says where the guest
 * runs now. */
void haul_outcome_headline(const struct haul_outcome *outcome, char *text, size_t size);

/* haul_outcome_json returns a new object with query-migrate's names and units, or NULL without memory. */
json_t *haul_outcome_json(const struct haul_outcome *outcome);

/* haul_outcome_json_failure is the same of a move that could not even be begun: status, error-desc and error.
 */
json_t *haul_outcome_json_failure(int code, const char *sentence);

#ifdef __cplusplus
}
#endif
#endif
