/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_SETTINGS_H
#define HAUL_TOOLS_MACHINES_QEMU_SETTINGS_H

/*
 * QEMU's migration capabilities and parameters, as haul needs them for a move and as the operator had them
 * before. A zeroed object is one with nothing to restore.
 */

#include "tools/machines/qemu/qmp.h"

#ifdef __cplusplus
extern "C" {
#endif

struct haul_qemu_settings {
    json_t *capabilities; /* what to hand back to migrate-set-capabilities, NULL: nothing */
    json_t *parameters;   /* the same for migrate-set-parameters */
    bool suppressed;      /* the machine's suppress-vmdesc was off, and we set it */
};

/*
 * haul_qemu_settings_apply sets what a move needs: only shared memory left out (x-ignore-shared), a pause
 * before the switchover at the source, one plain unthrottled stream that ends with its end mark (see the
 * destination). What was there before is kept in `settings`. -ENOTSUP: this QEMU lacks one (before 4.0).
 */
int haul_qemu_settings_apply(struct haul_qmp *qmp, bool source, struct haul_qemu_settings *settings,
                             struct haul_error *error);

/*
 * haul_qemu_settings_restore undoes apply; harmless when there is nothing to restore. What QEMU refuses (its
 * capabilities, while somebody migrates it) stays to be restored, by another call or the guardian.
 */
int haul_qemu_settings_restore(struct haul_qmp *qmp, struct haul_qemu_settings *settings,
                               struct haul_error *error);

/* haul_qemu_settings_changed tells whether there is anything to restore. */
bool haul_qemu_settings_changed(const struct haul_qemu_settings *settings);

/* haul_qemu_settings_script writes the QMP lines that restore would send to `text`, for the guardian. */
int haul_qemu_settings_script(const struct haul_qemu_settings *settings, char *text, size_t size);

void haul_qemu_settings_cleanup(struct haul_qemu_settings *settings);

#ifdef __cplusplus
}
#endif
#endif
