/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/destination/barrier.h"

#include "engine/clock.h"

#include <errno.h>

void haul_barrier_init(struct haul_barrier *barrier, unsigned channels)
{
    *barrier = (struct haul_barrier){.channels = channels};
    pthread_mutex_init(&barrier->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&barrier->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

void haul_barrier_destroy(struct haul_barrier *barrier)
{
    pthread_cond_destroy(&barrier->changed);
    pthread_mutex_destroy(&barrier->lock);
}

int haul_barrier_arrive(struct haul_barrier *barrier, uint32_t round, struct haul_error *error)
{
    int rc = 0;
    pthread_mutex_lock(&barrier->lock);
    if (round != barrier->done + 1) {
        rc = haul_error_set(error, EPROTO, "the mark of round %u came where round %u was due", round,
                            barrier->done + 1);
    } else if (barrier->aborted) {
        rc = haul_error_set(error, ECANCELED, "cancelled");
    } else if (++barrier->arrived == barrier->channels) {
        rc = 1;
    } else {
        while (barrier->done < round && !barrier->aborted) {
            pthread_cond_wait(&barrier->changed, &barrier->lock);
        }
        rc = barrier->done >= round ? 0 : haul_error_set(error, ECANCELED, "cancelled");
    }
    pthread_mutex_unlock(&barrier->lock);
    return rc;
}

void haul_barrier_release(struct haul_barrier *barrier)
{
    pthread_mutex_lock(&barrier->lock);
    barrier->arrived = 0;
    barrier->done++;
    pthread_cond_broadcast(&barrier->changed);
    pthread_mutex_unlock(&barrier->lock);
}

int haul_barrier_wait(struct haul_barrier *barrier, uint32_t round, int timeout_ms)
{
    struct timespec deadline = haul_deadline(timeout_ms);
    int rc = 0;
    pthread_mutex_lock(&barrier->lock);
    while (barrier->done < round && !barrier->aborted && rc == 0) {
        rc = pthread_cond_timedwait(&barrier->changed, &barrier->lock, &deadline);
    }
    if (barrier->done >= round) {
        rc = 0;
    } else {
        rc = barrier->aborted ? -ECANCELED : -ETIMEDOUT;
    }
    pthread_mutex_unlock(&barrier->lock);
    return rc;
}

void haul_barrier_abort(struct haul_barrier *barrier)
{
    pthread_mutex_lock(&barrier->lock);
    barrier->aborted = true;
    pthread_cond_broadcast(&barrier->changed);
    pthread_mutex_unlock(&barrier->lock);
}
