/* SPDX-License-Identifier: Apache-2.0 */

/* From objects to a stream. */

#include "engine/device/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct saving {
    struct haul_writer *writer;
    struct haul_device_where where;
    uint32_t version;
    struct haul_error *error;
};

static int save_fields(struct saving *saving, const struct haul_device_field *fields,
                       const unsigned char *object);

static int save_number(struct saving *saving, const struct haul_device_field *field, const unsigned char *at)
{
    uint64_t value = haul_device_get_number(field, at);
    if (field->type == HAUL_DEVICE_BOOL && value > 1) {
        return haul_device_where_error(&saving->where, saving->error, EINVAL, "%u is neither 0 nor 1",
                                       (unsigned)value);
    }
    unsigned char bytes[8];
    for (unsigned i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(value >> (8 * i));
    }
    haul_writer_bytes(saving->writer, bytes, haul_device_number_size(field->type));
    return 0;
}

static int save_element(struct saving *saving, const struct haul_device_field *field, const unsigned char *at)
{
    return field->type == HAUL_DEVICE_STRUCT ? save_fields(saving, field->fields, at)
                                             : save_number(saving, field, at);
}

static int save_field(struct saving *saving, const struct haul_device_field *fields,
                      const struct haul_device_field *field, const unsigned char *object)
{
    const struct haul_device_field *counted = haul_device_counted_by(fields, field);
    const unsigned char *at = object + field->offset;
    uint64_t own = counted ? haul_device_get_number(field, at) : 0;
    if (counted && own > counted->count) {
        return haul_device_where_error(&saving->where, saving->error, EINVAL, "%llu is more than %u",
                                       (unsigned long long)own, counted->count);
    }
    if (field->count == 0) {
        return save_element(saving, field, at);
    }
    const struct haul_device_field *count = haul_device_count_of(fields, field);
    uint32_t elements =
        count ? (uint32_t)haul_device_get_number(count, object + count->offset) : field->count;
    if (field->type == HAUL_DEVICE_BUFFER) {
        haul_writer_bytes(saving->writer, at, elements);
        return 0;
    }
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < elements; i++) {
        size_t back = haul_device_where_element(&saving->where, i);
        rc = save_element(saving, field, at + (size_t)i * field->size);
        if (rc == 0) {
            haul_device_where_back(&saving->where, back);
        }
    }
    return rc;
}

static int save_fields(struct saving *saving, const struct haul_device_field *fields,
                       const unsigned char *object)
{
    for (const struct haul_device_field *field = fields; field->name; field++) {
        if (field->since > saving->version) {
            continue;
        }
        size_t back = haul_device_where_field(&saving->where, field->name);
        int rc = save_field(saving, fields, field, object);
        if (rc < 0) {
            return rc;
        }
        haul_device_where_back(&saving->where, back);
    }
    return 0;
}

static int pre_save(const struct haul_device_description *description, struct saving *saving, void *object)
{
    int rc = description->pre_save ? description->pre_save(object, saving->error) : 0;
    return rc < 0 ? haul_error_prefix(saving->error, "state of %s: ", saving->where.section) : 0;
}

/* The length is known only afterwards. */
static unsigned char *begin_length(struct haul_writer *writer)
{
    unsigned char *at = writer->at;
    haul_writer_u32(writer, 0);
    return at;
}

static void end_length(struct haul_writer *writer, unsigned char *at)
{
    if (!writer->failed) {
        struct haul_writer length;
        haul_writer_init(&length, at, 4);
        haul_writer_u32(&length, (uint32_t)(writer->at - at - 4));
    }
}

static int save_subsection(struct saving *saving, const struct haul_device_description *subsection,
                           uint32_t version, void *object)
{
    struct saving sub = {.writer = saving->writer, .version = version, .error = saving->error};
    snprintf(sub.where.section, sizeof sub.where.section, "%.*s/%s", HAUL_DEVICE_NAME_MAX + 12,
             saving->where.section, subsection->name);
    int rc = pre_save(subsection, &sub, object);
    haul_writer_string(saving->writer, subsection->name);
    unsigned char *at = begin_length(saving->writer);
    rc = rc == 0 ? save_fields(&sub, subsection->fields, object) : rc;
    end_length(saving->writer, at);
    return rc;
}

static int save_subsections(struct saving *saving, const struct haul_device *device)
{
    const struct haul_device_description *const *subs = device->description->subsections;
    unsigned char *at = saving->writer->at;
    haul_writer_u8(saving->writer, 0); /* their number, once it is known */
    uint8_t count = 0;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && subs && subs[i]; i++) {
        uint32_t version = haul_device_subsection_version(subs[i], saving->version);
        if (version && subs[i]->needed(device->object)) {
            rc = save_subsection(saving, subs[i], version, device->object);
            count++;
        }
    }
    if (!saving->writer->failed) {
        *at = count;
    }
    return rc;
}

static int save_device(struct haul_writer *writer, const struct haul_device_entry *entry,
                       struct haul_error *error)
{
    const struct haul_device *device = &entry->device;
    struct saving saving = {.writer = writer, .version = entry->version, .error = error};
    haul_device_where_section(&saving.where, device->description->name, device->instance);
    int rc = pre_save(device->description, &saving, device->object);
    haul_writer_u8(writer, HAUL_DEVICE_RECORD_SECTION);
    haul_writer_string(writer, device->description->name);
    haul_writer_u32(writer, device->instance);
    unsigned char *at = begin_length(writer);
    if (rc == 0) {
        rc = save_fields(&saving, device->description->fields, device->object);
    }
    if (rc == 0) {
        rc = save_subsections(&saving, device);
    }
    end_length(writer, at);
    return rc;
}

/* True for the first of the devices that share its description. */
static bool describes(const struct haul_devices *devices, uint32_t index, bool early)
{
    const struct haul_device_entry *entry = &devices->entries[index];
    for (uint32_t i = 0; i < index; i++) {
        if (devices->entries[i].device.early == early &&
            devices->entries[i].device.description == entry->device.description) {
            return false;
        }
    }
    return true;
}

uint64_t haul_devices_size(const struct haul_devices *devices, bool early)
{
    uint64_t size = 8 + 1;
    for (uint32_t i = 0; i < devices->count; i++) {
        const struct haul_device_entry *entry = &devices->entries[i];
        if (entry->device.early == early) {
            size += describes(devices, i, early) ? 5 + strlen(entry->description) : 0;
            size += 3 + strlen(entry->device.description->name) + 8;
            size += haul_device_section_size(entry->device.description, entry->version);
        }
    }
    return size;
}

int haul_devices_save(struct haul_devices *devices, bool early, unsigned char **bytes, size_t *length,
                      struct haul_error *error)
{
    uint64_t size = haul_devices_size(devices, early);
    if (size > HAUL_DEVICE_STREAM_MAX) {
        return haul_error_set(error, EMSGSIZE, "the state of all devices can have over 64 MiB");
    }
    unsigned char *buffer = malloc(size);
    if (!buffer) {
        return haul_error_set(error, ENOMEM, "no memory for the state of the devices");
    }
    struct haul_writer writer;
    haul_writer_init(&writer, buffer, size);
    haul_writer_u32(&writer, HAUL_DEVICE_MAGIC);
    haul_writer_u16(&writer, HAUL_DEVICE_FORMAT);
    haul_writer_u16(&writer, 0);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < devices->count; i++) {
        const struct haul_device_entry *entry = &devices->entries[i];
        if (entry->device.early != early) {
            continue;
        }
        if (describes(devices, i, early)) {
            size_t described = strlen(entry->description);
            haul_writer_u8(&writer, HAUL_DEVICE_RECORD_DESCRIPTION);
            haul_writer_u32(&writer, (uint32_t)described);
            haul_writer_bytes(&writer, entry->description, described);
        }
        rc = save_device(&writer, entry, error);
    }
    haul_writer_u8(&writer, HAUL_DEVICE_RECORD_END);
    size_t written = haul_writer_length(&writer);
    if (rc == 0 && written == 0) { /* a number of elements that changed meanwhile */
        rc = haul_error_set(error, EINVAL, "the state of the devices grew while it was saved");
    }
    if (rc < 0) {
        free(buffer);
        return rc;
    }
    *bytes = buffer;
    *length = written;
    return 0;
}
