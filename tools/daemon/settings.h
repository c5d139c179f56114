/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_SETTINGS_H
#define HAUL_TOOLS_DAEMON_SETTINGS_H

/*
 * The parameters and capabilities of one migration, by QEMU's names where QEMU has them (bandwidths in bytes
 * per second, times in milliseconds).
 */

#include "engine/haul.h"
#include "tools/qmp/arguments.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_SETTINGS_NO_THROTTLE (-1)

struct haul_settings {
    struct haul_options options; /* its strings are those below */
    char compress[8];
    char mode[16];
    char placement[256];
    char bind[256];
    char rdma_provider[64];
    char ssh[1024];
    char remote_haul[1024];
    char no_tls[1];           /* always empty: what QEMU shows where there is no TLS */
    bool events;              /* capability: events about this migration are sent */
    bool background_snapshot; /* the capability: options.mode is that, whatever `mode` says */
    int throttle;             /* percent asked for by this change, or HAUL_SETTINGS_NO_THROTTLE */
};

void haul_settings_default(struct haul_settings *settings);
/* haul_settings_copy stands for assignment, which would leave strings pointing into `from`. */
void haul_settings_copy(struct haul_settings *to, const struct haul_settings *from);

/* What migrate-set-parameters and migrate-set-capabilities take, `name` of the migration included. */
extern const struct haul_qmp_argument haul_settings_parameters[];
extern const struct haul_qmp_argument haul_settings_capabilities[];

/*
 * haul_settings_set_parameters takes the members of `arguments`, which the table has checked: all of them, or
 * none. -EINVAL: a value out of its range.
 */
int haul_settings_set_parameters(struct haul_settings *settings, const json_t *arguments,
                                 struct haul_qmp_failure *failure);

/* haul_settings_set_capabilities takes the list of {capability, state}, all or none. -EINVAL: one that haul
 * cannot do without was switched off. */
int haul_settings_set_capabilities(struct haul_settings *settings, const json_t *list,
                                   struct haul_qmp_failure *failure);

/* New objects, as query-migrate-parameters and query-migrate-capabilities answer; NULL without memory.
 * `throttle_percent`: by which the guest is slowed down now. */
json_t *haul_settings_parameters_json(const struct haul_settings *settings, uint32_t throttle_percent);
json_t *haul_settings_capabilities_json(const struct haul_settings *settings);

/* haul_settings_apply brings what may change while a migration runs, and differs from `before`, into effect.
 * -ENOTSUP: a guest that cannot be slowed down; then nothing is changed. */
int haul_settings_apply(const struct haul_settings *settings, const struct haul_settings *before,
                        struct haul_migration *migration, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
