/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's memory as the provider knows it; declared in channels/rma/rma.h. */
#include "channels/rma/internal.h"
#include "channels/wire.h"

#include <errno.h>
#include <linux/capability.h>
#include <rdma/fi_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REGION_SHIFT 30 /* 1 GiB: few keys, and a card's driver never pins more than this at once */
#define KEY_ATTEMPTS 16

_Static_assert(HAUL_RMA_FLUSH_SLOT *HAUL_CHANNELS_MAX <= HAUL_PAGE_SIZE, "a slot for every channel");

/* ---- the right to lock memory ---- */

static bool may_lock_anything(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capget, &header, data) < 0) {
        return false;
    }
    return data[CAP_IPC_LOCK / 32].effective & (1u << (CAP_IPC_LOCK % 32));
}

int haul_rma_lock_limit(uint64_t bytes, const char *provider, struct haul_error *error)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || bytes <= limit.rlim_cur ||
        may_lock_anything()) {
        return 0;
    }
    return haul_error_set(
        error, ENOMEM,
        "rdma: provider %s locks the guest's memory, %llu KiB, and RLIMIT_MEMLOCK allows "
        "%llu KiB; raise it (ulimit -l, LimitMEMLOCK=) to that or to unlimited, or run haul "
        "with CAP_IPC_LOCK",
        provider, (unsigned long long)(bytes >> 10), (unsigned long long)limit.rlim_cur >> 10);
}

/*
 * Providers that move the bytes by ordinary system calls lock nothing. Any other is taken to lock what it
 * registers: that is what a card needs.
 */
static bool locks_memory(const struct haul_rma *rma)
{
    const char *name = rma->info->fabric_attr->prov_name;
    return strcmp(name, "tcp;ofi_rxm") != 0 && strcmp(name, "tcp") != 0;
}

/* ---- layout ---- */

static uint64_t block_bytes(const struct haul_rma *rma, uint32_t block)
{
    return rma->options.blocks[block].pages * HAUL_PAGE_SIZE;
}

static uint64_t regions_of(const struct haul_rma *rma, unsigned shift)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < rma->options.block_count; i++) {
        count += (block_bytes(rma, i) + ((uint64_t)1 << shift) - 1) >> shift;
    }
    return count;
}

int haul_rma_lay_out(struct haul_rma *rma, struct haul_error *error)
{
    if (rma->region_shift == 0) {
        rma->region_shift = rma->options.region_shift ? rma->options.region_shift : REGION_SHIFT;
        while (regions_of(rma, rma->region_shift) > HAUL_RMA_REGIONS_MAX &&
               rma->region_shift < HAUL_RMA_REGION_SHIFT_MAX) {
            rma->region_shift++;
        }
    }
    uint64_t total = regions_of(rma, rma->region_shift);
    if (total > HAUL_RMA_REGIONS_MAX) {
        return haul_error_set(error, E2BIG, "rdma: memory in %llu pieces, allowed are %d",
                              (unsigned long long)total, HAUL_RMA_REGIONS_MAX);
    }
    rma->first = calloc((size_t)rma->options.block_count + 1, sizeof *rma->first);
    rma->regions = calloc((size_t)total + 1, sizeof *rma->regions);
    if (!rma->first || !rma->regions) {
        return haul_error_set(error, ENOMEM, "rdma: no memory for %llu memory regions",
                              (unsigned long long)total);
    }
    for (uint32_t i = 0; i < rma->options.block_count; i++) {
        uint64_t bytes = block_bytes(rma, i);
        rma->first[i + 1] =
            rma->first[i] + (uint32_t)((bytes + ((uint64_t)1 << rma->region_shift) - 1) >> rma->region_shift);
    }
    return 0;
}

/* Bytes of region `index` (within the block) of `block`. */
static uint64_t region_bytes(const struct haul_rma *rma, uint32_t block, uint32_t index)
{
    uint64_t start = (uint64_t)index << rma->region_shift;
    uint64_t left = block_bytes(rma, block) - start;
    uint64_t most = (uint64_t)1 << rma->region_shift;
    return left < most ? left : most;
}

/* ---- registration ---- */

/* A key of our choice cannot be guessed: whoever has it may write the guest's memory. */
static int random_key(const struct haul_rma *rma, uint64_t *key)
{
    if (getrandom(key, sizeof *key, 0) != (ssize_t)sizeof *key) {
        return -EIO;
    }
    size_t size = rma->info->domain_attr->mr_key_size;
    if (size < sizeof *key) {
        *key &= ((uint64_t)1 << (8 * size)) - 1;
    }
    return 0;
}

static int register_region(struct haul_rma *rma, struct haul_rma_region *region, void *bytes, uint64_t length,
                           uint64_t access)
{
    int mode = rma->info->domain_attr->mr_mode;
    int rc = -FI_ENOKEY;
    for (unsigned i = 0; rc == -FI_ENOKEY && i < KEY_ATTEMPTS; i++) {
        uint64_t wanted = 0;
        if (random_key(rma, &wanted) < 0) {
            return -EIO;
        }
        rc = fi_mr_reg(rma->domain, bytes, length, access, 0, wanted, 0, &region->mr, NULL);
    }
    if (rc < 0) {
        region->mr = NULL;
        return rc;
    }
    region->descriptor = fi_mr_desc(region->mr);
    if (rma->target) {
        region->key = fi_mr_key(region->mr);
        region->base = mode & FI_MR_VIRT_ADDR ? (uint64_t)(uintptr_t)bytes : 0;
    }
    return rma->target && region->key == FI_KEY_NOTAVAIL ? -FI_ENOKEY : 0;
}

static uint64_t guest_bytes(const struct haul_rma *rma)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < rma->options.block_count; i++) {
        bytes += block_bytes(rma, i);
    }
    return bytes;
}

static int registration_failed(const struct haul_rma *rma, int code, uint32_t block, struct haul_error *error)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    char allowed[32] = "unlimited";
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        snprintf(allowed, sizeof allowed, "%llu KiB", (unsigned long long)limit.rlim_cur >> 10);
    }
    return haul_error_set(error, haul_rma_errno(code),
                          "rdma: provider %s could not register block %u: %s; the guest has %llu KiB to "
                          "register, RLIMIT_MEMLOCK is %s",
                          haul_rma_provider(rma), block, rma->library.strerror(-code),
                          (unsigned long long)(guest_bytes(rma) >> 10), allowed);
}

static int register_blocks(struct haul_rma *rma, uint64_t access, struct haul_error *error)
{
    for (uint32_t block = 0; block < rma->options.block_count; block++) {
        for (uint32_t i = 0; i < rma->first[block + 1] - rma->first[block]; i++) {
            unsigned char *bytes = rma->options.blocks[block].host + ((uint64_t)i << rma->region_shift);
            uint64_t length = region_bytes(rma, block, i);
            int rc = register_region(rma, &rma->regions[rma->first[block] + i], bytes, length, access);
            if (rc < 0) {
                return registration_failed(rma, rc, block, error);
            }
            rma->registered_bytes += length;
            rma->registered_regions++;
        }
    }
    return 0;
}

int haul_rma_register(struct haul_rma *rma, struct haul_error *error)
{
    rma->flush_page = aligned_alloc(HAUL_PAGE_SIZE, HAUL_PAGE_SIZE);
    if (!rma->flush_page) {
        return haul_error_set(error, ENOMEM, "rdma: out of memory");
    }
    memset(rma->flush_page, 0, HAUL_PAGE_SIZE);
    if (!rma->target && !(rma->info->domain_attr->mr_mode & FI_MR_LOCAL)) {
        return 0; /* this provider reads any memory of ours */
    }
    uint64_t bytes = guest_bytes(rma) + HAUL_PAGE_SIZE;
    int rc = locks_memory(rma) ? haul_rma_lock_limit(bytes, haul_rma_provider(rma), error) : 0;
    if (rc < 0) {
        return rc;
    }
    rc = register_region(rma, &rma->flush, rma->flush_page, HAUL_PAGE_SIZE,
                         rma->target ? FI_REMOTE_READ : FI_READ);
    if (rc < 0) {
        return haul_rma_fail(error, rma, rc, "rdma: registering a page");
    }
    return register_blocks(rma, rma->target ? FI_REMOTE_WRITE : FI_WRITE, error);
}

static void deregister_region(struct haul_rma_region *region)
{
    if (region->mr) {
        fi_close(&region->mr->fid);
        region->mr = NULL;
    }
}

void haul_rma_deregister(struct haul_rma *rma)
{
    uint32_t count = rma->first ? rma->first[rma->options.block_count] : 0;
    for (uint32_t i = 0; rma->regions && i < count; i++) {
        deregister_region(&rma->regions[i]);
    }
    deregister_region(&rma->flush);
    free(rma->flush_page);
    rma->flush_page = NULL;
}

/* ---- the offer, described in docs/protocol.md ---- */

size_t haul_rma_offer(const struct haul_rma *rma, void *bytes, size_t capacity)
{
    struct haul_writer writer;
    haul_writer_init(&writer, bytes, capacity);
    haul_writer_string(&writer, haul_rma_provider(rma));
    haul_writer_u8(&writer, (uint8_t)rma->region_shift);
    haul_writer_u64(&writer, rma->flush.base);
    haul_writer_u64(&writer, rma->flush.key);
    for (uint32_t i = 0; i < rma->first[rma->options.block_count]; i++) {
        haul_writer_u64(&writer, rma->regions[i].base);
        haul_writer_u64(&writer, rma->regions[i].key);
    }
    return haul_writer_length(&writer);
}

static int malformed(struct haul_error *error, const char *what)
{
    return haul_error_set(error, EPROTO, "rdma: the destination's offer is malformed: %s", what);
}

/* The name goes into libfabric's own parser: nothing but what names are made of. */
static bool plain_name(const char *name)
{
    return *name && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_;") == strlen(name);
}

int haul_rma_offer_provider(const void *offer, size_t length, char provider[HAUL_RMA_PROVIDER_MAX + 1],
                            struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, offer, length);
    bool named = haul_cursor_string(&cursor, provider, HAUL_RMA_PROVIDER_MAX + 1);
    return named && plain_name(provider) ? 0 : malformed(error, "the provider's name");
}

static void take_region(struct haul_cursor *cursor, struct haul_rma_region *region)
{
    region->base = haul_cursor_u64(cursor);
    region->key = haul_cursor_u64(cursor);
}

int haul_rma_take_offer(struct haul_rma *rma, const void *offer, size_t length, struct haul_error *error)
{
    struct haul_cursor cursor;
    char provider[HAUL_RMA_PROVIDER_MAX + 1];
    haul_cursor_init(&cursor, offer, length);
    haul_cursor_string(&cursor, provider, sizeof provider);
    rma->region_shift = haul_cursor_u8(&cursor);
    if (cursor.failed || rma->region_shift < HAUL_RMA_REGION_SHIFT_MIN ||
        rma->region_shift > HAUL_RMA_REGION_SHIFT_MAX) {
        return malformed(error, "the size of its regions");
    }
    int rc = haul_rma_lay_out(rma, error);
    if (rc < 0) {
        return rc;
    }
    take_region(&cursor, &rma->flush);
    if (rma->flush.base > UINT64_MAX - HAUL_PAGE_SIZE) {
        return malformed(error, "the page to read back");
    }
    for (uint32_t block = 0; block < rma->options.block_count; block++) {
        for (uint32_t i = 0; i < rma->first[block + 1] - rma->first[block]; i++) {
            struct haul_rma_region *region = &rma->regions[rma->first[block] + i];
            take_region(&cursor, region);
            if (region->base > UINT64_MAX - region_bytes(rma, block, i)) {
                return malformed(error, "an address past the end of memory");
            }
        }
    }
    return haul_cursor_done(&cursor) ? 0 : malformed(error, "its number of regions does not fit the blocks");
}
