/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that the control socket knows, in QEMU's shapes. */
#include "tools/daemon/moves.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

static const char *name_of(const json_t *arguments)
{
    return json_string_value(json_object_get(arguments, "name"));
}

/* A failure of ours is the command's. */
static int pass_on(int status, struct haul_qmp_failure *failure)
{
    failure->error.code = -status;
    return status;
}

/* ---- moving ---- */

static int begin(struct haul_moves *moves, json_t *arguments, bool source, struct haul_qmp_failure *failure)
{
    struct haul_move *move = NULL;
    struct haul_move_order order;
    int status = haul_moves_order(arguments, source, &order, failure);
    if (status < 0 || (status = haul_moves_change(moves, failure)) < 0) {
        return status;
    }
    order.descriptors = &moves->descriptors;
    unsigned before = moves->count;
    status = haul_moves_obtain(moves, name_of(arguments), &move, failure);
    if (status == 0 && (status = haul_move_start(move, &order, &failure->error)) < 0 &&
        moves->count > before) {
        haul_moves_forget(moves, move); /* it was begun for nothing else */
    }
    haul_moves_changed(moves);
    return status;
}

static int migrate(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    (void)result;
    return begin(opaque, arguments, true, failure);
}

static int migrate_incoming(void *opaque, json_t *arguments, json_t **result,
                            struct haul_qmp_failure *failure)
{
    (void)result;
    return begin(opaque, arguments, false, failure);
}

static int migrate_cancel(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    (void)result;
    struct haul_move *move;
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status < 0 || !move) {
        return status;
    }
    if (haul_move_cancel(move) == -EALREADY && haul_move_busy(move)) {
        return haul_qmp_fail(failure, EALREADY, "Too late to cancel: the guest is being handed over");
    }
    return 0;
}

static int migrate_continue(void *opaque, json_t *arguments, json_t **result,
                            struct haul_qmp_failure *failure)
{
    (void)result;
    struct haul_move *move;
    const char *state = json_string_value(json_object_get(arguments, "state"));
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status < 0) {
        return status;
    }
    const char *now = move ? haul_state_name(haul_move_state(move)) : "none";
    if (strcmp(state, now) != 0 || !move || haul_move_continue(move) < 0) {
        return haul_qmp_fail(failure, EINVAL, "Migration not in expected state: %s", now);
    }
    return 0;
}

static int migrate_forget(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    (void)result;
    struct haul_move *move;
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status < 0 || (status = haul_moves_change(opaque, failure)) < 0) {
        return status;
    }
    if (haul_move_busy(move)) {
        status = haul_qmp_fail(failure, EBUSY, "There's a migration process in progress");
    } else {
        haul_moves_forget(opaque, move);
    }
    haul_moves_changed(opaque);
    return status;
}

/* ---- descriptors ---- */

static int getfd(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    (void)result;
    struct haul_moves *moves = opaque;
    int fd = moves->take_fd(moves->opaque);
    if (fd < 0) {
        return haul_qmp_fail(failure, -fd, "No file descriptor supplied via SCM_RIGHTS");
    }
    return haul_descriptors_put(&moves->descriptors, json_string_value(json_object_get(arguments, "fdname")),
                                fd, failure);
}

static int closefd(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    (void)result;
    struct haul_moves *moves = opaque;
    return haul_descriptors_drop(&moves->descriptors, json_string_value(json_object_get(arguments, "fdname")),
                                 failure);
}

/* ---- settings ---- */

/* The settings of a migration, or those that it would begin with. */
static int settings_now(const struct haul_moves *moves, const json_t *arguments,
                        struct haul_settings *settings, struct haul_qmp_failure *failure)
{
    struct haul_move *move;
    int status = haul_moves_find(moves, name_of(arguments), &move, failure);
    haul_settings_default(settings);
    if (move) {
        haul_settings_copy(settings, haul_move_settings(move));
    }
    return status == -ENOENT ? 0 : status;
}

static int set_parameters(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    (void)result;
    struct haul_move *move = NULL;
    struct haul_settings settings;
    int status = settings_now(opaque, arguments, &settings, failure);
    if (status == 0) {
        /* Checked before a migration is begun for them. */
        status = haul_settings_set_parameters(&settings, arguments, failure);
    }
    if (status < 0 || (status = haul_moves_change(opaque, failure)) < 0) {
        return status;
    }
    status = haul_moves_obtain(opaque, name_of(arguments), &move, failure);
    status = status < 0 ? status : haul_move_change(move, &settings, &failure->error);
    haul_moves_changed(opaque);
    return status;
}

static int set_capabilities(void *opaque, json_t *arguments, json_t **result,
                            struct haul_qmp_failure *failure)
{
    (void)result;
    struct haul_move *move = NULL;
    struct haul_settings settings;
    const json_t *list = json_object_get(arguments, "capabilities");
    int status = settings_now(opaque, arguments, &settings, failure);
    if (status == 0) {
        status = haul_settings_set_capabilities(&settings, list, failure);
    }
    if (status < 0 || (status = haul_moves_change(opaque, failure)) < 0) {
        return status;
    }
    status = haul_moves_obtain(opaque, name_of(arguments), &move, failure);
    if (status == 0 && haul_move_busy(move)) {
        status = haul_qmp_fail(failure, EBUSY, "There's a migration process in progress");
    }
    status = status < 0 ? status : haul_move_change(move, &settings, &failure->error);
    haul_moves_changed(opaque);
    return status;
}

static int query_parameters(void *opaque, json_t *arguments, json_t **result,
                            struct haul_qmp_failure *failure)
{
    struct haul_move *move;
    struct haul_settings none;
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status == 0) {
        haul_settings_default(&none);
        *result = haul_settings_parameters_json(move ? haul_move_settings(move) : &none,
                                                move ? haul_move_throttle(move) : 0);
    }
    return status;
}

static int query_capabilities(void *opaque, json_t *arguments, json_t **result,
                              struct haul_qmp_failure *failure)
{
    struct haul_move *move;
    struct haul_settings none;
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status == 0) {
        haul_settings_default(&none);
        *result = haul_settings_capabilities_json(move ? haul_move_settings(move) : &none);
    }
    return status;
}

/* ---- questions ---- */

static int query_migrate(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    struct haul_move *move;
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status == 0 && move) {
        *result = haul_move_json(move);
        status = *result ? 0 : haul_qmp_fail(failure, ENOMEM, "no memory for the answer");
    }
    return status;
}

static int query_migrations(void *opaque, json_t *arguments, json_t **result,
                            struct haul_qmp_failure *failure)
{
    (void)arguments;
    (void)failure;
    const struct haul_moves *moves = opaque;
    *result = json_array();
    for (unsigned i = 0; i < moves->count; i++) {
        struct haul_move *move = moves->list[i];
        json_array_append_new(*result, json_pack("{s:s s:s s:s}", "name", haul_move_name(move), "status",
                                                 haul_state_name(haul_move_state(move)), "guest",
                                                 haul_move_guest(move)));
    }
    return 0;
}

static int query_threads(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    struct haul_move *move;
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status == 0) {
        *result = move ? haul_move_threads_json(move) : json_array();
    }
    return status;
}

static int query_status(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    struct haul_move *move;
    int status = haul_moves_find(opaque, name_of(arguments), &move, failure);
    if (status == 0) {
        const char *word = move ? haul_move_guest(move) : "prelaunch";
        *result = json_pack("{s:s s:b s:b}", "status", word, "singlestep", 0, "running",
                            strcmp(word, "running") == 0);
    }
    return status;
}

static int quit(void *opaque, json_t *arguments, json_t **result, struct haul_qmp_failure *failure)
{
    (void)arguments;
    (void)result;
    struct haul_moves *moves = opaque;
    const struct haul_move *held = haul_moves_held(moves);
    if (held) {
        return haul_qmp_fail(failure, EBUSY,
                             "Migration '%s' is uncertain and its paused guest lives in this process: haul "
                             "resume or haul abandon it first",
                             haul_move_name(held));
    }
    haul_moves_close(moves, "host-qmp-quit");
    return eventfd_write(moves->quit_fd, 1) == 0 ? 0 : pass_on(-errno, failure);
}

/* ---- the table ---- */

static const struct haul_qmp_argument about_one[] = {{"name", HAUL_QMP_STRING, .optional = true}, {NULL}};
static const struct haul_qmp_argument about_a_name[] = {{"name", HAUL_QMP_STRING}, {NULL}};

#define X(name, text) text,
static const char *const states[] = {HAUL_STATES(X) NULL};
#undef X

static const struct haul_qmp_argument continuing[] = {
    {"state", HAUL_QMP_CHOICE, .choices = states}, {"name", HAUL_QMP_STRING, .optional = true}, {NULL}};

static const struct haul_qmp_argument descriptor[] = {{"fdname", HAUL_QMP_STRING}, {NULL}};

const struct haul_qmp_command haul_moves_commands[] = {
    {"migrate", haul_moves_send_arguments, migrate},
    {"migrate-incoming", haul_moves_receive_arguments, migrate_incoming},
    {"migrate_cancel", about_one, migrate_cancel},
    {"migrate-continue", continuing, migrate_continue},
    {"migrate-forget", about_a_name, migrate_forget},
    {"migrate-set-parameters", haul_settings_parameters, set_parameters},
    {"query-migrate-parameters", about_one, query_parameters},
    {"migrate-set-capabilities", haul_settings_capabilities, set_capabilities},
    {"query-migrate-capabilities", about_one, query_capabilities},
    {"query-migrate", about_one, query_migrate},
    {"query-migrations", NULL, query_migrations},
    {"query-migrationthreads", about_one, query_threads},
    {"query-status", about_one, query_status},
    {"getfd", descriptor, getfd},
    {"closefd", descriptor, closefd},
    {"quit", NULL, quit},
};

const unsigned haul_moves_command_count = sizeof haul_moves_commands / sizeof *haul_moves_commands;
