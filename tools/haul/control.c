/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/control.h"

#include "tools/haul/commands.h"
#include "tools/haul/number.h"
#include "tools/haul/view.h"
#include "tools/qmp/address.h"
#include "tools/session/outcome.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 10000

static const struct haul_qmp_program haul_daemon = {
    .name = "the haul daemon",
    .socket = "control socket",
    .when_absent = "start one with 'haul daemon', or say where it listens with --qmp unix:PATH",
    .when_silent = "it may be stopped; look at its process",
};

int cli_control_open(const struct cli_options *options, struct haul_qmp **daemon, struct haul_error *error)
{
    char path[PATH_MAX];
    const char *address = options->control;
    if (!address) {
        int status = haul_qmp_default_path(path, sizeof path, error);
        if (status < 0) {
            return status;
        }
        address = path;
    }
    return haul_qmp_connect(&haul_daemon, address, TIMEOUT_MS, daemon, error);
}

int cli_control_call(struct haul_qmp *daemon, const char *command, const char *name, json_t *arguments,
                     json_t **reply, struct haul_error *error)
{
    if (name) {
        arguments = arguments ? arguments : json_object();
        json_object_set_new(arguments, "name", json_string(name));
    }
    return haul_qmp_execute(daemon, command, arguments, reply, error);
}

int cli_control_fail(const struct cli_options *options, int status, const struct haul_error *error)
{
    if (options->json) {
        /* Not a status of any migration. */
        json_t *json = haul_outcome_json_failure(status, error->message);
        json_object_del(json, "status");
        json_object_del(json, "error-desc");
        char *text = json ? json_dumps(json, 0) : NULL;
        puts(text ? text : "{}");
        free(text);
        json_decref(json);
    }
    return cli_complain(CLI_EXIT_FAILED, "%s", error->message);
}

/* ---- query ---- */

/* One object of everything: query-migrate with its name, and its parameters as a member. */
static int query_one(struct haul_qmp *daemon, const char *name, json_t **all, struct haul_error *error)
{
    json_t *parameters = NULL;
    int status = cli_control_call(daemon, "query-migrate", name, NULL, all, error);
    if (!status) {
        status = cli_control_call(daemon, "query-migrate-parameters", name, NULL, &parameters, error);
    }
    if (!status) {
        json_object_set_new(*all, "name", json_string(name));
        json_object_set_new(*all, "parameters", parameters);
    }
    return status;
}

/* All of them, in the daemon's order. */
static int query_all(struct haul_qmp *daemon, json_t **all, struct haul_error *error)
{
    json_t *list = NULL;
    json_t *entry;
    size_t index;
    int status = cli_control_call(daemon, "query-migrations", NULL, NULL, &list, error);
    *all = json_array();
    json_array_foreach(list, index, entry)
    {
        json_t *one = NULL;
        status = query_one(daemon, cli_view_text(entry, "name"), &one, error);
        if (!status) {
            json_array_append(*all, one);
        }
        json_decref(one);
        if (status) {
            break;
        }
    }
    json_decref(list);
    return status;
}

static void print_parameters(const json_t *parameters)
{
    const char *name;
    json_t *value;
    printf("  Parameters\n");
    json_object_foreach((json_t *)parameters, name, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY);
        if (json_is_string(value)) {
            printf("    %s=%s\n", name, json_string_value(value));
        } else {
            printf("    %s=%s\n", name, text ? text : "");
        }
        free(text);
    }
}

static void print_one(const json_t *migration, bool parameters)
{
    struct cli_view view = {.name = cli_view_text(migration, "name"), .now = migration};
    char line[CLI_VIEW_LINE];
    cli_view_headline(&view, line);
    printf("%s\n", line);
    if (!parameters) {
        return;
    }
    print_parameters(json_object_get(migration, "parameters"));
    if (cli_view_drives(&view)) {
        printf("%s\n", cli_view_drive_heading);
    }
    for (size_t i = 0; i < cli_view_drives(&view); i++) {
        cli_view_drive(&view, i, line);
        printf("%s\n", line);
    }
    if (cli_view_channels(&view)) {
        printf("%s\n", cli_view_channel_heading);
    }
    for (size_t i = 0; i < cli_view_channels(&view); i++) {
        cli_view_channel(&view, i, line);
        printf("%s\n", line);
    }
}

static int print_json(const json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    if (!text) {
        return cli_complain(CLI_EXIT_FAILED, "no memory for the answer");
    }
    puts(text);
    free(text);
    return 0;
}

static int query(struct haul_qmp *daemon, const struct cli_options *options, struct haul_error *error)
{
    json_t *all = NULL;
    int status = options->migration ? query_one(daemon, options->migration, &all, error)
                                    : query_all(daemon, &all, error);
    if (status < 0) {
        json_decref(all);
        return status;
    }
    if (options->json) {
        status = print_json(all);
    } else if (options->migration) {
        print_one(all, true);
    } else if (json_array_size(all) == 0) {
        puts("The daemon has no migrations.");
    } else {
        size_t index;
        json_t *one;
        json_array_foreach(all, index, one)
        {
            print_one(one, json_array_size(all) == 1);
        }
    }
    json_decref(all);
    return status;
}

/* ---- set ---- */

/* The type of a value is the type that the daemon's own value has. */
static json_t *read_value(const json_t *like, const char *text)
{
    uint64_t number;
    if (json_is_boolean(like)) {
        if (!strcmp(text, "on") || !strcmp(text, "true")) {
            return json_true();
        }
        return !strcmp(text, "off") || !strcmp(text, "false") ? json_false() : NULL;
    }
    if (json_is_integer(like)) {
        return cli_parse_size(text, &number) == 0 && number <= INT64_MAX ? json_integer((json_int_t)number)
                                                                         : NULL;
    }
    return json_string(text);
}

static int read_assignment(const json_t *parameters, const char *assignment, json_t *arguments,
                           struct haul_error *error)
{
    char name[64];
    size_t length = strcspn(assignment, "=");
    const char *text = assignment + length + 1; /* the parser has seen the '=' */
    snprintf(name, sizeof name, "%.*s", (int)length, assignment);
    const json_t *like = json_object_get(parameters, name);
    if (!like) {
        return haul_error_set(error, EINVAL,
                              "there is no parameter '%s'; 'haul query NAME' shows a migration's parameters",
                              name);
    }
    json_t *value = read_value(like, text);
    if (!value) {
        return haul_error_set(error, EINVAL, "parameter %s takes %s, not '%s'", name,
                              json_is_boolean(like) ? "on or off" : "a number such as 300 or 1G", text);
    }
    json_object_set_new(arguments, name, value);
    return 0;
}

static int set(struct haul_qmp *daemon, const struct cli_options *options, struct haul_error *error)
{
    json_t *parameters = NULL;
    json_t *arguments = json_object();
    int status =
        cli_control_call(daemon, "query-migrate-parameters", options->migration, NULL, &parameters, error);
    for (int i = 0; i < options->assignment_count && !status; i++) {
        status = read_assignment(parameters, options->assignments[i], arguments, error);
    }
    json_decref(parameters);
    if (status) {
        json_decref(arguments);
        return status;
    }
    return cli_control_call(daemon, "migrate-set-parameters", options->migration, arguments, NULL, error);
}

int cli_control(const struct cli_options *options)
{
    struct haul_error error = {0};
    struct haul_qmp *daemon = NULL;
    int status = cli_control_open(options, &daemon, &error);
    if (status < 0) {
        return cli_control_fail(options, status, &error);
    }
    switch (options->command) {
    case CLI_QUERY:
        status = query(daemon, options, &error);
        break;
    case CLI_SET:
        status = set(daemon, options, &error);
        break;
    case CLI_CANCEL:
        status = cli_control_call(daemon, "migrate_cancel", options->migration, NULL, NULL, &error);
        break;
    default:
        status = cli_control_call(daemon, "migrate-continue", options->migration,
                                  json_pack("{s:s}", "state", "pre-switchover"), NULL, &error);
        break;
    }
    haul_qmp_close(daemon);
    return status < 0 ? cli_control_fail(options, status, &error) : status;
}
