/* SPDX-License-Identifier: Apache-2.0 */

/* Device descriptions as tables: what is a good one, and how large its state can be. */

#include "engine/device/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

/* ---- where an error is -------------------------------------------------------------------------------- */

void haul_device_where_section(struct haul_device_where *where, const char *name, uint32_t instance)
{
    *where = (struct haul_device_where){0};
    snprintf(where->section, sizeof where->section, "%s/%u", name, instance);
}

static size_t append(struct haul_device_where *where, const char *format, const char *name, uint32_t index)
{
    size_t before = where->length;
    size_t room = sizeof where->path - before;
    int added = name ? snprintf(where->path + before, room, format, name)
                     : snprintf(where->path + before, room, "[%u]", index);
    size_t length = added < 0 ? 0 : (size_t)added;
    where->length += length < room ? length : room - 1; /* a path that is too long is cut */
    return before;
}

size_t haul_device_where_field(struct haul_device_where *where, const char *name)
{
    return append(where, where->length > 0 ? ".%s" : "%s", name, 0);
}

size_t haul_device_where_element(struct haul_device_where *where, uint32_t index)
{
    return append(where, NULL, NULL, index);
}

void haul_device_where_back(struct haul_device_where *where, size_t length)
{
    where->length = length;
    where->path[length] = 0;
}

int haul_device_where_error(const struct haul_device_where *where, struct haul_error *error, int code,
                            const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return haul_error_set(error, code, "state of %s: %s%.180s%s%s", where->section,
                          where->length > 0 ? "field " : "", where->path, where->length > 0 ? ": " : "",
                          text);
}

/* ---- numbers ------------------------------------------------------------------------------------------ */

unsigned haul_device_number_size(enum haul_device_type type)
{
    switch (type) {
    case HAUL_DEVICE_U8:
    case HAUL_DEVICE_BOOL:
        return 1;
    case HAUL_DEVICE_U16:
        return 2;
    case HAUL_DEVICE_U32:
        return 4;
    case HAUL_DEVICE_U64:
        return 8;
    default:
        return 0;
    }
}

uint64_t haul_device_get_number(const struct haul_device_field *field, const unsigned char *at)
{
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch (haul_device_number_size(field->type)) {
    case 2:
        memcpy(&u16, at, sizeof u16);
        return u16;
    case 4:
        memcpy(&u32, at, sizeof u32);
        return u32;
    case 8:
        memcpy(&u64, at, sizeof u64);
        return u64;
    default:
        return *at; /* a bool as the byte that it is: it may hold what no bool may */
    }
}

void haul_device_put_number(const struct haul_device_field *field, unsigned char *at, uint64_t value)
{
    uint16_t u16 = (uint16_t)value;
    uint32_t u32 = (uint32_t)value;
    switch (haul_device_number_size(field->type)) {
    case 2:
        memcpy(at, &u16, sizeof u16);
        break;
    case 4:
        memcpy(at, &u32, sizeof u32);
        break;
    case 8:
        memcpy(at, &value, sizeof value);
        break;
    default:
        *at = (unsigned char)value;
    }
}

/* ---- what belongs together ---------------------------------------------------------------------------- */

const struct haul_device_field *haul_device_count_of(const struct haul_device_field *fields,
                                                     const struct haul_device_field *field)
{
    while (field->is_counted && fields != field) {
        unsigned size = haul_device_number_size(fields->type);
        if (size > 0 && fields->type != HAUL_DEVICE_BOOL && fields->count == 0 &&
            fields->offset == field->count_field) {
            return fields;
        }
        fields++;
    }
    return NULL;
}

const struct haul_device_field *haul_device_counted_by(const struct haul_device_field *fields,
                                                       const struct haul_device_field *field)
{
    for (const struct haul_device_field *other = field; other->name; other++) {
        if (other->is_counted && haul_device_count_of(fields, other) == field) {
            return other;
        }
    }
    return NULL;
}

/* ---- sizes -------------------------------------------------------------------------------------------- */

static uint64_t field_size(const struct haul_device_field *field, uint32_t version)
{
    uint64_t one = field->type == HAUL_DEVICE_STRUCT   ? haul_device_fields_size(field->fields, version)
                   : field->type == HAUL_DEVICE_BUFFER ? 1
                                                       : haul_device_number_size(field->type);
    one = one < HAUL_DEVICE_SECTION_MAX ? one : HAUL_DEVICE_SECTION_MAX + 1; /* enough to be refused */
    return one * (field->count > 0 ? field->count : 1);
}

uint64_t haul_device_fields_size(const struct haul_device_field *fields, uint32_t version)
{
    uint64_t size = 0;
    for (; fields->name; fields++) {
        size += fields->since <= version ? field_size(fields, version) : 0;
    }
    return size;
}

uint32_t haul_device_subsection_version(const struct haul_device_description *subsection, uint32_t section)
{
    const struct haul_device_history *entry = subsection->history;
    uint32_t version = entry ? 0 : subsection->version;
    for (; entry && entry->section > 0 && entry->section <= section; entry++) {
        version = entry->version;
    }
    return version;
}

uint64_t haul_device_section_size(const struct haul_device_description *description, uint32_t version)
{
    uint64_t size = haul_device_fields_size(description->fields, version) + 1;
    for (unsigned i = 0; description->subsections && description->subsections[i]; i++) {
        const struct haul_device_description *sub = description->subsections[i];
        uint32_t sent = haul_device_subsection_version(sub, version);
        size += sent ? haul_device_fields_size(sub->fields, sent) + 2 + strlen(sub->name) + 4 : 0;
    }
    return size;
}

/* ---- checking ----------------------------------------------------------------------------------------- */

static int check_fields(const struct haul_device_field *fields, uint32_t version, unsigned depth,
                        struct haul_device_where *where, struct haul_error *error);

static const char *wrong_with_count(const struct haul_device_field *fields,
                                    const struct haul_device_field *field)
{
    const struct haul_device_field *count = haul_device_count_of(fields, field);
    if (!count) {
        return "its count is no u8, u16, u32 or u64 field before it";
    }
    if (count->since > field->since) {
        return "its count is newer than itself";
    }
    if (haul_device_counted_by(fields, count) != field) {
        return "its count counts another array too";
    }
    return NULL;
}

static const char *wrong_with_field(const struct haul_device_field *fields,
                                    const struct haul_device_field *field, uint32_t version, unsigned depth)
{
    unsigned number = field->type < HAUL_DEVICE_TYPE_COUNT ? haul_device_number_size(field->type) : 0;
    if (!haul_device_name_good(field->name)) {
        return "a name has 1 to 63 letters, digits, '_' and '-'";
    }
    for (const struct haul_device_field *other = fields; other != field; other++) {
        if (strcmp(other->name, field->name) == 0) {
            return "its name is there already";
        }
    }
    if (field->type >= HAUL_DEVICE_TYPE_COUNT) {
        return "its type is unknown";
    }
    if (number > 0 && field->size != number) {
        return "its type has another size than the member";
    }
    if (field->count > HAUL_DEVICE_ELEMENTS_MAX ||
        (field->count == 0 && (field->is_counted || field->type == HAUL_DEVICE_BUFFER))) {
        return "an array has 1 to 1048576 elements";
    }
    if (field->since > version) {
        return "it is newer than its description";
    }
    if (field->type == HAUL_DEVICE_STRUCT && (!field->fields || !field->fields->name)) {
        return "a struct needs fields";
    }
    if (field->type == HAUL_DEVICE_STRUCT && depth + 1 == HAUL_DEVICE_DEPTH_MAX) {
        return "structs are nested over 8 deep";
    }
    return field->is_counted ? wrong_with_count(fields, field) : NULL;
}

static int check_fields(const struct haul_device_field *fields, uint32_t version, unsigned depth,
                        struct haul_device_where *where, struct haul_error *error)
{
    for (const struct haul_device_field *field = fields; field->name; field++) {
        size_t back = haul_device_where_field(where, field->name);
        const char *wrong = wrong_with_field(fields, field, version, depth);
        if (!wrong && field - fields == HAUL_DEVICE_FIELDS_MAX) {
            wrong = "a struct has at most 256 fields";
        }
        if (wrong) {
            return haul_error_set(error, EINVAL, "device description %s: field %.200s: %s", where->section,
                                  where->path, wrong);
        }
        int rc = field->type == HAUL_DEVICE_STRUCT
                     ? check_fields(field->fields, version, depth + 1, where, error)
                     : 0;
        if (rc < 0) {
            return rc;
        }
        haul_device_where_back(where, back);
    }
    return 0;
}

/* What sections and subsections have in common. */
static int check_section(const struct haul_device_description *description, const char *of, const char *slash,
                         struct haul_error *error)
{
    struct haul_device_where where = {0};
    snprintf(where.section, sizeof where.section, "%.63s%s%.63s", of, slash,
             description->name ? description->name : "(without a name)");
    const char *wrong = NULL;
    if (!haul_device_name_good(description->name)) {
        wrong = "a name has 1 to 63 letters, digits, '_' and '-'";
    } else if (description->version < HAUL_DEVICE_VERSION(1, 0) ||
               description->minimum > description->version) {
        wrong = "its version must be at least 1.0 and its minimum not above it";
    } else if (!description->fields || !description->fields->name) {
        wrong = "it needs fields";
    }
    if (wrong) {
        return haul_error_set(error, EINVAL, "device description %s: %s", where.section, wrong);
    }
    return check_fields(description->fields, description->version, 0, &where, error);
}

static const char *wrong_with_history(const struct haul_device_description *subsection, uint32_t section)
{
    const struct haul_device_history *entry = subsection->history;
    struct haul_device_history before = {0, HAUL_DEVICE_VERSION(1, 0) - 1};
    for (; entry && entry->section > 0; before = *entry++) {
        if (entry->section <= before.section || entry->version <= before.version) {
            return "its history does not go from older to newer versions";
        }
    }
    return entry && (before.version != subsection->version || before.section > section)
               ? "its history does not end with its version and the section's"
               : NULL;
}

int haul_device_check_description(const struct haul_device_description *description, struct haul_error *error)
{
    int rc = check_section(description, "", "", error);
    const struct haul_device_description *const *subs = description->subsections;
    for (unsigned i = 0; rc == 0 && subs && subs[i]; i++) {
        rc = check_section(subs[i], description->name, "/", error);
        const char *wrong =
            subs[i]->subsections || !subs[i]->needed ? "a subsection needs `needed` and has no subsections"
            : i == HAUL_DEVICE_SUBSECTIONS_MAX       ? "there are over 32 subsections"
                                                     : wrong_with_history(subs[i], description->version);
        for (unsigned j = 0; rc == 0 && j < i; j++) {
            wrong = strcmp(subs[i]->name, subs[j]->name) == 0 ? "its name is there already" : wrong;
        }
        if (rc == 0 && wrong) {
            rc = haul_error_set(error, EINVAL, "device description %s: subsection %s: %s", description->name,
                                subs[i]->name, wrong);
        }
    }
    if (rc == 0 && haul_device_section_size(description, description->version) > HAUL_DEVICE_SECTION_MAX) {
        rc = haul_error_set(error, EINVAL, "device description %s: its state can have over 16 MiB",
                            description->name);
    }
    return rc;
}
