/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_DESTINATION_BARRIER_H
#define HAUL_ENGINE_DESTINATION_BARRIER_H

/* The barrier of rule R2: no channel reads packets of round n + 1 before every channel has read round n's
 * mark. */

#include "channels/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_barrier {
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    unsigned channels;
    unsigned arrived;
    uint32_t done; /* rounds that every channel has finished */
    bool aborted;
};

void haul_barrier_init(struct haul_barrier *barrier, unsigned channels);
void haul_barrier_destroy(struct haul_barrier *barrier);

/*
 * haul_barrier_arrive: one channel read the mark of `round`. Returns 1 to the last channel to arrive, at
 * once, before the others are released: it reports the round and then calls haul_barrier_release; 0 to the
 * others when the round is released. -EPROTO when `round` is not the next one; -ECANCELED after
 * haul_barrier_abort.
 */
int haul_barrier_arrive(struct haul_barrier *barrier, uint32_t round, struct haul_error *error);
void haul_barrier_release(struct haul_barrier *barrier);

/* haul_barrier_wait waits until `round` is done. -ECANCELED after haul_barrier_abort; -ETIMEDOUT. */
int haul_barrier_wait(struct haul_barrier *barrier, uint32_t round, int timeout_ms);

/* haul_barrier_abort releases everybody, for good. */
void haul_barrier_abort(struct haul_barrier *barrier);

#ifdef __cplusplus
}
#endif
#endif
