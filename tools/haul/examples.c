/* SPDX-License-Identifier: Apache-2.0 */
/* What `haul help COMMAND` shows under "Examples": one line of explanation, one to copy. */
#include "tools/haul/options.h"

static const char *const examples[CLI_COMMAND_COUNT] = {
    [CLI_SEND] = "  Move a QEMU machine to the host 10.0.0.2, where haul receive listens:\n"
                 "    haul send tcp:10.0.0.2:7000 --qemu /run/vm.qmp\n"
                 "  The same with four channels, compressed, and compared before the handover:\n"
                 "    haul send tcp:10.0.0.2:7000 --qemu /run/vm.qmp --channels 4 \\\n"
                 "        --compress auto --verify\n"
                 "  With its drives, where the hosts share no storage:\n"
                 "    haul send tcp:10.0.0.2:7000 --qemu /run/vm.qmp --disks\n",
    [CLI_RECEIVE] = "  Wait on port 7000 for a machine; QEMU was started with -incoming defer -S:\n"
                    "    haul receive --listen tcp:0.0.0.0:7000 --qemu /run/vm.qmp\n"
                    "  Try haul without a machine, both sides on this host:\n"
                    "    haul receive --listen tcp:127.0.0.1:7000 --guest\n"
                    "    haul send tcp:127.0.0.1:7000 --guest\n"
                    "  The same with a disk:\n"
                    "    haul receive --listen tcp:127.0.0.1:7000 --guest \\\n"
                    "        --disk /tmp/to.img,size=1G\n"
                    "    haul send tcp:127.0.0.1:7000 --guest \\\n"
                    "        --disk /tmp/from.img,size=1G,rate=20M\n",
    [CLI_TOPOLOGY] = "  Where would four channels to the host 10.0.0.2 run?\n"
                     "    haul topology --to 10.0.0.2 --channels 4\n",
    [CLI_RESUME] = "  See which moves are recorded here, then run the copy of one on this side:\n"
                   "    haul resume --list\n"
                   "    haul resume 5f3a\n",
    [CLI_ABANDON] = "  The other side runs the guest; end the copy on this side:\n"
                    "    haul abandon 5f3a\n",
    [CLI_QUERY] = "  What does the daemon do?\n"
                  "    haul query\n"
                  "  All about the migration web, for a script:\n"
                  "    haul query web --json\n",
    [CLI_SET] = "  Leave others some of the network, and stop the guest for 50 ms at most:\n"
                "    haul set web max-bandwidth=200M downtime-limit=50\n",
    [CLI_CANCEL] = "  Give up the migration web; its guest goes on where it is:\n"
                   "    haul cancel web\n",
    [CLI_CONTINUE] = "  Hand the held guest of web over now:\n"
                     "    haul continue web\n",
    [CLI_WATCH] = "  Follow the migration web, and then act on how it ended:\n"
                  "    haul watch web && echo moved\n"
                  "  Follow one of a daemon that listens elsewhere:\n"
                  "    haul watch web --qmp unix:/run/mine.sock\n",
    [CLI_RELAY] = "  Reach a haul receive that listens on a unix socket of another host:\n"
                  "    haul send 'exec:ssh 10.0.0.2 haul relay unix:/run/haul.in' \\\n"
                  "        --qemu /run/vm.qmp\n"
                  "  What runs there is:\n"
                  "    haul relay unix:/run/haul.in\n",
    [CLI_DAEMON] = "  Start one, and ask it from another terminal:\n"
                   "    haul daemon --qmp unix:/run/mine.sock\n"
                   "    haul query --qmp unix:/run/mine.sock\n",
    [CLI_SNAPSHOT] = "  Save a machine as it is now; it runs on meanwhile:\n"
                     "    haul snapshot file:/backup/vm.haul --qemu /run/vm.qmp\n",
    [CLI_RESTORE] = "  Run a saved machine again; QEMU was started with -incoming defer -S:\n"
                    "    haul restore file:/backup/vm.haul --qemu /run/vm.qmp\n",
    [CLI_INSPECT] = "  Is this file whole, and what is in it?\n"
                    "    haul inspect file:/backup/vm.haul\n",
};

const char *cli_examples(enum cli_command command)
{
    return examples[command];
}
