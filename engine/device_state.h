/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DEVICE_STATE_H
#define HAUL_ENGINE_DEVICE_STATE_H

/*
 * Device state by description: a table says which members of a struct are the state of a device, and this
 * library saves, checks, loads and prints them. The stream carries its own description, so that it can be
 * printed, and compared with the tables of whoever loads it, without knowing who wrote it.
 * docs/device-state.md is a worked example; docs/protocol.md has the bytes.
 *
 * Order of calls: haul_devices_new; haul_devices_add for each device; haul_devices_attach to a migration;
 * haul_devices_free after the migration. Calls on one registry come from one thread at a time; between
 * haul_start and the end of haul_wait that is the migration's own thread.
 */

#include "engine/haul.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- descriptions ------------------------------------------------------------------------------------- */

#define HAUL_DEVICE_TYPES(X)                                                                                 \
    X(U8, "u8")                                                                                              \
    X(U16, "u16")                                                                                            \
    X(U32, "u32")                                                                                            \
    X(U64, "u64")                                                                                            \
    X(BOOL, "bool")                                                                                          \
    X(BUFFER, "buffer") /* bytes that are not looked into */                                                 \
    X(STRUCT, "struct") /* fields within a struct */

enum haul_device_type {
#define X(name, text) HAUL_DEVICE_##name,
    HAUL_DEVICE_TYPES(X)
#undef X
        HAUL_DEVICE_TYPE_COUNT
};

/*
 * Versions are one number, so that they can be compared. A minor version adds fields: it still loads what
 * older ones wrote. A major version starts anew; whether it loads older streams its `minimum` says.
 */
#define HAUL_DEVICE_VERSION(major, minor) ((uint32_t)(((uint32_t)(major) << 16) | (uint32_t)(minor)))

/* One member of the described struct; the macros below fill it in. A list of fields ends with
 * HAUL_DEVICE_END. */
struct haul_device_field {
    const char *name; /* letters, digits, '_' and '-', 1..63, unique in its list */
    enum haul_device_type type;
    size_t offset;      /* of the first element, in the struct */
    size_t size;        /* bytes of the struct that one element takes */
    uint32_t count;     /* elements; with count_field, the most there may be; 0: one value, no array */
    bool is_counted;    /* count_field says how many elements there are */
    size_t count_field; /* offset of an earlier U8..U64 in the same struct */
    uint32_t since;     /* HAUL_DEVICE_VERSION of the description that has it first; 0: always there */
    const struct haul_device_field *fields; /* STRUCT: of each element */
};

#define HAUL_DEVICE_MEMBER_SIZE(type, member) sizeof(((type *)0)->member)
#define HAUL_DEVICE_ELEMENT_SIZE(type, member) sizeof(((type *)0)->member[0])
#define HAUL_DEVICE_LENGTH(type, member)                                                                     \
    ((uint32_t)(HAUL_DEVICE_MEMBER_SIZE(type, member) / HAUL_DEVICE_ELEMENT_SIZE(type, member)))

/* A number or a bool; `kind` is U8, U16, U32, U64 or BOOL. An array of them, of which all elements are state,
 * or as many as `count_member` says. */
#define HAUL_DEVICE_VALUE(type, member, kind, since)                                                         \
    {                                                                                                        \
#member, HAUL_DEVICE_##kind, offsetof(type, member), HAUL_DEVICE_MEMBER_SIZE(type, member), 0,       \
            false, 0, (since), NULL                                                                          \
    }
#define HAUL_DEVICE_ARRAY(type, member, kind, since)                                                         \
    {                                                                                                        \
#member, HAUL_DEVICE_##kind, offsetof(type, member), HAUL_DEVICE_ELEMENT_SIZE(type, member),         \
            HAUL_DEVICE_LENGTH(type, member), false, 0, (since), NULL                                        \
    }
#define HAUL_DEVICE_COUNTED_ARRAY(type, member, kind, count_member, since)                                   \
    {                                                                                                        \
#member, HAUL_DEVICE_##kind, offsetof(type, member), HAUL_DEVICE_ELEMENT_SIZE(type, member),         \
            HAUL_DEVICE_LENGTH(type, member), true, offsetof(type, count_member), (since), NULL              \
    }

/* Plain bytes: all of a member, or as many as `count_member` says. */
#define HAUL_DEVICE_BYTES(type, member, since)                                                               \
    {                                                                                                        \
#member, HAUL_DEVICE_BUFFER, offsetof(type, member), 1,                                              \
            (uint32_t)HAUL_DEVICE_MEMBER_SIZE(type, member), false, 0, (since), NULL                         \
    }
#define HAUL_DEVICE_COUNTED_BYTES(type, member, count_member, since)                                         \
    {                                                                                                        \
#member, HAUL_DEVICE_BUFFER, offsetof(type, member), 1,                                              \
            (uint32_t)HAUL_DEVICE_MEMBER_SIZE(type, member), true, offsetof(type, count_member), (since),    \
            NULL                                                                                             \
    }

/* A struct within the struct, or an array of them. */
#define HAUL_DEVICE_NESTED(type, member, field_list, since)                                                  \
    {                                                                                                        \
#member, HAUL_DEVICE_STRUCT, offsetof(type, member), HAUL_DEVICE_MEMBER_SIZE(type, member), 0,       \
            false, 0, (since), (field_list)                                                                  \
    }
#define HAUL_DEVICE_NESTED_ARRAY(type, member, field_list, since)                                            \
    {                                                                                                        \
#member, HAUL_DEVICE_STRUCT, offsetof(type, member), HAUL_DEVICE_ELEMENT_SIZE(type, member),         \
            HAUL_DEVICE_LENGTH(type, member), false, 0, (since), (field_list)                                \
    }
#define HAUL_DEVICE_COUNTED_NESTED(type, member, field_list, count_member, since)                            \
    {                                                                                                        \
#member, HAUL_DEVICE_STRUCT, offsetof(type, member), HAUL_DEVICE_ELEMENT_SIZE(type, member),         \
            HAUL_DEVICE_LENGTH(type, member), true, offsetof(type, count_member), (since), (field_list)      \
    }
#define HAUL_DEVICE_END                                                                                      \
    {                                                                                                        \
        NULL, HAUL_DEVICE_U8, 0, 0, 0, false, 0, 0, NULL                                                     \
    }

/* From one version of a section on, a subsection of it had this version. */
struct haul_device_history {
    uint32_t section; /* HAUL_DEVICE_VERSION of the section */
    uint32_t version; /* of the subsection */
};

/*
 * A kind of device, or a subsection of one: state that is sent only when `needed` says so, and that a
 * destination may not know as long as it does not come. The callbacks get the object that was added. They may
 * be NULL, but for a subsection's `needed`.
 */
struct haul_device_description {
    const char *name; /* as of a field */
    uint32_t version; /* HAUL_DEVICE_VERSION, at least 1.0: what this code writes */
    uint32_t minimum; /* the oldest that it loads; 0: 1.0 */
    const struct haul_device_field *fields;
    const struct haul_device_description *const
        *subsections; /* ends with NULL; they have none of their own */
    /* Subsections only; after the section's pre_save and those of the subsections before it. */
    bool (*needed)(const void *object);
    /*
     * Subsections only: the versions that it had, oldest first, up to `version`; ends with {0, 0}. By it
     * save_version writes the subsection as that version of the section did, and leaves it out where the
     * section did not have it yet. NULL: it never changed, and is sent with every version of the section.
     */
    const struct haul_device_history *history;
    /* Before the fields are read, guest stopped (early devices: running). An error fails the move, and the
     * source goes on. */
    int (*pre_save)(void *object, struct haul_error *error);
    /*
     * After the fields were written; subsections first. `version` is the stream's: fields that it did not
     * have still hold what the object held before. Checks what only the device can check, and puts the state
     * to use.
     */
    int (*post_load)(void *object, uint32_t version, struct haul_error *error);
};

/* ---- the registry ------------------------------------------------------------------------------------- */

struct haul_devices; /* opaque */

/* One device. Both sides add the same names and instances, in any order. */
struct haul_device {
    const struct haul_device_description *description; /* must outlive the registry */
    uint32_t instance;
    /* Higher ones are saved and loaded first; equal ones in the order in which they were added. */
    int priority;
    /*
     * Early setup: what the destination must know before anything else. Saved in the setup state, guest
     * running, sent before the first round of memory, and loaded at once; a mismatch fails the move before
     * any memory was copied. It must not change afterwards.
     */
    bool early;
    /* Writes as that older version did, for a destination that is not updated yet: newer fields are left out,
     * and so are newer subsections and their newer fields, by their `history`. 0: the description's. The same
     * for all devices of one description. */
    uint32_t save_version;
    void *object; /* the struct that the fields describe; the caller's */
};

/* haul_devices_new: *devices is the caller's, to be freed with haul_devices_free. -ENOMEM. */
int haul_devices_new(struct haul_devices **devices, struct haul_error *error);
void haul_devices_free(struct haul_devices *devices); /* NULL is accepted */

/*
 * haul_devices_add: `device` is copied. -EINVAL: its description is wrong (the message names the field);
 * -EEXIST: name and instance are taken; -ENOSPC: over 4096 devices, or over 1 MiB of descriptions as JSON;
 * -ENOMEM. May be called from the post_load of an early device, for devices that are not early.
 */
int haul_devices_add(struct haul_devices *devices, const struct haul_device *device,
                     struct haul_error *error);

/* haul_devices_attach adds the registry to a migration, as the state handlers "devices.early" (if there are
 * early devices) and "devices". Errors as haul_add_state. */
int haul_devices_attach(struct haul_devices *devices, struct haul_migration *migration,
                        struct haul_error *error);

/* haul_devices_size returns the most bytes that the stream of the devices that are early, or are not, can
 * have. */
uint64_t haul_devices_size(const struct haul_devices *devices, bool early);

/*
 * haul_devices_save and haul_devices_load do without a migration what attached registries do within one.
 * *bytes is the caller's, to be freed with free(). Errors name section and field: "state of vcpu/0: field
 * xsave.length: 9000 is more than 4096".
 * save: -EINVAL: a count or a bool is out of range in the object; -EMSGSIZE; -ENOMEM; or what a pre_save
 * returns. load: -EPROTO: the bytes are damaged (short, left over, bad counts); -EINVAL: they are of another
 * version or of other devices; -EMSGSIZE: over 64 MiB; -ENOMEM; or what a post_load returns. After a failed
 * load the objects hold part of the state and must not be used.
 */
int haul_devices_save(struct haul_devices *devices, bool early, unsigned char **bytes, size_t *length,
                      struct haul_error *error);
int haul_devices_load(struct haul_devices *devices, bool early, const void *bytes, size_t length,
                      struct haul_error *error);

/* ---- printing ----------------------------------------------------------------------------------------- */

enum haul_device_format { HAUL_DEVICE_TEXT, HAUL_DEVICE_JSON };

/* haul_device_is_stream tells whether `bytes` begin as a device state stream does. */
bool haul_device_is_stream(const void *bytes, size_t length);

/*
 * haul_device_print prints a stream to `out`, by the description in it: one value a line, or one JSON object.
 * The bytes may be anybody's. They are checked first: on an error nothing is printed. -EPROTO: they are
 * damaged, or describe more than 1048576 values; -EMSGSIZE: over 64 MiB; -ENOMEM. Any thread.
 */
int haul_device_print(FILE *out, enum haul_device_format format, const void *bytes, size_t length,
                      struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
