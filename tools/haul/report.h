/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_REPORT_H
#define HAUL_TOOLS_HAUL_REPORT_H

/* The outcome of a move for people, for scripts, and as an exit status. */

#include "tools/session/outcome.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cli_exit {
    CLI_EXIT_MOVED = 0,     /* the destination runs the guest */
    CLI_EXIT_FAILED = 1,    /* the move failed; the guest runs at the source */
    CLI_EXIT_USAGE = 2,     /* the command line was wrong; nothing was done */
    CLI_EXIT_UNCERTAIN = 3, /* nobody knows who runs the guest, or nobody does: haul resume, haul abandon */
    CLI_EXIT_UNSOUND = 4    /* done, so that 1 would be wrong, but the guest's self-check failed */
};

/* cli_outcome_exit returns the exit status that the outcome means, the same for people and for scripts. */
enum cli_exit cli_outcome_exit(const struct haul_outcome *outcome);

/* cli_report_print writes the report for people. */
void cli_report_print(const struct haul_outcome *outcome, FILE *out);

/* cli_json_print writes haul_outcome_json's object and a newline. -ENOMEM or -EIO. */
int cli_json_print(const struct haul_outcome *outcome, FILE *out);

/* cli_json_print_failure is the same with haul_outcome_json_failure's. */
int cli_json_print_failure(int code, const char *sentence, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
