/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/account.h"

#include "channels/socket_io.h"

#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUSY 1u
#define READ_TRIES 1000 /* of something that takes some nanoseconds */

static uint64_t get(haul_counter *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void haul_account_start(struct haul_account *account)
{
    memset(account, 0, sizeof *account);
    atomic_store_explicit(&account->cpu, -1, memory_order_relaxed);
    atomic_store_explicit(&account->since, haul_io_now_ns() << 1, memory_order_relaxed);
}

void haul_account_thread(struct haul_account *account)
{
    atomic_store_explicit(&account->tid, (int)syscall(SYS_gettid), memory_order_relaxed);
}

void haul_account_turn(struct haul_account *account, bool busy, uint64_t now_ns)
{
    uint64_t since = get(&account->since);
    uint64_t started = since >> 1;
    uint64_t passed = now_ns > started ? now_ns - started : 0;
    /* Pairs with read_times: sequentially consistent so that no reader sees the sum and the old start. */
    atomic_store_explicit(&account->since, 0, memory_order_seq_cst);
    haul_counter *total = since & BUSY ? &account->busy_ns : &account->stalled_ns;
    atomic_store_explicit(total, get(total) + passed, memory_order_seq_cst);
    atomic_store_explicit(&account->since, now_ns << 1 | (busy ? BUSY : 0), memory_order_seq_cst);
    atomic_store_explicit(&account->cpu, sched_getcpu(), memory_order_relaxed);
}

/* The two times, with what the current state has lasted so far. */
static void read_times(struct haul_account *account, struct haul_channel_counters *counters)
{
    uint64_t since;
    unsigned tries = READ_TRIES;
    /* Pairs with haul_account_turn: retried while it is under way. */
    do {
        since = atomic_load_explicit(&account->since, memory_order_seq_cst);
        counters->busy_ns = atomic_load_explicit(&account->busy_ns, memory_order_seq_cst);
        counters->stalled_ns = atomic_load_explicit(&account->stalled_ns, memory_order_seq_cst);
    } while ((since == 0 || since != atomic_load_explicit(&account->since, memory_order_seq_cst)) &&
             --tries > 0);
    if (tries == 0) {
        return; /* the thread was preempted in the middle: the sums alone are right, if old */
    }
    uint64_t now = haul_io_now_ns();
    uint64_t passed = now > since >> 1 ? now - (since >> 1) : 0;
    *(since & BUSY ? &counters->busy_ns : &counters->stalled_ns) += passed;
}

/* Raises `reported` to `value`, and returns the greatest ever. */
static uint64_t raise_to(haul_counter *reported, uint64_t value)
{
    uint64_t most = get(reported);
    while (most < value) {
        /* Relaxed: only this number matters, whichever reader wins. */
        if (atomic_compare_exchange_weak_explicit(reported, &most, value, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            return value;
        }
    }
    return most;
}

void haul_account_read(struct haul_account *account, struct haul_carrier *carrier,
                       struct haul_channel_counters *counters)
{
    memset(counters, 0, sizeof *counters);
    /* In this order: bytes that are counted meanwhile can only make the result too small. Acquire keeps the
     * question to the kernel behind it; it takes nothing from another thread. */
    uint64_t bytes = atomic_load_explicit(&account->bytes, memory_order_acquire);
    uint64_t undelivered = carrier && carrier->ops->undelivered ? carrier->ops->undelivered(carrier) : 0;
    counters->bytes_written = bytes;
    counters->bytes_delivered =
        raise_to(&account->delivered_reported, bytes > undelivered ? bytes - undelivered : 0);
    if (counters->bytes_written < counters->bytes_delivered) {
        counters->bytes_written = counters->bytes_delivered; /* another reader was ahead */
    }
    /* Parts before what they are part of, which the thread counts first. */
    counters->disk_bytes_written = get(&account->disk_bytes);
    counters->disk_data_pages = get(&account->disk_data_pages);
    counters->disk_zero_pages = get(&account->disk_zero_pages);
    counters->zero_pages = get(&account->zero_pages);
    counters->raw_pages = get(&account->raw_pages);
    counters->compressed_pages = get(&account->compressed_pages);
    counters->pages = counters->zero_pages + counters->raw_pages + counters->compressed_pages;
    counters->compressed_bytes = get(&account->compressed_bytes);
    counters->batches = get(&account->batches);
    counters->encode_ns = get(&account->encode_ns);
    read_times(account, counters);
    counters->busy_ns = raise_to(&account->busy_reported, counters->busy_ns);
    counters->stalled_ns = raise_to(&account->stalled_reported, counters->stalled_ns);
    counters->cpu = atomic_load_explicit(&account->cpu, memory_order_relaxed);
    counters->tid = atomic_load_explicit(&account->tid, memory_order_relaxed);
}
