/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DEVICE_INTERNAL_H
#define HAUL_ENGINE_DEVICE_INTERNAL_H

/* What the files behind engine/device_state.h share. */

#include "channels/wire.h"
#include "engine/device_state.h"

#include <jansson.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Limits on what a stream may ask for (rules R4 and R6). */
#define HAUL_DEVICE_NAME_MAX 63
#define HAUL_DEVICE_FIELDS_MAX 256         /* of one struct */
#define HAUL_DEVICE_DEPTH_MAX 8            /* structs within structs */
#define HAUL_DEVICE_ELEMENTS_MAX (1 << 20) /* of one array */
#define HAUL_DEVICE_SUBSECTIONS_MAX 32
#define HAUL_DEVICE_JSON_MAX (64 << 10) /* one description */
#define HAUL_DEVICE_JSON_SUM_MAX                                                                             \
    (1u << 20) /* those of a stream: as a tree they take up to 50 times as much */
#define HAUL_DEVICE_SECTION_MAX (16u << 20) /* bytes of one device */
#define HAUL_DEVICE_STREAM_MAX (64u << 20)
#define HAUL_DEVICES_MAX 4096
#define HAUL_DEVICE_VALUES_MAX (1 << 20) /* that are printed */

#define HAUL_DEVICE_MAGIC 0x56454448u /* "HDEV" */
#define HAUL_DEVICE_FORMAT 1
enum haul_device_record {
    HAUL_DEVICE_RECORD_END = 0,
    HAUL_DEVICE_RECORD_DESCRIPTION = 1,
    HAUL_DEVICE_RECORD_SECTION = 2
};

/* ---- where an error is -------------------------------------------------------------------------------- */

/* "vcpu/0", and the path of the field being looked at: "msrs[3].index". */
struct haul_device_where {
    char section[2 * HAUL_DEVICE_NAME_MAX + 32];
    char path[512];
    size_t length;
};
void haul_device_where_section(struct haul_device_where *where, const char *name, uint32_t instance);
/* Each returns the length to go back to with haul_device_where_back. */
size_t haul_device_where_field(struct haul_device_where *where, const char *name);
size_t haul_device_where_element(struct haul_device_where *where, uint32_t index);
void haul_device_where_back(struct haul_device_where *where, size_t length);
/* "state of SECTION: field PATH: ..."; without the field part while there is none. */
int haul_device_where_error(const struct haul_device_where *where, struct haul_error *error, int code,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

/* ---- tables ------------------------------------------------------------------------------------------- */

/* haul_device_check_description: -EINVAL with what is wrong with a table. */
int haul_device_check_description(const struct haul_device_description *description,
                                  struct haul_error *error);
/* The field of `fields` that tells how many elements `field` has. */
const struct haul_device_field *haul_device_count_of(const struct haul_device_field *fields,
                                                     const struct haul_device_field *field);
/* The counted array, if any, whose elements `field` counts. */
const struct haul_device_field *haul_device_counted_by(const struct haul_device_field *fields,
                                                       const struct haul_device_field *field);
/* The most bytes that one struct of these fields, or a section, takes in a stream. */
uint64_t haul_device_fields_size(const struct haul_device_field *fields, uint32_t version);
/* What a subsection's version is as of a version of its section; 0: it is not there yet. */
uint32_t haul_device_subsection_version(const struct haul_device_description *subsection, uint32_t section);
uint64_t haul_device_section_size(const struct haul_device_description *description, uint32_t version);
unsigned haul_device_number_size(enum haul_device_type type); /* on the wire; 0: not a number */
uint64_t haul_device_get_number(const struct haul_device_field *field, const unsigned char *at);
void haul_device_put_number(const struct haul_device_field *field, unsigned char *at, uint64_t value);

/* ---- descriptions as JSON ----------------------------------------------------------------------------- */

bool haul_device_name_good(const char *name);
const char *haul_device_type_name(enum haul_device_type type);

/* haul_device_describe returns the description's JSON as of `version`, to be freed with free(); NULL: no
 * memory. */
char *haul_device_describe(const struct haul_device_description *description, uint32_t version);

/* One field, as a stream describes it. The strings belong to the JSON. */
struct haul_device_described {
    const char *name;
    enum haul_device_type type;
    bool is_array;
    uint32_t count;          /* as in haul_device_field */
    const char *count_field; /* NULL: all elements are there */
    const json_t *fields;
};
/* Each is -EPROTO for what is no description; `where` tells which. */
int haul_device_read_field(const json_t *json, struct haul_device_described *field,
                           const struct haul_device_where *where, struct haul_error *error);
int haul_device_read_version(const json_t *json, uint32_t *version, const struct haul_device_where *where,
                             struct haul_error *error);

/* haul_device_compare: -EINVAL when the stream's description of a section or subsection is of a version that
 * `own` does not load, or not what `own` had in that version; names the first difference. Does not look at
 * subsections. */
int haul_device_compare(const struct haul_device_description *own, const json_t *json, uint32_t *version,
                        struct haul_device_where *where, struct haul_error *error);

/* ---- streams ------------------------------------------------------------------------------------------ */

struct haul_device_section {
    const char *name; /* belongs to the description */
    uint32_t instance;
    const json_t *description;
    const unsigned char *bytes;
    size_t length;
};

/* A stream taken apart; points into its bytes. Zeroed: empty. */
struct haul_device_stream {
    json_t *descriptions;   /* by name */
    size_t described_bytes; /* theirs in the stream */
    struct haul_device_section *sections;
    uint32_t section_count;
    uint32_t section_room;
};
/* haul_device_stream_parse: -EPROTO, -EINVAL (another version of the format), -EMSGSIZE, -ENOMEM; *stream is
 * to be cleaned up in any case. */
int haul_device_stream_parse(const void *bytes, size_t length, struct haul_device_stream *stream,
                             struct haul_error *error);
void haul_device_stream_cleanup(struct haul_device_stream *stream);

/* ---- the registry ------------------------------------------------------------------------------------- */

struct haul_device_entry {
    struct haul_device device;
    uint32_t version;  /* that is written */
    char *description; /* JSON */
};

struct haul_devices {
    struct haul_device_entry *entries; /* in the order of saving and loading */
    uint32_t count;
    uint32_t room;
    size_t described_bytes[2]; /* of descriptions in the stream of other and of early devices */
};

#ifdef __cplusplus
}
#endif
#endif
