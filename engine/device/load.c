/* SPDX-License-Identifier: Apache-2.0 */

/* From a stream, whoever made it, to objects (rule R4). */

#include "engine/device/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct loading {
    struct haul_cursor cursor;
    struct haul_device_where where;
    uint32_t version;
    struct haul_error *error;
};

static int load_fields(struct loading *loading, const struct haul_device_field *fields,
                       unsigned char *object);

static int ends_early(struct loading *loading)
{
    return haul_device_where_error(&loading->where, loading->error, EPROTO, "the state ends before it");
}

/* Numbers are checked before they are stored: what counts elements, and bools. */
static int load_number(struct loading *loading, const struct haul_device_field *fields,
                       const struct haul_device_field *field, unsigned char *at)
{
    unsigned size = haul_device_number_size(field->type);
    const unsigned char *bytes = haul_cursor_bytes(&loading->cursor, size);
    if (!bytes) {
        return ends_early(loading);
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    if (field->type == HAUL_DEVICE_BOOL && value > 1) {
        return haul_device_where_error(&loading->where, loading->error, EPROTO, "%u is neither 0 nor 1",
                                       (unsigned)value);
    }
    const struct haul_device_field *counted = haul_device_counted_by(fields, field);
    if (counted && value > counted->count) {
        return haul_device_where_error(&loading->where, loading->error, EPROTO, "%llu is more than %u",
                                       (unsigned long long)value, counted->count);
    }
    haul_device_put_number(field, at, value);
    return 0;
}

static int load_element(struct loading *loading, const struct haul_device_field *fields,
                        const struct haul_device_field *field, unsigned char *at)
{
    return field->type == HAUL_DEVICE_STRUCT ? load_fields(loading, field->fields, at)
                                             : load_number(loading, fields, field, at);
}

static int load_array(struct loading *loading, const struct haul_device_field *fields,
                      const struct haul_device_field *field, unsigned char *object)
{
    unsigned char *at = object + field->offset;
    const struct haul_device_field *count = haul_device_count_of(fields, field);
    uint64_t elements = count ? haul_device_get_number(count, object + count->offset) : field->count;
    if (elements > field->count) { /* a count that was not in the stream, and is wrong in the object */
        return haul_device_where_error(&loading->where, loading->error, EINVAL, "%llu elements are over %u",
                                       (unsigned long long)elements, field->count);
    }
    if (field->type == HAUL_DEVICE_BUFFER) {
        const void *bytes = haul_cursor_bytes(&loading->cursor, elements);
        if (!bytes) {
            return ends_early(loading);
        }
        memcpy(at, bytes, elements);
        return 0;
    }
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < elements; i++) {
        size_t back = haul_device_where_element(&loading->where, i);
        rc = load_element(loading, fields, field, at + (size_t)i * field->size);
        if (rc == 0) {
            haul_device_where_back(&loading->where, back);
        }
    }
    return rc;
}

static int load_fields(struct loading *loading, const struct haul_device_field *fields, unsigned char *object)
{
    for (const struct haul_device_field *field = fields; field->name; field++) {
        if (field->since > loading->version) {
            continue;
        }
        size_t back = haul_device_where_field(&loading->where, field->name);
        int rc = field->count > 0 ? load_array(loading, fields, field, object)
                                  : load_element(loading, fields, field, object + field->offset);
        if (rc < 0) {
            return rc;
        }
        haul_device_where_back(&loading->where, back);
    }
    return 0;
}

/* Checks the description, loads the fields; the cursor stands behind them. */
static int load_described(struct loading *loading, const struct haul_device_description *own,
                          const json_t *described, void *object)
{
    int rc = haul_device_compare(own, described, &loading->version, &loading->where, loading->error);
    return rc < 0 ? rc : load_fields(loading, own->fields, object);
}

static int check_end(struct loading *loading)
{
    size_t left = (size_t)(loading->cursor.end - loading->cursor.at);
    return left == 0 ? 0
                     : haul_device_where_error(&loading->where, loading->error, EPROTO,
                                               "%zu bytes follow its last field", left);
}

static int post_load(const struct haul_device_description *own, struct loading *loading, uint32_t version,
                     void *object)
{
    int rc = own->post_load ? own->post_load(object, version, loading->error) : 0;
    return rc < 0 ? haul_error_prefix(loading->error, "state of %s: ", loading->where.section) : 0;
}

static const json_t *find_described(const json_t *description, const char *name)
{
    const json_t *list = json_object_get(description, "subsections");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *json = json_array_get(list, i);
        const char *described = json_string_value(json_object_get(json, "name"));
        if (described && strcmp(described, name) == 0) {
            return json;
        }
    }
    return NULL;
}

static int load_subsection(struct loading *loading, const struct haul_device *device,
                           const json_t *description, uint32_t *came)
{
    const struct haul_device_description *const *subs = device->description->subsections;
    char name[HAUL_DEVICE_NAME_MAX + 1];
    haul_cursor_string(&loading->cursor, name, sizeof name);
    uint32_t length = haul_cursor_u32(&loading->cursor);
    const void *bytes = haul_cursor_bytes(&loading->cursor, length);
    const json_t *described = find_described(description, name);
    if (!bytes || !haul_device_name_good(name) || !described) {
        return haul_device_where_error(&loading->where, loading->error, EPROTO,
                                       "it has a subsection that is cut short or not described");
    }
    unsigned i = 0;
    while (subs && subs[i] && strcmp(subs[i]->name, name) != 0) {
        i++;
    }
    if (!subs || !subs[i]) {
        return haul_device_where_error(&loading->where, loading->error, EINVAL,
                                       "it has subsection %s, which this side does not know", name);
    }
    if (*came >> i & 1) {
        return haul_device_where_error(&loading->where, loading->error, EPROTO, "subsection %s comes twice",
                                       name);
    }
    *came |= 1u << i;
    struct loading sub = {.error = loading->error};
    haul_cursor_init(&sub.cursor, bytes, length);
    snprintf(sub.where.section, sizeof sub.where.section, "%.*s/%s", HAUL_DEVICE_NAME_MAX + 12,
             loading->where.section, name);
    int rc = load_described(&sub, subs[i], described, device->object);
    if (rc == 0) {
        rc = check_end(&sub);
    }
    return rc == 0 ? post_load(subs[i], &sub, sub.version, device->object) : rc;
}

static int load_device(const struct haul_device *device, const struct haul_device_section *section,
                       struct haul_error *error)
{
    struct loading loading = {.error = error};
    haul_cursor_init(&loading.cursor, section->bytes, section->length);
    haul_device_where_section(&loading.where, section->name, section->instance);
    int rc = load_described(&loading, device->description, section->description, device->object);
    if (rc < 0) {
        return rc;
    }
    uint8_t count = haul_cursor_u8(&loading.cursor);
    if (loading.cursor.failed) {
        return haul_device_where_error(&loading.where, error, EPROTO, "it ends after its fields");
    }
    uint32_t came = 0;
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        rc = load_subsection(&loading, device, section->description, &came);
    }
    if (rc == 0) {
        rc = check_end(&loading);
    }
    return rc == 0 ? post_load(device->description, &loading, loading.version, device->object) : rc;
}

/* ---- the whole stream --------------------------------------------------------------------------------- */

static const struct haul_device_section *find_section(const struct haul_device_stream *stream,
                                                      const struct haul_device *device)
{
    for (uint32_t i = 0; i < stream->section_count; i++) {
        const struct haul_device_section *section = &stream->sections[i];
        if (section->instance == device->instance && strcmp(section->name, device->description->name) == 0) {
            return section;
        }
    }
    return NULL;
}

/* Every section must be of a device that is here, and come once. */
static int check_sections(const struct haul_devices *devices, bool early,
                          const struct haul_device_stream *stream, struct haul_error *error)
{
    for (uint32_t i = 0; i < stream->section_count; i++) {
        const struct haul_device_section *section = &stream->sections[i];
        const struct haul_device *device = NULL;
        for (uint32_t j = 0; j < devices->count && !device; j++) {
            const struct haul_device *other = &devices->entries[j].device;
            device = other->early == early && other->instance == section->instance &&
                             strcmp(other->description->name, section->name) == 0
                         ? other
                         : NULL;
        }
        struct haul_device_where where;
        haul_device_where_section(&where, section->name, section->instance);
        if (!device) {
            return haul_device_where_error(&where, error, EINVAL, "this side has no such device");
        }
        if (find_section(stream, device) != section) {
            return haul_device_where_error(&where, error, EPROTO, "it comes twice");
        }
    }
    return 0;
}

int haul_devices_load(struct haul_devices *devices, bool early, const void *bytes, size_t length,
                      struct haul_error *error)
{
    struct haul_device_stream stream;
    int rc = haul_device_stream_parse(bytes, length, &stream, error);
    if (rc == 0) {
        rc = check_sections(devices, early, &stream, error);
    }
    for (uint32_t i = 0; rc == 0 && i < devices->count; i++) {
        /* A copy: an early device may add others, which moves the table. */
        const struct haul_device device = devices->entries[i].device;
        if (device.early != early) {
            continue;
        }
        const struct haul_device_section *section = find_section(&stream, &device);
        struct haul_device_where where;
        haul_device_where_section(&where, device.description->name, device.instance);
        rc = section ? load_device(&device, section, error)
                     : haul_device_where_error(&where, error, EINVAL, "the stream does not have it");
    }
    haul_device_stream_cleanup(&stream);
    return rc;
}
