/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/options.h"

#include <string.h>

#define WIDTH 79
#define OPTION_COLUMN 28

struct command_help {
    const char *usage;
    const char *summary;
    const char *text; /* paragraphs between usage and options */
    const char *tail; /* paragraphs after the options */
};

#define EXIT_STATUS                                                                                          \
    "Exit status: 0 the destination runs the guest; 1 the move failed and the guest runs at the source; 2 "  \
    "the command line is wrong; 3 it is not known which side owns the guest, or the move failed and the "    \
    "guest does not run at the source either (see haul help resume)."

#define URIS                                                                                                 \
    "tcp:HOST:PORT, with [ ] around an IPv6 address; several separated by commas spread the channels over "  \
    "several networks\n\n"                                                                                   \
    "unix:PATH, or vsock:CID:PORT\n\n"                                                                       \
    "rdma:HOST:PORT, which writes pages into the destination's memory through libfabric (docs/rdma.md)\n\n"  \
    "exec:COMMAND, whose standard input and output are the connection; one for each, with HAUL_CHANNEL "     \
    "(control, 0, 1, ...) in its environment\n\n"                                                            \
    "fd:CONTROL,CHANNEL...: inherited sockets by number, or IN/OUT for a pair of pipes"

#define SIZES                                                                                                \
    "SIZE and RATE take a number of bytes, for RATE per second, with an optional suffix K, M, G or T "       \
    "(1024, 1024 squared, and so on), as QEMU's max-bandwidth does."

#define NAME_OF_ONE "NAME is the daemon's name of the migration; with only one it may be left out."

#define CONTROL_STATUS                                                                                       \
    "Exit status: 0 done; 1 not done, with the reason; 2 the command line is wrong.\n\n"                     \
    "docs/control.md tells how to start a daemon and how programs talk to it."

static const struct command_help commands[CLI_COMMAND_COUNT] = {
    [CLI_SEND] =
        {
            "haul send URI --qemu QMP [OPTION]...\n"
            "       haul send URI --memory PATH [--pid PID] [OPTION]...\n"
            "       haul send URI --guest [OPTION]...\n"
            "       haul send ssh:[USER@]HOST[:PORT] MACHINE [OPTION]... [-- OPTION-THERE...]",
            "move a running machine to another host",
            "Moves a running machine to the haul receive that waits at URI:\n\n" URIS "\n\n"
            "With ssh: nothing has to wait: haul starts haul receive on HOST, with the options after --, or "
            "without "
            "them for the same machine option as here, with --disks if it is given here; every channel is an "
            "ssh "
            "of its own. "
            "haul has to be installed there.\n\n"
            "The machine keeps running while its memory is copied and stands still only for the "
            "switchover. Any failure before the handover leaves it running here.\n\n"
            "With file:PATH the machine is saved into a new file in place of being moved, in the same way: "
            "it "
            "runs until the rest fits the downtime limit, and once the file has its name the machine stays "
            "stopped here, for haul restore to go on with. A save that fails leaves no file.",
            SIZES
            "\n\n"
            "Ctrl-C (SIGINT), SIGTERM and SIGHUP cancel the move and the guest goes on here; once the guest "
            "is being handed over they come too late, and haul says so and waits.\n\n" EXIT_STATUS,
        },
    [CLI_RELAY] =
        {
            "haul relay URI",
            "connect standard input and output to a waiting haul receive",
            "Carries bytes between its standard input and output and URI, as a rule unix:PATH. haul send "
            "ssh: "
            "runs it on the other host, once for each channel.",
            "Exit status: 0 the other end closed the connection; 1 it could not be reached or broke; 2 the "
            "command line is wrong.",
        },
    [CLI_RECEIVE] =
        {
            "haul receive --listen URI --qemu QMP [OPTION]...\n"
            "       haul receive --listen URI --memory PATH [--memory-size SIZE] [OPTION]...\n"
            "       haul receive --listen URI --guest [OPTION]...",
            "wait for a machine and run it here",
            "The forms of URI are those of haul send, but for ssh:.\n\n"
            "Waits for one haul send, takes the machine over and runs it here. Number of channels, "
            "compression and "
            "limits are the source's choice. A QEMU machine must have been started with -incoming defer, and "
            "best "
            "with -S.",
            SIZES
            "\n\n"
            "Ctrl-C (SIGINT), SIGTERM and SIGHUP cancel and the guest stays with the source.\n\n"
            "Exit status: 0 the guest runs here; 1 the move failed and the guest stays with the source; 2 "
            "the command line is wrong; 3 it is not known which side owns the guest (see haul help resume); "
            "4 the reference guest came here, but its self-check failed.",
        },
    [CLI_RESTORE] =
        {
            "haul restore file:PATH --qemu QMP [OPTION]...\n"
            "       haul restore file:PATH --memory PATH [--memory-size SIZE] [OPTION]...\n"
            "       haul restore file:PATH --guest [OPTION]...",
            "start a machine from a snapshot file",
            "Starts a machine from the file that haul snapshot or haul send file:PATH wrote. Every byte is "
            "checked before the "
            "machine runs; a file that is cut, damaged or altered is refused, with the place of the damage. "
            "A "
            "QEMU machine must have been started with the options of the saved one and -incoming defer, and "
            "best with -S.\n\n"
            "The file stays as it is and can be restored again. It holds memory and devices, not disks: once "
            "a machine that was started from it has written to a disk, the file no longer fits that disk.",
            SIZES
            "\n\n"
            "Ctrl-C (SIGINT), SIGTERM and SIGHUP cancel; no machine runs then.\n\n"
            "Exit status: 0 the machine runs here; 1 it does not; 2 the command line is wrong; 3 it was told "
            "to start and did not confirm it (see haul help resume); 4 the reference guest was started, but "
            "its self-check failed.",
        },
    [CLI_INSPECT] =
        {
            "haul inspect file:PATH [--channels N] [--direct-io] [--json]",
            "show and verify a snapshot file",
            "Shows what a snapshot file holds - when and by which move it was written, its blocks of memory, "
            "the state of its devices, its sizes - and checks every byte with N threads. Device state that "
            "describes itself is printed field by field. The file may also be one such stream of device "
            "state "
            "on its own, as a VMM with haul's library writes it. With --json all of it as one JSON object.",
            "Exit status: 0 the file is sound; 1 it is damaged, or no snapshot, or cannot be read; 2 the "
            "command line is wrong.",
        },
    [CLI_SNAPSHOT] =
        {
            "haul snapshot file:PATH --qemu QMP [OPTION]...\n"
            "       haul snapshot file:PATH --memory PATH --pid PID [OPTION]...\n"
            "       haul snapshot file:PATH --guest [OPTION]...",
            "save a machine into a file while it goes on running",
            "Writes a new file with the machine as it is at one moment, for haul restore to start it from. "
            "The "
            "machine stands still only while the state of its devices is saved; then it runs on, and each "
            "page of its memory is saved before it is written for the first time. A write that comes first "
            "waits for a copy of its page, some microseconds as a rule; the report says how many waited and "
            "how long.\n\n"
            "The machine goes on here whatever happens: a snapshot that fails or is cancelled leaves no "
            "file. "
            "The file holds memory and devices, not drives, and a machine that is started from it needs its "
            "drives as they were at that moment: haul warns of each writable one, and docs/snapshot.md tells "
            "how to keep it.",
            SIZES "\n\n"
                  "Ctrl-C (SIGINT), SIGTERM and SIGHUP cancel the snapshot. docs/snapshot.md tells what it "
                  "takes.\n\n"
                  "Exit status: 0 the file is complete; 1 there is no file, or one that a crash of this host "
                  "could lose, with the reason; 2 the command line is wrong. The machine goes on in each "
                  "of these cases; 3 there is no file, and the machine could not be resumed or its process "
                  "ended (see haul help resume); 4 the file is complete, but the reference guest's "
                  "self-check failed.",
        },
    [CLI_TOPOLOGY] =
        {
            "haul topology [--channels N] [--placement HOW] [--to HOST]",
            "show CPUs, memory nodes and network cards, and where channels would run",
            "Shows the NUMA nodes of this machine with their CPUs, memory and network cards, and the CPU and "
            "node "
            "that each channel's thread would get.",
            NULL,
        },
    [CLI_RESUME] =
        {
            "haul resume [ID | --qemu QMP | --list]",
            "after an uncertain move: run this side's copy",
            "A move hands the guest over in one step: the source sends HANDOVER, the destination starts the "
            "guest "
            "and answers RUNNING, or that the guest never ran there, which gives it back. When the "
            "connection or "
            "a process dies before either, nobody can know whether "
            "the other side runs the guest, so haul leaves this side's copy paused, exits with 3, and keeps "
            "a "
            "record of the move. You decide:\n\n"
            "haul resume runs this side's copy. It is safe only when the other copy does not run and never "
            "will: "
            "its haul receive said that the move failed, or you have done haul abandon there, or that host "
            "is "
            "down and stays down. If both copies run, both write to the same disks and speak with the same "
            "network address, and data is lost.\n\n"
            "haul abandon gives this side's copy up for good. It is safe when the other copy runs (look "
            "there: its "
            "haul receive said so, or the guest answers).\n\n"
            "When in doubt, look at the destination first: haul resume --list shows the moves recorded on a "
            "host and "
            "how far they came; a guest that the destination's record calls running is the destination's. "
            "Abandon "
            "one side before you resume the other.\n\n"
            "haul send also exits with 3 when the move failed before HANDOVER and the guest could not be "
            "resumed: then the other side does not have it, and haul resume tries again. Where its process "
            "has ended, haul says so, and nothing is left to resume.\n\n"
            "A guest that was saved into a file belongs to the file: as long as that is there, complete, "
            "resume "
            "refuses; remove the file first if it is this copy that shall go on.\n\n"
            "ID is the move's ID or the beginning of it; where both sides of a move are on one host, add "
            ".source or "
            ".destination. With no ID the only uncertain move of this host is taken, and several are listed. "
            "With "
            "--qemu the move is named by its QMP socket; a QEMU machine without any record is taken too, for "
            "when the "
            "record was lost. Nothing is asked.",
            "Exit status: 0 done; 1 not done, with the reason; 2 the command line is wrong.\n\n"
            "Records are kept in $HAUL_STATE_DIR, else in /run/haul for root, else in $XDG_RUNTIME_DIR/haul.",
        },
    [CLI_ABANDON] =
        {
            "haul abandon [ID | --qemu QMP | --list]",
            "after an uncertain move: give this side's copy up for good",
            "Gives up the copy that an uncertain move left paused on this side, so that it never runs again: "
            "a QEMU "
            "machine is told to quit, the reference guest ends with its process, and a process that writes a "
            "shared "
            "memory object stays stopped, for you to end. It is safe only when the other side runs the "
            "guest, "
            "or when nobody needs it any more. What haul resume does, when each is safe, and what ID means, "
            "is said "
            "under haul help resume. Nothing is asked.",
            "Exit status: 0 done; 1 not done, with the reason; 2 the command line is wrong.",
        },
    [CLI_QUERY] =
        {
            "haul query [NAME] [--json] [--qmp ADDRESS]",
            "show a daemon's migrations and their parameters",
            "Asks a haul daemon how far a migration is, what its parameters are and what each channel "
            "carries. "
            "Without NAME it shows all migrations, one line each, and everything of the only one.",
            CONTROL_STATUS,
        },
    [CLI_SET] =
        {
            "haul set [NAME] PARAM=VALUE... [--qmp ADDRESS]",
            "change parameters of a daemon's migration, also while it runs",
            "Changes parameters of a migration. max-bandwidth, downtime-limit (milliseconds), the switchover "
            "bandwidth and the throttle act at once on one that runs; the others hold for the next. haul "
            "query "
            "shows all of them with their values. A number may have a suffix K, M, G or T (1024, 1024 "
            "squared, "
            "and so on); a switch is on or off. All are changed, or none.\n\n" NAME_OF_ONE,
            CONTROL_STATUS,
        },
    [CLI_CANCEL] =
        {
            "haul cancel [NAME] [--qmp ADDRESS]",
            "cancel a daemon's migration; the guest goes on at the source",
            "Cancels a migration. The guest goes on at the source, unless it has been handed over already. "
            "The "
            "command does not wait for the end: haul watch does.\n\n" NAME_OF_ONE,
            CONTROL_STATUS,
        },
    [CLI_CONTINUE] =
        {
            "haul continue [NAME] [--qmp ADDRESS]",
            "let a migration go on that holds before its switchover",
            "A migration with pause-before-switchover stops the guest, reports pre-switchover and waits. "
            "This "
            "lets it go on to the switchover.\n\n" NAME_OF_ONE,
            CONTROL_STATUS,
        },
    [CLI_WATCH] =
        {
            "haul watch [NAME] [--json] [--qmp ADDRESS]",
            "follow a daemon's migration, with a row for each drive and channel",
            "Shows a migration until it ends: on a terminal a headline and a row for each drive that moves "
            "along and each channel, redrawn four times a second; elsewhere one line a second. Ctrl-C ends "
            "the watching, and nothing else.\n\n"
            "A drive is on its first copy until all of it was copied once, then on new writes: what the "
            "guest "
            "wrote since. The memory of a QEMU machine follows when all of its drives were "
            "copied.\n\n" NAME_OF_ONE,
            "Exit status: 0 the migration completed; 1 it failed or was cancelled, or the daemon cannot be "
            "reached; 2 the command line is wrong; 3 it is not known which side owns the guest, or it does "
            "not run (see haul help resume).",
        },
    [CLI_DAEMON] =
        {
            "haul daemon [--qmp unix:PATH]",
            "keep any number of migrations, steered over a control socket",
            "Runs until it is told to end, and moves machines when it is asked over its control socket. The "
            "socket speaks QMP, the protocol of QEMU's monitor: a script written for QEMU's migrate, "
            "migrate-set-parameters, query-migrate and so on works with changes in arguments only. It "
            "belongs to whoever started the daemon (mode 0600), and whoever may connect to it may move the "
            "machines.\n\n"
            "Each migration has a name, given as the argument 'name'; it may be left out while there is only "
            "one. What moves is said by 'qemu' (the path of a QMP socket), 'memory' (an object with 'path') "
            "or 'guest' (an object, the reference guest):\n\n"
            "{\"execute\": \"migrate\", \"arguments\": {\"name\": \"a\", \"uri\": "
            "\"tcp:10.0.0.2:7000\", \"qemu\": \"/run/vm.qmp\"}}\n\n"
            "The other side may be a daemon too (migrate-incoming), or a haul receive. Remarks about each "
            "migration go to standard error. docs/control.md lists the commands.",
            "The command quit and SIGINT, SIGTERM and SIGHUP cancel what moves, and the guests go on where "
            "they are; a move that is being handed over is waited for. A reference guest lives in the daemon "
            "and ends with it.\n\n"
            "Exit status: 0 it was told to end; 1 it could not start, with the reason; 2 the command line is "
            "wrong.",
        },
};

/* Prints `text` wrapped, starting at `column`, with further lines indented to it. "\n\n" begins a paragraph.
 */
static void print_wrapped(const char *text, size_t column, FILE *out)
{
    size_t at = column;
    bool line_start = true;
    while (*text) {
        if (*text == '\n') {
            fputc('\n', out);
            text++;
            at = column;
            line_start = true;
            if (*text != '\n') {
                fprintf(out, "%*s", (int)column, "");
            }
            continue;
        }
        size_t length = strcspn(text, " \n");
        if (!line_start && at + 1 + length > WIDTH) {
            fprintf(out, "\n%*s", (int)column, "");
            at = column;
            line_start = true;
        }
        fprintf(out, "%s%.*s", line_start ? "" : " ", (int)length, text);
        at += length + !line_start;
        line_start = false;
        text += length;
        text += *text == ' ';
    }
    fputc('\n', out);
}

static void print_option(const struct cli_option *option, FILE *out)
{
    char form[64];
    int length = snprintf(form, sizeof form, "  --%s%s%s", option->name, option->value ? " " : "",
                          option->value ? option->value : "");
    if (length > OPTION_COLUMN - 2) {
        fprintf(out, "%s\n%*s", form, OPTION_COLUMN, "");
    } else {
        fprintf(out, "%-*s", OPTION_COLUMN, form);
    }
    print_wrapped(option->help, OPTION_COLUMN, out);
}

static void print_options(enum cli_command command, bool guest, FILE *out)
{
    for (unsigned i = 0; i < cli_option_count; i++) {
        const struct cli_option *option = &cli_option_table[i];
        bool of_guest = option->needs && !strcmp(option->needs, "guest");
        if ((option->commands & 1U << command) && of_guest == guest) {
            print_option(option, out);
        }
    }
}

void cli_help_print(enum cli_command command, FILE *out)
{
    const struct command_help *help = &commands[command];
    fprintf(out, "Usage: %s\n\n", help->usage);
    print_wrapped(help->text, 0, out);
    fprintf(out, "\nOptions:\n");
    print_options(command, false, out);
    fprintf(out, "%-*s", OPTION_COLUMN, "  -h, --help");
    fprintf(out, "Show this text.\n");
    if (command == CLI_SEND || command == CLI_RECEIVE || command == CLI_RESTORE || command == CLI_SNAPSHOT) {
        fprintf(out, "\nOptions of the reference guest:\n");
        print_options(command, true, out);
    }
    fprintf(out, "\nExamples:\n%s", cli_examples(command));
    if (help->tail) {
        fputc('\n', out);
        print_wrapped(help->tail, 0, out);
    }
}

void cli_help_print_all(FILE *out)
{
    fprintf(out, "Usage: haul COMMAND [OPTION]...\n\n"
                 "Moves a running virtual machine, or any live memory, to another host.\n\n"
                 "Commands:\n");
    for (unsigned i = 0; i < CLI_COMMAND_COUNT; i++) {
        fprintf(out, "  %-10s %s\n", cli_command_name((enum cli_command)i), commands[i].summary);
    }
    fprintf(out, "  %-10s %s\n", "help", "this text, or with a command, that command's");
    fprintf(out, "\nOptions:\n"
                 "  -h, --help     Show this text.\n"
                 "  -V, --version  Show the version.\n\n"
                 "'haul help COMMAND' tells more, and so does the manual, haul(1).\n");
}
