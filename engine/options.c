/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller may ask of a migration: defaults, ranges, and one copy at its start. */
#include "engine/migration.h"
#include "engine/source/throttle_steps.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char haul_compress_names[] = HAUL_COMPRESS_NAMES;
const char *const haul_compress_list[] = {HAUL_COMPRESS_LIST, NULL};

void haul_options_default(struct haul_options *options)
{
    *options = (struct haul_options){
        .size = sizeof *options,
        .channels = 2,
        .compress = "none",
        .downtime_limit_ms = 300,
        .placement = "auto",
        .timeout_s = 30,
        .populate = true,
        .mode = "normal",
        .throttle_steps = {.initial_percent = 20, .increment_percent = 10, .most_percent = 99},
    };
}

const char *haul_mode_name(enum haul_mode mode)
{
    static const char *const names[] = {
#define X(name, text) text,
        HAUL_MODES(X)
#undef X
    };
    return (unsigned)mode < HAUL_MODE_COUNT ? names[mode] : "unknown";
}

static int parse_mode(struct haul_migration *migration, const struct haul_options *options,
                      struct haul_error *error)
{
    const char *text = options->mode ? options->mode : "normal";
    int mode = 0;
    while (mode < HAUL_MODE_COUNT && strcmp(text, haul_mode_name((enum haul_mode)mode)) != 0) {
        mode++;
    }
    if (mode == HAUL_MODE_COUNT) {
        return haul_error_set(error, EINVAL,
                              "mode is \"%s\"; it must be normal, cpr-transfer or background-snapshot", text);
    }
    migration->mode = (enum haul_mode)mode;
    migration->stats.mode = migration->mode;
    if (mode == HAUL_MODE_CPR_TRANSFER && options->verify) {
        return haul_error_set(error, EINVAL,
                              "verify compares two copies of memory, and mode cpr-transfer makes none: leave "
                              "one of them out");
    }
    return 0;
}

static int check_range(const char *name, uint64_t value, uint64_t least, uint64_t most,
                       struct haul_error *error)
{
    if (value < least || value > most) {
        return haul_error_set(error, EINVAL, "%s is %llu; it must be %llu to %llu", name,
                              (unsigned long long)value, (unsigned long long)least, (unsigned long long)most);
    }
    return 0;
}

int haul_migration_copy_options(struct haul_migration *migration, const struct haul_options *options,
                                struct haul_error *error)
{
    struct haul_options *own = &migration->options;
    haul_options_default(own);
    if (options->size == 0 || options->size > sizeof *own) {
        return haul_error_set(error, EINVAL, "options size is %zu; call haul_options_default first",
                              options->size);
    }
    memcpy(own, options, options->size);
    own->size = sizeof *own;
    int rc = check_range("channels", own->channels, 1, HAUL_CHANNELS_MAX, error);
    if (rc == 0) {
        rc = check_range("timeout_s", own->timeout_s, 1, 3600, error);
    }
    if (rc == 0) {
        rc = check_range("downtime_limit_ms", own->downtime_limit_ms, 0, 2000000, error);
    }
    if (rc == 0) {
        rc = check_range("populate_threads", own->populate_threads, 0, 1024, error);
    }
    if (rc == 0) {
        rc = haul_throttle_steps_check(&own->throttle_steps, error);
    }
    if (rc < 0) {
        return rc;
    }
    if (haul_compress_mode_parse(own->compress ? own->compress : "none", &migration->compress) < 0) {
        return haul_error_set(error, EINVAL, "compress is \"%s\"; it must be one of %s", own->compress,
                              haul_compress_names);
    }
    rc = parse_mode(migration, own, error);
    if (rc < 0) {
        return rc;
    }
    int length = snprintf(migration->placement, sizeof migration->placement, "%s",
                          own->placement ? own->placement : "auto");
    if (length >= (int)sizeof migration->placement) {
        return haul_error_set(error, EINVAL, "placement is %d bytes long; at most %zu", length,
                              sizeof migration->placement - 1);
    }
    own->placement = migration->placement;
    own->compress = NULL;
    rc = haul_migration_copy_strings(migration, error);
    if (rc < 0) {
        return rc;
    }
    own->mode = NULL;
    migration->limits = (struct haul_transport_limits){
        .connect_timeout_ms = own->timeout_s * 1000,
        .silence_timeout_ms = own->timeout_s * 1000,
    };
    atomic_init(&migration->knobs.max_bandwidth, own->max_bandwidth_bytes_per_s);
    atomic_init(&migration->knobs.switchover_bandwidth, own->switchover_bandwidth_bytes_per_s);
    atomic_init(&migration->knobs.downtime_limit_ms, own->downtime_limit_ms);
    atomic_init(&migration->knobs.throttle, HAUL_THROTTLE_UNASKED);
    atomic_init(&migration->knobs.throttle_steps, haul_throttle_steps_pack(&own->throttle_steps));
    return 0;
}
