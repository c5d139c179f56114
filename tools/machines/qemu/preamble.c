/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/preamble.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define VERSION 1
#define FLAG_RUNNING 1u

static const char magic[8] = {'H', 'A', 'U', 'L', 'Q', 'E', 'M', 'U'};

void haul_qemu_preamble_write(const struct haul_qemu_preamble *preamble,
                              uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE])
{
    uint32_t version = htole32(VERSION);
    uint32_t flags = htole32(preamble->running ? FLAG_RUNNING : 0);
    memset(bytes, 0, HAUL_QEMU_PREAMBLE_SIZE);
    memcpy(bytes, magic, sizeof magic);
    memcpy(bytes + 8, &version, sizeof version);
    memcpy(bytes + 12, &flags, sizeof flags);
    memcpy(bytes + 16, preamble->machine_type,
           strnlen(preamble->machine_type, sizeof preamble->machine_type - 1));
    memcpy(bytes + 112, preamble->version, strnlen(preamble->version, sizeof preamble->version - 1));
}

/* Copies text that came from the peer: ended, and nothing but printable ASCII. */
static void copy_text(char *to, size_t size, const uint8_t *from)
{
    size_t i = 0;
    for (; i < size - 1 && from[i]; i++) {
        to[i] = (char)(from[i] > ' ' && from[i] < 0x7f ? from[i] : '?');
    }
    to[i] = '\0';
}

int haul_qemu_preamble_read(const uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE], struct haul_qemu_preamble *preamble,
                            struct haul_error *error)
{
    uint32_t version;
    uint32_t flags;
    memcpy(&version, bytes + 8, sizeof version);
    memcpy(&flags, bytes + 12, sizeof flags);
    version = le32toh(version);
    flags = le32toh(flags);
    if (memcmp(bytes, magic, sizeof magic) != 0) {
        return haul_error_set(error, EPROTO, "the source sent a device state that is not a QEMU machine's");
    }
    if (version != VERSION || flags & ~FLAG_RUNNING) {
        return haul_error_set(
            error, EPROTONOSUPPORT,
            "the source sent QEMU's device state in version %u (flags %#x), this haul knows version %d: "
            "use the same haul on both sides",
            version, flags, VERSION);
    }
    preamble->running = flags & FLAG_RUNNING;
    copy_text(preamble->machine_type, sizeof preamble->machine_type, bytes + 16);
    copy_text(preamble->version, sizeof preamble->version, bytes + 112);
    return 0;
}
