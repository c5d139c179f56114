/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_DISK_LAYOUT_H
#define HAUL_TOOLS_MACHINES_GUEST_DISK_LAYOUT_H

/* What every block of the reference guest's disk must hold, as a function of a few numbers. */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_GUEST_DISK_BLOCK 4096u
#define HAUL_GUEST_DISK_MIN (64u << 10) /* bytes */

struct haul_guest_disk_layout {
    uint64_t seed;
    uint64_t blocks;
    uint32_t hot;    /* blocks 1 to hot are rewritten */
    uint32_t stride; /* coprime with hot */
};

/* `index` hot blocks of this cycle already hold `version`, the others version - 1. */
struct haul_guest_disk_position {
    uint32_t version; /* from 1 */
    uint32_t index;   /* less than hot */
};

void haul_guest_disk_layout_init(struct haul_guest_disk_layout *layout, uint64_t blocks, uint64_t seed);

enum haul_guest_disk_kind {
    HAUL_GUEST_DISK_HOT,
    HAUL_GUEST_DISK_FIXED, /* version 0 for ever; block 0 is one of them */
    HAUL_GUEST_DISK_HOLE
};
enum haul_guest_disk_kind haul_guest_disk_kind(const struct haul_guest_disk_layout *layout, uint64_t block);

/* The block that is written at `position`, and the position after that. */
uint64_t haul_guest_disk_next(const struct haul_guest_disk_layout *layout,
                              struct haul_guest_disk_position position);
void haul_guest_disk_advance(const struct haul_guest_disk_layout *layout,
                             struct haul_guest_disk_position *position);

/* haul_guest_disk_version returns the version that `block` holds at `position`; 0 for one that is not hot. */
uint32_t haul_guest_disk_version(const struct haul_guest_disk_layout *layout, uint64_t block,
                                 struct haul_guest_disk_position position);

/* The first bytes of a block. */
struct haul_guest_disk_header {
    char magic[8];
    uint64_t seed;
    uint64_t block;
    uint64_t version;  /* the sequence number of its writes */
    uint64_t checksum; /* of the block, this field taken as 0 */
};

void haul_guest_disk_block_build(uint64_t seed, uint64_t block, uint32_t version, unsigned char *bytes);
struct haul_guest_disk_header haul_guest_disk_header(const unsigned char *bytes);
/* Whether magic and checksum are right. */
bool haul_guest_disk_intact(const unsigned char *bytes);

/*
 * haul_guest_disk_block_check compares a block with what it must hold. -EIO: "block 7 is stale: it holds
 * version 3 where 4 is due"; lost, stale, torn, misplaced, or otherwise corrupt. `error` may be NULL.
 */
int haul_guest_disk_block_check(const struct haul_guest_disk_layout *layout, uint64_t block, uint32_t version,
                                const unsigned char *bytes, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
