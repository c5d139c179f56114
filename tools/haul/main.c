/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/commands.h"
#include "tools/haul/report.h"
#include "tools/haul/watch.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

int cli_complain(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("haul: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return status;
}

static int run_help(int argc, char **argv)
{
    enum cli_command command;
    if (argc > 2) {
        return cli_complain(CLI_EXIT_USAGE, "'%s' is one word too many; try 'haul help'", argv[2]);
    }
    if (argc < 2 || !strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        cli_help_print_all(stdout);
        return 0;
    }
    if (cli_command_find(argv[1], &command) < 0) {
        return cli_complain(CLI_EXIT_USAGE, "there is no command '%s'; try 'haul help'", argv[1]);
    }
    cli_help_print(command, stdout);
    return 0;
}

/* The command line as a whole is not understood, but that much of it is. */
static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) {
            return true;
        }
    }
    return false;
}

static int run_command(enum cli_command command, int argc, char **argv)
{
    struct cli_options options;
    struct haul_error error = {0};
    cli_options_default(&options);
    if (cli_options_parse(command, argc, argv, &options, &error) < 0) {
        if (wants_json(argc, argv)) {
            cli_json_print_failure(-EINVAL, error.message, stdout);
        }
        return cli_complain(CLI_EXIT_USAGE, "%s; try 'haul help %s'", error.message,
                            cli_command_name(command));
    }
    if (options.help) {
        cli_help_print(command, stdout);
        return 0;
    }
    switch (command) {
    case CLI_SEND:
    case CLI_RECEIVE:
    case CLI_RESTORE:
    case CLI_SNAPSHOT:
        return cli_move(&options);
    case CLI_RESUME:
    case CLI_ABANDON:
        return cli_recover(&options);
    case CLI_QUERY:
    case CLI_SET:
    case CLI_CANCEL:
    case CLI_CONTINUE:
        return cli_control(&options);
    case CLI_WATCH:
        return cli_live(&options);
    case CLI_RELAY:
        return cli_relay(&options);
    case CLI_DAEMON:
        return cli_daemon(&options);
    case CLI_INSPECT:
        return cli_inspect(&options);
    default:
        return cli_topology(&options);
    }
}

/* Commands that only tell something failed when nobody could read it; what others did is done. */
static int tell(int status)
{
    if (status != 0 || (fflush(stdout) == 0 && !ferror(stdout))) {
        return status;
    }
    /* A reader that has read enough, like head, is no reason for words. */
    return errno == EPIPE
               ? CLI_EXIT_FAILED
               : cli_complain(CLI_EXIT_FAILED, "standard output cannot be written: %s", strerror(errno));
}

int main(int argc, char **argv)
{
    enum cli_command command;
    signal(SIGPIPE, SIG_IGN); /* a reader of our output that ends must not end a move */
    if (argc < 2) {
        return cli_complain(CLI_EXIT_USAGE,
                            "say what to do: send, receive, query, watch or another command; try "
                            "'haul help'");
    }
    const char *word = argv[1];
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
        cli_help_print_all(stdout);
        return tell(0);
    }
    if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
        printf("haul %s\n", HAUL_VERSION);
        return tell(0);
    }
    if (!strcmp(word, "help")) {
        return tell(run_help(argc - 1, argv + 1));
    }
    if (word[0] == '-') {
        return cli_complain(CLI_EXIT_USAGE, "unknown option '%s'; the command comes first; try 'haul help'",
                            word);
    }
    if (cli_command_find(word, &command) < 0) {
        return cli_complain(CLI_EXIT_USAGE, "there is no command '%s'; try 'haul help'", word);
    }
    if (command == CLI_SEND || command == CLI_RECEIVE || command == CLI_RESTORE || command == CLI_SNAPSHOT ||
        command == CLI_DAEMON) {
        cli_watch_block_signals();
    }
    int status = run_command(command, argc - 1, argv + 1);
    bool tells =
        command == CLI_QUERY || command == CLI_WATCH || command == CLI_TOPOLOGY || command == CLI_INSPECT;
    return tells ? tell(status) : status;
}
