/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_PACK_H
#define HAUL_CHANNELS_PACK_H

/* Turns a batch into a packet: which pages are zero, and the others as raw pages or as compressed chunks. */

#include "channels/batch.h"
#include "channels/packet.h"
#include "compress/choice.h"

#include <stdbool.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_PACK_PARTS (1 + HAUL_BATCH_RUNS) /* header and table, then the payload's pieces */

struct haul_pack {
    struct haul_packet packet;
    unsigned char head[HAUL_PACKET_HEAD_MAX];
    struct iovec parts[HAUL_PACK_PARTS];
    size_t part_count;
    size_t total_bytes;        /* of all parts */
    uint32_t compressed_pages; /* of packet.data_pages, in chunks that shrank */
    uint64_t compressed_bytes; /* wire bytes of these */
    double chunk_ns;           /* what the fastest chunk took to gather and encode, per byte; 0: none was */
    bool gave_up;              /* encoding: the pages went raw after all */
    /* Scratch, NULL when nothing is ever compressed. */
    unsigned char *copy;    /* HAUL_CODEC_CHUNK: the stable copy of one chunk (trap T4) */
    unsigned char *payload; /* HAUL_PACKET_PAYLOAD_MAX */
    void *codec_scratch;
    size_t codec_scratch_size;
    unsigned char *staged; /* HAUL_PACKET_PAYLOAD_MAX: what was read of a disk; NULL when there is none */
};

/*
 * haul_pack_init allocates scratch on `node` for `mode`, and for pages that have to be read first where
 * `stages` says that there may be some. -ENOMEM. A zeroed pack may be cleaned up.
 */
int haul_pack_init(struct haul_pack *pack, int mode, bool stages, int node);
void haul_pack_cleanup(struct haul_pack *pack);

/*
 * haul_pack_sort fills the packet's runs from a PAGES or ZERO batch; a PAGES batch's pages are read to find
 * the zero ones, those of a disk into pack->staged, where the data pages then lie in the order of the runs.
 * -EINVAL, with a message, for a batch that breaks its contract; what reading a disk said.
 */
int haul_pack_sort(struct haul_pack *pack, const struct haul_batch *batch,
                   const struct haul_block_view *blocks, uint32_t block_count, struct haul_error *error);

/* haul_pack_round makes the packet the mark of `round`. */
void haul_pack_round(struct haul_pack *pack, uint32_t round);

/* haul_pack_sample takes bytes from all over the data pages: a hint of what they are, for haul_choice_pick.
 */
void haul_pack_sample(const struct haul_pack *pack, const struct haul_block_view *block,
                      unsigned char sample[HAUL_CHOICE_SAMPLE]);

/*
 * haul_pack_encode encodes the data pages with `codec` (raw: by reference) and builds the parts to send. With
 * a `patience_ns` it gives up and leaves the pages raw when of the first chunks none took less for a byte.
 */
void haul_pack_encode(struct haul_pack *pack, const struct haul_block_view *block,
                      const struct haul_codec *codec, double patience_ns);

#ifdef __cplusplus
}
#endif
#endif
