/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/settings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One plain stream wants all of these off: each changes the stream's format, its channels or who is the
 * master. */
static const char *const unwanted[] = {"xbzrle",
                                       "rdma-pin-all",
                                       "auto-converge",
                                       "zero-blocks",
                                       "compress",
                                       "postcopy-ram",
                                       "postcopy-preempt",
                                       "x-colo",
                                       "release-ram",
                                       "block",
                                       "return-path",
                                       "multifd",
                                       "background-snapshot",
                                       "zero-copy-send",
                                       "switchover-ack",
                                       "mapped-ram",
                                       "dirty-limit"};

static bool is_unwanted(const char *name)
{
    for (unsigned i = 0; i < sizeof unwanted / sizeof unwanted[0]; i++) {
        if (strcmp(name, unwanted[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void append_capability(json_t *array, const char *name, bool state)
{
    json_array_append_new(array, json_pack("{s:s, s:b}", "capability", name, "state", (int)state));
}

static int set_capabilities(struct haul_qmp *qmp, json_t *array, struct haul_error *error)
{
    return haul_qmp_execute(qmp, "migrate-set-capabilities", json_pack("{s:O}", "capabilities", array), NULL,
                            error);
}

static int apply_capabilities(struct haul_qmp *qmp, bool source, struct haul_qemu_settings *settings,
                              struct haul_error *error)
{
    json_t *now = NULL;
    int result = haul_qmp_execute(qmp, "query-migrate-capabilities", NULL, &now, error);
    if (result) {
        return result;
    }
    json_t *change = json_array();
    json_t *undo = json_array();
    bool ignores_shared = false;
    bool pauses = false;
    size_t index;
    json_t *entry;
    json_array_foreach(now, index, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "capability"));
        bool state = json_is_true(json_object_get(entry, "state"));
        if (!name) {
            continue;
        }
        bool ignore = strcmp(name, "x-ignore-shared") == 0;
        bool pause = source && strcmp(name, "pause-before-switchover") == 0;
        bool want = (ignore || pause || strcmp(name, "events") == 0) || (state && !is_unwanted(name));
        ignores_shared = ignores_shared || ignore;
        pauses = pauses || pause;
        if (want != state) {
            append_capability(change, name, want);
            append_capability(undo, name, state);
        }
    }
    json_decref(now);
    if (!ignores_shared || (source && !pauses)) {
        result = haul_error_set(error, ENOTSUP,
                                "this QEMU has no migration capability \"%s\": haul needs QEMU 4.0 or newer",
                                ignores_shared ? "pause-before-switchover" : "x-ignore-shared");
    } else if (json_array_size(change)) {
        result = set_capabilities(qmp, change, error);
    }
    json_decref(change);
    if (result || json_array_size(undo) == 0) {
        json_decref(undo);
    } else {
        settings->capabilities = undo;
    }
    return result;
}

/* Unthrottled, and with a limit under which the little that QEMU carries always converges. */
static int apply_parameters(struct haul_qmp *qmp, struct haul_qemu_settings *settings,
                            struct haul_error *error)
{
    json_t *now = NULL;
    int result = haul_qmp_execute(qmp, "query-migrate-parameters", NULL, &now, error);
    if (result) {
        return result;
    }
    json_t *wanted =
        json_pack("{s:i, s:i, s:s}", "max-bandwidth", 0, "downtime-limit", 2000, "tls-creds", "");
    json_t *change = json_object();
    json_t *undo = json_object();
    const char *name;
    json_t *value;
    json_object_foreach(wanted, name, value)
    {
        json_t *before = json_object_get(now, name);
        if (before && !json_equal(before, value)) {
            json_object_set(change, name, value);
            json_object_set(undo, name, before);
        }
    }
    if (json_object_size(change)) {
        result = haul_qmp_execute(qmp, "migrate-set-parameters", json_incref(change), NULL, error);
    }
    if (!result && json_object_size(undo)) {
        settings->parameters = json_incref(undo);
    }
    json_decref(undo);
    json_decref(change);
    json_decref(wanted);
    json_decref(now);
    return result;
}

static int set_suppress(struct haul_qmp *qmp, bool value, struct haul_error *error)
{
    return haul_qmp_execute(
        qmp, "qom-set",
        json_pack("{s:s, s:s, s:b}", "path", "/machine", "property", "suppress-vmdesc", "value", (int)value),
        NULL, error);
}

/*
 * Without this a description for debuggers follows the stream's end mark, and a QEMU that lost its stream
 * within it starts the machine all the same: the destination could then not be held back to the handover by
 * the stream's last byte.
 */
static int apply_suppress(struct haul_qmp *qmp, struct haul_qemu_settings *settings, struct haul_error *error)
{
    json_t *now = NULL;
    int result = haul_qmp_execute(qmp, "qom-get",
                                  json_pack("{s:s, s:s}", "path", "/machine", "property", "suppress-vmdesc"),
                                  &now, error);
    if (!result && !json_is_true(now)) {
        result = set_suppress(qmp, true, error);
        settings->suppressed = result == 0;
    }
    json_decref(now);
    return result;
}

int haul_qemu_settings_apply(struct haul_qmp *qmp, bool source, struct haul_qemu_settings *settings,
                             struct haul_error *error)
{
    /* What an earlier restore was refused is not what the operator had. */
    int result = haul_qemu_settings_restore(qmp, settings, error);
    if (!result) {
        result = apply_capabilities(qmp, source, settings, error);
    }
    if (!result) {
        result = apply_parameters(qmp, settings, error);
    }
    if (!result) {
        result = apply_suppress(qmp, settings, error);
    }
    if (result) {
        haul_qemu_settings_restore(qmp, settings, NULL);
    }
    return result;
}

int haul_qemu_settings_restore(struct haul_qmp *qmp, struct haul_qemu_settings *settings,
                               struct haul_error *error)
{
    int result = settings->capabilities ? set_capabilities(qmp, settings->capabilities, error) : 0;
    if (!result) {
        json_decref(settings->capabilities);
        settings->capabilities = NULL;
    } else if (result != -EREMOTEIO) {
        return result; /* QEMU is gone, or does not answer */
    }
    if (settings->parameters) {
        int second = haul_qmp_execute(qmp, "migrate-set-parameters", json_incref(settings->parameters), NULL,
                                      result ? NULL : error);
        if (!second) {
            json_decref(settings->parameters);
            settings->parameters = NULL;
        }
        result = result ? result : second;
    }
    if (settings->suppressed) {
        int third = set_suppress(qmp, false, result ? NULL : error);
        settings->suppressed = third != 0;
        result = result ? result : third;
    }
    return result;
}

bool haul_qemu_settings_changed(const struct haul_qemu_settings *settings)
{
    return settings->capabilities || settings->parameters || settings->suppressed;
}

int haul_qemu_settings_script(const struct haul_qemu_settings *settings, char *text, size_t size)
{
    size_t used = 0;
    json_t *lines[3] = {NULL, NULL, NULL};
    if (settings->capabilities) {
        lines[0] = json_pack("{s:s, s:{s:O}}", "execute", "migrate-set-capabilities", "arguments",
                             "capabilities", settings->capabilities);
    }
    if (settings->parameters) {
        lines[1] =
            json_pack("{s:s, s:O}", "execute", "migrate-set-parameters", "arguments", settings->parameters);
    }
    if (settings->suppressed) {
        lines[2] = json_pack("{s:s, s:{s:s, s:s, s:b}}", "execute", "qom-set", "arguments", "path",
                             "/machine", "property", "suppress-vmdesc", "value", 0);
    }
    int result = 0;
    text[0] = '\0';
    for (int i = 0; i < 3; i++) {
        if (!lines[i]) {
            continue;
        }
        char *line = json_dumps(lines[i], JSON_COMPACT);
        int length = line ? snprintf(text + used, size - used, "%s\n", line) : -1;
        if (length < 0 || (size_t)length >= size - used) {
            result = -ENOMEM;
            text[used] = '\0';
        } else {
            used += (size_t)length;
        }
        free(line);
        json_decref(lines[i]);
    }
    return result;
}

void haul_qemu_settings_cleanup(struct haul_qemu_settings *settings)
{
    json_decref(settings->capabilities);
    json_decref(settings->parameters);
    memset(settings, 0, sizeof *settings);
}
