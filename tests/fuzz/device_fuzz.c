/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer's entry point for device state: the input is a stream, which is loaded into a device of every
 * type of field and printed. What the loader let through must be within the limits of the table, and save to
 * something that loads and prints again.
 */
#include "tests/fuzz/device_fuzz.h"
#include "engine/device_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct part {
    uint16_t index;
    uint64_t value;
};

struct thing {
    uint8_t small;
    uint32_t number;
    bool flag;
    uint8_t bytes[6];
    uint16_t fixed[3];
    uint8_t length;
    uint8_t tail[8];
    uint16_t count;
    struct part parts[4];
    uint32_t guard; /* no field: nothing may write it */
    bool has_more;
    uint64_t more;
};

static const struct haul_device_field part_fields[] = {
    HAUL_DEVICE_VALUE(struct part, index, U16, 0),
    HAUL_DEVICE_VALUE(struct part, value, U64, HAUL_DEVICE_VERSION(1, 1)),
    HAUL_DEVICE_END,
};

static const struct haul_device_field thing_fields[] = {
    HAUL_DEVICE_VALUE(struct thing, small, U8, 0),
    HAUL_DEVICE_VALUE(struct thing, number, U32, HAUL_DEVICE_VERSION(1, 1)),
    HAUL_DEVICE_VALUE(struct thing, flag, BOOL, 0),
    HAUL_DEVICE_BYTES(struct thing, bytes, 0),
    HAUL_DEVICE_ARRAY(struct thing, fixed, U16, 0),
    HAUL_DEVICE_VALUE(struct thing, length, U8, 0),
    HAUL_DEVICE_COUNTED_BYTES(struct thing, tail, length, 0),
    HAUL_DEVICE_VALUE(struct thing, count, U16, 0),
    HAUL_DEVICE_COUNTED_NESTED(struct thing, parts, part_fields, count, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field more_fields[] = {
    HAUL_DEVICE_VALUE(struct thing, more, U64, 0),
    HAUL_DEVICE_END,
};

static void require(bool condition)
{
    if (!condition) {
        abort();
    }
}

static bool needs_more(const void *object)
{
    return ((const struct thing *)object)->has_more;
}

static int came(void *object, uint32_t version, struct haul_error *error)
{
    (void)version;
    (void)error;
    ((struct thing *)object)->has_more = true;
    return 0;
}

static const struct haul_device_description more = {
    .name = "more",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = more_fields,
    .needed = needs_more,
    .post_load = came,
};
static const struct haul_device_description *const subsections[] = {&more, NULL};
static const struct haul_device_description description = {
    .name = "thing",
    .version = HAUL_DEVICE_VERSION(1, 1),
    .fields = thing_fields,
    .subsections = subsections,
};

static struct haul_devices *registry(struct thing *thing)
{
    const struct haul_device device = {.description = &description, .object = thing};
    struct haul_devices *devices;
    require(haul_devices_new(&devices, NULL) == 0);
    require(haul_devices_add(devices, &device, NULL) == 0);
    return devices;
}

unsigned char *haul_device_fuzz_sample(size_t *size)
{
    struct thing thing = {.small = 1, .flag = true, .length = 3, .count = 2, .has_more = true};
    struct haul_devices *devices = registry(&thing);
    unsigned char *bytes;
    require(haul_devices_save(devices, false, &bytes, size, NULL) == 0);
    haul_devices_free(devices);
    return bytes;
}

/* Prints into memory; the length of what was printed, or a negative errno and nothing printed. */
static long print(const void *bytes, size_t length, enum haul_device_format format)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    require(out != NULL);
    struct haul_error error = {0};
    int rc = haul_device_print(out, format, bytes, length, &error);
    require(fclose(out) == 0);
    require(rc == 0 || (size == 0 && error.code == -rc && error.message[0] != 0));
    for (size_t i = 0; i < size; i++) {
        require(text[i] == '\n' || (text[i] >= ' ' && text[i] < 0x7f));
    }
    free(text);
    return rc < 0 ? rc : (long)size;
}

static void check_loaded(struct haul_devices *devices, const struct thing *thing)
{
    require(thing->length <= sizeof thing->tail);
    require(thing->count <= sizeof thing->parts / sizeof *thing->parts);
    unsigned char *again;
    size_t length;
    require(haul_devices_save(devices, false, &again, &length, NULL) == 0);
    require(haul_devices_load(devices, false, again, length, NULL) == 0);
    require(print(again, length, HAUL_DEVICE_JSON) > 0);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* An allocation of exactly this size, so that a sanitizer sees each byte too far. */
    unsigned char *bytes = malloc(size + !size);
    require(bytes != NULL);
    if (size > 0) {
        memcpy(bytes, data, size);
    }
    struct thing thing = {.guard = 0x5afe};
    struct haul_devices *devices = registry(&thing);
    struct haul_error error = {0};
    int rc = haul_devices_load(devices, false, bytes, size, &error);
    require(thing.guard == 0x5afe);
    require(rc == 0 || (error.code == -rc && error.message[0] != 0));
    require(rc == 0 || rc == -EPROTO || rc == -EINVAL || rc == -EMSGSIZE);
    long text = print(bytes, size, HAUL_DEVICE_TEXT);
    require((text < 0) == (print(bytes, size, HAUL_DEVICE_JSON) < 0));
    if (rc == 0) {
        require(text > 0); /* what loads is a stream that can be printed */
        check_loaded(devices, &thing);
    }
    haul_devices_free(devices);
    free(bytes);
    return 0;
}
