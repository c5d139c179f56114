/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/receiver.h"

#include "channels/account.h"
#include "channels/packet.h"
#include "channels/rma/server.h"
#include "channels/socket_io.h"
#include "channels/transport/transport.h"
#include "channels/unpack.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct haul_receiver {
    /* Written once, before the thread starts. */
    struct haul_receiver_options options;
    char peer[128];
    pthread_t thread;
    struct haul_rma_server *server; /* rdma: else NULL */

    bool joined; /* haul_receiver_stop's */

    /* Shared. */
    HAUL_ATOMIC(bool) aborted; /* nothing that happens from now on is a failure */
    struct haul_account account;

    /* The receiver thread's alone. */
    uint32_t round; /* the one that packets belong to now */
    unsigned char header[HAUL_PACKET_HEADER_SIZE];
    unsigned char table[HAUL_PACKET_TABLE_MAX];
    struct haul_unpack unpack;
};

static int receive(struct haul_receiver *receiver, void *bytes, size_t length, struct haul_error *error)
{
    struct iovec part = {bytes, length};
    int result = haul_io_receive(receiver->options.fd, &part, 1);
    return result < 0 ? haul_unpack_io_error(result, receiver->round, error) : 0;
}

/* Reads header and table, and checks all of them. Idle until the header is there, busy afterwards. */
static int receive_head(struct haul_receiver *receiver, struct haul_error *error)
{
    struct haul_packet *packet = &receiver->unpack.packet;
    int result = receive(receiver, receiver->header, sizeof receiver->header, error);
    if (result < 0) {
        return result;
    }
    haul_account_turn(&receiver->account, true, haul_io_now_ns());
    result = haul_packet_decode_header(receiver->header, packet, error);
    if (result < 0) {
        return haul_error_prefix(error, "receiving round %u: ", receiver->round);
    }
    uint64_t block_pages = 0;
    if (packet->type == HAUL_PACKET_PAGES) {
        if (packet->block >= receiver->options.block_count) {
            return haul_error_set(error, EPROTO, "receiving round %u: packet for block %u of %u",
                                  receiver->round, packet->block, receiver->options.block_count);
        }
        block_pages = receiver->options.blocks[packet->block].pages;
    }
    if (packet->round != receiver->round) {
        return haul_error_set(error, EPROTO, "receiving round %u: packet of round %u", receiver->round,
                              packet->round);
    }
    size_t length = haul_packet_table_size(packet);
    result = receive(receiver, receiver->table, length, error);
    if (result < 0) {
        return result;
    }
    result = haul_packet_decode_table(receiver->header, receiver->table, length, block_pages, packet, error);
    return result < 0 ? haul_error_prefix(error, "receiving round %u: ", receiver->round) : 0;
}

/* `block` NULL: a mark. */
static void count(struct haul_receiver *receiver, const struct haul_block_view *block)
{
    const struct haul_unpack *unpack = &receiver->unpack;
    const struct haul_packet *packet = &unpack->packet;
    struct haul_account *account = &receiver->account;
    uint64_t bytes = HAUL_PACKET_HEADER_SIZE + haul_packet_table_size(packet) + packet->payload_bytes;
    haul_account_add(&account->bytes, bytes);
    haul_account_add(&account->zero_pages, packet->zero_pages);
    haul_account_add(&account->raw_pages, packet->data_pages - unpack->compressed_pages);
    haul_account_add(&account->compressed_pages, unpack->compressed_pages);
    haul_account_add(&account->compressed_bytes, unpack->compressed_bytes);
    haul_account_add(&account->batches, 1);
    if (block && block->io) {
        haul_account_disk(account, bytes, packet->data_pages, packet->zero_pages);
    }
}

static int receive_packet(struct haul_receiver *receiver, struct haul_error *error)
{
    struct haul_unpack *unpack = &receiver->unpack;
    int result = receive_head(receiver, error);
    if (result < 0) {
        return result;
    }
    unpack->compressed_pages = 0;
    unpack->compressed_bytes = 0;
    if (unpack->packet.type == HAUL_PACKET_ROUND) {
        count(receiver, NULL);
        /* Waiting for the other channels is not this one's work. */
        haul_account_turn(&receiver->account, false, haul_io_now_ns());
        result = receiver->options.round(receiver->options.opaque, receiver->options.index, receiver->round,
                                         error);
        receiver->round++;
        return result;
    }
    const struct haul_block_view *block = &receiver->options.blocks[unpack->packet.block];
    result = haul_unpack_zero_pages(unpack, block, error);
    if (result == 0) {
        result = haul_unpack_data(unpack, block, receiver->options.fd, error);
    }
    if (result == 0) {
        count(receiver, block);
        haul_account_turn(&receiver->account, false, haul_io_now_ns());
    }
    return result;
}

/* Takes packets until the channel ends, and says why it did. */
static void serve(struct haul_receiver *receiver)
{
    const struct haul_receiver_options *options = &receiver->options;
    struct haul_error error = {.code = EIO, .message = "the round barrier failed"};
    int result = 0;
    haul_account_thread(&receiver->account);
    if (options->topology) {
        result = haul_placement_apply(options->topology, &options->slot, &error);
    }
    while (result == 0) {
        result = receive_packet(receiver, &error);
    }
    haul_account_turn(&receiver->account, false, haul_io_now_ns());
    if (receiver->server) {
        haul_rma_server_failure(receiver->server, &error); /* which closed the socket: that is the reason */
    }
    /* Nobody reads any more: a peer that is blocked in a send must learn it now, not by its silence limit. */
    shutdown(options->fd, SHUT_RDWR);
    /* Acquire, pairs with the release in haul_receiver_abort. */
    if (!atomic_load_explicit(&receiver->aborted, memory_order_acquire) && options->failed) {
        haul_error_prefix(&error, "channel %u from %s: ", options->index, receiver->peer);
        options->failed(options->opaque, options->index, &error);
    }
}

static void *run(void *opaque)
{
    struct haul_receiver *receiver = opaque;
    struct haul_thread_entry entry;
    haul_thread_enter(receiver->options.threads, &entry, "multifdrecv", (int)receiver->options.index);
    serve(receiver);
    haul_thread_leave(receiver->options.threads, &entry);
    return NULL;
}

int haul_receiver_new(const struct haul_receiver_options *options, struct haul_receiver **receiver,
                      struct haul_error *error)
{
    int node = haul_placement_node(options->topology, &options->slot);
    int result = -ENOMEM;
    struct haul_error why = {0};
    struct haul_receiver *made = haul_placement_alloc(sizeof *made, node);
    if (!made) {
        goto close_socket;
    }
    made->options = *options;
    made->round = 1;
    haul_peer_name(options->fd, made->peer, sizeof made->peer);
    haul_account_start(&made->account);
    result = haul_unpack_init(&made->unpack, node);
    if (result < 0) {
        goto free_receiver;
    }
    made->unpack.takes_placed = options->rma;
    if (options->rma) {
        result = haul_rma_server_new(options->rma, options->index, options->fd, options->threads,
                                     &made->server, &why);
        if (result < 0) {
            goto free_unpack;
        }
    }
    result = haul_thread_start(&made->thread, run, made);
    if (result < 0) {
        goto free_server;
    }
    *receiver = made;
    return 0;

free_server:
    haul_rma_server_free(made->server);
free_unpack:
    haul_unpack_cleanup(&made->unpack);
free_receiver:
    haul_placement_free(made, sizeof *made);
close_socket:
    close(options->fd);
    return haul_error_set(error, -result, "channel %u: starting its receiver: %s", options->index,
                          why.code ? why.message : strerror(-result));
}

void haul_receiver_counters(const struct haul_receiver *receiver, struct haul_channel_counters *counters)
{
    /* Counting is no change that a caller can see, but the account notes the most it ever reported. */
    haul_account_read(&((struct haul_receiver *)receiver)->account, NULL, counters);
    counters->node = haul_placement_node(receiver->options.topology, &receiver->options.slot);
}

void haul_receiver_abort(struct haul_receiver *receiver)
{
    /* Release, pairs with the acquire in serve; before the shutdown, so that its error counts as ours. */
    atomic_store_explicit(&receiver->aborted, true, memory_order_release);
    shutdown(receiver->options.fd, SHUT_RDWR);
    if (receiver->server) {
        haul_rma_server_abort(receiver->server);
    }
}

void haul_receiver_stop(struct haul_receiver *receiver)
{
    if (receiver->joined) {
        return;
    }
    haul_receiver_abort(receiver);
    pthread_join(receiver->thread, NULL);
    haul_rma_server_stop(receiver->server);
    receiver->joined = true;
}

void haul_receiver_free(struct haul_receiver *receiver)
{
    if (!receiver) {
        return;
    }
    haul_receiver_stop(receiver);
    haul_rma_server_free(receiver->server);
    close(receiver->options.fd);
    haul_unpack_cleanup(&receiver->unpack);
    haul_placement_free(receiver, sizeof *receiver);
}
