/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both stacks are without locks for the fault thread: it runs before everybody, and must not wait for a
 * writer that was preempted with a lock in its hands. Each stack has one taker at a time, so that nothing
 * that a taker looks at can be taken and come back meanwhile: the fault thread of free slots, and of full
 * ones whichever writer holds the lock.
 */
#include "engine/background/background.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_LEAST 8u

int haul_bg_pool_init(struct haul_bg_pool *pool, size_t bytes, size_t slot_bytes, struct haul_error *error)
{
    size_t count = bytes / slot_bytes > SLOTS_LEAST ? bytes / slot_bytes : SLOTS_LEAST;
    pthread_mutex_init(&pool->lock, NULL);
    haul_doorbell_init(&pool->freed);
    pool->size = count * slot_bytes;
    pool->slots = calloc(count, sizeof *pool->slots);
    pool->bytes = haul_placement_alloc(pool->size, HAUL_NODE_UNKNOWN);
    if (!pool->slots || !pool->bytes) {
        return haul_error_set(error, ENOMEM, "no memory to keep pages of a snapshot in");
    }
    memset(pool->bytes, 1, pool->size); /* no writer is to wait for the kernel to find this memory */
    pool->count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        pool->slots[i].bytes = pool->bytes + i * slot_bytes;
        haul_bg_pool_put_free(pool, &pool->slots[i]);
    }
    return 0;
}

void haul_bg_pool_cleanup(struct haul_bg_pool *pool)
{
    haul_placement_free(pool->bytes, pool->size);
    free(pool->slots);
    pthread_mutex_destroy(&pool->lock);
}

/* Release, pairs with the acquire in take: who takes the slot sees what it holds. */
static void put(haul_bg_stack *stack, struct haul_bg_slot *slot)
{
    struct haul_bg_slot *top = atomic_load_explicit(stack, memory_order_relaxed);
    do {
        slot->next = top;
    } while (!atomic_compare_exchange_weak_explicit(stack, &top, slot, memory_order_release,
                                                    memory_order_relaxed));
}

static struct haul_bg_slot *take(haul_bg_stack *stack)
{
    /* Acquire, pairs with the release in put. */
    struct haul_bg_slot *top = atomic_load_explicit(stack, memory_order_acquire);
    while (top && !atomic_compare_exchange_weak_explicit(stack, &top, top->next, memory_order_acquire,
                                                         memory_order_acquire)) {
    }
    return top;
}

struct haul_bg_slot *haul_bg_pool_get(struct haul_bg_pool *pool)
{
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(&pool->freed);
        /* Acquire, pairs with the release in haul_bg_pool_close. */
        if (atomic_load_explicit(&pool->closed, memory_order_acquire)) {
            return NULL;
        }
        struct haul_bg_slot *slot = take(&pool->free);
        if (slot) {
            return slot;
        }
        haul_doorbell_wait(&pool->freed, ticket, UINT64_MAX);
    }
}

void haul_bg_pool_put_full(struct haul_bg_pool *pool, struct haul_bg_slot *slot)
{
    atomic_fetch_add_explicit(&pool->filled, 1, memory_order_relaxed);
    put(&pool->full, slot);
}

struct haul_bg_slot *haul_bg_pool_take_full(struct haul_bg_pool *pool)
{
    if (haul_bg_pool_filled(pool) == 0) {
        return NULL; /* who must be certain comes after the fault thread was joined */
    }
    pthread_mutex_lock(&pool->lock);
    struct haul_bg_slot *slot = take(&pool->full);
    pthread_mutex_unlock(&pool->lock);
    if (slot) {
        atomic_fetch_sub_explicit(&pool->filled, 1, memory_order_relaxed);
    }
    return slot;
}

uint32_t haul_bg_pool_filled(struct haul_bg_pool *pool)
{
    return atomic_load_explicit(&pool->filled, memory_order_relaxed);
}

void haul_bg_pool_put_free(struct haul_bg_pool *pool, struct haul_bg_slot *slot)
{
    put(&pool->free, slot);
    haul_doorbell_ring(&pool->freed);
}

void haul_bg_pool_close(struct haul_bg_pool *pool)
{
    /* Release, pairs with the acquire in haul_bg_pool_get. */
    atomic_store_explicit(&pool->closed, true, memory_order_release);
    haul_doorbell_ring(&pool->freed);
}
