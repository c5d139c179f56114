/* SPDX-License-Identifier: Apache-2.0 */
/* Applying a placement to the calling thread and to memory, through the system calls that libnuma wraps. */
#include "channels/placement/topology.h"

#include <errno.h>
#include <numaif.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#define NODES_MAX 1024 /* the kernel's own largest CONFIG_NODES_SHIFT */
#define BITS_PER_LONG (8 * sizeof(unsigned long))

struct node_mask {
    unsigned long bits[NODES_MAX / BITS_PER_LONG];
};

/* The kernel reads one bit less than the size that it is told. */
#define NODE_MASK_SIZE (NODES_MAX + 1)

static bool node_mask_of(int node, struct node_mask *mask)
{
    if (node < 0 || node >= NODES_MAX) {
        return false;
    }
    *mask = (struct node_mask){{0}};
    mask->bits[(unsigned)node / BITS_PER_LONG] = 1UL << ((unsigned)node % BITS_PER_LONG);
    return true;
}

static int pin(int cpu, struct haul_error *error)
{
    cpu_set_t *set = CPU_ALLOC((size_t)cpu + 1);
    if (!set) {
        return haul_error_set(error, ENOMEM, "no memory to pin a thread to CPU %d", cpu);
    }
    size_t size = CPU_ALLOC_SIZE((size_t)cpu + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S((size_t)cpu, size, set);
    int code = sched_setaffinity(0, size, set) == 0 ? 0 : errno;
    CPU_FREE(set);
    return code == 0 ? 0
                     : haul_error_set(error, code, "cannot pin a thread to CPU %d: %s", cpu, strerror(code));
}

static int prefer(const struct haul_topology *topology, int node, struct haul_error *error)
{
    struct node_mask mask;
    if (!haul_topology_find_node(topology, node) || !node_mask_of(node, &mask)) {
        return haul_error_set(error, EINVAL, "cannot prefer memory of node %d: the machine has no such node",
                              node);
    }
    if (!hwloc_bitmap_isset(hwloc_topology_get_allowed_nodeset(topology->hwloc), (unsigned)node)) {
        return 0; /* the process may run near that memory, but not use it */
    }
    if (set_mempolicy(MPOL_PREFERRED, mask.bits, NODE_MASK_SIZE) == 0 || errno == ENOSYS || errno == EPERM) {
        return 0;
    }
    int code = errno;
    return haul_error_set(error, code, "cannot prefer memory of node %d: %s", node, strerror(code));
}

int haul_placement_apply(const struct haul_topology *topology, const struct haul_placement_slot *slot,
                         struct haul_error *error)
{
    if (slot->cpu == HAUL_CPU_ANY && slot->node == HAUL_NODE_UNKNOWN) {
        return 0;
    }
    if (!hwloc_topology_is_thissystem(topology->hwloc)) {
        return haul_error_set(error, EINVAL, "cannot apply a placement that was planned for another machine");
    }
    if (slot->cpu != HAUL_CPU_ANY) {
        if (!haul_topology_find_cpu(topology, slot->cpu)) {
            return haul_error_set(error, EINVAL, "cannot pin a thread to CPU %d: it is not usable here",
                                  slot->cpu);
        }
        int status = pin(slot->cpu, error);
        if (status != 0) {
            return status;
        }
    }
    return slot->node == HAUL_NODE_UNKNOWN ? 0 : prefer(topology, slot->node, error);
}

int haul_memory_node(const void *address)
{
    void *page = (void *)(uintptr_t)address;
    int status = -ENOENT;
    /* Without target nodes the call only asks. get_mempolicy would fault the page in. */
    if (move_pages(0, 1, &page, NULL, &status, 0) != 0 || status < 0) {
        return HAUL_NODE_UNKNOWN;
    }
    return status;
}

int haul_placement_node(const struct haul_topology *topology, const struct haul_placement_slot *slot)
{
    return topology ? slot->node : HAUL_NODE_UNKNOWN;
}

void *haul_placement_alloc(size_t size, int node)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    /* Memory elsewhere is slower, but right: a kernel without policies or a node without room is no failure.
     */
    struct node_mask mask;
    if (node_mask_of(node, &mask)) {
        (void)mbind(memory, size, MPOL_PREFERRED, mask.bits, NODE_MASK_SIZE, 0);
    }
    return memory;
}

void haul_placement_free(void *memory, size_t size)
{
    if (memory) {
        munmap(memory, size);
    }
}
