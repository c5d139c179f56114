/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/packet.h"

#include "channels/wire.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#define PACKET_MAGIC 0x504c4148u /* "HALP" as bytes: HAuL Packet */
#define FLAG_PLACED 1u
#define SUMMED 56 /* header bytes before the checksum */

_Static_assert(HAUL_CODEC_CHUNK % HAUL_PAGE_SIZE == 0, "a chunk is whole pages");
_Static_assert(HAUL_BATCH_PAGES % HAUL_PACKET_CHUNK_PAGES == 0, "a full batch is whole chunks");

uint32_t haul_packet_chunk_count(const struct haul_packet *packet)
{
    if (packet->codec == HAUL_CODEC_RAW) {
        return 0;
    }
    return (uint32_t)((packet->data_pages + HAUL_PACKET_CHUNK_PAGES - 1) / HAUL_PACKET_CHUNK_PAGES);
}

uint32_t haul_packet_chunk_pages(const struct haul_packet *packet, uint32_t index)
{
    uint32_t left = packet->data_pages - index * (uint32_t)HAUL_PACKET_CHUNK_PAGES;
    return left < HAUL_PACKET_CHUNK_PAGES ? left : (uint32_t)HAUL_PACKET_CHUNK_PAGES;
}

size_t haul_packet_table_size(const struct haul_packet *packet)
{
    return (size_t)(packet->data_runs + packet->zero_runs) * HAUL_PACKET_RUN_SIZE +
           haul_packet_chunk_count(packet) * sizeof(uint32_t);
}

static uint64_t head_checksum(const void *header, const void *table, size_t length)
{
    return XXH3_64bits_withSeed(table, length, XXH3_64bits(header, SUMMED));
}

void haul_packet_seal(void *header, const void *table, size_t length)
{
    struct haul_writer writer;
    haul_writer_init(&writer, (unsigned char *)header + SUMMED, HAUL_PACKET_HEADER_SIZE - SUMMED);
    haul_writer_u64(&writer, head_checksum(header, table, length));
}

uint64_t haul_packet_payload_checksum(const void *payload, size_t length)
{
    return XXH3_64bits(payload, length);
}

size_t haul_packet_encode(const struct haul_packet *packet, void *bytes, size_t capacity)
{
    struct haul_writer writer;
    haul_writer_init(&writer, bytes, capacity);
    haul_writer_u32(&writer, PACKET_MAGIC);
    haul_writer_u8(&writer, packet->type);
    haul_writer_u8(&writer, packet->placed ? FLAG_PLACED : 0);
    haul_writer_u8(&writer, packet->codec);
    haul_writer_u8(&writer, 0);
    haul_writer_u32(&writer, packet->round);
    haul_writer_u32(&writer, packet->block);
    haul_writer_u32(&writer, packet->data_runs);
    haul_writer_u32(&writer, packet->zero_runs);
    haul_writer_u32(&writer, packet->data_pages);
    haul_writer_u32(&writer, packet->payload_bytes);
    haul_writer_u64(&writer, packet->zero_pages);
    haul_writer_u64(&writer, packet->payload_checksum);
    haul_writer_u64(&writer, 0); /* reserved */
    haul_writer_u64(&writer, 0); /* the checksum, below */
    for (uint32_t i = 0; i < packet->data_runs + packet->zero_runs; i++) {
        haul_writer_u64(&writer, packet->runs[i].first);
        haul_writer_u64(&writer, packet->runs[i].count);
    }
    for (uint32_t i = 0; i < haul_packet_chunk_count(packet); i++) {
        haul_writer_u32(&writer, packet->chunks[i]);
    }
    size_t length = haul_writer_length(&writer);
    if (length > 0) {
        haul_packet_seal(bytes, (unsigned char *)bytes + HAUL_PACKET_HEADER_SIZE,
                         length - HAUL_PACKET_HEADER_SIZE);
    }
    return length;
}

/* Counts against their caps, and against each other. */
static int check_counts(const struct haul_packet *packet, struct haul_error *error)
{
    /* Each cap first, so that the sums below cannot overflow. */
    if (packet->data_runs > HAUL_BATCH_RUNS || packet->zero_runs > HAUL_BATCH_RUNS ||
        packet->data_runs + packet->zero_runs > HAUL_BATCH_RUNS) {
        return haul_error_set(error, EPROTO,
                              "packet with %u data runs and %u zero runs, allowed are %d together",
                              packet->data_runs, packet->zero_runs, HAUL_BATCH_RUNS);
    }
    if (packet->data_pages > HAUL_BATCH_PAGES) {
        return haul_error_set(error, EPROTO, "packet with %u pages, allowed are %d", packet->data_pages,
                              HAUL_BATCH_PAGES);
    }
    if (packet->data_pages < packet->data_runs || (packet->data_runs == 0 && packet->data_pages > 0)) {
        return haul_error_set(error, EPROTO, "packet with %u pages in %u runs", packet->data_pages,
                              packet->data_runs);
    }
    if (packet->zero_pages < packet->zero_runs || (packet->zero_runs == 0 && packet->zero_pages > 0)) {
        return haul_error_set(error, EPROTO, "packet with %llu zero pages in %u runs",
                              (unsigned long long)packet->zero_pages, packet->zero_runs);
    }
    size_t pages_bytes = packet->data_pages * HAUL_PAGE_SIZE;
    if (packet->codec == HAUL_CODEC_RAW ? packet->payload_bytes != pages_bytes
                                        : packet->payload_bytes > pages_bytes) {
        return haul_error_set(error, EPROTO, "packet with %u payload bytes for %u pages",
                              packet->payload_bytes, packet->data_pages);
    }
    return 0;
}

static int check_header(const struct haul_packet *packet, uint32_t magic, unsigned flags, unsigned reserved,
                        struct haul_error *error)
{
    if (magic != PACKET_MAGIC) {
        return haul_error_set(error, EPROTO, "not a packet (magic 0x%08x)", magic);
    }
    if (packet->type != HAUL_PACKET_PAGES && packet->type != HAUL_PACKET_ROUND) {
        return haul_error_set(error, EPROTO, "unknown packet type %u", packet->type);
    }
    if (flags & ~FLAG_PLACED || reserved != 0) {
        return haul_error_set(error, EPROTO, "packet with unknown flags 0x%x", flags | reserved);
    }
    if (!haul_codec_by_id(packet->codec)) {
        return haul_error_set(error, EPROTO, "packet with unknown codec %u", packet->codec);
    }
    if (packet->round == 0) {
        return haul_error_set(error, EPROTO, "packet of round 0; rounds count from 1");
    }
    if (packet->codec == HAUL_CODEC_RAW && packet->payload_checksum != 0) {
        return haul_error_set(error, EPROTO, "raw packet with a payload checksum");
    }
    if (packet->codec != HAUL_CODEC_RAW && packet->data_pages == 0) {
        return haul_error_set(error, EPROTO, "packet with codec %u and no pages", packet->codec);
    }
    if (flags & FLAG_PLACED && (packet->codec != HAUL_CODEC_RAW || packet->data_pages == 0)) {
        return haul_error_set(error, EPROTO, "packet with codec %u and %u pages, said to be placed",
                              packet->codec, packet->data_pages);
    }
    if (packet->type == HAUL_PACKET_ROUND &&
        (packet->data_runs || packet->zero_runs || packet->codec != HAUL_CODEC_RAW || packet->block)) {
        return haul_error_set(error, EPROTO, "round mark with pages in it");
    }
    if (packet->type == HAUL_PACKET_PAGES && packet->data_runs == 0 && packet->zero_runs == 0) {
        return haul_error_set(error, EPROTO, "packet without pages");
    }
    return check_counts(packet, error);
}

int haul_packet_decode_header(const void *bytes, struct haul_packet *packet, struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, bytes, SUMMED);
    uint32_t magic = haul_cursor_u32(&cursor);
    packet->type = haul_cursor_u8(&cursor);
    unsigned flags = haul_cursor_u8(&cursor);
    packet->placed = flags & FLAG_PLACED;
    packet->codec = haul_cursor_u8(&cursor);
    unsigned reserved = haul_cursor_u8(&cursor);
    packet->round = haul_cursor_u32(&cursor);
    packet->block = haul_cursor_u32(&cursor);
    packet->data_runs = haul_cursor_u32(&cursor);
    packet->zero_runs = haul_cursor_u32(&cursor);
    packet->data_pages = haul_cursor_u32(&cursor);
    packet->payload_bytes = haul_cursor_u32(&cursor);
    packet->zero_pages = haul_cursor_u64(&cursor);
    packet->payload_checksum = haul_cursor_u64(&cursor);
    reserved |= haul_cursor_u64(&cursor) != 0;
    return check_header(packet, magic, flags, reserved, error);
}

/* Reads `count` runs and adds up their pages; every run within [0, block_pages). */
static int decode_runs(struct haul_cursor *cursor, struct haul_run *runs, uint32_t count,
                       uint64_t block_pages, uint64_t expected, struct haul_error *error)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        runs[i].first = haul_cursor_u64(cursor);
        runs[i].count = haul_cursor_u64(cursor);
        /* In this order no difference or sum can overflow. */
        if (runs[i].count == 0 || runs[i].first >= block_pages ||
            runs[i].count > block_pages - runs[i].first) {
            return haul_error_set(error, EPROTO,
                                  "pages from %llu, %llu of them, lie outside their block of %llu pages",
                                  (unsigned long long)runs[i].first, (unsigned long long)runs[i].count,
                                  (unsigned long long)block_pages);
        }
        if (runs[i].count > expected - sum) {
            return haul_error_set(error, EPROTO,
                                  "runs hold more than the %llu pages that the packet announces",
                                  (unsigned long long)expected);
        }
        sum += runs[i].count;
    }
    if (sum != expected) {
        return haul_error_set(error, EPROTO, "runs hold %llu pages, the packet announces %llu",
                              (unsigned long long)sum, (unsigned long long)expected);
    }
    return 0;
}

static int decode_chunks(struct haul_cursor *cursor, struct haul_packet *packet, struct haul_error *error)
{
    uint32_t count = haul_packet_chunk_count(packet);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = haul_cursor_u32(cursor);
        if (size == 0 || size > haul_packet_chunk_pages(packet, i) * HAUL_PAGE_SIZE) {
            return haul_error_set(error, EPROTO, "chunk %u has %u bytes for %u pages", i, size,
                                  haul_packet_chunk_pages(packet, i));
        }
        packet->chunks[i] = size;
        sum += size; /* at most HAUL_PACKET_PAYLOAD_MAX */
    }
    if (count > 0 && sum != packet->payload_bytes) {
        return haul_error_set(error, EPROTO, "chunks have %u bytes, the packet announces %u", sum,
                              packet->payload_bytes);
    }
    return 0;
}

int haul_packet_decode_table(const void *header, const void *table, size_t length, uint64_t block_pages,
                             struct haul_packet *packet, struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, (const unsigned char *)header + SUMMED, HAUL_PACKET_HEADER_SIZE - SUMMED);
    if (haul_cursor_u64(&cursor) != head_checksum(header, table, length)) {
        return haul_error_set(error, EPROTO, "wrong packet checksum, the connection corrupts data");
    }
    haul_cursor_init(&cursor, table, length);
    int result =
        decode_runs(&cursor, packet->runs, packet->data_runs, block_pages, packet->data_pages, error);
    if (result == 0) {
        result = decode_runs(&cursor, packet->runs + packet->data_runs, packet->zero_runs, block_pages,
                             packet->zero_pages, error);
    }
    if (result == 0) {
        result = decode_chunks(&cursor, packet, error);
    }
    if (result == 0 && !haul_cursor_done(&cursor)) {
        return haul_error_set(error, EPROTO, "packet table of %zu bytes does not fit its counts", length);
    }
    return result;
}
