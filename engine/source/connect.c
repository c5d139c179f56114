/* SPDX-License-Identifier: Apache-2.0 */
/* The connections of a source: the control connection, what is agreed on it, and the channels. */
#include "engine/source/source.h"

#include "engine/block_table.h"
#include "engine/clock.h"
#include "engine/cpr.h"
#include "engine/disks.h"
#include "engine/file/source.h"
#include "engine/memory_nodes.h"
#include "engine/rdma.h"
#include "engine/streams.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_POLL_MS 50 /* how often a handshake looks at the control connection */
/* Channels that are being connected at a time: one takes ssh half a second, but of more than ten that have
 * not logged in yet sshd turns some away (its MaxStartups). */
#define CALLS_MAX 8

/* ---- the control connection ---- */

static int timeout_ms(const struct haul_migration *migration)
{
    return (int)migration->limits.connect_timeout_ms;
}

/*
 * Waits until there is something to read on `fd`. A destination that has given up accepts no more channels:
 * the control connection, when it is there already, says so long before the timeout.
 */
static int await_answer(struct haul_migration *migration, int fd, struct haul_error *error)
{
    uint64_t deadline = haul_now_ns() + (uint64_t)timeout_ms(migration) * 1000000;
    while (haul_now_ns() < deadline) {
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        if (poll(&poller, 1, ANSWER_POLL_MS) > 0) {
            return 0;
        }
        int rc = migration->control ? haul_control_status(migration->control, error) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    return haul_error_set(error, ETIMEDOUT, "no answer within %d ms; does a `haul receive` listen there?",
                          timeout_ms(migration));
}

static int say_hello(struct haul_migration *migration, int fd, uint16_t channel, struct haul_error *error)
{
    bool copies = migration->mode == HAUL_MODE_NORMAL;
    struct haul_hello hello = {
        .version = HAUL_WIRE_VERSION,
        .capabilities = (migration->options.verify ? HAUL_CAPABILITY_VERIFY : 0) |
                        (copies ? 0 : HAUL_CAPABILITY_CPR_TRANSFER) |
                        (haul_rdma_wanted(migration) ? HAUL_CAPABILITY_RDMA : 0) |
                        (haul_streams_count(migration->streams) > 0 ? HAUL_CAPABILITY_STREAMS : 0) |
                        (haul_disks_count(migration) ? HAUL_CAPABILITY_DISKS : 0),
        .channel = channel,
        .channels = (uint16_t)(copies ? migration->options.channels : 0),
        .page_size = HAUL_PAGE_SIZE,
    };
    memcpy(hello.id, migration->id, sizeof hello.id);
    unsigned char payload[1024];
    size_t length = haul_hello_encode(&hello, payload, sizeof payload);
    return haul_frame_send(fd, HAUL_FRAME_HELLO, payload, length, error);
}

/* Takes WELCOME in, or the reason against it. */
static int hear_welcome(struct haul_migration *migration, int fd, struct haul_error *error)
{
    unsigned char payload[1024];
    size_t length = 0;
    enum haul_frame_type type;
    int rc = await_answer(migration, fd, error);
    if (rc == 0) {
        rc = haul_frame_recv(fd, &type, payload, sizeof payload, &length, timeout_ms(migration), error);
    }
    if (rc == 0 && type == HAUL_FRAME_FAILED) {
        return haul_control_read_failure(payload, length, "the destination", error);
    }
    if (rc == 0 && type != HAUL_FRAME_WELCOME) {
        rc = haul_error_set(error, EPROTO, "%s came where WELCOME was due", haul_frame_name(type));
    }
    return rc;
}

/* Closes a connection whose handshake failed. */
static int give_up(struct haul_migration *migration, int *fd, struct haul_error *error)
{
    if (haul_migration_cancelled(migration)) {
        haul_error_set(error, ECANCELED, "cancelled"); /* which looked like a closed connection */
        haul_control_fail_fd(*fd, error);
    }
    close(*fd);
    *fd = -1;
    return haul_error_prefix(error, "handshake with %s: ", migration->uri);
}

/*
 * The first half of haul_source_connect: HELLO is said. A peer that has gone already, such as an ssh that
 * could not log in, is left to the second half, which reads what it said before and may try once more.
 */
static int call(struct haul_migration *migration, uint16_t channel, int *fd, struct haul_error *error)
{
    int rc = haul_connector_connect(migration->connector, channel, migration->cancel_fd, fd, error);
    if (rc < 0) {
        return rc;
    }
    rc = migration->mode == HAUL_MODE_CPR_TRANSFER ? haul_cpr_check_peer(*fd, error) : 0;
    if (rc == 0) {
        rc = say_hello(migration, *fd, channel, error);
    }
    return rc < 0 && rc != -EPIPE && rc != -ECONNRESET ? give_up(migration, fd, error) : 0;
}

static int await_welcome(struct haul_migration *migration, int *fd, struct haul_error *error)
{
    haul_migration_greet(migration, *fd);
    int rc = hear_welcome(migration, *fd, error);
    haul_migration_greet(migration, -1);
    return rc < 0 ? give_up(migration, fd, error) : 0;
}

/* The second half: WELCOME came. */
static int get_through(struct haul_migration *migration, uint16_t channel, int *fd, struct haul_error *error)
{
    int rc = await_welcome(migration, fd, error);
    if (rc < 0 && !haul_migration_cancelled(migration) &&
        haul_connector_again(migration->connector, channel)) {
        rc = call(migration, channel, fd, error);
        rc = rc < 0 ? rc : await_welcome(migration, fd, error);
    }
    return rc;
}

int haul_source_connect(struct haul_migration *migration, uint16_t channel, int *fd, struct haul_error *error)
{
    int rc = call(migration, channel, fd, error);
    return rc < 0 ? rc : get_through(migration, channel, fd, error);
}

static void notify(void *opaque)
{
    struct haul_migration *migration = opaque;
    haul_doorbell_ring(&migration->source->bell);
}

/* A machine that waits for a peer that is gone, or silent, waits for nothing: its hooks must come back. */
static void ended(void *opaque)
{
    struct haul_migration *migration = opaque;
    haul_streams_abort(migration->streams);
}

static int connect_control(struct haul_migration *migration, struct haul_error *error)
{
    int fd;
    int rc = haul_source_connect(migration, HAUL_CONTROL_CHANNEL, &fd, error);
    if (rc < 0) {
        return rc;
    }
    struct haul_control_options options = {
        .fd = fd,
        .thread_name = "return-path",
        .threads = &migration->threads,
        .silence_timeout_ms = migration->limits.silence_timeout_ms,
        .notify = notify,
        .ended = ended,
        .opaque = migration,
    };
    struct haul_control *control;
    rc = haul_control_new(&options, &control, error);
    if (rc == 0) {
        haul_migration_set_control(migration, control);
    }
    return rc;
}

static int offer_blocks(struct haul_migration *migration, struct haul_error *error)
{
    unsigned char *payload = malloc(HAUL_FRAME_MAX);
    if (!payload) {
        return haul_error_set(error, ENOMEM, "no memory for the block table");
    }
    size_t length = haul_block_table_encode(migration, payload, HAUL_FRAME_MAX);
    int rc = haul_control_send(migration->control, HAUL_FRAME_BLOCKS, payload, length, error);
    if (rc == 0 && haul_disks_count(migration)) {
        length = haul_disk_table_encode(migration, payload, HAUL_FRAME_MAX);
        rc = haul_control_send(migration->control, HAUL_FRAME_DISKS, payload, length, error);
    }
    struct haul_frame *frame = NULL;
    if (rc == 0) {
        rc = haul_rdma_prepare(migration, error);
    }
    if (rc == 0) {
        rc = haul_control_expect(migration->control, HAUL_FRAME_BLOCKS_OK, timeout_ms(migration), &frame,
                                 error);
    }
    if (rc == 0) {
        struct haul_cursor cursor;
        haul_cursor_init(&cursor, frame->payload, frame->length);
        uint32_t microseconds = haul_cursor_u32(&cursor);
        migration->source->estimate.receiving_ns = (uint64_t)microseconds * 1000;
        rc = haul_cursor_done(&cursor) && microseconds <= HAUL_TRIAL_MOST_US
                 ? 0
                 : haul_error_set(error, EPROTO, "the destination sent a malformed BLOCKS_OK");
    }
    free(frame);
    free(payload);
    return rc;
}

int haul_source_meet(struct haul_migration *migration, struct haul_error *error)
{
    int rc = connect_control(migration, error);
    if (rc == 0) {
        rc = offer_blocks(migration, error);
    }
    if (rc == 0 && haul_rdma_wanted(migration)) {
        rc = haul_rdma_take_offer(migration, error);
    }
    if (rc == 0) {
        rc = haul_streams_announce(migration, error);
    }
    return rc;
}

/* ---- channels ---- */

int haul_source_plan_placement(struct haul_migration *migration, struct haul_placement_slot *slots,
                               struct haul_error *error)
{
    uint64_t bytes[HAUL_MEMORY_NODES_MAX] = {0};
    migration->source->several_nodes = haul_topology_node_count(migration->topology) > 1;
    if (migration->source->several_nodes) {
        haul_memory_by_node(migration, bytes);
    }
    struct haul_placement_request request = {
        .policy = migration->placement,
        .channels = migration->options.channels,
        .nic_node = migration->source->file ? HAUL_NODE_UNKNOWN
                                            : haul_control_nic_node(migration->control, migration->topology),
        .memory_bytes_by_node = bytes,
        .memory_nodes = HAUL_MEMORY_NODES_MAX,
    };
    return haul_placement_plan(migration->topology, &request, slots, error);
}

/* Channels whose connections are being made; those of the first `open` are done. */
struct calls {
    unsigned open;
    unsigned made;
    int fds[HAUL_CHANNELS_MAX];
};

static void hang_up(struct calls *calls)
{
    for (; calls->open < calls->made; calls->open++) {
        close(calls->fds[calls->open]);
    }
}

/* A cancel, or the destination's reason if it gave one, else what was found here. */
static int channel_failed(struct haul_migration *migration, unsigned index, struct haul_error *error)
{
    int reason = haul_migration_reason(migration, error);
    return reason < 0 ? reason : haul_error_prefix(error, "channel %u: ", index);
}

/* Connects the next channel, while those after it are on their way. */
static int connect_next(struct haul_migration *migration, struct calls *calls, int *fd,
                        struct haul_error *error)
{
    while (calls->made < migration->options.channels && calls->made < calls->open + CALLS_MAX) {
        if (call(migration, (uint16_t)calls->made, &calls->fds[calls->made], error) < 0) {
            return channel_failed(migration, calls->made, error);
        }
        calls->made++;
    }
    unsigned index = calls->open++;
    *fd = calls->fds[index];
    return get_through(migration, (uint16_t)index, fd, error) < 0 ? channel_failed(migration, index, error)
                                                                  : 0;
}

/* Opens the next channel: what its sender will send through. */
static int open_carrier(struct haul_migration *migration, struct calls *calls, unsigned index, int node,
                        struct haul_carrier **carrier, struct haul_error *error)
{
    if (migration->source->file) {
        return haul_file_source_carrier(migration->source->file, node, carrier, error);
    }
    int fd;
    int rc = connect_next(migration, calls, &fd, error);
    if (rc < 0) {
        return rc;
    }
    if (migration->rma) {
        rc = haul_carrier_rma_new(fd, migration->rma, index, timeout_ms(migration), carrier, error);
        return rc < 0 ? haul_error_prefix(error, "channel %u: ", index) : 0;
    }
    return haul_carrier_stream_new(fd, carrier, error);
}

int haul_source_open_channels(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_source *source = migration->source;
    struct haul_placement_slot slots[HAUL_CHANNELS_MAX];
    struct calls calls = {0};
    int rc = haul_source_plan_placement(migration, slots, error);
    for (unsigned i = 0; rc == 0 && i < migration->options.channels; i++) {
        struct haul_carrier *carrier;
        rc = open_carrier(migration, &calls, i, slots[i].node, &carrier, error);
        if (rc < 0) {
            break;
        }
        struct haul_sender_options options = {
            .index = i,
            .carrier = carrier,
            .compress = migration->compress,
            .topology = migration->topology,
            .slot = slots[i],
            .blocks = migration->views,
            .block_count = migration->view_count,
            .completion_bell = &source->bell,
            .threads = &migration->threads,
        };
        struct haul_sender *sender;
        rc = haul_sender_new(&options, &sender, error);
        if (rc == 0) {
            pthread_mutex_lock(&migration->lock);
            source->senders[i] = sender;
            source->sender_count++;
            pthread_mutex_unlock(&migration->lock);
        }
    }
    hang_up(&calls);
    return rc;
}
