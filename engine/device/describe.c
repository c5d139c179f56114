/* SPDX-License-Identifier: Apache-2.0 */

/* Device descriptions as JSON: made from the tables, and compared with them. */

#include "engine/device/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool haul_device_name_good(const char *name)
{
    size_t length = name ? strlen(name) : 0;
    return length >= 1 && length <= HAUL_DEVICE_NAME_MAX &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == length;
}

const char *haul_device_type_name(enum haul_device_type type)
{
    static const char *const names[] = {
#define X(name, text) text,
        HAUL_DEVICE_TYPES(X)
#undef X
    };
    return (size_t)type < sizeof names / sizeof *names ? names[type] : "unknown";
}

/* ---- making ------------------------------------------------------------------------------------------- */

static json_t *describe_fields(const struct haul_device_field *fields, uint32_t version)
{
    json_t *list = json_array();
    for (const struct haul_device_field *field = fields; field->name; field++) {
        if (field->since > version) {
            continue;
        }
        const char *type = haul_device_type_name(field->type);
        json_t *json = json_pack("{s:s, s:s}", "name", field->name, "type", type);
        if (field->count > 0) {
            json_object_set_new(json, field->is_counted ? "max" : "count", json_integer(field->count));
        }
        if (field->is_counted) {
            const char *name = haul_device_count_of(fields, field)->name;
            json_object_set_new(json, "count_field", json_string(name));
        }
        if (field->type == HAUL_DEVICE_STRUCT) {
            json_object_set_new(json, "fields", describe_fields(field->fields, version));
        }
        json_array_append_new(list, json);
    }
    return list;
}

static json_t *describe(const struct haul_device_description *description, uint32_t version)
{
    return json_pack("{s:s, s:i, s:i, s:o}", "name", description->name, "version", (int)(version >> 16),
                     "minor", (int)(version & 0xffff), "fields",
                     describe_fields(description->fields, version));
}

char *haul_device_describe(const struct haul_device_description *description, uint32_t version)
{
    json_t *json = describe(description, version);
    json_t *list = json_array();
    for (unsigned i = 0; description->subsections && description->subsections[i]; i++) {
        const struct haul_device_description *sub = description->subsections[i];
        uint32_t sent = haul_device_subsection_version(sub, version);
        if (sent) {
            json_array_append_new(list, describe(sub, sent));
        }
    }
    if (json_array_size(list) > 0) {
        json_object_set(json, "subsections", list);
    }
    json_decref(list);
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static bool read_number(const json_t *json, const char *key, json_int_t minimum, json_int_t maximum,
                        uint32_t *value)
{
    const json_t *number = json_object_get(json, key);
    json_int_t got = json_integer_value(number);
    *value = (uint32_t)got;
    return json_is_integer(number) && got >= minimum && got <= maximum;
}

int haul_device_read_version(const json_t *json, uint32_t *version, const struct haul_device_where *where,
                             struct haul_error *error)
{
    uint32_t major, minor;
    if (!read_number(json, "version", 1, UINT16_MAX, &major) ||
        !read_number(json, "minor", 0, UINT16_MAX, &minor)) {
        return haul_device_where_error(where, error, EPROTO, "its description has no version");
    }
    *version = HAUL_DEVICE_VERSION(major, minor);
    return 0;
}

int haul_device_read_field(const json_t *json, struct haul_device_described *field,
                           const struct haul_device_where *where, struct haul_error *error)
{
    *field = (struct haul_device_described){.name = json_string_value(json_object_get(json, "name"))};
    const char *type = json_string_value(json_object_get(json, "type"));
    field->type = HAUL_DEVICE_TYPE_COUNT;
    for (unsigned i = 0; type && i < HAUL_DEVICE_TYPE_COUNT; i++) {
        field->type = strcmp(type, haul_device_type_name(i)) == 0 ? (enum haul_device_type)i : field->type;
    }
    if (!haul_device_name_good(field->name) || field->type == HAUL_DEVICE_TYPE_COUNT) {
        return haul_device_where_error(where, error, EPROTO, "a field is described without name or type");
    }
    const json_t *counted = json_object_get(json, "count_field");
    field->count_field = json_string_value(counted);
    const char *key = counted ? "max" : "count";
    field->is_array = json_object_get(json, key) != NULL;
    bool good = counted ? field->is_array && haul_device_name_good(field->count_field)
                        : field->is_array || field->type != HAUL_DEVICE_BUFFER;
    if (!good || (field->is_array && !read_number(json, key, 1, HAUL_DEVICE_ELEMENTS_MAX, &field->count))) {
        return haul_device_where_error(where, error, EPROTO, "the number of elements of %s is malformed",
                                       field->name);
    }
    field->fields = json_object_get(json, "fields");
    if ((field->type == HAUL_DEVICE_STRUCT) != (field->fields != NULL)) {
        return haul_device_where_error(where, error, EPROTO, "the fields of %s are malformed", field->name);
    }
    return 0;
}

/* ---- comparing ---------------------------------------------------------------------------------------- */

static int compare_fields(const struct haul_device_field *own, const json_t *json, uint32_t version,
                          struct haul_device_where *where, struct haul_error *error);

static int compare_field(const struct haul_device_field *fields, const struct haul_device_field *own,
                         const json_t *json, uint32_t version, struct haul_device_where *where,
                         struct haul_error *error)
{
    struct haul_device_described field;
    int rc = haul_device_read_field(json, &field, where, error);
    if (rc < 0) {
        return rc;
    }
    if (strcmp(field.name, own->name) != 0) {
        return haul_device_where_error(where, error, EINVAL, "the stream has field %s where this side has %s",
                                       field.name, own->name);
    }
    size_t back = haul_device_where_field(where, own->name);
    if (field.type != own->type) {
        return haul_device_where_error(where, error, EINVAL, "it is %s in the stream and %s here",
                                       haul_device_type_name(field.type), haul_device_type_name(own->type));
    }
    const struct haul_device_field *count = haul_device_count_of(fields, own);
    const char *none = "a fixed number";
    const char *theirs = field.count_field ? field.count_field : none;
    const char *ours = count ? count->name : none;
    if (strcmp(theirs, ours) != 0) {
        return haul_device_where_error(where, error, EINVAL,
                                       "its elements are counted by %s in the stream and by %s here", theirs,
                                       ours);
    }
    /* Only a fixed number has to be ours: of a counted array, what really comes must fit. */
    if (field.is_array != (own->count > 0) || (!count && field.count != own->count)) {
        return haul_device_where_error(where, error, EINVAL, "it has %u elements in the stream and %u here",
                                       field.is_array ? field.count : 1, own->count > 0 ? own->count : 1);
    }
    rc = own->fields ? compare_fields(own->fields, field.fields, version, where, error) : 0;
    haul_device_where_back(where, back);
    return rc;
}

static int compare_fields(const struct haul_device_field *own, const json_t *json, uint32_t version,
                          struct haul_device_where *where, struct haul_error *error)
{
    size_t at = 0;
    for (const struct haul_device_field *field = own; field->name; field++) {
        if (field->since > version) {
            continue;
        }
        const json_t *next = json_array_get(json, at++);
        if (!next) {
            return haul_device_where_error(where, error, EINVAL, "the stream does not have field %s",
                                           field->name);
        }
        int rc = compare_field(own, field, next, version, where, error);
        if (rc < 0) {
            return rc;
        }
    }
    if (at == json_array_size(json)) {
        return 0;
    }
    struct haul_device_described extra;
    int rc = haul_device_read_field(json_array_get(json, at), &extra, where, error);
    return rc < 0 ? rc
                  : haul_device_where_error(where, error, EINVAL,
                                            "the stream has field %s, which this side does not know",
                                            extra.name);
}

int haul_device_compare(const struct haul_device_description *own, const json_t *json, uint32_t *version,
                        struct haul_device_where *where, struct haul_error *error)
{
    int rc = haul_device_read_version(json, version, where, error);
    if (rc < 0) {
        return rc;
    }
    uint32_t minimum = own->minimum ? own->minimum : HAUL_DEVICE_VERSION(1, 0);
    if (*version < minimum || *version > own->version) {
        return haul_device_where_error(where, error, EINVAL,
                                       "the stream has version %u.%u, this side loads %u.%u to %u.%u",
                                       *version >> 16, *version & 0xffff, minimum >> 16, minimum & 0xffff,
                                       own->version >> 16, own->version & 0xffff);
    }
    return compare_fields(own->fields, json_object_get(json, "fields"), *version, where, error);
}
