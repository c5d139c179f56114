/* SPDX-License-Identifier: Apache-2.0 */
/* The DISKS frame: the source's disks, checked against the destination's own. */
#include "engine/disks.h"

#include <errno.h>
#include <string.h>

size_t haul_disk_table_encode(const struct haul_migration *migration, void *payload, size_t capacity)
{
    struct haul_writer writer;
    haul_writer_init(&writer, payload, capacity);
    haul_writer_u32(&writer, haul_disks_count(migration));
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        haul_writer_string(&writer, migration->disks->disk[i].name);
        haul_writer_u64(&writer, migration->disks->disk[i].size);
    }
    return haul_writer_length(&writer);
}

static int match_one(const struct haul_migration *migration, const char *name, uint64_t size, uint32_t *index,
                     struct haul_error *error)
{
    for (uint32_t i = 0; i < migration->disks->count; i++) {
        const struct haul_own_disk *own = &migration->disks->disk[i];
        if (strcmp(own->name, name) != 0) {
            continue;
        }
        if (own->size != size) {
            return haul_error_set(
                error, EINVAL,
                "disk %s has %llu bytes at the source and %llu at the destination; give the "
                "destination a disk of the same size",
                name, (unsigned long long)size, (unsigned long long)own->size);
        }
        *index = i;
        return 0;
    }
    return haul_error_set(
        error, EINVAL,
        "disk %s of the source is missing at the destination; start the destination with the same disks",
        name);
}

int haul_disk_table_match(const struct haul_migration *migration, const void *payload, size_t length,
                          uint32_t *order, struct haul_error *error)
{
    bool seen[HAUL_DISKS_MAX] = {false};
    uint32_t own = haul_disks_count(migration);
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, payload, length);
    uint32_t count = haul_cursor_u32(&cursor);
    for (uint32_t i = 0; i < count && i < own && !cursor.failed; i++) {
        char name[HAUL_NAME_MAX + 1];
        bool named = haul_cursor_string(&cursor, name, sizeof name);
        uint64_t size = haul_cursor_u64(&cursor);
        if (!named || cursor.failed) {
            break;
        }
        int rc = match_one(migration, name, size, &order[i], error);
        if (rc < 0) {
            return rc;
        }
        if (seen[order[i]]) {
            return haul_error_set(error, EPROTO, "the source's disk table names %s twice", name);
        }
        seen[order[i]] = true;
    }
    if (!cursor.failed && count != own) {
        return haul_error_set(
            error, EINVAL,
            "the source has %u disks, the destination %u; start the destination with the same disks", count,
            own);
    }
    return haul_cursor_done(&cursor) ? 0
                                     : haul_error_set(error, EPROTO, "the source's disk table is malformed");
}

int haul_disks_check_hello(const struct haul_migration *migration, uint32_t capabilities,
                           struct haul_error *error)
{
    uint32_t own = haul_disks_count(migration);
    bool comes = capabilities & HAUL_CAPABILITY_DISKS;
    if (comes && own == 0) {
        return haul_error_set(error, EINVAL,
                              "the source moves its disks too, and this destination was started without any: "
                              "start it with the same disks");
    }
    if (comes && (capabilities & HAUL_CAPABILITY_CPR_TRANSFER)) {
        return haul_error_set(error, EPROTO,
                              "the source hands its memory over and moves disks, which exclude each other");
    }
    if (!comes && own > 0) {
        return haul_error_set(error, EINVAL,
                              "this destination waits for disk %s, and the source moves no disks: start both "
                              "with the same disks",
                              migration->disks->disk[0].name);
    }
    return 0;
}
