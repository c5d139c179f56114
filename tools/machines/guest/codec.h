/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_CODEC_H
#define HAUL_TOOLS_MACHINES_GUEST_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A bounded cursor over the guest's device state. One list of fields serves both ways: written to the buffer
 * when `writing`, read from it otherwise, little-endian. Running past the end sets `bad`, reads zero from
 * then on, and never touches a byte outside.
 */
struct haul_guest_codec {
    unsigned char *bytes; /* not changed unless writing */
    size_t size;
    size_t at;
    bool writing;
    bool bad;
};

void haul_guest_codec_number(struct haul_guest_codec *codec, uint64_t *value, unsigned bytes);

/* Fields of the kernel's structs come in several widths: take any unsigned lvalue. */
#define HAUL_GUEST_FIELD(codec, lvalue)                                                                      \
    do {                                                                                                     \
        uint64_t haul_guest_value = (lvalue);                                                                \
        haul_guest_codec_number((codec), &haul_guest_value, sizeof(lvalue));                                 \
        (lvalue) = (__typeof__(lvalue))haul_guest_value;                                                     \
    } while (0)

#endif
