/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/doorbell.h"

#include "channels/socket_io.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Pauses before the waiter goes to sleep: some ten microseconds, about what a sleep and a wake-up cost. */
#define SPIN_PAUSES 256

static inline void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

void haul_doorbell_init(struct haul_doorbell *bell)
{
    /* Relaxed: whoever hands the bell to another thread synchronises. */
    atomic_store_explicit(&bell->value, 0, memory_order_relaxed);
    atomic_store_explicit(&bell->sleeping, 0, memory_order_relaxed);
}

uint32_t haul_doorbell_ticket(struct haul_doorbell *bell)
{
    /* Acquire, pairs with the increment in haul_doorbell_ring: a ticket taken after a ring sees the work that
     * was published before that ring. */
    return atomic_load_explicit(&bell->value, memory_order_acquire);
}

static bool has_rung(struct haul_doorbell *bell, uint32_t ticket)
{
    return haul_doorbell_ticket(bell) != ticket;
}

/* Sleeps until `value` differs from `ticket`, a wake-up, a signal, or until `left` has passed. */
static void sleep_on(struct haul_doorbell *bell, uint32_t ticket, const struct timespec *left)
{
    syscall(SYS_futex, &bell->value, FUTEX_WAIT_PRIVATE, ticket, left, NULL, 0);
}

bool haul_doorbell_wait(struct haul_doorbell *bell, uint32_t ticket, uint64_t timeout_ns)
{
    for (unsigned i = 0; i < SPIN_PAUSES; i++) {
        if (has_rung(bell, ticket)) {
            return true;
        }
        pause_cpu();
    }
    uint64_t start = timeout_ns == UINT64_MAX ? 0 : haul_io_now_ns();
    /*
     * Sequentially consistent, pairs with the increment and the load of `sleeping` in haul_doorbell_ring:
     * either the ringer sees that we sleep and wakes us, or the kernel's comparison in FUTEX_WAIT sees the
     * new value and does not sleep.
     */
    atomic_store_explicit(&bell->sleeping, 1, memory_order_seq_cst);
    bool rung;
    while (!(rung = has_rung(bell, ticket))) {
        struct timespec left;
        if (timeout_ns != UINT64_MAX) {
            uint64_t passed = haul_io_now_ns() - start;
            if (passed >= timeout_ns) {
                break;
            }
            left.tv_sec = (time_t)((timeout_ns - passed) / 1000000000u);
            left.tv_nsec = (long)((timeout_ns - passed) % 1000000000u);
        }
        sleep_on(bell, ticket, timeout_ns == UINT64_MAX ? NULL : &left);
    }
    /* Relaxed: a ringer that still reads 1 makes one needless system call. */
    atomic_store_explicit(&bell->sleeping, 0, memory_order_relaxed);
    return rung;
}

void haul_doorbell_ring(struct haul_doorbell *bell)
{
    /* Release half: pairs with haul_doorbell_ticket. Sequentially consistent: see haul_doorbell_wait. */
    atomic_fetch_add_explicit(&bell->value, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&bell->sleeping, memory_order_seq_cst)) {
        syscall(SYS_futex, &bell->value, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}
