/* SPDX-License-Identifier: Apache-2.0 */

/* The registry of devices. */

#include "engine/device/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int haul_devices_new(struct haul_devices **devices, struct haul_error *error)
{
    *devices = calloc(1, sizeof **devices);
    return *devices ? 0 : haul_error_set(error, ENOMEM, "no memory for a registry of devices");
}

void haul_devices_free(struct haul_devices *devices)
{
    if (devices) {
        for (uint32_t i = 0; i < devices->count; i++) {
            free(devices->entries[i].description);
        }
        free(devices->entries);
        free(devices);
    }
}

/* ---- adding ------------------------------------------------------------------------------------------- */

static int check_device(const struct haul_devices *devices, const struct haul_device *device,
                        struct haul_error *error)
{
    const struct haul_device_description *description = device->description;
    int rc = haul_device_check_description(description, error);
    if (rc < 0) {
        return rc;
    }
    if (device->save_version > description->version ||
        (device->save_version > 0 && device->save_version < HAUL_DEVICE_VERSION(1, 0))) {
        return haul_error_set(error, EINVAL, "device %s/%u: it cannot be saved as version %u.%u",
                              description->name, device->instance, device->save_version >> 16,
                              device->save_version & 0xffff);
    }
    for (uint32_t i = 0; i < devices->count; i++) {
        const struct haul_device *other = &devices->entries[i].device;
        if (strcmp(other->description->name, description->name) != 0) {
            continue;
        }
        if (other->instance == device->instance) {
            return haul_error_set(error, EEXIST, "device %s/%u is there already", description->name,
                                  device->instance);
        }
        if (other->description != description || other->save_version != device->save_version) {
            return haul_error_set(error, EINVAL,
                                  "devices %s/%u and %s/%u need the same description and save_version",
                                  description->name, other->instance, description->name, device->instance);
        }
    }
    return devices->count < HAUL_DEVICES_MAX
               ? 0
               : haul_error_set(error, ENOSPC, "more than %d devices", HAUL_DEVICES_MAX);
}

/* Early ones first, so that what an early device adds comes behind it. */
static bool comes_before(const struct haul_device *one, const struct haul_device *other)
{
    return one->early != other->early ? one->early : one->priority > other->priority;
}

/* True if a device of the same stream brings the description with it. */
static bool is_described(const struct haul_devices *devices, const struct haul_device *device)
{
    for (uint32_t i = 0; i < devices->count; i++) {
        const struct haul_device *other = &devices->entries[i].device;
        if (other->early == device->early && other->description == device->description) {
            return true;
        }
    }
    return false;
}

int haul_devices_add(struct haul_devices *devices, const struct haul_device *device, struct haul_error *error)
{
    int rc = check_device(devices, device, error);
    if (rc < 0) {
        return rc;
    }
    uint32_t version = device->save_version ? device->save_version : device->description->version;
    char *description = haul_device_describe(device->description, version);
    if (devices->count == devices->room && description) {
        uint32_t room = devices->room ? 2 * devices->room : 16;
        void *larger = realloc(devices->entries, room * sizeof *devices->entries);
        devices->entries = larger ? larger : devices->entries;
        devices->room = larger ? room : devices->room;
    }
    const char *wrong = !description || devices->count == devices->room ? "no memory for a device" : NULL;
    if (!wrong && strlen(description) > HAUL_DEVICE_JSON_MAX) {
        free(description);
        return haul_error_set(error, EINVAL, "device description %s: it has over 64 KiB as JSON",
                              device->description->name);
    }
    if (wrong) {
        free(description);
        return haul_error_set(error, ENOMEM, "%s", wrong);
    }
    size_t described = is_described(devices, device) ? 0 : strlen(description);
    if (devices->described_bytes[device->early] + described > HAUL_DEVICE_JSON_SUM_MAX) {
        free(description);
        return haul_error_set(error, ENOSPC, "the devices' descriptions have over 1 MiB as JSON");
    }
    devices->described_bytes[device->early] += described;
    uint32_t at = devices->count++;
    while (at > 0 && comes_before(device, &devices->entries[at - 1].device)) {
        devices->entries[at] = devices->entries[at - 1];
        at--;
    }
    devices->entries[at] =
        (struct haul_device_entry){.device = *device, .version = version, .description = description};
    return 0;
}
