/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/background/background.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_LEAST 8u

int haul_bg_pool_init(struct haul_bg_pool *pool, size_t bytes, size_t slot_bytes, struct haul_error *error)
{
    size_t count = bytes / slot_bytes > SLOTS_LEAST ? bytes / slot_bytes : SLOTS_LEAST;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->freed, NULL);
    pool->size = count * slot_bytes;
    pool->slots = calloc(count, sizeof *pool->slots);
    pool->bytes = haul_placement_alloc(pool->size, HAUL_NODE_UNKNOWN);
    if (!pool->slots || !pool->bytes) {
        return haul_error_set(error, ENOMEM, "no memory to keep pages of a snapshot in");
    }
    memset(pool->bytes, 1, pool->size); /* no writer is to wait for the kernel to find this memory */
    for (size_t i = 0; i < count; i++) {
        pool->slots[i].bytes = pool->bytes + i * slot_bytes;
        pool->slots[i].next = pool->free;
        pool->free = &pool->slots[i];
    }
    return 0;
}

void haul_bg_pool_cleanup(struct haul_bg_pool *pool)
{
    haul_placement_free(pool->bytes, pool->size);
    free(pool->slots);
    pthread_cond_destroy(&pool->freed);
    pthread_mutex_destroy(&pool->lock);
}

struct haul_bg_slot *haul_bg_pool_get(struct haul_bg_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    while (!pool->free && !pool->closed) {
        pthread_cond_wait(&pool->freed, &pool->lock);
    }
    struct haul_bg_slot *slot = pool->closed ? NULL : pool->free;
    if (slot) {
        pool->free = slot->next;
    }
    pthread_mutex_unlock(&pool->lock);
    return slot;
}

void haul_bg_pool_put_full(struct haul_bg_pool *pool, struct haul_bg_slot *slot)
{
    slot->next = NULL;
    pthread_mutex_lock(&pool->lock);
    if (pool->first) {
        pool->last->next = slot;
    } else {
        pool->first = slot;
    }
    pool->last = slot;
    atomic_fetch_add_explicit(&pool->full, 1, memory_order_relaxed);
    pthread_mutex_unlock(&pool->lock);
}

struct haul_bg_slot *haul_bg_pool_take_full(struct haul_bg_pool *pool)
{
    if (atomic_load_explicit(&pool->full, memory_order_relaxed) == 0) {
        return NULL; /* who must be certain comes after the fault thread was joined */
    }
    pthread_mutex_lock(&pool->lock);
    struct haul_bg_slot *slot = pool->first;
    if (slot) {
        pool->first = slot->next;
        atomic_fetch_sub_explicit(&pool->full, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&pool->lock);
    return slot;
}

void haul_bg_pool_put_free(struct haul_bg_pool *pool, struct haul_bg_slot *slot)
{
    pthread_mutex_lock(&pool->lock);
    slot->next = pool->free;
    pool->free = slot;
    pthread_cond_signal(&pool->freed);
    pthread_mutex_unlock(&pool->lock);
}

void haul_bg_pool_close(struct haul_bg_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->closed = true;
    pthread_cond_broadcast(&pool->freed);
    pthread_mutex_unlock(&pool->lock);
}
