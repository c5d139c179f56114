/* SPDX-License-Identifier: Apache-2.0 */
/* daemon: migrations behind a control socket, until told to end. */
#include "tools/daemon/daemon.h"
#include "tools/haul/commands.h"
#include "tools/qmp/address.h"

#include <limits.h>

int cli_daemon(const struct cli_options *options)
{
    struct haul_daemon *daemon = NULL;
    struct haul_error error = {0};
    char path[PATH_MAX];
    int status = options->control ? 0 : haul_qmp_default_path(path, sizeof path, &error);
    if (status == 0) {
        status = haul_daemon_new(options->control ? options->control : path, &daemon, &error);
    }
    if (status == 0) {
        fprintf(stderr, "listening on unix:%s\n", haul_daemon_path(daemon));
        status = haul_daemon_run(daemon, &error);
    }
    haul_daemon_free(daemon);
    return status < 0 ? cli_complain(CLI_EXIT_FAILED, "%s", error.message) : 0;
}
