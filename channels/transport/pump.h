/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_PUMP_H
#define HAUL_CHANNELS_TRANSPORT_PUMP_H

/* Carries bytes between a pair of descriptors of any kind (pipes, standard input and output) and a socket. */

#include "channels/atomic.h"
#include "channels/error.h"
#include "channels/thread_list.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a pump tells, and what it obeys. */
struct haul_pump_meter {
    HAUL_ATOMIC(uint64_t) outward; /* bytes written to the socket; relaxed, a number of its own */
    HAUL_ATOMIC(uint64_t) inward;  /* bytes read from it and written to `out`; the same */
    /* Asked by the pump before it reads `in`: nanoseconds for which it must not, 0 for now. NULL: no limit.
     */
    uint64_t (*wait_ns)(void *opaque);
    void *opaque;
};

/*
 * haul_pump_run copies `in` to `socket` and `socket` to `out` until the socket's peer has closed and all that
 * it sent is written, or `stop_fd` (or -1) becomes readable. The end of `in` is passed on as a half-close.
 * `in` and `out` may be the same descriptor. Sets all of them non-blocking. Closes none. Returns 0 or a
 * negative errno: what reading or writing said. `meter` may be NULL.
 */
int haul_pump_run(int in, int out, int socket, int stop_fd, struct haul_pump_meter *meter);

struct haul_pump; /* opaque: a thread that runs haul_pump_run */

/* haul_pump_start bridges `in` and `out`, which it takes over also when it fails, to *fd, one blocking
 * socket. Its thread enters `threads` (or NULL) as "pump". */
int haul_pump_start(int in, int out, struct haul_thread_list *threads, struct haul_pump **pump, int *fd,
                    struct haul_error *error);

/*
 * haul_pump_stop gives what was written to the socket before it was closed a moment to get out, ends the
 * thread and closes `in` and `out`. NULL is accepted.
 */
void haul_pump_stop(struct haul_pump *pump);

#ifdef __cplusplus
}
#endif
#endif
