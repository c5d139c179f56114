/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/daemon/settings.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define OPTION(field)                                                                                        \
    offsetof(struct haul_settings, options.field), sizeof(((struct haul_settings *)NULL)->options.field)
#define TEXT(field) offsetof(struct haul_settings, field), sizeof(((struct haul_settings *)NULL)->field)

static const char *const modes[] = {"normal", "cpr-transfer", NULL};

/* `name` first, then one row for each of `fields` in the same order. */
const struct haul_qmp_argument haul_settings_parameters[] = {
    {"name", HAUL_QMP_STRING, .optional = true},
    {"max-bandwidth", HAUL_QMP_UNSIGNED, .optional = true},
    {"downtime-limit", HAUL_QMP_UNSIGNED, .optional = true},
    {"avail-switchover-bandwidth", HAUL_QMP_UNSIGNED, .optional = true},
    {"multifd-channels", HAUL_QMP_UNSIGNED, .optional = true},
    {"multifd-compression", HAUL_QMP_CHOICE, .optional = true, .choices = haul_compress_list},
    {"mode", HAUL_QMP_CHOICE, .optional = true, .choices = modes},
    {"max-rounds", HAUL_QMP_UNSIGNED, .optional = true},
    {"timeout", HAUL_QMP_UNSIGNED, .optional = true},
    {"placement", HAUL_QMP_STRING, .optional = true},
    {"bind", HAUL_QMP_STRING, .optional = true},
    {"rdma-provider", HAUL_QMP_STRING, .optional = true},
    {"ssh", HAUL_QMP_STRING, .optional = true},
    {"remote-haul", HAUL_QMP_STRING, .optional = true},
    {"direct-io", HAUL_QMP_BOOLEAN, .optional = true},
    {"cpu-throttle-initial", HAUL_QMP_UNSIGNED, .optional = true},
    {"cpu-throttle-increment", HAUL_QMP_UNSIGNED, .optional = true},
    {"max-cpu-throttle", HAUL_QMP_UNSIGNED, .optional = true},
    {"cpu-throttle-tailslow", HAUL_QMP_BOOLEAN, .optional = true},
    {"cpu-throttle-percentage", HAUL_QMP_UNSIGNED, .optional = true},
    {"tls-creds", HAUL_QMP_STRING, .optional = true},
    {"tls-hostname", HAUL_QMP_STRING, .optional = true},
    {"tls-authz", HAUL_QMP_STRING, .optional = true},
    {NULL},
};

struct field {
    size_t offset;
    size_t size;
    uint64_t minimum;
    uint64_t maximum; /* of numbers */
};

static const struct field fields[] = {
    {OPTION(max_bandwidth_bytes_per_s), 0, INT64_MAX},
    {OPTION(downtime_limit_ms), 0, 2000000},
    {OPTION(switchover_bandwidth_bytes_per_s), 0, INT64_MAX},
    {OPTION(channels), 1, 128},
    {TEXT(compress)},
    {TEXT(mode)},
    {OPTION(max_rounds), 0, 1000000000},
    {OPTION(timeout_s), 1, 3600},
    {TEXT(placement)},
    {TEXT(bind)},
    {TEXT(rdma_provider)},
    {TEXT(ssh)},
    {TEXT(remote_haul)},
    {OPTION(direct_io)},
    {OPTION(throttle_steps.initial_percent), 1, 99},
    {OPTION(throttle_steps.increment_percent), 1, 99},
    {OPTION(throttle_steps.most_percent), 1, 99},
    {OPTION(throttle_steps.tailslow)},
    {TEXT(throttle), 0, 99},
    {TEXT(no_tls)},
    {TEXT(no_tls)},
    {TEXT(no_tls)},
};

#define FIELDS (sizeof fields / sizeof *fields)
_Static_assert(sizeof haul_settings_parameters / sizeof *haul_settings_parameters == FIELDS + 2,
               "a parameter without its field");

/* ---- capabilities ---- */

enum capability {
    EVENTS,
    MULTIFD,
    RETURN_PATH,
    PAUSE_BEFORE_SWITCHOVER,
    AUTO_CONVERGE,
    VERIFY,
    POPULATE,
    BACKGROUND_SNAPSHOT,
    CAPABILITIES
};

static const char *const capability_names[] = {
    [EVENTS] = "events",
    [MULTIFD] = "multifd",
    [RETURN_PATH] = "return-path",
    [PAUSE_BEFORE_SWITCHOVER] = "pause-before-switchover",
    [AUTO_CONVERGE] = "auto-converge",
    [VERIFY] = "verify",
    [POPULATE] = "populate",
    [BACKGROUND_SNAPSHOT] = "background-snapshot",
    /* The rest of QEMU 8.2's, which programs written for it switch off one by one: that is all they can be.
     */
    [CAPABILITIES] = "xbzrle",
    "rdma-pin-all",
    "zero-blocks",
    "compress",
    "postcopy-ram",
    "x-colo",
    "release-ram",
    "block",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "x-ignore-shared",
    "validate-uuid",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    "dirty-limit",
    NULL,
};

static const struct haul_qmp_argument capability_members[] = {
    {"capability", HAUL_QMP_CHOICE, .choices = capability_names},
    {"state", HAUL_QMP_BOOLEAN},
    {NULL},
};

const struct haul_qmp_argument haul_settings_capabilities[] = {
    {"capabilities", HAUL_QMP_ARRAY, .members = capability_members},
    {"name", HAUL_QMP_STRING, .optional = true},
    {NULL},
};

/* The flag behind a capability, or NULL for what is always on. */
static bool *flag(struct haul_settings *settings, enum capability capability)
{
    switch (capability) {
    case EVENTS:
        return &settings->events;
    case PAUSE_BEFORE_SWITCHOVER:
        return &settings->options.pause_before_switchover;
    case AUTO_CONVERGE:
        return &settings->options.auto_converge;
    case VERIFY:
        return &settings->options.verify;
    case POPULATE:
        return &settings->options.populate;
    case BACKGROUND_SNAPSHOT:
        return &settings->background_snapshot;
    default:
        return NULL;
    }
}

int haul_settings_set_capabilities(struct haul_settings *settings, const json_t *list,
                                   struct haul_qmp_failure *failure)
{
    struct haul_settings changed;
    size_t index;
    json_t *entry;
    haul_settings_copy(&changed, settings);
    json_array_foreach(list, index, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "capability"));
        bool state = json_is_true(json_object_get(entry, "state"));
        enum capability which = 0;
        while (strcmp(capability_names[which], name) != 0) {
            which++;
        }
        if (which >= CAPABILITIES && state) {
            return haul_qmp_fail(failure, ENOTSUP, "Capability '%s' is not supported by haul", name);
        }
        bool *changes = flag(&changed, which);
        if (changes) { /* what is always on stays so: programs switch it off with others at their end */
            *changes = state;
        }
    }
    haul_settings_copy(settings, &changed);
    return 0;
}

json_t *haul_settings_capabilities_json(const struct haul_settings *settings)
{
    json_t *list = json_array();
    for (enum capability i = 0; i < CAPABILITIES; i++) {
        const bool *state = flag((struct haul_settings *)settings, i);
        json_array_append_new(
            list, json_pack("{s:b s:s}", "state", !state || *state, "capability", capability_names[i]));
    }
    return list;
}

/* ---- parameters ---- */

static void point_at_texts(struct haul_settings *settings)
{
    settings->options.compress = settings->compress;
    settings->options.mode =
        settings->background_snapshot ? haul_mode_name(HAUL_MODE_BACKGROUND_SNAPSHOT) : settings->mode;
    settings->options.placement = settings->placement;
    settings->options.bind = settings->bind[0] ? settings->bind : NULL;
    settings->options.ssh = settings->ssh;
    settings->options.remote_haul = settings->remote_haul;
    settings->options.rdma_provider = settings->rdma_provider[0] ? settings->rdma_provider : NULL;
}

void haul_settings_default(struct haul_settings *settings)
{
    *settings = (struct haul_settings){
        .compress = "none",
        .mode = "normal",
        .placement = "auto",
        .ssh = "ssh -oBatchMode=yes", /* there is nobody to ask */
        .remote_haul = "haul",
        .events = true,
        .throttle = HAUL_SETTINGS_NO_THROTTLE,
    };
    haul_options_default(&settings->options);
    point_at_texts(settings);
}

void haul_settings_copy(struct haul_settings *to, const struct haul_settings *from)
{
    *to = *from;
    point_at_texts(to);
}

static int set_one(struct haul_settings *settings, const struct haul_qmp_argument *row,
                   const struct field *field, const json_t *value, struct haul_qmp_failure *failure)
{
    char *at = (char *)settings + field->offset;
    if (row->type == HAUL_QMP_BOOLEAN) {
        *(bool *)at = json_is_true(value);
        return 0;
    }
    if (row->type != HAUL_QMP_UNSIGNED) {
        if (field->size == 1 && json_string_length(value) > 0) {
            return haul_qmp_fail(failure, ENOTSUP, "Parameter '%s' is not supported by haul", row->name);
        }
        if (json_string_length(value) >= field->size) {
            return haul_qmp_fail(failure, EINVAL, "Parameter '%s' is longer than %zu bytes", row->name,
                                 field->size - 1);
        }
        memcpy(at, json_string_value(value), json_string_length(value) + 1);
        return 0;
    }
    uint64_t number = (uint64_t)json_integer_value(value);
    if (number < field->minimum || number > field->maximum) {
        return haul_qmp_fail(failure, EINVAL,
                             "Parameter '%s' expects an integer in the range of %llu to %llu", row->name,
                             (unsigned long long)field->minimum, (unsigned long long)field->maximum);
    }
    if (field->size == sizeof(uint64_t)) {
        memcpy(at, &number, sizeof number);
    } else {
        uint32_t narrow = (uint32_t)number; /* an int of a checked range looks the same */
        memcpy(at, &narrow, sizeof narrow);
    }
    return 0;
}

int haul_settings_set_parameters(struct haul_settings *settings, const json_t *arguments,
                                 struct haul_qmp_failure *failure)
{
    struct haul_settings changed;
    haul_settings_copy(&changed, settings);
    changed.throttle = HAUL_SETTINGS_NO_THROTTLE;
    for (size_t i = 0; i < FIELDS; i++) {
        const struct haul_qmp_argument *row = &haul_settings_parameters[i + 1];
        const json_t *value = json_object_get(arguments, row->name);
        int result = value ? set_one(&changed, row, &fields[i], value, failure) : 0;
        if (result < 0) {
            return result;
        }
    }
    const struct haul_throttle_steps *steps = &changed.options.throttle_steps;
    if (steps->most_percent < steps->initial_percent) {
        return haul_qmp_fail(failure, EINVAL,
                             "Parameter 'max-cpu-throttle' expects an integer in the range of "
                             "cpu-throttle-initial to 99");
    }
    haul_settings_copy(settings, &changed);
    return 0;
}

json_t *haul_settings_parameters_json(const struct haul_settings *settings, uint32_t throttle_percent)
{
    struct haul_settings shown;
    json_t *json = json_object();
    haul_settings_copy(&shown, settings);
    shown.throttle = (int)throttle_percent;
    for (size_t i = 0; i < FIELDS; i++) {
        const char *at = (const char *)&shown + fields[i].offset;
        uint64_t wide = 0;
        uint32_t narrow = 0;
        json_t *value;
        if (haul_settings_parameters[i + 1].type == HAUL_QMP_BOOLEAN) {
            value = json_boolean(*(const bool *)at);
        } else if (haul_settings_parameters[i + 1].type != HAUL_QMP_UNSIGNED) {
            value = json_string(at);
        } else if (fields[i].size == sizeof wide) {
            memcpy(&wide, at, sizeof wide);
            value = json_integer((json_int_t)wide);
        } else {
            memcpy(&narrow, at, sizeof narrow);
            value = json_integer(narrow);
        }
        json_object_set_new(json, haul_settings_parameters[i + 1].name, value);
    }
    return json;
}

int haul_settings_apply(const struct haul_settings *settings, const struct haul_settings *before,
                        struct haul_migration *migration, struct haul_error *error)
{
    const struct haul_options *now = &settings->options;
    const struct haul_options *then = &before->options;
    /* First, for only this can be refused: the values of the others were checked when they were set. */
    if (settings->throttle != HAUL_SETTINGS_NO_THROTTLE) {
        int result = haul_set_throttle(migration, (unsigned)settings->throttle, error);
        if (result < 0) {
            return result;
        }
    }
    if (now->max_bandwidth_bytes_per_s != then->max_bandwidth_bytes_per_s) {
        haul_set_max_bandwidth(migration, now->max_bandwidth_bytes_per_s);
    }
    if (now->switchover_bandwidth_bytes_per_s != then->switchover_bandwidth_bytes_per_s) {
        haul_set_switchover_bandwidth(migration, now->switchover_bandwidth_bytes_per_s);
    }
    int result = now->downtime_limit_ms != then->downtime_limit_ms
                     ? haul_set_downtime_limit(migration, now->downtime_limit_ms, error)
                     : 0;
    return result == 0 ? haul_set_throttle_steps(migration, &now->throttle_steps, error) : result;
}
