/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_ACCOUNT_H
#define HAUL_CHANNELS_ACCOUNT_H

/*
 * The counters of one channel: written by its thread alone, read by anybody at any time. Relaxed throughout:
 * each counter stands for itself and publishes nothing. Only the times are read together (see `since`).
 */

#include "channels/atomic.h"
#include "channels/sender.h"

typedef HAUL_ATOMIC(uint64_t) haul_counter;

struct haul_account {
    alignas(HAUL_CACHE_LINE) haul_counter bytes;
    haul_counter zero_pages;
    haul_counter raw_pages;
    haul_counter compressed_pages;
    haul_counter compressed_bytes;
    haul_counter disk_bytes;
    haul_counter disk_data_pages;
    haul_counter disk_zero_pages;
    haul_counter batches;
    haul_counter busy_ns;
    haul_counter encode_ns;
    haul_counter stalled_ns;
    /*
     * When the thread became busy or idle, shifted left by one, and the new state in bit 0 (1: busy); 0 while
     * the thread moves the time that passed into busy_ns or stalled_ns. Lets readers count a long socket call
     * while it lasts.
     */
    haul_counter since;
    HAUL_ATOMIC(int) cpu;
    HAUL_ATOMIC(int) tid;
    /*
     * Written by readers, on their own line: the most that was ever reported of each. A reader may see a
     * moment that the thread, preempted in the middle, then counts otherwise; what it reported must not go
     * back.
     */
    alignas(HAUL_CACHE_LINE) haul_counter delivered_reported;
    haul_counter busy_reported;
    haul_counter stalled_reported;
};

/* haul_account_start zeroes the counters; the thread is idle from now on. Before the thread starts. */
void haul_account_start(struct haul_account *account);

/* haul_account_thread notes the calling thread's id; haul_account_add adds to one counter. Owner thread only.
 */
void haul_account_thread(struct haul_account *account);
static inline void haul_account_add(haul_counter *counter, uint64_t value)
{
    /* A single writer: no read-modify-write needed. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + value,
                          memory_order_relaxed);
}

/* haul_account_disk notes which part of what was counted belongs to a disk. Owner thread only. */
static inline void haul_account_disk(struct haul_account *account, uint64_t bytes, uint64_t data_pages,
                                     uint64_t zero_pages)
{
    haul_account_add(&account->disk_bytes, bytes);
    haul_account_add(&account->disk_data_pages, data_pages);
    haul_account_add(&account->disk_zero_pages, zero_pages);
}

/* haul_account_turn ends the current state at `now_ns` and begins the other. Owner thread only. */
void haul_account_turn(struct haul_account *account, bool busy, uint64_t now_ns);

/*
 * haul_account_read fills `counters`. `carrier` (NULL: none) is what the bytes were given to: those that it
 * says are under way are not delivered. What is reported as delivered never goes back,
 * although the kernel's queue may be seen to grow before the byte counter does. Any thread.
 */
void haul_account_read(struct haul_account *account, struct haul_carrier *carrier,
                       struct haul_channel_counters *counters);

#endif
