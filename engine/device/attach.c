/* SPDX-License-Identifier: Apache-2.0 */

/* The registry of devices as state handlers of a migration. */

#include "engine/device/internal.h"

#include <errno.h>
#include <stdlib.h>

static int save(struct haul_devices *devices, bool early, struct haul_state_writer *writer,
                struct haul_error *error)
{
    unsigned char *bytes;
    size_t length;
    int rc = haul_devices_save(devices, early, &bytes, &length, error);
    if (rc == 0) {
        rc = haul_state_write(writer, bytes, length, error);
        free(bytes);
    }
    return rc;
}

/* Memory grows with what really came, and only up to the limit. */
static int load(struct haul_devices *devices, bool early, struct haul_state_reader *reader,
                struct haul_error *error)
{
    size_t room = 64 << 10;
    size_t length = 0;
    unsigned char *bytes = malloc(room);
    int rc = bytes ? 0 : haul_error_set(error, ENOMEM, "no memory for the state of the devices");
    while (rc == 0) {
        if (length == room) {
            void *larger = room <= HAUL_DEVICE_STREAM_MAX ? realloc(bytes, 2 * room) : NULL;
            if (!larger) {
                rc = haul_error_set(error, EMSGSIZE, "no room for over %zu bytes of device state", room);
                break;
            }
            bytes = larger;
            room *= 2;
        }
        ptrdiff_t got = haul_state_read(reader, bytes + length, room - length, error);
        if (got <= 0) {
            rc = (int)got;
            break;
        }
        length += (size_t)got;
    }
    if (rc == 0) {
        rc = haul_devices_load(devices, early, bytes, length, error);
    }
    free(bytes);
    return rc;
}

static int iterate(void *opaque, uint64_t *pending_bytes, struct haul_error *error)
{
    (void)error;
    *pending_bytes = haul_devices_size(opaque, false);
    return 0;
}

static int save_late(void *opaque, struct haul_state_writer *writer, struct haul_error *error)
{
    return save(opaque, false, writer, error);
}

static int load_late(void *opaque, struct haul_state_reader *reader, struct haul_error *error)
{
    return load(opaque, false, reader, error);
}

static int save_early(void *opaque, struct haul_state_writer *writer, struct haul_error *error)
{
    return save(opaque, true, writer, error);
}

static int load_early(void *opaque, struct haul_state_reader *reader, struct haul_error *error)
{
    return load(opaque, true, reader, error);
}

static const struct haul_state_ops early_ops = {
    .name = "devices.early",
    .early = true,
    .save = save_early,
    .load = load_early,
};

static const struct haul_state_ops late_ops = {
    .name = "devices",
    .iterate = iterate,
    .save = save_late,
    .load = load_late,
};

int haul_devices_attach(struct haul_devices *devices, struct haul_migration *migration,
                        struct haul_error *error)
{
    bool early = devices->count > 0 && devices->entries[0].device.early; /* they come first */
    int rc = early ? haul_add_state(migration, &early_ops, devices, error) : 0;
    return rc == 0 ? haul_add_state(migration, &late_ops, devices, error) : rc;
}
