/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_OPTIONS_H
#define HAUL_TOOLS_HAUL_OPTIONS_H

/* The command line, as data. Every option stands once, in option_table.c; parsing and help both read it
 * there. */

#include "engine/haul.h"
#include "tools/machines/machine.h"
#include "tools/session/remote.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In the order in which help shows them. */
enum cli_command {
    CLI_SEND,
    CLI_RECEIVE,
    CLI_RESUME,
    CLI_ABANDON,
    CLI_SNAPSHOT,
    CLI_RESTORE,
    CLI_INSPECT,
    CLI_DAEMON,
    CLI_QUERY,
    CLI_WATCH,
    CLI_SET,
    CLI_CANCEL,
    CLI_CONTINUE,
    CLI_TOPOLOGY,
    CLI_RELAY,
    CLI_COMMAND_COUNT
};

struct cli_options {
    enum cli_command command;
    bool help; /* --help was given: nothing else was checked */
    const char
        *uri; /* send, relay: where to; receive: what to listen on; restore, inspect, snapshot: the file */
    const char *id;        /* resume, abandon: the move, or NULL */
    const char *qmp;       /* --qemu, or NULL */
    bool disks;            /* --disks */
    const char *memory;    /* --memory, or NULL */
    bool guest;            /* --guest */
    const char *disk;      /* --disk as it was given, or NULL; guest_options has what it says */
    char disk_path[4096];  /* guest_options.disk points here */
    uint32_t pid;          /* --pid, 0: none */
    uint64_t memory_size;  /* --memory-size, 0: the file exists */
    bool list;             /* resume, abandon: only show */
    const char *to;        /* topology --to, or NULL */
    uint32_t run_for_s;    /* --run-for */
    const char *control;   /* --qmp: a daemon's control socket, or NULL for the default one */
    const char *migration; /* query, set, cancel, continue, watch: the daemon's name of it, or NULL */
    char **assignments;    /* set: PARAM=VALUE */
    int assignment_count;
    struct haul_remote remote; /* send ssh: for the haul receive there; haul.remote_options points here */
    bool json;
    bool quiet;
    struct haul_options haul;
    struct haul_guest_options guest_options;
};

/* cli_options_default fills in what holds when no option is given. */
void cli_options_default(struct cli_options *options);

/*
 * cli_options_parse reads the arguments of `command` (argv[0] is its name) over the defaults in `options`.
 * Strings point into argv. -EINVAL with one sentence that names the option and its form. Uses getopt_long, so
 * one thread at a time.
 */
int cli_options_parse(enum cli_command command, int argc, char **argv, struct cli_options *options,
                      struct haul_error *error);

/* cli_command_find returns 0 and the command of that name, or -ENOENT. */
int cli_command_find(const char *name, enum cli_command *command);
const char *cli_command_name(enum cli_command command);

/* cli_help_print writes what `haul help` says: of one command, or (cli_help_print_all) of the program. */
void cli_help_print(enum cli_command command, FILE *out);
void cli_help_print_all(FILE *out);

/* cli_examples returns a command's examples, as indented lines. */
const char *cli_examples(enum cli_command command);

/* ---- the table ---- */

enum cli_option_type {
    CLI_OPTION_SET,    /* bool, becomes true */
    CLI_OPTION_CLEAR,  /* bool, becomes false */
    CLI_OPTION_TEXT,   /* const char * */
    CLI_OPTION_CHOICE, /* const char *, one of `choices` */
    CLI_OPTION_NUMBER, /* uint32_t, minimum to maximum */
    CLI_OPTION_SIZE    /* uint64_t, at least minimum */
};

struct cli_option {
    const char *name;  /* without the dashes */
    const char *value; /* what help calls its value; NULL: takes none */
    unsigned commands; /* bit 1 << command for each that has it */
    enum cli_option_type type;
    size_t offset; /* of its field in struct cli_options */
    uint64_t minimum;
    uint64_t maximum;
    const char *choices; /* "none|lz4|auto" */
    const char *needs;   /* the option without which this one means nothing, or NULL */
    const char *help;    /* one or more sentences; wrapped when printed */
};

extern const struct cli_option cli_option_table[];
extern const unsigned cli_option_count;

#ifdef __cplusplus
}
#endif
#endif
