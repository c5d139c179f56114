/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_CHANNEL_THREAD_H
#define HAUL_CHANNELS_CHANNEL_THREAD_H

#include "channels/placement/placement.h"

#include <pthread.h>

/*
 * haul_channel_thread_start starts a thread that takes no signals: they are the application's. 0 or a
 * negative errno.
 */
int haul_channel_thread_start(pthread_t *thread, void *(*run)(void *), void *opaque);

/* haul_channel_scratch_node returns the node for a channel's memory: the slot's when placement is in use. */
int haul_channel_scratch_node(const struct haul_topology *topology, const struct haul_placement_slot *slot);

#endif
