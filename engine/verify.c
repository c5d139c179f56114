/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/verify.h"

#include "channels/live_read.h"
#include "compress/zero.h"
#include "engine/bitmap.h"
#include "engine/clock.h"
#include "engine/disks.h"
#include "engine/holes.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define CHUNK ((size_t)2 << 20)
#define SAMPLE_CHUNKS 32 /* per block */

struct job {
    const struct haul_block *block;
    const struct haul_own_disk *disk; /* in its place */
    uint64_t length;
    uint64_t *digests; /* one per chunk, little-endian */
    uint64_t *present; /* bitmap of pages that may hold content */
    uint64_t chunks;
    uint64_t stride;       /* 1: every chunk; more: a sample, of memory that may be changing */
    _Atomic uint64_t next; /* next chunk to claim; relaxed, the join orders the results */
    struct haul_thread_list *threads;
    _Atomic bool stop;       /* relaxed: the helpers only end sooner */
    _Atomic bool failed;     /* relaxed: the first to set it writes `error`, which the join orders */
    struct haul_error error; /* of a disk, or of memory for reading one */
};

/* True when no page of the chunk may hold content, or all of it reads as zero. */
static bool chunk_is_zero(const struct job *job, uint64_t offset, size_t length)
{
    uint64_t first, count;
    uint64_t end = (offset + length) / HAUL_PAGE_SIZE;
    if (!haul_bitmap_next_run(job->present, end, offset / HAUL_PAGE_SIZE, 1, &first, &count)) {
        return true;
    }
    return job->block && job->stride == 1 && haul_is_zero(job->block->host + offset, length);
}

/* A long hash, between two chunks: the peer hears that it goes on, and a move that ended is not hashed for.
 */
static int check(struct haul_migration *migration, struct haul_error *error)
{
    if (haul_migration_cancelled(migration)) {
        return haul_error_set(error, ECANCELED, "cancelled");
    }
    if (!migration->control) {
        return 0;
    }
    if (migration->destination) {
        haul_control_progress(migration->control);
        return 0; /* what the source said before the connection ended still counts */
    }
    return haul_control_status(migration->control, error);
}

static int hash_disk(struct job *job, uint64_t chunk, uint64_t offset, size_t length,
                     struct haul_error *error)
{
    unsigned char *scratch = aligned_alloc(HAUL_PAGE_SIZE, CHUNK);
    int rc = scratch ? haul_disk_read(job->disk, offset, scratch, length, error)
                     : haul_error_set(error, ENOMEM, "no memory to verify disk %s", job->disk->name);
    if (rc == 0 && !haul_is_zero(scratch, length)) {
        job->digests[chunk] = htole64(XXH3_64bits(scratch, length));
    }
    free(scratch);
    return rc;
}

/* Hashes the next chunk that nobody claimed; false when there is none, or no more is to be hashed. */
static bool hash_next(struct job *job)
{
    uint64_t chunk = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed) * job->stride;
    if (chunk >= job->chunks || atomic_load_explicit(&job->failed, memory_order_relaxed)) {
        return false;
    }
    uint64_t offset = chunk * CHUNK;
    uint64_t left = job->length - offset;
    size_t length = left < CHUNK ? left : CHUNK;
    /* It stands still, unless the source lies about that: then its own move fails. */
    HAUL_LIVE_READ_BEGIN();
    bool zero = chunk_is_zero(job, offset, length);
    if (!zero && job->block) {
        job->digests[chunk] = htole64(XXH3_64bits(job->block->host + offset, length));
    }
    HAUL_LIVE_READ_END();
    struct haul_error error;
    if (!zero && job->disk && hash_disk(job, chunk, offset, length, &error) < 0) {
        if (!atomic_exchange_explicit(&job->failed, true, memory_order_relaxed)) {
            job->error = error;
        }
        return false;
    }
    return true;
}

static void *helper_main(void *argument)
{
    struct job *job = argument;
    struct haul_thread_entry entry;
    haul_thread_enter(job->threads, &entry, "verify", HAUL_THREAD_ALONE);
    while (!atomic_load_explicit(&job->stop, memory_order_relaxed) && hash_next(job)) {
    }
    haul_thread_leave(job->threads, &entry);
    return NULL;
}

/* Hashes on `threads` threads, this one among them. */
static int hash_all(struct haul_migration *migration, struct job *job, pthread_t *helpers, unsigned threads,
                    struct haul_error *error)
{
    unsigned started = 0;
    while (started + 1 < threads && haul_thread_start(&helpers[started], helper_main, job) == 0) {
        started++; /* fewer helpers than wanted only take longer: this thread hashes too */
    }
    int rc = check(migration, error); /* the helpers may leave this thread nothing to do */
    while (rc == 0 && hash_next(job)) {
        rc = check(migration, error);
    }
    atomic_store_explicit(&job->stop, rc < 0, memory_order_relaxed);
    for (unsigned i = 0; i < started; i++) {
        pthread_join(helpers[i], NULL);
    }
    if (rc == 0 && atomic_load_explicit(&job->failed, memory_order_relaxed)) {
        rc = haul_error_set(error, job->error.code, "%s", job->error.message);
    }
    return rc;
}

static int hash_view(struct haul_migration *migration, uint32_t index, unsigned threads, uint64_t stride,
                     unsigned char *hash, struct haul_error *error)
{
    struct job job = {.stride = stride, .threads = &migration->threads};
    if (index < migration->block_count) {
        job.block = &migration->blocks[index];
        job.length = job.block->length;
    } else {
        job.disk = &migration->disks->disk[index - migration->block_count];
        job.length = job.disk->pages * HAUL_PAGE_SIZE;
    }
    job.chunks = (job.length + CHUNK - 1) / CHUNK;
    int rc = 0;
    pthread_t *helpers = calloc(threads, sizeof *helpers);
    job.digests = calloc(job.chunks, sizeof *job.digests);
    job.present = calloc(haul_bits_words(job.length / HAUL_PAGE_SIZE), sizeof *job.present);
    if (!helpers || !job.digests || !job.present) {
        rc = haul_error_set(error, ENOMEM, "no memory to verify %s %s", job.block ? "RAM block" : "disk",
                            job.block ? job.block->name : job.disk->name);
        goto out;
    }
    if (job.block) {
        haul_holes_present(job.block, job.present);
    } else {
        rc = haul_disk_present(job.disk, job.present, error);
    }
    if (rc == 0) {
        rc = hash_all(migration, &job, helpers, threads, error);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(job.digests, job.chunks * sizeof *job.digests));
    memcpy(hash, canonical.digest, HAUL_HASH_SIZE);
out:
    free(job.present);
    free(job.digests);
    free(helpers);
    return rc;
}

int haul_verify_hash(struct haul_migration *migration, unsigned threads, unsigned char *hashes,
                     struct haul_error *error)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < migration->block_count + haul_disks_count(migration); i++) {
        rc = hash_view(migration, i, threads, 1, hashes + (size_t)i * HAUL_HASH_SIZE, error);
    }
    return rc;
}

uint64_t haul_verify_cost_ns(struct haul_migration *migration, unsigned threads)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < migration->block_count + haul_disks_count(migration); i++) {
        unsigned char hash[HAUL_HASH_SIZE];
        uint64_t length = i < migration->block_count
                              ? migration->blocks[i].length
                              : migration->disks->disk[i - migration->block_count].size;
        uint64_t stride = length / (SAMPLE_CHUNKS * CHUNK) + 1;
        stride = stride > 1 ? stride : 2; /* a small block too is only sampled: it may be changing */
        uint64_t begun = haul_now_ns();
        if (hash_view(migration, i, threads, stride, hash, NULL) == 0) {
            total += (haul_now_ns() - begun) * stride;
        }
    }
    return total;
}
