/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer's entry point for the packet decoder. The first byte chooses the size of the block, the rest is
 * what a peer sent. The checksum is made to fit, or no input would come past it. What the decoder lets
 * through must keep every promise that channels/packet.h makes: a broken one aborts.
 */
#include "tests/fuzz/packet_fuzz.h"
#include "channels/packet.h"

#include <stdlib.h>
#include <string.h>

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

static void check_runs(const struct haul_run *runs, uint32_t count, uint64_t block_pages, uint64_t expected)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        require(runs[i].count >= 1 && runs[i].count <= block_pages);
        require(runs[i].first <= block_pages - runs[i].count);
        sum += runs[i].count;
    }
    require(sum == expected);
}

static void check_packet(const struct haul_packet *packet, uint64_t block_pages)
{
    require(packet->data_runs + packet->zero_runs <= HAUL_BATCH_RUNS);
    require(packet->data_pages <= HAUL_BATCH_PAGES);
    require(packet->payload_bytes <= HAUL_PACKET_PAYLOAD_MAX);
    check_runs(packet->runs, packet->data_runs, block_pages, packet->data_pages);
    check_runs(packet->runs + packet->data_runs, packet->zero_runs, block_pages, packet->zero_pages);
    uint64_t sum = 0;
    uint32_t pages = 0;
    uint32_t chunks = haul_packet_chunk_count(packet);
    require(chunks <= HAUL_PACKET_CHUNKS);
    for (uint32_t i = 0; i < chunks; i++) {
        require(packet->chunks[i] >= 1 &&
                packet->chunks[i] <= haul_packet_chunk_pages(packet, i) * HAUL_PAGE_SIZE);
        sum += packet->chunks[i];
        pages += haul_packet_chunk_pages(packet, i);
    }
    require(chunks == 0 || (sum == packet->payload_bytes && pages == packet->data_pages));
}

/* What was accepted encodes to the very bytes that it came from. */
static void check_round_trip(const struct haul_packet *packet, const unsigned char *bytes, size_t length)
{
    unsigned char again[HAUL_PACKET_HEAD_MAX];
    require(haul_packet_encode(packet, again, sizeof again) == length);
    require(memcmp(again, bytes, length) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + HAUL_PACKET_HEADER_SIZE) {
        return 0;
    }
    uint64_t block_pages = (uint64_t)data[0] * 17;
    size_t length = size - 1;
    /* An allocation of exactly this size, so that a sanitizer sees each byte too far. */
    unsigned char *bytes = malloc(length);
    require(bytes != NULL);
    memcpy(bytes, data + 1, length);
    struct haul_packet packet;
    struct haul_error error;
    if (haul_packet_decode_header(bytes, &packet, &error) == 0) {
        require(haul_packet_table_size(&packet) <= HAUL_PACKET_TABLE_MAX);
        size_t table = length - HAUL_PACKET_HEADER_SIZE;
        haul_packet_seal(bytes, bytes + HAUL_PACKET_HEADER_SIZE, table);
        if (haul_packet_decode_table(bytes, bytes + HAUL_PACKET_HEADER_SIZE, table, block_pages, &packet,
                                     &error) == 0) {
            check_packet(&packet, block_pages);
            check_round_trip(&packet, bytes, length);
        }
    }
    free(bytes);
    return 0;
}
