/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_RING_H
#define HAUL_CHANNELS_RING_H

/*
 * A ring of pointers from one producer thread to one consumer thread, without locks. What a pointer points
 * to belongs to the producer until haul_ring_push returns true, to the consumer from haul_ring_pop on.
 * Indices run freely over 32 bits; their unsigned difference is the number of items.
 */

#include "channels/atomic.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HAUL_RING_CAPACITY 16u /* a power of two, so that free-running indices wrap cleanly */

struct haul_ring {
    /* The producer's line: it alone writes these. */
    alignas(HAUL_CACHE_LINE) HAUL_ATOMIC(uint32_t) tail; /* items ever pushed; read by the consumer */
    uint32_t head_seen;                                  /* private: the producer's last look at head */
    /* The consumer's line. */
    alignas(HAUL_CACHE_LINE) HAUL_ATOMIC(uint32_t) head; /* items ever popped; read by the producer */
    uint32_t tail_seen;                                  /* private: the consumer's last look at tail */
    /* Handed over with tail (to the consumer) and head (back to the producer). */
    alignas(HAUL_CACHE_LINE) void *slots[HAUL_RING_CAPACITY];
};

static_assert((HAUL_RING_CAPACITY & (HAUL_RING_CAPACITY - 1)) == 0, "capacity is a power of two");
static_assert(offsetof(struct haul_ring, head) == HAUL_CACHE_LINE, "indices are on lines of their own");
static_assert(offsetof(struct haul_ring, slots) / 2 == HAUL_CACHE_LINE, "slots follow the indices' lines");
static_assert(sizeof(struct haul_ring) % HAUL_CACHE_LINE == 0, "no neighbour shares a line with the ring");

/* haul_ring_init empties the ring; before either thread uses it. */
static inline void haul_ring_init(struct haul_ring *ring)
{
    /* Relaxed: starting the other thread synchronises. */
    atomic_store_explicit(&ring->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&ring->head, 0, memory_order_relaxed);
    ring->head_seen = 0;
    ring->tail_seen = 0;
}

/* haul_ring_push appends `item`, or returns false when the ring is full. Producer only. */
static inline bool haul_ring_push(struct haul_ring *ring, void *item)
{
    /* Relaxed: only this thread writes tail. */
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (tail - ring->head_seen == HAUL_RING_CAPACITY) {
        /* Acquire, pairs with the release of head in haul_ring_pop: the consumer has read the slot. */
        ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire);
        if (tail - ring->head_seen == HAUL_RING_CAPACITY) {
            return false;
        }
    }
    ring->slots[tail & (HAUL_RING_CAPACITY - 1)] = item;
    /* Release, pairs with the acquire of tail in haul_ring_pop: hands over the slot and what it points to. */
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
    return true;
}

/* haul_ring_pop takes the oldest item, or returns NULL when the ring is empty. Consumer only. */
static inline void *haul_ring_pop(struct haul_ring *ring)
{
    /* Relaxed: only this thread writes head. */
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (head == ring->tail_seen) {
        /* Acquire, pairs with the release of tail in haul_ring_push. */
        ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
        if (head == ring->tail_seen) {
            return NULL;
        }
    }
    void *item = ring->slots[head & (HAUL_RING_CAPACITY - 1)];
    /* Release, pairs with the acquire of head in haul_ring_push: the slot may be written again. */
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    return item;
}

/* haul_ring_left returns the items that haul_ring_pop would find now. Consumer only. */
static inline uint32_t haul_ring_left(struct haul_ring *ring)
{
    /* Acquire, pairs with the release of tail in haul_ring_push. */
    ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
    /* Relaxed: only this thread writes head. */
    return ring->tail_seen - atomic_load_explicit(&ring->head, memory_order_relaxed);
}

#endif
