/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/file/destination.h"

#include "channels/snapshot/reader.h"
#include "engine/block_table.h"
#include "engine/destination/destination.h"
#include "engine/state_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct haul_file_destination {
    struct haul_snapshot_reader *reader;
    struct haul_block_view *views;   /* our memory in the file's order */
    struct haul_snapshot_load *load; /* under migration->lock; NULL before it started */
    unsigned threads;
};

/* ---- opening ---- */

static int match_blocks(struct haul_migration *migration, struct haul_file_destination *file,
                        struct haul_error *error)
{
    const struct haul_snapshot_layout *layout = haul_snapshot_reader_layout(file->reader);
    uint32_t *order = migration->destination->order;
    int rc = haul_block_table_match(migration, layout->table, layout->table_length, order, error);
    if (rc < 0) {
        return haul_error_prefix(error, "%s: ", migration->file_path);
    }
    file->views = calloc(layout->block_count, sizeof *file->views);
    if (!file->views) {
        return haul_error_set(error, ENOMEM, "no memory for the block table");
    }
    for (uint32_t i = 0; i < layout->block_count; i++) {
        file->views[i] = migration->views[order[i]];
    }
    return 0;
}

int haul_file_destination_open(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_file_destination *file = calloc(1, sizeof *file);
    if (!file) {
        return haul_error_set(error, ENOMEM, "no memory for a file");
    }
    int rc = haul_snapshot_reader_new(migration->file_path, &file->reader, error);
    if (rc == 0) {
        rc = match_blocks(migration, file, error);
    }
    if (rc < 0) {
        haul_file_destination_free(file);
        return rc;
    }
    file->threads = migration->options.channels;
    migration->stats.channels = file->threads;
    memcpy(migration->id, haul_snapshot_reader_header(file->reader)->id, sizeof migration->id);
    pthread_mutex_lock(&migration->lock); /* a cancel may look at it */
    migration->destination->file = file;
    pthread_mutex_unlock(&migration->lock);
    return 0;
}

/* ---- memory ---- */

static int load_memory(struct haul_migration *migration, struct haul_file_destination *file,
                       struct haul_error *error)
{
    struct haul_placement_slot *slots = migration->destination->slots;
    struct haul_placement_request request = {
        .policy = migration->placement, .channels = file->threads, .nic_node = HAUL_NODE_UNKNOWN};
    int rc = haul_placement_plan(migration->topology, &request, slots, error);
    struct haul_snapshot_load_options options = {
        .reader = file->reader,
        .views = file->views,
        .threads = file->threads,
        .thread_list = &migration->threads,
        .direct_io = migration->options.direct_io,
        .topology = migration->topology,
        .slots = slots,
    };
    struct haul_snapshot_load *load = NULL;
    if (rc == 0) {
        rc = haul_snapshot_load_start(&options, &load, error);
    }
    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&migration->lock);
    file->load = load;
    if (haul_migration_cancelled(migration)) {
        haul_snapshot_load_cancel(load); /* the cancel came before there was anything to cancel */
    }
    pthread_mutex_unlock(&migration->lock);
    return haul_snapshot_load_wait(load, error);
}

/* ---- device state ---- */

struct origin {
    struct haul_snapshot_reader *reader;
    struct haul_snapshot_state state;
};

static int next_frame(void *opaque, struct haul_frame **frame, struct haul_error *error)
{
    struct origin *origin = opaque;
    struct haul_frame *made = malloc(sizeof *made + HAUL_FRAME_MAX);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for a piece of state");
    }
    unsigned type = 0;
    int rc =
        haul_snapshot_read_state(origin->reader, &origin->state, &type, made->payload, &made->length, error);
    if (rc == 0 && type == 0) {
        rc = haul_error_set(error, EPROTO, "the device state ends before it is complete");
    }
    if (rc < 0) {
        free(made);
        return rc;
    }
    made->next = NULL;
    made->type = (enum haul_frame_type)type;
    *frame = made;
    return 0;
}

static int load_handler(struct haul_migration *migration, struct origin *origin, struct haul_error *error)
{
    char name[HAUL_NAME_MAX + 1];
    uint32_t round;
    uint32_t i;
    struct haul_frame *begin = NULL;
    int rc = next_frame(origin, &begin, error);
    if (rc == 0 && begin->type != HAUL_FRAME_STATE_BEGIN) {
        rc = haul_error_set(error, EPROTO, "the device state has %s where STATE_BEGIN is due",
                            haul_frame_name(begin->type));
    }
    if (rc == 0) {
        rc = haul_state_begin_decode(begin, &round, name, sizeof name, error);
    }
    free(begin);
    if (rc < 0) {
        return rc;
    }
    rc = haul_destination_find_handler(migration, name, &i, error);
    if (rc < 0) {
        return rc;
    }
    const struct haul_state_origin from = {.next = next_frame, .opaque = origin};
    rc = haul_state_load_from(&from, &migration->handlers[i], error);
    return rc < 0 ? haul_error_prefix(error, "loading the state of %s: ", name) : 0;
}

static int load_handlers(struct haul_migration *migration, struct haul_file_destination *file,
                         struct haul_error *error)
{
    struct origin origin = {.reader = file->reader};
    uint64_t length = haul_snapshot_reader_header(file->reader)->state_length;
    int rc = 0;
    while (rc == 0 && origin.state.at < length) {
        rc = haul_migration_cancelled(migration) ? haul_error_set(error, ECANCELED, "cancelled")
                                                 : load_handler(migration, &origin, error);
    }
    return rc == 0 ? haul_destination_all_loaded(migration, "the end of the file", error) : rc;
}

int haul_file_destination_load(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_file_destination *file = migration->destination->file;
    /* First what is small: a damage there is then found before gigabytes are read. */
    int rc = haul_snapshot_check_state(file->reader, error);
    if (rc == 0 && haul_migration_set_state(migration, HAUL_STATE_ACTIVE) < 0) {
        rc = haul_error_set(error, EINVAL, "the migration is not in a state to load memory");
    }
    if (rc == 0) {
        rc = load_memory(migration, file, error);
    }
    if (rc == 0 && haul_migration_set_state(migration, HAUL_STATE_DEVICE) < 0) {
        rc = haul_error_set(error, EINVAL, "the migration is not in a state to load device state");
    }
    return rc == 0 ? load_handlers(migration, file, error) : rc;
}

/* ---- life ---- */

void haul_file_destination_wake(struct haul_file_destination *file)
{
    if (file->load) {
        haul_snapshot_load_cancel(file->load);
    }
}

int haul_file_destination_channel(const struct haul_file_destination *file, unsigned index,
                                  struct haul_channel_counters *counters)
{
    if (!file->load || index >= file->threads) {
        return -ENOENT;
    }
    haul_snapshot_load_counters(file->load, index, counters);
    return 0;
}

void haul_file_destination_free(struct haul_file_destination *file)
{
    if (file) {
        haul_snapshot_load_free(file->load);
        haul_snapshot_reader_free(file->reader);
        free(file->views);
        free(file);
    }
}
