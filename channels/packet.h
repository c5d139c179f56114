/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_PACKET_H
#define HAUL_CHANNELS_PACKET_H

/*
 * Packets of the data channels, byte by byte in docs/protocol.md: a fixed header, a table of page runs (and
 * of chunk sizes when compressed), then the payload. The header and table are covered by one checksum. A
 * compressed payload has a checksum too: it is a stable copy. A raw payload has none: it is sent straight
 * from memory that the guest may be writing (trap T4), so what was hashed could differ from what was sent; a
 * page that changes meanwhile is dirty and sent again, and `--verify` compares both sides once the guest is
 * stopped.
 */

#include "channels/batch.h"
#include "channels/error.h"
#include "compress/codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_PACKET_HEADER_SIZE 64
#define HAUL_PACKET_PAYLOAD_MAX (HAUL_BATCH_PAGES * HAUL_PAGE_SIZE)
#define HAUL_PACKET_CHUNK_PAGES (HAUL_CODEC_CHUNK / HAUL_PAGE_SIZE)
#define HAUL_PACKET_CHUNKS (HAUL_BATCH_PAGES / HAUL_PACKET_CHUNK_PAGES)
#define HAUL_PACKET_RUN_SIZE ((size_t)16)
#define HAUL_PACKET_TABLE_MAX (HAUL_BATCH_RUNS * HAUL_PACKET_RUN_SIZE + HAUL_PACKET_CHUNKS * sizeof(uint32_t))
#define HAUL_PACKET_HEAD_MAX (HAUL_PACKET_HEADER_SIZE + HAUL_PACKET_TABLE_MAX)

enum haul_packet_type {
    HAUL_PACKET_PAGES = 1,
    HAUL_PACKET_ROUND = 2 /* the round mark: everything before it on this channel belongs to `round` */
};

/* One packet but for its payload. */
struct haul_packet {
    uint8_t type;
    bool placed;   /* raw pages that are in memory already (rdma): no payload follows */
    uint8_t codec; /* enum haul_codec_id; never changes what the payload's pages are, only their form */
    uint32_t round;
    uint32_t block;
    uint32_t data_runs;        /* runs[0 .. data_runs): their pages are the payload, in this order */
    uint32_t zero_runs;        /* runs[data_runs .. data_runs + zero_runs): pages that are all zero */
    uint32_t data_pages;       /* sum over the data runs, at most HAUL_BATCH_PAGES */
    uint64_t zero_pages;       /* sum over the zero runs */
    uint32_t payload_bytes;    /* raw: data_pages whole pages, placed or not */
    uint64_t payload_checksum; /* XXH3 of the payload; 0 when raw */
    struct haul_run runs[HAUL_BATCH_RUNS];
    /*
     * Wire size of each HAUL_CODEC_CHUNK of the concatenated pages (the last may be shorter); compressed
     * packets only. A size equal to the chunk's own length: stored as it is.
     */
    uint32_t chunks[HAUL_PACKET_CHUNKS];
};

/* haul_packet_chunk_count returns how many chunks the payload has: 0 when raw. */
uint32_t haul_packet_chunk_count(const struct haul_packet *packet);

/* haul_packet_chunk_pages returns how many pages chunk `index` holds. */
uint32_t haul_packet_chunk_pages(const struct haul_packet *packet, uint32_t index);

/* haul_packet_table_size returns the bytes between header and payload, at most HAUL_PACKET_TABLE_MAX. */
size_t haul_packet_table_size(const struct haul_packet *packet);

/* haul_packet_encode writes header and table; returns their length, or 0 when `capacity` is too small. */
size_t haul_packet_encode(const struct haul_packet *packet, void *bytes, size_t capacity);

/*
 * haul_packet_decode_header reads HAUL_PACKET_HEADER_SIZE bytes and checks every field that needs no
 * context, so that haul_packet_table_size is within its limit afterwards. -EPROTO with a message that names
 * the field.
 */
int haul_packet_decode_header(const void *bytes, struct haul_packet *packet, struct haul_error *error);

/*
 * haul_packet_decode_table reads the `length` bytes after the header. `header` are the bytes that were
 * decoded into `packet`; `block_pages` is the size of the packet's block. Afterwards every run lies within
 * the block, the sums agree and the chunk sizes add up to the payload. -EPROTO with a message.
 */
int haul_packet_decode_table(const void *header, const void *table, size_t length, uint64_t block_pages,
                             struct haul_packet *packet, struct haul_error *error);

/* haul_packet_seal computes the checksum over an encoded header and table and stores it in the header. */
void haul_packet_seal(void *header, const void *table, size_t length);

/* haul_packet_payload_checksum is the checksum of a compressed payload. */
uint64_t haul_packet_payload_checksum(const void *payload, size_t length);

#ifdef __cplusplus
}
#endif
#endif
