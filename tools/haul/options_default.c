/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/options.h"

void cli_options_default(struct cli_options *options)
{
    *options = (struct cli_options){.run_for_s = 3};
    haul_options_default(&options->haul);
    haul_guest_options_default(&options->guest_options);
}
