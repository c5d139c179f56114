/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/sender.h"

#include "channels/account.h"
#include "channels/pack.h"
#include "channels/ring.h"
#include "channels/socket_io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(HAUL_SENDER_DEPTH <= HAUL_RING_CAPACITY, "a ring holds every batch of the channel");

struct haul_sender {
    /* Written once, before the thread starts. */
    struct haul_sender_options options;
    pthread_t thread;

    /* The migration_thread's alone. */
    struct haul_batch *free_batches[HAUL_SENDER_DEPTH];
    unsigned free_count;
    unsigned in_flight;
    uint64_t pages_in_flight;

    /* Shared. */
    struct haul_ring out;      /* migration_thread -> sender */
    struct haul_ring back;     /* sender -> migration_thread */
    struct haul_doorbell bell; /* the sender sleeps on it */
    HAUL_ATOMIC(bool) stop;    /* end when `out` is empty */
    HAUL_ATOMIC(bool) aborted; /* send nothing more */
    HAUL_ATOMIC(int) failed;   /* positive errno; publishes `error` */
    struct haul_error error;   /* written once, before `failed` */
    struct haul_account account;

    /* The sender thread's alone. */
    struct haul_choice choice;
    struct haul_pack pack;

    struct haul_batch batches[HAUL_SENDER_DEPTH]; /* owner: see struct haul_batch */
};

static bool is_aborted(const struct haul_sender *sender)
{
    /* Acquire, pairs with the release in haul_sender_abort. */
    return atomic_load_explicit(&((struct haul_sender *)sender)->aborted, memory_order_acquire);
}

/* Ends the channel: the first failure is the one that counts. */
static void fail(struct haul_sender *sender, const struct haul_error *cause)
{
    if (is_aborted(sender)) {
        haul_error_set(&sender->error, ECANCELED, "channel %u to %s: aborted", sender->options.index,
                       sender->options.carrier->peer);
    } else {
        sender->error = *cause;
        haul_error_prefix(&sender->error, "channel %u to %s: ", sender->options.index,
                          sender->options.carrier->peer);
    }
    /* Release, pairs with the acquire in haul_sender_error: `error` is complete. */
    atomic_store_explicit(&sender->failed, sender->error.code, memory_order_release);
    haul_doorbell_ring(sender->options.completion_bell);
}

/* Has the pack carried and counts it. */
static int carry(struct haul_sender *sender, const struct haul_block_view *block, struct haul_error *error)
{
    struct haul_carrier *carrier = sender->options.carrier;
    struct haul_pack *pack = &sender->pack;
    uint64_t written = 0;
    int result = carrier->ops->send(carrier, pack, block, &written, error);
    if (result < 0) {
        return result;
    }
    struct haul_account *account = &sender->account;
    haul_account_add(&account->bytes, written);
    haul_account_add(&account->zero_pages, pack->packet.zero_pages);
    haul_account_add(&account->raw_pages, pack->packet.data_pages - pack->compressed_pages);
    haul_account_add(&account->compressed_pages, pack->compressed_pages);
    haul_account_add(&account->compressed_bytes, pack->compressed_bytes);
    if (block && block->io) {
        haul_account_disk(account, written, pack->packet.data_pages, pack->packet.zero_pages);
    }
    return 0;
}

static const struct haul_codec *pick_codec(struct haul_sender *sender, const struct haul_block_view *block)
{
    if (sender->options.compress != HAUL_COMPRESS_AUTO) {
        return haul_choice_pick(&sender->choice, NULL, 0);
    }
    unsigned char sample[HAUL_CHOICE_SAMPLE];
    haul_pack_sample(&sender->pack, block, sample);
    return haul_choice_pick(&sender->choice, sample, sizeof sample);
}

static int send_pages(struct haul_sender *sender, const struct haul_batch *batch, uint64_t started_ns,
                      struct haul_error *error)
{
    struct haul_pack *pack = &sender->pack;
    int result = haul_pack_sort(pack, batch, sender->options.blocks, sender->options.block_count, error);
    if (result < 0 || pack->packet.data_pages + pack->packet.zero_pages == 0) {
        return result;
    }
    const struct haul_block_view *block = &sender->options.blocks[batch->block];
    const struct haul_codec *codec = haul_codec_by_id(HAUL_CODEC_RAW);
    uint64_t sorted_ns = haul_io_now_ns();
    bool has_data = pack->packet.data_pages > 0;
    if (has_data) {
        codec = pick_codec(sender, block);
    }
    haul_pack_encode(pack, block, codec, haul_choice_patience(&sender->choice));
    uint64_t encoded_ns = haul_io_now_ns();
    haul_account_add(&sender->account.encode_ns, encoded_ns - started_ns);
    result = carry(sender, block, error);
    if (result == 0 && has_data) {
        struct haul_choice_cost cost = {.input_bytes = pack->packet.data_pages * HAUL_PAGE_SIZE,
                                        .wire_bytes = pack->packet.payload_bytes,
                                        .encode_ns = encoded_ns - sorted_ns,
                                        .send_ns = haul_io_now_ns() - encoded_ns,
                                        .chunk_ns = pack->chunk_ns,
                                        .gave_up = pack->gave_up};
        haul_choice_learn(&sender->choice, codec, &cost);
    }
    return result;
}

static int send_batch(struct haul_sender *sender, const struct haul_batch *batch, uint64_t started_ns,
                      struct haul_error *error)
{
    if (batch->kind != HAUL_BATCH_KIND_ROUND) {
        return send_pages(sender, batch, started_ns, error);
    }
    haul_pack_round(&sender->pack, batch->round);
    haul_pack_encode(&sender->pack, NULL, haul_codec_by_id(HAUL_CODEC_RAW), 0);
    return carry(sender, NULL, error);
}

static void handle_batch(struct haul_sender *sender, struct haul_batch *batch)
{
    uint64_t started_ns = haul_io_now_ns();
    haul_account_turn(&sender->account, true, started_ns);
    /* Relaxed: only this thread sets it. */
    if (atomic_load_explicit(&sender->failed, memory_order_relaxed) == 0) {
        struct haul_error error = {.code = ECANCELED};
        if (is_aborted(sender) || send_batch(sender, batch, started_ns, &error) < 0) {
            fail(sender, &error);
        }
    }
    haul_account_add(&sender->account.batches, 1);
    haul_account_turn(&sender->account, false, haul_io_now_ns());
    bool mark = batch->kind == HAUL_BATCH_KIND_ROUND;
    haul_ring_push(&sender->back, batch); /* never full: it has room for every batch there is */
    if (mark || haul_ring_left(&sender->out) <= HAUL_SENDER_LOW) {
        haul_doorbell_ring(sender->options.completion_bell);
    }
}

/* No batch is there: brings what the carrier has under way to its end. */
static void rest(struct haul_sender *sender)
{
    struct haul_carrier *carrier = sender->options.carrier;
    struct haul_error error = {.code = ECANCELED};
    /* Relaxed: only this thread sets it. */
    if (!carrier->ops->rest || atomic_load_explicit(&sender->failed, memory_order_relaxed) != 0) {
        return;
    }
    haul_account_turn(&sender->account, true, haul_io_now_ns());
    if (is_aborted(sender) || carrier->ops->rest(carrier, &sender->pack, &error) < 0) {
        fail(sender, &error);
    }
    haul_account_turn(&sender->account, false, haul_io_now_ns());
}

/* What comes before the first batch. */
static int prepare(struct haul_sender *sender, struct haul_error *error)
{
    struct haul_carrier *carrier = sender->options.carrier;
    int result = 0;
    if (sender->options.topology) {
        result = haul_placement_apply(sender->options.topology, &sender->options.slot, error);
    }
    if (result == 0 && carrier->ops->prepare) {
        result = carrier->ops->prepare(carrier, error);
    }
    return result;
}

/* Takes batches until it is told to end and none is left. */
static void serve(struct haul_sender *sender)
{
    struct haul_error error;
    haul_account_thread(&sender->account);
    if (prepare(sender, &error) < 0) {
        fail(sender, &error);
    }
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(&sender->bell);
        /* Acquire, pairs with the release in haul_sender_free. Before the pop, so that no batch is
         * overlooked. */
        bool stop = atomic_load_explicit(&sender->stop, memory_order_acquire);
        struct haul_batch *batch = haul_ring_pop(&sender->out);
        if (batch) {
            handle_batch(sender, batch);
        } else if (stop) {
            return;
        } else {
            rest(sender);
            haul_doorbell_wait(&sender->bell, ticket, UINT64_MAX);
        }
    }
}

static void *run(void *opaque)
{
    struct haul_sender *sender = opaque;
    struct haul_thread_entry entry;
    haul_thread_enter(sender->options.threads, &entry, "multifdsend", (int)sender->options.index);
    serve(sender);
    haul_thread_leave(sender->options.threads, &entry);
    return NULL;
}

int haul_sender_new(const struct haul_sender_options *options, struct haul_sender **sender,
                    struct haul_error *error)
{
    int node = haul_placement_node(options->topology, &options->slot);
    int result = -ENOMEM;
    struct haul_sender *made = haul_placement_alloc(sizeof *made, node);
    if (!made) {
        goto close_carrier;
    }
    made->options = *options;
    haul_ring_init(&made->out);
    haul_ring_init(&made->back);
    haul_doorbell_init(&made->bell);
    haul_account_start(&made->account);
    haul_choice_init(&made->choice, options->compress);
    for (unsigned i = 0; i < HAUL_SENDER_DEPTH; i++) {
        made->free_batches[made->free_count++] = &made->batches[i];
    }
    bool stages = false;
    for (uint32_t i = 0; i < options->block_count; i++) {
        stages = stages || options->blocks[i].io;
    }
    result = haul_pack_init(&made->pack, options->compress, stages, node);
    if (result < 0) {
        goto free_sender;
    }
    result = haul_thread_start(&made->thread, run, made);
    if (result < 0) {
        goto free_pack;
    }
    *sender = made;
    return 0;

free_pack:
    haul_pack_cleanup(&made->pack);
free_sender:
    haul_placement_free(made, sizeof *made);
close_carrier:
    options->carrier->ops->close(options->carrier);
    return haul_error_set(error, -result, "channel %u: starting its sender: %s", options->index,
                          strerror(-result));
}

/* Takes back what the thread completed. */
static void collect(struct haul_sender *sender)
{
    struct haul_batch *batch;
    while ((batch = haul_ring_pop(&sender->back))) {
        sender->free_batches[sender->free_count++] = batch;
        sender->in_flight--;
        sender->pages_in_flight -= batch->page_count;
    }
}

struct haul_batch *haul_sender_acquire(struct haul_sender *sender)
{
    collect(sender);
    return sender->free_count > 0 ? sender->free_batches[--sender->free_count] : NULL;
}

void haul_sender_submit(struct haul_sender *sender, struct haul_batch *batch)
{
    sender->in_flight++;
    sender->pages_in_flight += batch->page_count;
    haul_ring_push(&sender->out, batch); /* never full: it has room for every batch there is */
    haul_doorbell_ring(&sender->bell);
}

unsigned haul_sender_in_flight(struct haul_sender *sender)
{
    collect(sender);
    return sender->in_flight;
}

uint64_t haul_sender_pages_in_flight(struct haul_sender *sender)
{
    collect(sender);
    return sender->pages_in_flight;
}

int haul_sender_node(const struct haul_sender *sender)
{
    return haul_placement_node(sender->options.topology, &sender->options.slot);
}

void haul_sender_keep_short(struct haul_sender *sender, uint32_t bytes)
{
    struct haul_carrier *carrier = sender->options.carrier;
    if (carrier->ops->keep_short) {
        carrier->ops->keep_short(carrier, bytes);
    }
}

uint64_t haul_sender_link_busy_ns(const struct haul_sender *sender)
{
    struct haul_carrier *carrier = sender->options.carrier;
    return carrier->ops->link_busy_ns ? carrier->ops->link_busy_ns(carrier) : 0;
}

void haul_sender_counters(const struct haul_sender *sender, struct haul_channel_counters *counters)
{
    /* Counting is no change that a caller can see, but the account notes the most it ever reported. */
    struct haul_account *account = &((struct haul_sender *)sender)->account;
    haul_account_read(account, sender->options.carrier, counters);
    counters->node = haul_sender_node(sender);
}

int haul_sender_error(const struct haul_sender *sender, struct haul_error *error)
{
    /* Acquire, pairs with the release in fail. */
    int code = atomic_load_explicit(&((struct haul_sender *)sender)->failed, memory_order_acquire);
    if (code != 0 && error) {
        *error = sender->error;
    }
    return -code;
}

void haul_sender_abort(struct haul_sender *sender)
{
    /* Release, pairs with the acquire in is_aborted; before the carrier's, so that its error counts as
     * ours. */
    atomic_store_explicit(&sender->aborted, true, memory_order_release);
    sender->options.carrier->ops->abort(sender->options.carrier);
    haul_doorbell_ring(&sender->bell);
}

void haul_sender_free(struct haul_sender *sender)
{
    if (!sender) {
        return;
    }
    /* Release, pairs with the acquire in serve: every batch was submitted before. */
    atomic_store_explicit(&sender->stop, true, memory_order_release);
    haul_doorbell_ring(&sender->bell);
    pthread_join(sender->thread, NULL);
    sender->options.carrier->ops->close(sender->options.carrier);
    haul_pack_cleanup(&sender->pack);
    haul_placement_free(sender, sizeof *sender);
}
