/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/pack.h"

#include "channels/live_read.h"
#include "channels/placement/placement.h"
#include "channels/socket_io.h"
#include "compress/zero.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
/* Neighbours that the kernel maps at one read fault of a shared page (its fault_around_bytes). */
#define FAULT_AROUND_PAGES 16

/* Pages ahead whose first line is fetched: nearly every zero test ends in it, and it is not in any cache. */
#define PREFETCH_PAGES 16

/* Of so many pages, so many words each, every page's a little further on. */
#define SAMPLE_PAGES 8
#define SAMPLE_WORDS 4
#define SAMPLE_WORD 8
#define SAMPLE_SHIFT 120
_Static_assert(SAMPLE_PAGES *SAMPLE_WORDS *SAMPLE_WORD == HAUL_CHOICE_SAMPLE, "a whole sample");

#define PATIENT_CHUNKS 3 /* encoded before giving up: the first finds the codec in no cache */

int haul_pack_init(struct haul_pack *pack, int mode, bool stages, int node)
{
    if (stages && !(pack->staged = haul_placement_alloc(HAUL_PACKET_PAYLOAD_MAX, node))) {
        return -ENOMEM;
    }
    if (mode == HAUL_CODEC_RAW) {
        return 0;
    }
    pack->copy = haul_placement_alloc(HAUL_CODEC_CHUNK, node);
    pack->payload = haul_placement_alloc(HAUL_PACKET_PAYLOAD_MAX, node);
    pack->codec_scratch_size = haul_codec_scratch_max();
    if (pack->codec_scratch_size > 0) {
        pack->codec_scratch = haul_placement_alloc(pack->codec_scratch_size, node);
    }
    if (!pack->copy || !pack->payload || (pack->codec_scratch_size > 0 && !pack->codec_scratch)) {
        haul_pack_cleanup(pack);
        return -ENOMEM;
    }
    return 0;
}

void haul_pack_cleanup(struct haul_pack *pack)
{
    if (pack->copy) {
        haul_placement_free(pack->copy, HAUL_CODEC_CHUNK);
    }
    if (pack->payload) {
        haul_placement_free(pack->payload, HAUL_PACKET_PAYLOAD_MAX);
    }
    if (pack->codec_scratch) {
        haul_placement_free(pack->codec_scratch, pack->codec_scratch_size);
    }
    if (pack->staged) {
        haul_placement_free(pack->staged, HAUL_PACKET_PAYLOAD_MAX);
    }
    pack->copy = NULL;
    pack->payload = NULL;
    pack->codec_scratch = NULL;
    pack->staged = NULL;
}

static void reset(struct haul_pack *pack, uint8_t type, uint32_t round, uint32_t block)
{
    struct haul_packet *packet = &pack->packet;
    packet->type = type;
    packet->placed = false;
    packet->codec = HAUL_CODEC_RAW;
    packet->round = round;
    packet->block = block;
    packet->data_runs = 0;
    packet->zero_runs = 0;
    packet->data_pages = 0;
    packet->zero_pages = 0;
    packet->payload_bytes = 0;
    packet->payload_checksum = 0;
    pack->compressed_pages = 0;
    pack->compressed_bytes = 0;
    pack->chunk_ns = 0;
    pack->gave_up = false;
}

void haul_pack_round(struct haul_pack *pack, uint32_t round)
{
    reset(pack, HAUL_PACKET_ROUND, round, 0);
}

/* The batch against its contract, so that a caller's mistake cannot become a packet that the peer refuses. */
static int check_batch(const struct haul_batch *batch, const struct haul_block_view *blocks,
                       uint32_t block_count, struct haul_error *error)
{
    if (batch->block >= block_count || batch->run_count > HAUL_BATCH_RUNS) {
        return haul_error_set(error, EINVAL, "batch with %u runs of block %u of %u", batch->run_count,
                              batch->block, block_count);
    }
    uint64_t pages = blocks[batch->block].pages;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < batch->run_count; i++) {
        const struct haul_run *run = &batch->runs[i];
        bool fits = run->count > 0 && run->first < pages && run->count <= pages - run->first;
        if (fits && batch->kind == HAUL_BATCH_KIND_PAGES) {
            sum += run->count;
            fits = run->count <= HAUL_BATCH_PAGES && sum <= HAUL_BATCH_PAGES;
        }
        if (!fits) {
            return haul_error_set(error, EINVAL, "batch with %llu pages from %llu of a block of %llu",
                                  (unsigned long long)run->count, (unsigned long long)run->first,
                                  (unsigned long long)pages);
        }
    }
    return 0;
}

/*
 * Maps pages that this process has not read yet. Until a page is mapped its prefetch is dropped, and every
 * zero test would wait for memory; one fault maps its neighbours too, so one read among them is enough.
 */
static void map_pages(const struct haul_batch *batch, const unsigned char *host)
{
    HAUL_LIVE_READ_BEGIN();
    for (uint32_t i = 0; i < batch->run_count; i++) {
        const volatile unsigned char *bytes = host + batch->runs[i].first * HAUL_PAGE_SIZE;
        for (uint64_t page = 0; page < batch->runs[i].count; page += FAULT_AROUND_PAGES) {
            (void)bytes[page * HAUL_PAGE_SIZE];
        }
    }
    HAUL_LIVE_READ_END();
}

/* Adds one page to the last run of `runs`, or as a new one. */
static void append(struct haul_run *runs, uint32_t *count, uint64_t page)
{
    if (*count > 0 && runs[*count - 1].first + runs[*count - 1].count == page) {
        runs[*count - 1].count++;
        return;
    }
    runs[*count].first = page;
    runs[*count].count = 1;
    ++*count;
}

static void sort_pages(struct haul_packet *packet, const struct haul_batch *batch, const unsigned char *host)
{
    struct haul_run zero[HAUL_BATCH_RUNS]; /* at most one run per page, as for the data runs */
    for (uint32_t i = 0; i < batch->run_count; i++) {
        uint64_t end = batch->runs[i].first + batch->runs[i].count;
        for (uint64_t page = batch->runs[i].first; page < end; page++) {
            if (page + PREFETCH_PAGES < end) {
                __builtin_prefetch(host + (page + PREFETCH_PAGES) * HAUL_PAGE_SIZE);
            }
            if (haul_is_zero(host + page * HAUL_PAGE_SIZE, HAUL_PAGE_SIZE)) {
                append(zero, &packet->zero_runs, page);
                packet->zero_pages++;
            } else {
                append(packet->runs, &packet->data_runs, page);
                packet->data_pages++;
            }
        }
    }
    memcpy(packet->runs + packet->data_runs, zero, packet->zero_runs * sizeof *zero);
}

/* Reads the pages of a disk one behind the other. */
static int stage(struct haul_pack *pack, const struct haul_batch *batch, const struct haul_block_view *block,
                 struct haul_error *error)
{
    unsigned char *to = pack->staged;
    int result = 0;
    for (uint32_t i = 0; result == 0 && i < batch->run_count; i++) {
        const struct haul_run *run = &batch->runs[i];
        result = block->io->read(block->io_opaque, run->first, (uint32_t)run->count, to, error);
        to += run->count * HAUL_PAGE_SIZE;
    }
    return result;
}

/* As sort_pages; closes the gaps that zero pages leave between the staged ones. */
static void sort_staged(struct haul_pack *pack, const struct haul_batch *batch)
{
    struct haul_packet *packet = &pack->packet;
    struct haul_run zero[HAUL_BATCH_RUNS];
    const unsigned char *from = pack->staged;
    unsigned char *to = pack->staged;
    for (uint32_t i = 0; i < batch->run_count; i++) {
        uint64_t end = batch->runs[i].first + batch->runs[i].count;
        for (uint64_t page = batch->runs[i].first; page < end; page++, from += HAUL_PAGE_SIZE) {
            if (haul_is_zero(from, HAUL_PAGE_SIZE)) {
                append(zero, &packet->zero_runs, page);
                packet->zero_pages++;
                continue;
            }
            if (to != from) {
                memcpy(to, from, HAUL_PAGE_SIZE);
            }
            to += HAUL_PAGE_SIZE;
            append(packet->runs, &packet->data_runs, page);
            packet->data_pages++;
        }
    }
    memcpy(packet->runs + packet->data_runs, zero, packet->zero_runs * sizeof *zero);
}

int haul_pack_sort(struct haul_pack *pack, const struct haul_batch *batch,
                   const struct haul_block_view *blocks, uint32_t block_count, struct haul_error *error)
{
    int result = check_batch(batch, blocks, block_count, error);
    if (result < 0) {
        return result;
    }
    struct haul_packet *packet = &pack->packet;
    reset(pack, HAUL_PACKET_PAGES, batch->round, batch->block);
    if (batch->kind == HAUL_BATCH_KIND_PAGES && blocks[batch->block].io) {
        result = stage(pack, batch, &blocks[batch->block], error);
        if (result == 0) {
            sort_staged(pack, batch);
        }
        return result;
    }
    if (batch->kind == HAUL_BATCH_KIND_PAGES) {
        if (batch->first_touch) {
            map_pages(batch, blocks[batch->block].host);
        }
        sort_pages(packet, batch, blocks[batch->block].host);
        return 0;
    }
    for (uint32_t i = 0; i < batch->run_count; i++) {
        packet->runs[i] = batch->runs[i];
        packet->zero_pages += batch->runs[i].count;
    }
    packet->zero_runs = batch->run_count;
    return 0;
}

void haul_pack_sample(const struct haul_pack *pack, const struct haul_block_view *block,
                      unsigned char sample[HAUL_CHOICE_SAMPLE])
{
    const struct haul_packet *packet = &pack->packet;
    const struct haul_run *run = packet->runs;
    uint32_t before = 0; /* pages of the runs before `run` */
    HAUL_LIVE_READ_BEGIN();
    for (uint32_t i = 0; i < SAMPLE_PAGES; i++) {
        uint32_t page = (uint32_t)((uint64_t)packet->data_pages * i / SAMPLE_PAGES);
        while (page - before >= run->count) {
            before += (uint32_t)run->count;
            run++;
        }
        const unsigned char *bytes = block->io ? pack->staged + page * HAUL_PAGE_SIZE
                                               : block->host + (run->first + page - before) * HAUL_PAGE_SIZE;
        for (uint32_t word = 0; word < SAMPLE_WORDS; word++) {
            memcpy(sample, bytes + word * (HAUL_PAGE_SIZE / SAMPLE_WORDS) + (size_t)i * SAMPLE_SHIFT,
                   SAMPLE_WORD);
            sample += SAMPLE_WORD;
        }
    }
    HAUL_LIVE_READ_END();
}

/* Where the next page to gather is. */
struct gather {
    const struct haul_run *run;
    uint64_t offset; /* pages of the run already taken */
};

/* Copies the next `pages` pages of the data runs together. */
static void gather_pages(struct gather *from, const unsigned char *host, unsigned char *to, uint32_t pages)
{
    while (pages > 0) {
        uint64_t left = from->run->count - from->offset;
        uint32_t count = left < pages ? (uint32_t)left : pages;
        size_t bytes = count * HAUL_PAGE_SIZE;
        HAUL_LIVE_READ_BEGIN();
        memcpy(to, host + (from->run->first + from->offset) * HAUL_PAGE_SIZE, bytes);
        HAUL_LIVE_READ_END();
        to += bytes;
        pages -= count;
        from->offset += count;
        if (from->offset == from->run->count) {
            from->run++;
            from->offset = 0;
        }
    }
}

/* Encodes one chunk to `to`; returns its length there. `host` NULL: the pages are staged, and nobody else
 * writes them. */
static uint32_t compress_chunk(struct haul_pack *pack, struct gather *from, const unsigned char *host,
                               const struct haul_codec *codec, uint32_t index, unsigned char *to)
{
    uint32_t pages = haul_packet_chunk_pages(&pack->packet, index);
    uint64_t begun_ns = haul_io_now_ns();
    size_t length = pages * HAUL_PAGE_SIZE;
    const unsigned char *stable = host ? pack->copy : pack->staged + index * HAUL_CODEC_CHUNK;
    if (host) {
        gather_pages(from, host, pack->copy, pages);
    }
    ptrdiff_t size = codec->encode(stable, length, to, length - 1, pack->codec_scratch);
    if (size > 0) {
        pack->compressed_pages += pages;
        pack->compressed_bytes += (uint64_t)size;
    } else {
        memcpy(to, stable, length);
        size = (ptrdiff_t)length;
    }
    double chunk_ns = (double)(haul_io_now_ns() - begun_ns) / (double)length;
    pack->chunk_ns = pack->chunk_ns == 0 || chunk_ns < pack->chunk_ns ? chunk_ns : pack->chunk_ns;
    return (uint32_t)size;
}

/* Returns false when it gave up. */
static bool compress_pages(struct haul_pack *pack, const unsigned char *host, const struct haul_codec *codec,
                           double patience_ns)
{
    struct haul_packet *packet = &pack->packet;
    struct gather from = {.run = packet->runs};
    unsigned char *to = pack->payload;
    packet->codec = (uint8_t)codec->id;
    for (uint32_t i = 0; i < haul_packet_chunk_count(packet); i++) {
        if (i == PATIENT_CHUNKS && patience_ns > 0 && pack->chunk_ns >= patience_ns) {
            packet->codec = HAUL_CODEC_RAW;
            pack->compressed_pages = 0;
            pack->compressed_bytes = 0;
            pack->gave_up = true;
            return false;
        }
        packet->chunks[i] = compress_chunk(pack, &from, host, codec, i, to);
        to += packet->chunks[i];
    }
    packet->payload_bytes = (uint32_t)(to - pack->payload);
    packet->payload_checksum = haul_packet_payload_checksum(pack->payload, packet->payload_bytes);
    return true;
}

void haul_pack_encode(struct haul_pack *pack, const struct haul_block_view *block,
                      const struct haul_codec *codec, double patience_ns)
{
    struct haul_packet *packet = &pack->packet;
    pack->part_count = 1;
    if (packet->data_pages > 0 && codec->id != HAUL_CODEC_RAW &&
        compress_pages(pack, block->host, codec, patience_ns)) {
        pack->parts[pack->part_count++] = (struct iovec){pack->payload, packet->payload_bytes};
    } else if (packet->data_pages > 0 && block->io) {
        packet->payload_bytes = (uint32_t)(packet->data_pages * HAUL_PAGE_SIZE);
        pack->parts[pack->part_count++] = (struct iovec){pack->staged, packet->payload_bytes};
    } else {
        packet->payload_bytes = (uint32_t)(packet->data_pages * HAUL_PAGE_SIZE);
        for (uint32_t i = 0; i < packet->data_runs; i++) {
            const struct haul_run *run = &packet->runs[i];
            pack->parts[pack->part_count++] =
                (struct iovec){block->host + run->first * HAUL_PAGE_SIZE, run->count * HAUL_PAGE_SIZE};
        }
    }
    size_t head = haul_packet_encode(packet, pack->head, sizeof pack->head);
    pack->parts[0] = (struct iovec){pack->head, head};
    pack->total_bytes = head + packet->payload_bytes;
}
