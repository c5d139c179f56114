/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_PREAMBLE_H
#define HAUL_TOOLS_MACHINES_QEMU_PREAMBLE_H

/* What haul sends in front of QEMU's own device state, so that a destination that cannot take it says so in
 * words. */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_QEMU_STATE_NAME "qemu"
#define HAUL_QEMU_PREAMBLE_SIZE 176

/*
 * On the wire: "HAULQEMU", version and flags as 32-bit little-endian numbers, machine type (96 bytes) and
 * QEMU version (64 bytes), padded with zeros. Flag 1: the machine ran when it was stopped for the move, so it
 * shall run after it.
 */
struct haul_qemu_preamble {
    bool running;
    char machine_type[96];
    char version[64];
};

void haul_qemu_preamble_write(const struct haul_qemu_preamble *preamble,
                              uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE]);

/* haul_qemu_preamble_read: -EPROTO for what is no preamble, -EPROTONOSUPPORT for another version or an
 * unknown flag. */
int haul_qemu_preamble_read(const uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE], struct haul_qemu_preamble *preamble,
                            struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
