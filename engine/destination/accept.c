/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/destination/destination.h"

#include "engine/block_table.h"
#include "engine/clock.h"
#include "engine/cpr.h"
#include "engine/destination/greeter.h"
#include "engine/disks.h"
#include "engine/memory_nodes.h"
#include "engine/rdma.h"
#include "engine/streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int timeout_ms(const struct haul_migration *migration)
{
    return (int)migration->limits.connect_timeout_ms;
}

static int check_control_hello(struct haul_migration *migration, const struct haul_hello *hello, int fd,
                               struct haul_error *error)
{
    if (hello->channel != HAUL_CONTROL_CHANNEL) {
        return haul_error_set(error, EPROTO, "channel %u connected before the control connection",
                              hello->channel);
    }
    int rc = haul_rdma_check_hello(migration, hello, error);
    if (rc == 0) {
        rc = haul_disks_check_hello(migration, hello->capabilities, error);
    }
    if (rc < 0) {
        return rc;
    }
    if ((hello->capabilities & HAUL_CAPABILITY_STREAMS) && !migration->guest.streams) {
        return haul_error_set(error, EOPNOTSUPP,
                              "the source moves disks or other side streams, and this kind of destination "
                              "takes none: send without them");
    }
    if (!(hello->capabilities & HAUL_CAPABILITY_CPR_TRANSFER)) {
        return migration->mode == HAUL_MODE_NORMAL
                   ? 0
                   : haul_error_set(error, EINVAL,
                                    "this destination waits to take memory over, not for a copy: send with "
                                    "mode cpr-transfer, or start it without");
    }
    if (!migration->guest.adopt) {
        return haul_error_set(error, EOPNOTSUPP,
                              "this kind of destination cannot take memory over: send with mode normal");
    }
    return haul_cpr_check_peer(fd, error);
}

static void notify(void *opaque)
{
    (void)opaque; /* the loader sleeps in haul_control_next, which wakes by itself */
}

/* Waits for the first connection that says a valid control HELLO. */
static int accept_control(struct haul_migration *migration, struct haul_greeter *greeter,
                          struct haul_error *error)
{
    struct haul_hello hello;
    int fd;
    for (;;) {
        int rc = haul_greeter_next(greeter, HAUL_CONTROL_CHANNEL, -1, &fd, &hello, error);
        if (rc < 0) {
            return rc;
        }
        rc = check_control_hello(migration, &hello, fd, error);
        if (rc == 0) {
            rc = haul_frame_send(fd, HAUL_FRAME_WELCOME, NULL, 0, error);
        }
        if (rc == 0) {
            break;
        }
        haul_greeter_refuse(migration, fd, error);
    }
    bool adopts = hello.capabilities & HAUL_CAPABILITY_CPR_TRANSFER;
    migration->destination->has_streams = hello.capabilities & HAUL_CAPABILITY_STREAMS;
    migration->destination->channels = hello.channels;
    migration->destination->adopts = adopts;
    pthread_mutex_lock(&migration->lock);
    memcpy(migration->id, hello.id, sizeof migration->id);
    migration->stats.channels = hello.channels;
    migration->stats.mode = adopts ? HAUL_MODE_CPR_TRANSFER : HAUL_MODE_NORMAL;
    pthread_mutex_unlock(&migration->lock);
    struct haul_control_options options = {
        .fd = fd,
        .thread_name = "control",
        .threads = &migration->threads,
        .silence_timeout_ms = migration->limits.silence_timeout_ms,
        .takes_descriptors = adopts,
        .notify = notify,
        .opaque = migration,
    };
    struct haul_control *control;
    int rc = haul_control_new(&options, &control, error);
    if (rc == 0) {
        haul_migration_set_control(migration, control);
    }
    return rc;
}

/* The receivers' view of our memory, in the source's order of blocks. */
static int make_source_views(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    destination->source_views = calloc(migration->view_count, sizeof *destination->source_views);
    if (!destination->source_views) {
        return haul_error_set(error, ENOMEM, "no memory for the block table");
    }
    for (uint32_t i = 0; i < migration->view_count; i++) {
        destination->source_views[i] = migration->views[destination->order[i]];
    }
    return 0;
}

/* Behind the blocks come the disks. */
static int agree_on_disks(struct haul_migration *migration, struct haul_error *error)
{
    uint32_t *order = migration->destination->order + migration->block_count;
    struct haul_frame *frame = NULL;
    int rc = haul_control_expect(migration->control, HAUL_FRAME_DISKS, timeout_ms(migration), &frame, error);
    if (rc == 0) {
        rc = haul_disk_table_match(migration, frame->payload, frame->length, order, error);
    }
    free(frame);
    for (uint32_t i = 0; rc == 0 && i < haul_disks_count(migration); i++) {
        order[i] += migration->block_count;
    }
    return rc < 0 ? rc : haul_disks_open(migration, error);
}

static int agree_on_blocks(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_frame *frame = NULL;
    int rc = haul_control_expect(migration->control, HAUL_FRAME_BLOCKS, timeout_ms(migration), &frame, error);
    if (rc == 0) {
        rc = haul_block_table_match(migration, frame->payload, frame->length, migration->destination->order,
                                    error);
    }
    free(frame);
    if (rc == 0 && haul_disks_count(migration)) {
        rc = agree_on_disks(migration, error);
    }
    if (rc == 0) {
        rc = make_source_views(migration, error);
    }
    if (rc == 0 && haul_rdma_wanted(migration)) {
        rc = haul_rdma_register(migration, migration->destination->source_views, error);
    }
    uint64_t trial_ns = 0;
    if (rc == 0) {
        rc = haul_migration_try_step(migration, &trial_ns, error);
    }
    if (rc == 0) {
        uint64_t microseconds = (trial_ns + haul_disks_complete_ns(migration) + 999) / 1000;
        unsigned char payload[4];
        struct haul_writer writer;
        haul_writer_init(&writer, payload, sizeof payload);
        haul_writer_u32(&writer,
                        microseconds < HAUL_TRIAL_MOST_US ? (uint32_t)microseconds : HAUL_TRIAL_MOST_US);
        rc = haul_control_send(migration->control, HAUL_FRAME_BLOCKS_OK, payload, sizeof payload, error);
    }
    if (rc == 0 && migration->rma) {
        rc = haul_rdma_offer(migration, error);
    }
    if (rc == 0 && migration->destination->has_streams) {
        rc = haul_streams_accept(migration, error);
    }
    return rc;
}

/* ---- data connections ---- */

static int on_round(void *opaque, unsigned index, uint32_t round, struct haul_error *error)
{
    (void)index;
    struct haul_migration *migration = opaque;
    struct haul_barrier *barrier = &migration->destination->barrier;
    int rc = haul_barrier_arrive(barrier, round, error);
    if (rc != 1) {
        return rc;
    }
    uint64_t flush_ns;
    rc = haul_disks_flush(migration, &flush_ns, error);
    if (rc < 0) {
        return rc;
    }
    unsigned char payload[12];
    struct haul_writer writer;
    haul_writer_init(&writer, payload, sizeof payload);
    haul_writer_u32(&writer, round);
    if (haul_disks_count(migration)) {
        haul_writer_u64(&writer, flush_ns);
    }
    pthread_mutex_lock(&migration->lock);
    migration->stats.dirty_sync_count = round;
    migration->stats.disk.flush_ns = flush_ns > 0 ? flush_ns : migration->stats.disk.flush_ns;
    pthread_mutex_unlock(&migration->lock);
    haul_barrier_release(barrier);
    return haul_control_send(migration->control, HAUL_FRAME_ROUND_DONE, payload, haul_writer_length(&writer),
                             error);
}

static void on_failed(void *opaque, unsigned index, const struct haul_error *error)
{
    (void)index;
    struct haul_migration *migration = opaque;
    struct haul_destination *destination = migration->destination;
    pthread_mutex_lock(&migration->lock);
    if (!destination->receiver_failed) {
        destination->receiver_failed = true;
        destination->receiver_error = *error;
    }
    pthread_mutex_unlock(&migration->lock);
    haul_barrier_abort(&destination->barrier);
    haul_control_wake(migration->control);
}

static int start_receiver(struct haul_migration *migration, unsigned channel, int fd,
                          struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    struct haul_receiver_options options = {
        .index = channel,
        .fd = fd,
        .topology = migration->topology,
        .slot = destination->slots[channel],
        .blocks = destination->source_views,
        .block_count = migration->view_count,
        .threads = &migration->threads,
        .rma = migration->rma,
        .opaque = migration,
        .round = on_round,
        .failed = on_failed,
    };
    struct haul_receiver *receiver;
    int rc = haul_receiver_new(&options, &receiver, error);
    if (rc == 0) {
        pthread_mutex_lock(&migration->lock);
        destination->receivers[channel] = receiver;
        pthread_mutex_unlock(&migration->lock);
    }
    return rc;
}

/* Whether a connection is one that is still to come. */
static bool expects(const struct haul_migration *migration, const struct haul_hello *hello)
{
    const struct haul_destination *destination = migration->destination;
    if (memcmp(hello->id, migration->id, sizeof hello->id) != 0) {
        return false;
    }
    return hello->channel < destination->channels ? !destination->receivers[hello->channel]
                                                  : haul_streams_expects(migration, hello->channel);
}

/* Takes one data connection if it belongs to this migration; *taken tells. */
static int take_channel(struct haul_migration *migration, int fd, const struct haul_hello *hello, bool *taken,
                        struct haul_error *error)
{
    struct haul_error why = {0};
    *taken = false;
    int rc = 0;
    if (!expects(migration, hello)) {
        rc = haul_error_set(&why, EBUSY, "this destination is taken by another migration");
    }
    if (rc == 0) {
        rc = haul_frame_send(fd, HAUL_FRAME_WELCOME, NULL, 0, &why);
    }
    if (rc < 0) {
        haul_greeter_refuse(migration, fd, &why);
        return 0;
    }
    *taken = true;
    return hello->channel < migration->destination->channels
               ? start_receiver(migration, hello->channel, fd, error)
               : haul_streams_begin(migration, hello->channel, fd, error);
}

static int accept_channels(struct haul_migration *migration, struct haul_greeter *greeter,
                           struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    uint64_t bytes[HAUL_MEMORY_NODES_MAX] = {0};
    if (haul_topology_node_count(migration->topology) > 1) {
        haul_memory_by_node(migration, bytes); /* what is present already, or was populated by now */
    }
    struct haul_placement_request request = {
        .policy = migration->placement,
        .channels = destination->channels,
        .nic_node = haul_control_nic_node(migration->control, migration->topology),
        .memory_bytes_by_node = bytes,
        .memory_nodes = HAUL_MEMORY_NODES_MAX,
    };
    int rc = haul_placement_plan(migration->topology, &request, destination->slots, error);
    if (rc < 0) {
        return rc;
    }
    haul_barrier_init(&destination->barrier, destination->channels);
    pthread_mutex_lock(&migration->lock);
    destination->barrier_made = true; /* haul_cancel may abort it from here */
    pthread_mutex_unlock(&migration->lock);
    uint64_t deadline = haul_now_ns() + (uint64_t)timeout_ms(migration) * 1000000;
    unsigned wanted = destination->channels + haul_streams_count(migration->streams);
    unsigned connected = 0;
    while (connected < wanted) {
        int fd;
        bool taken = false;
        struct haul_hello hello;
        /* Short waits: a source that died shows on the control connection. */
        rc = haul_greeter_next(greeter, (uint16_t)connected, 100, &fd, &hello, error);
        if (rc == 0) {
            rc = take_channel(migration, fd, &hello, &taken, error);
        } else if (rc == -ETIMEDOUT) {
            rc = 0;
        }
        /* Also after each stranger: who keeps them coming must not keep us. */
        if (rc == 0 && !taken) {
            rc = haul_control_status(migration->control, error);
        }
        if (rc == 0 && !taken && haul_now_ns() > deadline) {
            rc = haul_error_set(error, ETIMEDOUT, "%u of %u channels connected in time", connected, wanted);
        }
        if (rc < 0) {
            return rc;
        }
        connected += taken;
    }
    return 0;
}

static int adopt_memory(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_destination *destination = migration->destination;
    /* What our own memory was populated for will not come. */
    haul_populate_stop(destination->populate);
    destination->populate = NULL;
    return haul_cpr_adopt(migration, destination->order, &destination->adopted, error);
}

void haul_destination_stop_listening(struct haul_migration *migration)
{
    haul_listener_stop(migration->listener);
}

int haul_destination_accept(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_greeter *greeter = haul_greeter_new(migration);
    int rc = greeter ? haul_rdma_prepare(migration, error)
                     : haul_error_set(error, ENOMEM, "no memory for those who connect");
    if (rc == 0) {
        rc = accept_control(migration, greeter, error);
    }
    if (rc == 0 && migration->destination->populate) {
        haul_populate_hold(migration->destination->populate);
    }
    if (rc == 0) {
        rc = agree_on_blocks(migration, error);
    }
    if (rc == 0) {
        rc = migration->destination->adopts ? adopt_memory(migration, error)
                                            : accept_channels(migration, greeter, error);
    }
    haul_destination_stop_listening(migration);
    haul_greeter_free(greeter);
    return rc;
}
