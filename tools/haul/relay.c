/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/commands.h"

#include <unistd.h>

int cli_relay(const struct cli_options *options)
{
    struct haul_error error;
    int code = haul_relay(options->uri, STDIN_FILENO, STDOUT_FILENO, options->haul.timeout_s, &error);
    return code < 0 ? cli_complain(CLI_EXIT_FAILED, "%s", error.message) : 0;
}
