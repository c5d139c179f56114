/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_HEADERS_LAYOUT_H
#define HAUL_TESTS_HEADERS_LAYOUT_H

/* The structs of the public headers that a caller allocates, and their sizes as C sees them. */

#include "channels/error.h"
#include "channels/placement/placement.h"
#include "engine/disk.h"
#include "engine/haul.h"
#include "engine/remap.h"
#include "engine/stream.h"
#include "engine/trackers.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LAYOUT_STRUCTS(X)                                                                                    \
    X(haul_error)                                                                                            \
    X(haul_placement_request)                                                                                \
    X(haul_placement_slot)                                                                                   \
    X(haul_options)                                                                                          \
    X(haul_ram_block)                                                                                        \
    X(haul_tracker_ops)                                                                                      \
    X(haul_state_ops)                                                                                        \
    X(haul_guest_ops)                                                                                        \
    X(haul_events)                                                                                           \
    X(haul_downtime)                                                                                         \
    X(haul_stream_stats)                                                                                     \
    X(haul_disk)                                                                                             \
    X(haul_disk_ops)                                                                                         \
    X(haul_disk_stats)                                                                                       \
    X(haul_stats)                                                                                            \
    X(haul_channel_stats)                                                                                    \
    X(haul_tracked_range)                                                                                    \
    X(haul_kvm_slot)                                                                                         \
    X(haul_remap)

/* layout_size returns the size of struct `name` in C, or 0 for an unknown name. */
size_t layout_size(const char *name);

#ifdef __cplusplus
}
#endif
#endif
