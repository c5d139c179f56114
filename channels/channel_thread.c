/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/channel_thread.h"

#include <signal.h>

int haul_channel_thread_start(pthread_t *thread, void *(*run)(void *), void *opaque)
{
    sigset_t all, before;
    sigfillset(&all);
    /* A new thread inherits the mask of its creator. */
    int code = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (code != 0) {
        return -code;
    }
    code = pthread_create(thread, NULL, run, opaque);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -code;
}

int haul_channel_scratch_node(const struct haul_topology *topology, const struct haul_placement_slot *slot)
{
    return topology ? slot->node : HAUL_NODE_UNKNOWN;
}
