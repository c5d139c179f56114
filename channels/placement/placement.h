/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_PLACEMENT_PLACEMENT_H
#define HAUL_CHANNELS_PLACEMENT_PLACEMENT_H

/*
 * Which CPU and NUMA node each channel thread runs on. A topology is read once (this machine, or a synthetic
 * or XML description for tests); a plan is computed from it; each channel thread applies its own row.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_NODE_UNKNOWN (-1)
#define HAUL_CPU_ANY (-1)

struct haul_topology; /* opaque; immutable after creation, so it may be read from any thread */

enum haul_topology_source {
    HAUL_TOPOLOGY_THIS_MACHINE, /* text is ignored */
    HAUL_TOPOLOGY_SYNTHETIC,    /* text is an hwloc synthetic description, e.g. "node:2 core:4 pu:1" */
    HAUL_TOPOLOGY_XML           /* text is the path of a file that lstopo wrote */
};

/*
 * haul_topology_new reads a topology; on this machine plans are restricted to the CPUs that the calling
 * thread may use (sched_getaffinity). *topology is the caller's, to be freed. -EINVAL for a description that
 * hwloc refuses, -ENOMEM, -ENOENT or another errno for an XML file that cannot be read.
 */
int haul_topology_new(enum haul_topology_source source, const char *text, struct haul_topology **topology,
                      struct haul_error *error);
void haul_topology_free(struct haul_topology *topology);

/* haul_topology_node_count returns the number of NUMA nodes with memory, at least 1. */
unsigned haul_topology_node_count(const struct haul_topology *topology);

/* haul_topology_print writes the human-readable picture that `haul topology` shows: nodes, their CPUs and
 * memory, network cards and their nodes. */
void haul_topology_print(const struct haul_topology *topology, FILE *out);

/*
 * haul_topology_nic_node returns the NUMA node of network interface `name`, or HAUL_NODE_UNKNOWN (loopback,
 * virtual cards, or a machine that does not say). A bond, bridge or VLAN of this machine is on the node of
 * the cards below it when they are all on one.
 */
int haul_topology_nic_node(const struct haul_topology *topology, const char *name);

/*
 * haul_route_interface writes the name of the interface that this machine's routing table uses for the peer
 * of a connected tcp socket `fd` to `name` (at least IF_NAMESIZE bytes, else -EINVAL). -ENOENT when there is
 * none (a unix socket, or no route), -ENOTCONN, or what rtnetlink says.
 */
int haul_route_interface(int fd, char *name, size_t size);

/* haul_memory_node returns the NUMA node that holds the page at `address` of this process, or
 * HAUL_NODE_UNKNOWN when it is not populated or the kernel does not say. Does not touch the page. */
int haul_memory_node(const void *address);

struct haul_placement_request {
    const char
        *policy; /* "auto", "none", or a CPU list like "0-3,8": channel i gets the i-th CPU, repeating */
    unsigned channels; /* 1..128 */
    int nic_node;      /* from haul_topology_nic_node, or HAUL_NODE_UNKNOWN */
    /* Bytes of guest memory per node, `memory_nodes` entries; NULL when not known. */
    const uint64_t *memory_bytes_by_node;
    unsigned memory_nodes;
};

struct haul_placement_slot {
    int cpu;  /* CPU to pin to, or HAUL_CPU_ANY for not pinned */
    int node; /* node for the thread's scratch memory and preferred batches, or HAUL_NODE_UNKNOWN */
};

/*
 * haul_placement_plan fills `slots` (request->channels entries, the caller's).
 * "auto": when the usable CPUs are all on one node, nothing is pinned and the scheduler decides (pinning two
 * threads of one machine to the same few CPUs loses). Otherwise each channel takes one of the least shared
 * CPUs, so that each has its own while there are enough; among the nodes that have such a CPU the one
 * whose share of the guest memory is served least wins (all shares are equal when the memory is not
 * known), then the card's node, then the lowest number. A core's second hardware thread comes after every
 * core's first. The plan for N channels is the start of the plan for N + 1. -EINVAL for channels out of
 * range, and for a list that does not parse or names a CPU outside the usable ones: the message names it.
 */
int haul_placement_plan(const struct haul_topology *topology, const struct haul_placement_request *request,
                        struct haul_placement_slot *slots, struct haul_error *error);

/* haul_placement_print writes a plan as `haul topology` shows it, channels with the same slot on one line. */
void haul_placement_print(const struct haul_placement_slot *slots, unsigned channels, FILE *out);

/*
 * haul_placement_apply pins the calling thread as `slot` says and makes its node the preferred one for the
 * thread's own allocations. A slot with HAUL_CPU_ANY and an unknown node changes nothing. A kernel
 * without memory policies, or a container that forbids them, is not an error: a pinned thread allocates near
 * its CPU anyway. -EINVAL for a CPU or node that the machine does not have or allow, or a topology that is
 * not this machine's.
 */
int haul_placement_apply(const struct haul_topology *topology, const struct haul_placement_slot *slot,
                         struct haul_error *error);

/* haul_placement_node returns the node for the memory of a channel: the slot's where placement is in use
 * (`topology` is not NULL). */
int haul_placement_node(const struct haul_topology *topology, const struct haul_placement_slot *slot);

/* haul_placement_alloc returns `size` zeroed bytes, page-aligned, on `node` while it has room (any when
 * unknown), or NULL. haul_placement_free takes the same size, and NULL. */
void *haul_placement_alloc(size_t size, int node);
void haul_placement_free(void *memory, size_t size);

#ifdef __cplusplus
}
#endif
#endif
