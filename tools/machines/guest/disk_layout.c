/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/disk_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#define WORDS (HAUL_GUEST_DISK_BLOCK / sizeof(uint64_t))
#define HOT_MOST (1u << 30)

static const char magic[8] = "haulgdsk";

/* ---- where things are --------------------------------------------------------------------------------- */

static uint32_t greatest_common_divisor(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void haul_guest_disk_layout_init(struct haul_guest_disk_layout *layout, uint64_t blocks, uint64_t seed)
{
    uint32_t hot = blocks / 4 < HOT_MOST ? (uint32_t)(blocks / 4) : HOT_MOST;
    uint32_t stride = (uint32_t)((uint64_t)hot * 618 / 1000); /* spreads consecutive writes */
    while (stride > 1 && greatest_common_divisor(hot, stride) != 1) {
        stride--;
    }
    *layout = (struct haul_guest_disk_layout){.seed = seed, .blocks = blocks, .hot = hot, .stride = stride};
}

enum haul_guest_disk_kind haul_guest_disk_kind(const struct haul_guest_disk_layout *layout, uint64_t block)
{
    if (block >= 1 && block <= layout->hot) {
        return HAUL_GUEST_DISK_HOT;
    }
    /* Holes come in runs of 16, two of three; the disk's last block is never one. */
    return block / 16 % 3 == 0 || block + 1 == layout->blocks ? HAUL_GUEST_DISK_FIXED : HAUL_GUEST_DISK_HOLE;
}

uint64_t haul_guest_disk_next(const struct haul_guest_disk_layout *layout,
                              struct haul_guest_disk_position position)
{
    return 1 + (uint64_t)position.index * layout->stride % layout->hot;
}

void haul_guest_disk_advance(const struct haul_guest_disk_layout *layout,
                             struct haul_guest_disk_position *position)
{
    if (++position->index == layout->hot) {
        position->index = 0;
        position->version++;
    }
}

/* The i with i * stride mod hot == slot: stride and hot are coprime, so the inverse exists. */
static uint32_t place_in_cycle(const struct haul_guest_disk_layout *layout, uint32_t slot)
{
    int64_t old_rest = layout->stride, rest = layout->hot, old_factor = 1, factor = 0;
    while (rest) {
        int64_t quotient = old_rest / rest, next = old_rest - quotient * rest;
        old_rest = rest;
        rest = next;
        next = old_factor - quotient * factor;
        old_factor = factor;
        factor = next;
    }
    uint64_t inverse = (uint64_t)(old_factor < 0 ? old_factor + layout->hot : old_factor);
    return (uint32_t)(inverse * slot % layout->hot);
}

uint32_t haul_guest_disk_version(const struct haul_guest_disk_layout *layout, uint64_t block,
                                 struct haul_guest_disk_position position)
{
    if (haul_guest_disk_kind(layout, block) != HAUL_GUEST_DISK_HOT) {
        return 0;
    }
    bool written = place_in_cycle(layout, (uint32_t)(block - 1)) < position.index;
    return written ? position.version : position.version - 1;
}

/* ---- what is there ------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static uint64_t checksum(const unsigned char *bytes)
{
    uint64_t sum = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < WORDS; i++) {
        uint64_t word;
        memcpy(&word, bytes + i * sizeof word, sizeof word);
        bool own = i == offsetof(struct haul_guest_disk_header, checksum) / sizeof word;
        sum = mix(sum + (own ? 0 : word));
    }
    return sum;
}

void haul_guest_disk_block_build(uint64_t seed, uint64_t block, uint32_t version, unsigned char *bytes)
{
    struct haul_guest_disk_header header = {.seed = seed, .block = block, .version = version};
    memcpy(header.magic, magic, sizeof header.magic);
    uint64_t state = mix(mix(seed + block * 0x9e3779b97f4a7c15u) + version);
    for (size_t at = sizeof header; at < HAUL_GUEST_DISK_BLOCK; at += sizeof state) {
        uint64_t word = mix(state += 0x9e3779b97f4a7c15u);
        memcpy(bytes + at, &word, sizeof word);
    }
    memcpy(bytes, &header, sizeof header);
    header.checksum = checksum(bytes);
    memcpy(bytes, &header, sizeof header);
}

struct haul_guest_disk_header haul_guest_disk_header(const unsigned char *bytes)
{
    struct haul_guest_disk_header header;
    memcpy(&header, bytes, sizeof header);
    return header;
}

bool haul_guest_disk_intact(const unsigned char *bytes)
{
    struct haul_guest_disk_header header = haul_guest_disk_header(bytes);
    return memcmp(header.magic, magic, sizeof header.magic) == 0 && header.checksum == checksum(bytes);
}

static bool all_zero(const unsigned char *bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, HAUL_GUEST_DISK_BLOCK - 1) == 0;
}

static int explain(uint64_t block, uint32_t version, const unsigned char *bytes, struct haul_error *error)
{
    struct haul_guest_disk_header header = haul_guest_disk_header(bytes);
    if (all_zero(bytes)) {
        return haul_error_set(error, EIO, "block %" PRIu64 " is lost: it holds zeros", block);
    }
    if (!haul_guest_disk_intact(bytes)) {
        return haul_error_set(error, EIO, "block %" PRIu64 " is torn: its checksum is wrong", block);
    }
    if (header.block != block) {
        return haul_error_set(error, EIO, "block %" PRIu64 " is misplaced: it holds block %" PRIu64, block,
                              header.block);
    }
    return haul_error_set(error, EIO,
                          "block %" PRIu64 " is %s: it holds version %" PRIu64 " where %" PRIu32 " is due",
                          block, header.version < version ? "stale" : "corrupt", header.version, version);
}

int haul_guest_disk_block_check(const struct haul_guest_disk_layout *layout, uint64_t block, uint32_t version,
                                const unsigned char *bytes, struct haul_error *error)
{
    unsigned char due[HAUL_GUEST_DISK_BLOCK];
    if (haul_guest_disk_kind(layout, block) == HAUL_GUEST_DISK_HOLE) {
        return all_zero(bytes)
                   ? 0
                   : haul_error_set(error, EIO,
                                    "block %" PRIu64 " is corrupt: it is a hole and holds something", block);
    }
    haul_guest_disk_block_build(layout->seed, block, version, due);
    return memcmp(due, bytes, sizeof due) == 0 ? 0 : explain(block, version, bytes, error);
}
