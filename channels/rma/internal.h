/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_RMA_INTERNAL_H
#define HAUL_CHANNELS_RMA_INTERNAL_H

/* What fabric.c (provider), memory.c (registration and offer) and endpoint.c (channel) share. */

#include "channels/rma/library.h"
#include "channels/rma/rma.h"

#include <netinet/in.h>
#include <rdma/fi_domain.h>

/* Bytes of the page that initiators read back, one slot per channel. */
#define HAUL_RMA_FLUSH_SLOT ((size_t)32)

/* One registered piece of a block, and how the initiator addresses it at the target. */
struct haul_rma_region {
    struct fid_mr *mr; /* ours; NULL where nothing is registered */
    void *descriptor;  /* of `mr`, for local use */
    uint64_t base;     /* the target's: address of its first byte */
    uint64_t key;      /* the target's */
};

struct haul_rma {
    struct haul_rma_options options; /* `provider` is not valid any more */
    bool target;
    struct haul_rma_library library;
    struct fi_info *info; /* the chosen provider */
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    unsigned region_shift;
    uint32_t *first;                 /* block b has regions first[b] .. first[b + 1] - 1 */
    struct haul_rma_region *regions; /* first[block_count] of them */
    unsigned char *flush_page;       /* the target's is read, the initiator's is read into */
    struct haul_rma_region flush;
    uint64_t registered_bytes;
    uint32_t registered_regions;
};

/* haul_rma_errno turns a negative libfabric error into a positive errno: they are the same below 256. */
int haul_rma_errno(ssize_t code);

/* haul_rma_fail fills `error` from a negative libfabric error: "STEP: provider P: reason". */
int haul_rma_fail(struct haul_error *error, const struct haul_rma *rma, ssize_t code, const char *step);

/* haul_rma_lay_out cuts the blocks into regions. -E2BIG when they are too many. */
int haul_rma_lay_out(struct haul_rma *rma, struct haul_error *error);

/* haul_rma_register registers blocks and flush page, as the side and the provider need it. */
int haul_rma_register(struct haul_rma *rma, struct haul_error *error);

/* haul_rma_deregister undoes it; accepts a half-made one. */
void haul_rma_deregister(struct haul_rma *rma);

/* haul_rma_offer_provider reads only the provider's name of an offer. */
int haul_rma_offer_provider(const void *offer, size_t length, char provider[HAUL_RMA_PROVIDER_MAX + 1],
                            struct haul_error *error);

/* haul_rma_take_offer reads the rest into regions and flush. Lays out. */
int haul_rma_take_offer(struct haul_rma *rma, const void *offer, size_t length, struct haul_error *error);

/* haul_rma_plain_address turns an IPv4 address mapped into IPv6 into itself; others stay. */
void haul_rma_plain_address(struct sockaddr_storage *address);

#endif
