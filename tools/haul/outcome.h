/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_OUTCOME_H
#define HAUL_TOOLS_HAUL_OUTCOME_H

/* What a move came to: everything that the report and the JSON object show, and the exit status. */

#include "engine/haul.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cli_exit {
    CLI_EXIT_MOVED = 0,    /* the destination runs the guest */
    CLI_EXIT_FAILED = 1,   /* the move failed; the guest runs at the source */
    CLI_EXIT_USAGE = 2,    /* the command line was wrong; nothing was done */
    CLI_EXIT_UNCERTAIN = 3 /* nobody knows who runs the guest: haul resume, haul abandon */
};

struct cli_outcome {
    bool source;          /* this side */
    const char *status;   /* QEMU's name of the last state */
    const char *uri;      /* the peer's, or the one listened on */
    const char *machine;  /* "qemu", "memory" or "guest" */
    const char *compress; /* "none", "lz4" or "auto"; NULL at the destination */
    bool verify;          /* was asked for */
    char id[33];          /* empty before there was one */
    struct haul_stats stats;
    struct haul_channel_stats *channels; /* stats.channels entries at most; `channel_count` are known */
    unsigned channel_count;
    int code;                /* 0, or the negative errno of the failure */
    struct haul_error error; /* its sentence */
    int self_check_code;     /* 0, or the negative errno of a failed self-check */
    char self_check[256];    /* the self-check's sentence, empty when there was none */
    char summary[256];       /* the machine's own line for the report, or empty */
    bool gave_up;            /* after uncertainty, the operator abandoned this copy */
};

/* cli_outcome_exit returns the exit status that the outcome means, the same for people and for scripts. */
enum cli_exit cli_outcome_exit(const struct cli_outcome *outcome);

/* cli_ownership_name returns "source", "destination" or "uncertain". */
const char *cli_ownership_name(enum haul_ownership ownership);

/* cli_outcome_headline writes one line that says where the guest runs now. */
void cli_outcome_headline(const struct cli_outcome *outcome, char *text, size_t size);

/* cli_report_print writes the report for people. */
void cli_report_print(const struct cli_outcome *outcome, FILE *out);

/* cli_json_print writes one JSON object with query-migrate's names and units, and a newline. -ENOMEM or -EIO.
 */
int cli_json_print(const struct cli_outcome *outcome, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
