/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Prints a stream by the description in it. A walk without output comes first, so that nothing is printed of
 * a stream that is damaged further on. Names are checked to hold nothing that a terminal or JSON would take
 * for something else.
 */

#include "engine/device/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct printing {
    FILE *out; /* NULL: only check */
    bool json;
    bool first; /* of the JSON object or array being printed */
    uint32_t values;
    struct haul_cursor cursor;
    struct haul_device_where where;
    struct haul_error *error;
};

static int print_fields(struct printing *printing, const json_t *fields, unsigned depth);

static int wrong(struct printing *printing, const char *what)
{
    return haul_device_where_error(&printing->where, printing->error, EPROTO, "%s", what);
}

/* ---- output ------------------------------------------------------------------------------------------- */

static void json_separate(struct printing *printing)
{
    if (!printing->first) {
        fputc(',', printing->out);
    }
    printing->first = false;
}

/* Begins a member; `name` is NULL for an element of an array. */
static void json_key(struct printing *printing, const char *name)
{
    if (printing->out && printing->json) {
        json_separate(printing);
        if (name) {
            fprintf(printing->out, "\"%s\":", name);
        }
    }
}

static void json_open(struct printing *printing, char bracket)
{
    if (printing->out && printing->json) {
        fputc(bracket, printing->out);
        printing->first = true;
    }
}

static void json_close(struct printing *printing, char bracket)
{
    if (printing->out && printing->json) {
        fputc(bracket, printing->out);
        printing->first = false;
    }
}

/* ---- values ------------------------------------------------------------------------------------------- */

static int count_value(struct printing *printing)
{
    return ++printing->values <= HAUL_DEVICE_VALUES_MAX ? 0
                                                        : wrong(printing, "there are over 1048576 values");
}

static int print_number(struct printing *printing, enum haul_device_type type, uint64_t *value)
{
    unsigned size = haul_device_number_size(type);
    const unsigned char *bytes = haul_cursor_bytes(&printing->cursor, size);
    if (!bytes) {
        return wrong(printing, "the state ends before it");
    }
    int rc = count_value(printing);
    if (rc < 0) {
        return rc;
    }
    *value = 0;
    for (unsigned i = 0; i < size; i++) {
        *value |= (uint64_t)bytes[i] << (8 * i);
    }
    if (type == HAUL_DEVICE_BOOL && *value > 1) {
        return wrong(printing, "a bool is neither 0 nor 1");
    }
    if (!printing->out) {
        return 0;
    }
    if (!printing->json) {
        fprintf(printing->out, "  %s: ", printing->where.path);
    }
    if (type == HAUL_DEVICE_BOOL) {
        fputs(*value ? "true" : "false", printing->out);
    } else {
        fprintf(printing->out, "%" PRIu64, *value);
        if (!printing->json && *value > 9) {
            fprintf(printing->out, " (%#" PRIx64 ")", *value);
        }
    }
    if (!printing->json) {
        fputc('\n', printing->out);
    }
    return 0;
}

/* As hexadecimal digits; trailing zeros of a text are counted, not printed. */
static int print_buffer(struct printing *printing, uint32_t length)
{
    const unsigned char *bytes = haul_cursor_bytes(&printing->cursor, length);
    if (!bytes) {
        return wrong(printing, "the state ends within it");
    }
    int rc = count_value(printing);
    if (rc < 0 || !printing->out) {
        return rc;
    }
    uint32_t shown = length;
    while (!printing->json && shown > 0 && bytes[shown - 1] == 0) {
        shown--;
    }
    if (printing->json) {
        fputc('"', printing->out);
    } else {
        fprintf(printing->out, "  %s: %u bytes%s", printing->where.path, length, shown > 0 ? ": " : "");
    }
    for (uint32_t i = 0; i < shown; i++) {
        fprintf(printing->out, "%02x", bytes[i]);
    }
    if (printing->json) {
        fputc('"', printing->out);
    } else if (shown < length) {
        fprintf(printing->out, "%s%u zero bytes\n", shown > 0 ? ", then " : ", ", length - shown);
    } else {
        fputc('\n', printing->out);
    }
    return 0;
}

static int print_struct(struct printing *printing, const json_t *fields, unsigned depth)
{
    json_open(printing, '{');
    int rc = print_fields(printing, fields, depth);
    json_close(printing, '}');
    return rc;
}

static int print_element(struct printing *printing, const struct haul_device_described *field, unsigned depth,
                         uint64_t *value)
{
    return field->type == HAUL_DEVICE_STRUCT ? print_struct(printing, field->fields, depth + 1)
                                             : print_number(printing, field->type, value);
}

/* ---- fields ------------------------------------------------------------------------------------------- */

/* A field that may be the count of a later one. */
struct count {
    const char *name; /* NULL: it may not */
    uint64_t value;
};

/* The number of elements, from the `index` fields before. */
static int find_elements(struct printing *printing, const struct haul_device_described *field,
                         const struct count *counts, size_t index, uint64_t *elements)
{
    *elements = field->count;
    for (size_t i = 0; field->count_field && i < index; i++) {
        if (!counts[i].name || strcmp(counts[i].name, field->count_field) != 0) {
            continue;
        }
        *elements = counts[i].value;
        return *elements <= field->count ? 0
                                         : haul_device_where_error(&printing->where, printing->error, EPROTO,
                                                                   "its count %" PRIu64 " is more than %u",
                                                                   *elements, field->count);
    }
    return field->count_field ? wrong(printing, "its count is no field before it") : 0;
}

static int print_array(struct printing *printing, const struct haul_device_described *field,
                       uint64_t elements, unsigned depth)
{
    if (field->type == HAUL_DEVICE_BUFFER) {
        return print_buffer(printing, (uint32_t)elements);
    }
    json_open(printing, '[');
    /* One without elements takes no byte, but time: it counts too. */
    int rc = elements == 0 ? count_value(printing) : 0;
    for (uint32_t i = 0; rc == 0 && i < elements; i++) {
        uint64_t value;
        size_t back = haul_device_where_element(&printing->where, i);
        json_key(printing, NULL);
        rc = print_element(printing, field, depth, &value);
        if (rc == 0) {
            haul_device_where_back(&printing->where, back);
        }
    }
    json_close(printing, ']');
    return rc;
}

static int print_fields(struct printing *printing, const json_t *fields, unsigned depth)
{
    struct count counts[HAUL_DEVICE_FIELDS_MAX];
    size_t count = json_array_size(fields);
    /* Every struct takes at least a byte, so that arrays of them end with the section. */
    if (depth == HAUL_DEVICE_DEPTH_MAX || count == 0 || count > HAUL_DEVICE_FIELDS_MAX) {
        return wrong(printing, "its description has no fields, over 256, or structs over 8 deep");
    }
    for (size_t i = 0; i < count; i++) {
        struct haul_device_described field;
        uint64_t elements;
        int rc = haul_device_read_field(json_array_get(fields, i), &field, &printing->where, printing->error);
        if (rc < 0) {
            return rc;
        }
        size_t back = haul_device_where_field(&printing->where, field.name);
        rc = find_elements(printing, &field, counts, i, &elements);
        if (rc < 0) {
            return rc;
        }
        json_key(printing, field.name);
        bool counts_others = !field.is_array && haul_device_number_size(field.type) > 0;
        counts[i] = (struct count){.name = counts_others ? field.name : NULL};
        rc = field.is_array ? print_array(printing, &field, elements, depth)
                            : print_element(printing, &field, depth, &counts[i].value);
        if (rc < 0) {
            return rc;
        }
        haul_device_where_back(&printing->where, back);
    }
    return 0;
}

/* ---- sections ----------------------------------------------------------------------------------------- */

static int print_heading(struct printing *printing, const json_t *description)
{
    uint32_t version;
    int rc = haul_device_read_version(description, &version, &printing->where, printing->error);
    if (rc == 0 && printing->out && printing->json) {
        json_key(printing, "version");
        fprintf(printing->out, "\"%u.%u\"", version >> 16, version & 0xffff);
    } else if (rc == 0 && printing->out) {
        fprintf(printing->out, "%s version %u.%u\n", printing->where.section, version >> 16,
                version & 0xffff);
    }
    return rc;
}

static int print_described(struct printing *printing, const json_t *description)
{
    int rc = print_heading(printing, description);
    json_key(printing, "state");
    return rc == 0 ? print_struct(printing, json_object_get(description, "fields"), 0) : rc;
}

static int check_end(struct printing *printing)
{
    return haul_cursor_done(&printing->cursor) ? 0 : wrong(printing, "bytes follow its last field");
}

static int print_subsection(struct printing *printing, const json_t *description)
{
    char name[HAUL_DEVICE_NAME_MAX + 1];
    haul_cursor_string(&printing->cursor, name, sizeof name);
    uint32_t length = haul_cursor_u32(&printing->cursor);
    const void *bytes = haul_cursor_bytes(&printing->cursor, length);
    const json_t *list = json_object_get(description, "subsections"), *described = NULL;
    for (size_t i = 0; i < json_array_size(list) && !described; i++) {
        const char *other = json_string_value(json_object_get(json_array_get(list, i), "name"));
        described = other && strcmp(other, name) == 0 ? json_array_get(list, i) : NULL;
    }
    if (!bytes || !haul_device_name_good(name) || !described) {
        return wrong(printing, "it has a subsection that is cut short or not described");
    }
    struct printing sub = *printing;
    haul_cursor_init(&sub.cursor, bytes, length);
    snprintf(sub.where.section, sizeof sub.where.section, "%.*s/%s", HAUL_DEVICE_NAME_MAX + 12,
             printing->where.section, name);
    json_key(&sub, name);
    json_open(&sub, '{');
    int rc = print_described(&sub, described);
    json_close(&sub, '}');
    printing->values = sub.values;
    printing->first = sub.first;
    return rc == 0 ? check_end(&sub) : rc;
}

static int print_section(struct printing *printing, const struct haul_device_section *section)
{
    haul_cursor_init(&printing->cursor, section->bytes, section->length);
    haul_device_where_section(&printing->where, section->name, section->instance);
    json_key(printing, printing->where.section);
    json_open(printing, '{');
    int rc = print_described(printing, section->description);
    unsigned count = rc == 0 ? haul_cursor_u8(&printing->cursor) : 0;
    if (rc == 0 && printing->cursor.failed) {
        rc = wrong(printing, "it ends after its fields");
    }
    if (rc == 0 && count > 0) {
        json_key(printing, "subsections");
        json_open(printing, '{');
        for (unsigned i = 0; rc == 0 && i < count; i++) {
            rc = print_subsection(printing, section->description);
        }
        json_close(printing, '}');
    }
    json_close(printing, '}');
    return rc == 0 ? check_end(printing) : rc;
}

static int print_stream(struct printing *printing, const struct haul_device_stream *stream)
{
    int rc = 0;
    json_open(printing, '{');
    for (uint32_t i = 0; rc == 0 && i < stream->section_count; i++) {
        rc = print_section(printing, &stream->sections[i]);
    }
    json_close(printing, '}');
    return rc;
}

int haul_device_print(FILE *out, enum haul_device_format format, const void *bytes, size_t length,
                      struct haul_error *error)
{
    struct haul_device_stream stream;
    int rc = haul_device_stream_parse(bytes, length, &stream, error);
    struct printing check = {.json = format == HAUL_DEVICE_JSON, .first = true, .error = error};
    if (rc == 0) {
        rc = print_stream(&check, &stream);
    }
    if (rc == 0) {
        struct printing printing = {.out = out, .json = check.json, .first = true, .error = error};
        print_stream(&printing, &stream);
    }
    haul_device_stream_cleanup(&stream);
    return rc;
}
