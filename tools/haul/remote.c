/* SPDX-License-Identifier: Apache-2.0 */
/* What haul send ssh: lets the other host receive: the words after --, or else the machine that moves here.
 */
#include "tools/haul/remote.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static bool has_option(const char *name, int count, char **words)
{
    size_t length = strlen(name);
    bool found = false;
    for (int i = 0; i < count && !found; i++) {
        found = strncmp(words[i], name, length) == 0 && (words[i][length] == '\0' || words[i][length] == '=');
    }
    return found;
}

/* What moves along needs a place there, and only the user knows one; better said before anything is started.
 */
static int check_disks(const struct cli_options *options, int count, char **words, struct haul_error *error)
{
    if (options->disk && !has_option("--disk", count, words)) {
        return haul_error_set(error, EINVAL,
                              "with --disk the other host needs an image too: end the line with -- --guest "
                              "--disk PATH,size=SIZE%s",
                              count > 0 ? ", beside the other options there" : "");
    }
    if (options->disks && count > 0 && !has_option("--disks", count, words)) {
        return haul_error_set(
            error, EINVAL,
            "--disks is needed on both sides: say it after -- too, and the images there are "
            "overwritten");
    }
    return 0;
}

int cli_remote_options(struct cli_options *options, int count, char **words, struct haul_error *error)
{
    struct haul_remote *remote = &options->remote;
    int status = check_disks(options, count, words, error);
    if (status < 0) {
        return status;
    }
    if (count == 0) {
        haul_remote_add_machine(remote, options->qmp, options->disks, options->memory,
                                options->guest_options.memory_bytes);
    }
    for (int i = 0; i < count; i++) {
        haul_remote_add(remote, words[i]);
    }
    return haul_remote_check(remote, error);
}
