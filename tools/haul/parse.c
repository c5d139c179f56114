/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/options.h"

#include "engine/snapshot.h"
#include "tools/haul/disk_option.h"
#include "tools/haul/number.h"
#include "tools/haul/remote.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

/* getopt_long's values for table rows; above every character. */
#define FIRST_VALUE 256
#define MAX_OPTIONS 62 /* `given` is a 64-bit set */

static const char *const command_names[CLI_COMMAND_COUNT] = {
    [CLI_SEND] = "send",       [CLI_RECEIVE] = "receive", [CLI_TOPOLOGY] = "topology",
    [CLI_RESUME] = "resume",   [CLI_ABANDON] = "abandon", [CLI_QUERY] = "query",
    [CLI_SET] = "set",         [CLI_CANCEL] = "cancel",   [CLI_CONTINUE] = "continue",
    [CLI_WATCH] = "watch",     [CLI_RELAY] = "relay",     [CLI_DAEMON] = "daemon",
    [CLI_RESTORE] = "restore", [CLI_INSPECT] = "inspect", [CLI_SNAPSHOT] = "snapshot",
};

const char *cli_command_name(enum cli_command command)
{
    return command_names[command];
}

int cli_command_find(const char *name, enum cli_command *command)
{
    for (unsigned i = 0; i < CLI_COMMAND_COUNT; i++) {
        if (!strcmp(name, command_names[i])) {
            *command = (enum cli_command)i;
            return 0;
        }
    }
    return -ENOENT;
}

/* ---- values ---- */

static int store_choice(const struct cli_option *option, void *field, const char *text,
                        struct haul_error *error)
{
    size_t length = strlen(text);
    for (const char *choice = option->choices; choice; choice = strchr(choice, '|')) {
        choice += *choice == '|';
        if (length == strcspn(choice, "|") && !strncmp(choice, text, length)) {
            *(const char **)field = text;
            return 0;
        }
    }
    return haul_error_set(error, EINVAL, "option --%s takes %s, not '%s'", option->name, option->choices,
                          text);
}

static int store_number(const struct cli_option *option, void *field, const char *text,
                        struct haul_error *error)
{
    uint64_t value;
    if (cli_parse_number(text, option->minimum, option->maximum, &value) < 0) {
        return haul_error_set(error, EINVAL, "option --%s takes a number from %llu to %llu, not '%s'",
                              option->name, (unsigned long long)option->minimum,
                              (unsigned long long)option->maximum, text);
    }
    *(uint32_t *)field = (uint32_t)value;
    return 0;
}

static int store_size(const struct cli_option *option, void *field, const char *text,
                      struct haul_error *error)
{
    uint64_t value;
    int status = cli_parse_size(text, &value);
    if (status == -ERANGE) {
        return haul_error_set(error, EINVAL, "option --%s takes less than 16384P, not '%s'", option->name,
                              text);
    }
    if (status < 0) {
        return haul_error_set(error, EINVAL,
                              "option --%s takes a number of bytes such as 256M (K, M, G, T), not '%s'",
                              option->name, text);
    }
    if (value < option->minimum) {
        char least[CLI_NUMBER_SIZE];
        return haul_error_set(error, EINVAL, "option --%s takes at least %s, not '%s'", option->name,
                              cli_format_bytes(least, option->minimum), text);
    }
    *(uint64_t *)field = value;
    return 0;
}

static int store(const struct cli_option *option, const char *text, struct cli_options *options,
                 struct haul_error *error)
{
    void *field = (char *)options + option->offset;
    switch (option->type) {
    case CLI_OPTION_SET:
        *(bool *)field = true;
        return 0;
    case CLI_OPTION_CLEAR:
        *(bool *)field = false;
        return 0;
    case CLI_OPTION_TEXT:
        if (!*text) {
            return haul_error_set(error, EINVAL, "option --%s needs a value: --%s %s", option->name,
                                  option->name, option->value);
        }
        *(const char **)field = text;
        return 0;
    case CLI_OPTION_CHOICE:
        return store_choice(option, field, text, error);
    case CLI_OPTION_NUMBER:
        return store_number(option, field, text, error);
    case CLI_OPTION_SIZE:
        return store_size(option, field, text, error);
    }
    return -EINVAL;
}

/* ---- what does not go together ---- */

static bool was_given(uint64_t given, const char *name)
{
    for (unsigned i = 0; i < cli_option_count; i++) {
        if (!strcmp(cli_option_table[i].name, name)) {
            return given >> i & 1;
        }
    }
    return false;
}

static int check_machine(const struct cli_options *options, struct haul_error *error)
{
    const char *chosen[3];
    unsigned count = 0;
    if (options->qmp) {
        chosen[count++] = "qemu";
    }
    if (options->memory) {
        chosen[count++] = "memory";
    }
    if (options->guest) {
        chosen[count++] = "guest";
    }
    if (count > 1) {
        return haul_error_set(error, EINVAL,
                              "options --%s and --%s exclude each other: one machine moves at a time",
                              chosen[0], chosen[1]);
    }
    if (count == 0) {
        return haul_error_set(error, EINVAL, "say what to move: --qemu QMP, --memory PATH or --guest");
    }
    return 0;
}

/* "auto", "none", or digits, commas and dashes; whether the CPUs exist is known only later. */
static int check_placement(const char *text, struct haul_error *error)
{
    if (!strcmp(text, "auto") || !strcmp(text, "none") ||
        (text[0] >= '0' && text[0] <= '9' && !text[strspn(text, "0123456789,-")])) {
        return 0;
    }
    return haul_error_set(error, EINVAL,
                          "option --placement takes auto, none or a CPU list such as 0-3,8, not '%s'", text);
}

/* Where a snapshot file may stand, must stand, and what only it has. */
static int check_file(const struct cli_options *options, struct haul_error *error)
{
    bool file = haul_file_path(options->uri) != NULL;
    if (!file && options->command != CLI_SEND && options->command != CLI_RECEIVE) {
        return haul_error_set(error, EINVAL, "'%s' is no snapshot file: that is file:PATH", options->uri);
    }
    if (file && options->command == CLI_RECEIVE) {
        return haul_error_set(error, EINVAL, "a machine is started from a file with 'haul restore %s'",
                              options->uri);
    }
    if (options->haul.direct_io && !file) {
        return haul_error_set(error, EINVAL, "option --direct-io is for file:PATH only");
    }
    return 0;
}

static int check_together(struct cli_options *options, uint64_t given, struct haul_error *error)
{
    for (unsigned i = 0; i < cli_option_count; i++) {
        const struct cli_option *option = &cli_option_table[i];
        if ((given >> i & 1) && option->needs && !was_given(given, option->needs)) {
            return haul_error_set(error, EINVAL, "option --%s needs --%s", option->name, option->needs);
        }
    }
    if (options->disk) {
        int status = cli_disk_parse(options, error);
        if (status < 0) {
            return status;
        }
    }
    if (was_given(given, "placement")) {
        int status = check_placement(options->haul.placement, error);
        if (status < 0) {
            return status;
        }
    }
    switch (options->command) {
    case CLI_SEND:
    case CLI_RECEIVE: {
        int status = check_machine(options, error);
        status = status < 0 ? status : haul_check_uri(options->uri, options->command == CLI_RECEIVE, error);
        return status < 0 ? status : check_file(options, error);
    }
    case CLI_RESTORE:
    case CLI_SNAPSHOT:
    case CLI_INSPECT: {
        int status = options->command != CLI_INSPECT ? check_machine(options, error) : 0;
        status = status < 0 ? status : check_file(options, error);
        return status < 0 ? status : haul_check_uri(options->uri, options->command != CLI_SNAPSHOT, error);
    }
    case CLI_RELAY:
        return haul_check_uri(options->uri, false, error);
    case CLI_RESUME:
    case CLI_ABANDON:
        if (options->id && options->qmp) {
            return haul_error_set(error, EINVAL,
                                  "an ID and --qemu exclude each other: either names the move");
        }
        if (options->list && (options->id || options->qmp)) {
            return haul_error_set(error, EINVAL,
                                  "option --list shows all moves and takes no ID and no --qemu");
        }
        return 0;
    default:
        return 0;
    }
}

/* ---- the words that are no options ---- */

/* [NAME], and for set one PARAM=VALUE or more. */
static int take_control_operands(int argc, char **argv, struct cli_options *options, struct haul_error *error)
{
    if (argc > 0 && (options->command != CLI_SET || !strchr(argv[0], '='))) {
        options->migration = argv[0];
        argc--;
        argv++;
    }
    if (options->command != CLI_SET) {
        return argc > 0 ? haul_error_set(error, EINVAL, "'%s' is one word too many", argv[0]) : 0;
    }
    for (int i = 0; i < argc; i++) {
        if (!strchr(argv[i], '=') || argv[i][0] == '=') {
            return haul_error_set(error, EINVAL, "'%s' is no PARAM=VALUE", argv[i]);
        }
    }
    if (argc == 0) {
        return haul_error_set(error, EINVAL, "say what to set: haul set [NAME] PARAM=VALUE...");
    }
    options->assignments = argv;
    options->assignment_count = argc;
    return 0;
}

static int take_operands(int argc, char **argv, struct cli_options *options, struct haul_error *error)
{
    enum cli_command command = options->command;
    if (command >= CLI_QUERY && command <= CLI_CONTINUE) {
        return take_control_operands(argc, argv, options, error);
    }
    int allowed = command == CLI_RECEIVE || command == CLI_TOPOLOGY || command == CLI_DAEMON ? 0 : 1;
    if (argc > allowed) {
        return haul_error_set(error, EINVAL, "'%s' is one word too many", argv[allowed]);
    }
    if (command == CLI_RESTORE || command == CLI_INSPECT || command == CLI_SNAPSHOT) {
        if (argc < 1) {
            return haul_error_set(error, EINVAL, "say which file: haul %s file:PATH", command_names[command]);
        }
        options->uri = argv[0];
        return 0;
    }
    if (command == CLI_SEND) {
        if (argc < 1) {
            return haul_error_set(error, EINVAL, "say where to: haul send tcp:HOST:PORT");
        }
        options->uri = argv[0];
    } else if (command == CLI_RELAY) {
        if (argc < 1) {
            return haul_error_set(error, EINVAL, "say where to: haul relay unix:PATH");
        }
        options->uri = argv[0];
    } else if (argc == 1) {
        options->id = argv[0];
    }
    if (command == CLI_RECEIVE && !options->uri) {
        return haul_error_set(error, EINVAL, "say where to wait: --listen tcp:ADDR:PORT");
    }
    return 0;
}

/* The words after -- are for the haul receive that ssh: starts. */
static int take_remote(int count, char **words, struct cli_options *options, struct haul_error *error)
{
    bool ssh = options->command == CLI_SEND && !strncmp(options->uri, "ssh:", 4);
    if (!ssh) {
        return count == 0 ? 0
                          : haul_error_set(error, EINVAL,
                                           "'%s' is one word too many: only haul send ssh:HOST takes options "
                                           "after --, for the haul receive there",
                                           words[0]);
    }
    options->haul.remote_options = options->remote.line;
    return cli_remote_options(options, count, words, error);
}

/* getopt_long did not know the word: say why, so that it can be mended without the manual. */
static int refuse_word(enum cli_command command, const char *word, int letter, struct haul_error *error)
{
    if (letter >= FIRST_VALUE) {
        return haul_error_set(error, EINVAL, "option --%s takes no value",
                              cli_option_table[letter - FIRST_VALUE].name);
    }
    if (letter) {
        return haul_error_set(error, EINVAL, "unknown option '-%c'", letter);
    }
    const char *name = word + 2;
    size_t length = strcspn(name, "=");
    unsigned matches = 0;
    for (unsigned i = 0; i < cli_option_count; i++) {
        const struct cli_option *option = &cli_option_table[i];
        if (option->commands & 1U << command) {
            matches += !strncmp(option->name, name, length);
        } else if (strlen(option->name) == length && !strncmp(option->name, name, length)) {
            unsigned owner = (unsigned)__builtin_ctz(option->commands);
            return haul_error_set(error, EINVAL, "option --%s belongs to 'haul %s', not to 'haul %s'",
                                  option->name, command_names[owner], command_names[command]);
        }
    }
    return haul_error_set(error, EINVAL, "%s option '--%.*s'", matches > 1 ? "ambiguous" : "unknown",
                          (int)length, name);
}

static void build_getopt_table(enum cli_command command, struct option table[MAX_OPTIONS + 2])
{
    unsigned used = 0;
    for (unsigned i = 0; i < cli_option_count; i++) {
        const struct cli_option *option = &cli_option_table[i];
        if (option->commands & 1U << command) {
            table[used++] = (struct option){option->name, option->value ? required_argument : no_argument,
                                            NULL, (int)(FIRST_VALUE + i)};
        }
    }
    table[used++] = (struct option){"help", no_argument, NULL, 'h'};
    table[used] = (struct option){0};
}

int cli_options_parse(enum cli_command command, int argc, char **argv, struct cli_options *options,
                      struct haul_error *error)
{
    struct option table[MAX_OPTIONS + 2];
    uint64_t given = 0;
    build_getopt_table(command, table);
    options->command = command;
    int words = 0; /* before -- */
    while (words < argc && strcmp(argv[words], "--") != 0) {
        words++;
    }
    char **remote = argv + words + 1;
    int remote_count = words < argc ? argc - words - 1 : 0;
    argc = words;
    opterr = 0;
    optind = 0; /* start over: a program may parse more than once */
    for (int value; (value = getopt_long(argc, argv, ":h", table, NULL)) != -1;) {
        if (value == 'h') {
            options->help = true;
            return 0;
        }
        if (value == '?') {
            return refuse_word(command, argv[optind - 1], optopt, error);
        }
        unsigned row = (unsigned)((value == ':' ? optopt : value) - FIRST_VALUE);
        const struct cli_option *option = &cli_option_table[row];
        if (value == ':') {
            return haul_error_set(error, EINVAL, "option --%s needs a value: --%s %s", option->name,
                                  option->name, option->value);
        }
        int status = store(option, optarg, options, error);
        if (status < 0) {
            return status;
        }
        given |= 1ULL << row;
    }
    if (command == CLI_SNAPSHOT) {
        options->haul.mode = haul_mode_name(HAUL_MODE_BACKGROUND_SNAPSHOT);
    }
    int status = take_operands(argc - optind, argv + optind, options, error);
    status = status < 0 ? status : check_together(options, given, error);
    return status < 0 ? status : take_remote(remote_count, remote, options, error);
}
