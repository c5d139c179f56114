/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_PLACEMENT_TOPOLOGY_H
#define HAUL_CHANNELS_PLACEMENT_TOPOLOGY_H

/* What a topology holds: for the placement files of this folder and their tests. Written once at creation. */

#include "channels/placement/placement.h"

#include <hwloc.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_CARD_NAME_MAX 63

struct haul_topology_node {
    int node; /* the kernel's number */
    uint64_t memory_bytes;
    hwloc_bitmap_t cpus; /* its CPUs; a CPU that several nodes share is the lowest-numbered node's */
};

struct haul_topology_cpu {
    int cpu;  /* the kernel's number */
    int node; /* HAUL_NODE_UNKNOWN when no node claims it */
};

/* A network card of a device: interfaces that the kernel makes up are none. */
struct haul_topology_card {
    char name[HAUL_CARD_NAME_MAX + 1];
    hwloc_obj_t at; /* its PCI device, or what else it hangs off */
};

struct haul_topology {
    hwloc_topology_t hwloc;
    hwloc_bitmap_t usable;            /* the CPUs that the process may use */
    struct haul_topology_node *nodes; /* by rising number */
    unsigned node_count;
    struct haul_topology_cpu
        *cpus; /* the usable ones, every core's first hardware thread before any second */
    unsigned cpu_count;
    struct haul_topology_card *cards;
    unsigned card_count;
};

/* haul_topology_find_node returns the node with the kernel's number `node`, or NULL. */
const struct haul_topology_node *haul_topology_find_node(const struct haul_topology *topology, int node);

/* haul_topology_find_cpu returns the usable CPU `cpu`, or NULL. */
const struct haul_topology_cpu *haul_topology_find_cpu(const struct haul_topology *topology, int cpu);

/* haul_cpu_list returns "0-3,8" ("none" when empty); the caller frees it. NULL without memory. */
char *haul_cpu_list(hwloc_const_bitmap_t cpus);

/*
 * haul_topology_find_cards fills `cards` with the interfaces in `folder` (HAUL_NET_FOLDER, or a test's) that
 * have a device; NULL: with those that the description names. -ENOMEM.
 */
int haul_topology_find_cards(struct haul_topology *topology, const char *folder);

/* haul_card_node returns the one node with CPUs that `card` hangs off, or HAUL_NODE_UNKNOWN when it hangs off
 * several. */
int haul_card_node(const struct haul_topology *topology, const struct haul_topology_card *card);

#define HAUL_NET_FOLDER "/sys/class/net"

/*
 * haul_nic_node_below is haul_topology_nic_node with the folder that says which interfaces lie below which:
 * HAUL_NET_FOLDER, or a test's.
 */
int haul_nic_node_below(const struct haul_topology *topology, const char *folder, const char *name);

/* haul_link_speed returns the speed of interface `name` in Mbit/s, or 0 when `folder` does not say. */
unsigned long haul_link_speed(const char *folder, const char *name);

#ifdef __cplusplus
}
#endif
#endif
