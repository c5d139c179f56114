/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/unpack.h"

#include "channels/bits.h"
#include "channels/placement/placement.h"
#include "channels/socket_io.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define WORD_BITS 64

int haul_unpack_init(struct haul_unpack *unpack, int node)
{
    unpack->payload = haul_placement_alloc(HAUL_PACKET_PAYLOAD_MAX, node);
    unpack->chunk = haul_placement_alloc(HAUL_CODEC_CHUNK, node);
    if (!unpack->payload || !unpack->chunk) {
        haul_unpack_cleanup(unpack);
        return -ENOMEM;
    }
    return 0;
}

void haul_unpack_cleanup(struct haul_unpack *unpack)
{
    if (unpack->payload) {
        haul_placement_free(unpack->payload, HAUL_PACKET_PAYLOAD_MAX);
    }
    if (unpack->chunk) {
        haul_placement_free(unpack->chunk, HAUL_CODEC_CHUNK);
    }
    unpack->payload = NULL;
    unpack->chunk = NULL;
}

int haul_unpack_io_error(int result, uint32_t round, struct haul_error *error)
{
    if (result == -HAUL_IO_END) {
        return haul_error_set(error, ECONNRESET, "receiving round %u: the peer closed the connection", round);
    }
    return haul_error_set(error, -result, "receiving round %u: %s", round, strerror(-result));
}

/* ---- bitmap words ---- */

static uint64_t last_word(const struct haul_run *run)
{
    return (run->first + run->count - 1) / WORD_BITS;
}

/*
 * Marks the pages as possibly non-zero. Relaxed, here and in haul_unpack_zero_run: receivers of one round
 * touch different bits of a word, and between rounds the barrier of haul_receiver_options.round orders
 * everything.
 */
static void mark_run(const struct haul_block_view *block, const struct haul_run *run)
{
    for (uint64_t word = run->first / WORD_BITS; word <= last_word(run); word++) {
        uint64_t mask = haul_bits_mask(word, run->first, run->first + run->count);
        if ((atomic_load_explicit(&block->maybe_nonzero[word], memory_order_relaxed) & mask) != mask) {
            atomic_fetch_or_explicit(&block->maybe_nonzero[word], mask, memory_order_relaxed);
        }
    }
}

/* Zeroes the pages of word `word` that `bits` names, a contiguous group at a time. */
static int clear_pages(const struct haul_block_view *block, uint64_t word, uint64_t bits,
                       struct haul_error *error)
{
    int result = 0;
    while (bits && result == 0) {
        unsigned first;
        unsigned count;
        bits = haul_bits_take_run(bits, WORD_BITS, &first, &count);
        uint64_t page = word * WORD_BITS + first;
        if (block->io) {
            result = block->io->zero(block->io_opaque, page, count, error);
        } else {
            memset(block->host + page * HAUL_PAGE_SIZE, 0, count * HAUL_PAGE_SIZE);
        }
    }
    return result;
}

int haul_unpack_zero_run(const struct haul_block_view *block, const struct haul_run *run,
                         struct haul_error *error)
{
    int result = 0;
    for (uint64_t word = run->first / WORD_BITS; result == 0 && word <= last_word(run); word++) {
        uint64_t mask = haul_bits_mask(word, run->first, run->first + run->count);
        if (block->maybe_nonzero) {
            mask &= atomic_load_explicit(&block->maybe_nonzero[word], memory_order_relaxed);
        }
        if (mask) {
            result = clear_pages(block, word, mask, error);
            if (block->maybe_nonzero) {
                atomic_fetch_and_explicit(&block->maybe_nonzero[word], ~mask, memory_order_relaxed);
            }
        }
    }
    return result;
}

int haul_unpack_zero_pages(const struct haul_unpack *unpack, const struct haul_block_view *block,
                           struct haul_error *error)
{
    const struct haul_packet *packet = &unpack->packet;
    int result = 0;
    for (uint32_t i = 0; result == 0 && i < packet->zero_runs; i++) {
        result = haul_unpack_zero_run(block, &packet->runs[packet->data_runs + i], error);
    }
    return result;
}

/* ---- payload ---- */

static unsigned char *page_at(const struct haul_block_view *block, uint64_t page)
{
    return block->host + page * HAUL_PAGE_SIZE;
}

/* Raw pages go from the socket straight into guest memory. */
static int receive_raw(struct haul_unpack *unpack, const struct haul_block_view *block, int fd,
                       struct haul_error *error)
{
    const struct haul_packet *packet = &unpack->packet;
    for (uint32_t i = 0; i < packet->data_runs; i++) {
        const struct haul_run *run = &packet->runs[i];
        unpack->parts[i] = (struct iovec){page_at(block, run->first), run->count * HAUL_PAGE_SIZE};
    }
    int result = haul_io_receive(fd, unpack->parts, packet->data_runs);
    return result < 0 ? haul_unpack_io_error(result, packet->round, error) : 0;
}

/* Raw pages of a disk go through scratch. */
static int receive_to_disk(struct haul_unpack *unpack, const struct haul_block_view *block, int fd,
                           struct haul_error *error)
{
    const struct haul_packet *packet = &unpack->packet;
    struct iovec part = {unpack->payload, packet->payload_bytes};
    int result = haul_io_receive(fd, &part, 1);
    if (result < 0) {
        return haul_unpack_io_error(result, packet->round, error);
    }
    const unsigned char *from = unpack->payload;
    for (uint32_t i = 0; result == 0 && i < packet->data_runs; i++) {
        const struct haul_run *run = &packet->runs[i];
        result = block->io->write(block->io_opaque, run->first, (uint32_t)run->count, from, error);
        from += run->count * HAUL_PAGE_SIZE;
    }
    return result;
}

/* Where the next decoded page goes. */
struct scatter {
    const struct haul_run *run;
    uint64_t offset; /* pages of the run already written */
};

static void step(struct scatter *to, uint64_t pages)
{
    to->offset += pages;
    if (to->offset == to->run->count) {
        to->run++;
        to->offset = 0;
    }
}

static int scatter_pages(struct scatter *to, const struct haul_block_view *block, const unsigned char *from,
                         uint32_t pages, struct haul_error *error)
{
    int result = 0;
    while (pages > 0 && result == 0) {
        uint64_t left = to->run->count - to->offset;
        uint32_t count = left < pages ? (uint32_t)left : pages;
        size_t bytes = count * HAUL_PAGE_SIZE;
        uint64_t first = to->run->first + to->offset;
        if (block->io) {
            result = block->io->write(block->io_opaque, first, count, from, error);
        } else {
            memcpy(page_at(block, first), from, bytes);
        }
        from += bytes;
        pages -= count;
        step(to, count);
    }
    return result;
}

static int malformed(const struct haul_unpack *unpack, const struct haul_codec *codec, uint32_t index,
                     struct haul_error *error)
{
    return haul_error_set(error, EPROTO, "receiving round %u: chunk %u is not valid %s", unpack->packet.round,
                          index, codec->name);
}

/* Decodes chunk `index`, `size` bytes at `from`, straight into guest memory where its pages are contiguous.
 */
static int decode_chunk(struct haul_unpack *unpack, const struct haul_codec *codec,
                        const struct haul_block_view *block, uint32_t index, const unsigned char *from,
                        struct scatter *to, struct haul_error *error)
{
    uint32_t pages = haul_packet_chunk_pages(&unpack->packet, index);
    size_t length = pages * HAUL_PAGE_SIZE;
    size_t size = unpack->packet.chunks[index];
    if (size == length) {
        return scatter_pages(to, block, from, pages, error); /* stored as it is */
    }
    unpack->compressed_pages += pages;
    unpack->compressed_bytes += size;
    if (!block->io && to->run->count - to->offset >= pages) {
        int result = codec->decode(from, size, page_at(block, to->run->first + to->offset), length);
        step(to, pages);
        return result < 0 ? malformed(unpack, codec, index, error) : 0;
    }
    return codec->decode(from, size, unpack->chunk, length) < 0
               ? malformed(unpack, codec, index, error)
               : scatter_pages(to, block, unpack->chunk, pages, error);
}

static int receive_compressed(struct haul_unpack *unpack, const struct haul_block_view *block, int fd,
                              struct haul_error *error)
{
    const struct haul_packet *packet = &unpack->packet;
    struct iovec part = {unpack->payload, packet->payload_bytes};
    int result = haul_io_receive(fd, &part, 1);
    if (result < 0) {
        return haul_unpack_io_error(result, packet->round, error);
    }
    if (haul_packet_payload_checksum(unpack->payload, packet->payload_bytes) != packet->payload_checksum) {
        return haul_error_set(error, EPROTO,
                              "receiving round %u: wrong payload checksum, the connection corrupts data",
                              packet->round);
    }
    const struct haul_codec *codec = haul_codec_by_id(packet->codec);
    struct scatter to = {.run = packet->runs};
    const unsigned char *from = unpack->payload;
    for (uint32_t i = 0; result == 0 && i < haul_packet_chunk_count(packet); i++) {
        result = decode_chunk(unpack, codec, block, i, from, &to, error);
        from += packet->chunks[i];
    }
    return result;
}

int haul_unpack_data(struct haul_unpack *unpack, const struct haul_block_view *block, int fd,
                     struct haul_error *error)
{
    const struct haul_packet *packet = &unpack->packet;
    unpack->compressed_pages = 0;
    unpack->compressed_bytes = 0;
    if (packet->placed && (!unpack->takes_placed || block->io)) {
        return haul_error_set(error, EPROTO,
                              "receiving round %u: pages that are said to be in memory already, without rdma",
                              packet->round);
    }
    for (uint32_t i = 0; i < packet->data_runs && block->maybe_nonzero; i++) {
        mark_run(block, &packet->runs[i]);
    }
    if (packet->data_pages == 0 || packet->placed) {
        return 0;
    }
    if (packet->codec != HAUL_CODEC_RAW) {
        return receive_compressed(unpack, block, fd, error);
    }
    return block->io ? receive_to_disk(unpack, block, fd, error) : receive_raw(unpack, block, fd, error);
}
