/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_UNPACK_H
#define HAUL_CHANNELS_UNPACK_H

/*
 * The receiving twin of pack.h: takes a packet's payload off the socket and puts its pages into guest memory,
 * or writes them to a disk.
 */

#include "channels/batch.h"
#include "channels/packet.h"

#include <stdbool.h>
#include <sys/uio.h>

struct haul_unpack {
    bool takes_placed;         /* the peer may write pages itself (rdma) */
    struct haul_packet packet; /* decoded and checked */
    struct iovec parts[HAUL_BATCH_RUNS];
    unsigned char *payload;    /* HAUL_PACKET_PAYLOAD_MAX: a compressed payload, or one for a disk */
    unsigned char *chunk;      /* HAUL_CODEC_CHUNK: a decoded chunk whose pages are not contiguous */
    uint32_t compressed_pages; /* of packet.data_pages, in chunks that were compressed */
    uint64_t compressed_bytes;
};

/* haul_unpack_init allocates scratch on `node`. -ENOMEM. A zeroed unpack may be cleaned up. */
int haul_unpack_init(struct haul_unpack *unpack, int node);
void haul_unpack_cleanup(struct haul_unpack *unpack);

/* haul_unpack_zero_run clears the pages of `run` that may hold anything else; haul_unpack_zero_pages those of
 * the packet's zero runs. 0, or what a disk said; memory never fails. */
int haul_unpack_zero_run(const struct haul_block_view *block, const struct haul_run *run,
                         struct haul_error *error);
int haul_unpack_zero_pages(const struct haul_unpack *unpack, const struct haul_block_view *block,
                           struct haul_error *error);

/*
 * haul_unpack_data receives the payload from `fd` into the pages of the data runs. Marks them as possibly
 * non-zero before it writes. 0, -EPROTO (checksum, malformed chunk, pages
 * that the peer placed and may not), or what the socket or the disk said.
 */
int haul_unpack_data(struct haul_unpack *unpack, const struct haul_block_view *block, int fd,
                     struct haul_error *error);

/* haul_unpack_io_error turns a result of haul_io_receive into a message: "STEP: the peer closed ...". */
int haul_unpack_io_error(int result, uint32_t round, struct haul_error *error);

#endif
