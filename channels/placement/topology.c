/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/placement/topology.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int describe(hwloc_topology_t hwloc, enum haul_topology_source source, const char *text,
                    struct haul_error *error)
{
    if (source == HAUL_TOPOLOGY_SYNTHETIC) {
        if (hwloc_topology_set_synthetic(hwloc, text) != 0) {
            return haul_error_set(error, EINVAL,
                                  "topology \"%s\" is not a synthetic description that hwloc reads", text);
        }
    } else if (source == HAUL_TOPOLOGY_XML) {
        if (access(text, R_OK) != 0) {
            int code = errno;
            return haul_error_set(error, code, "cannot read topology file %s: %s", text, strerror(code));
        }
        if (hwloc_topology_set_xml(hwloc, text) != 0) {
            return haul_error_set(error, EINVAL, "topology file %s is not XML that lstopo wrote", text);
        }
    }
    return 0;
}

/*
 * Disallowed CPUs are kept for `haul topology` to show. Discovery may not move the calling thread from CPU to
 * CPU: it is also called while the guest runs.
 */
static int load(hwloc_topology_t hwloc, enum haul_topology_source source, const char *text,
                struct haul_error *error)
{
    unsigned long flags = HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED | HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING;
    if (hwloc_topology_set_flags(hwloc, flags) != 0 ||
        hwloc_topology_set_io_types_filter(hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) != 0) {
        return haul_error_set(error, EINVAL, "hwloc refused its flags; it is older than version 2.3");
    }
    /* For interfaces and disks of this machine hwloc asks libudev, which is not meant for several threads. */
    if (source == HAUL_TOPOLOGY_THIS_MACHINE) {
        hwloc_topology_set_type_filter(hwloc, HWLOC_OBJ_OS_DEVICE, HWLOC_TYPE_FILTER_KEEP_NONE);
    }
    int status = describe(hwloc, source, text, error);
    if (status != 0) {
        return status;
    }
    if (hwloc_topology_load(hwloc) != 0) {
        const char *what = source == HAUL_TOPOLOGY_THIS_MACHINE ? "of this machine" : text;
        return haul_error_set(error, EINVAL, "hwloc could not load the topology %s", what);
    }
    return 0;
}

static int find_usable(struct haul_topology *topology)
{
    topology->usable = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology->hwloc));
    if (!topology->usable) {
        return -ENOMEM;
    }
    if (!hwloc_topology_is_thissystem(topology->hwloc)) {
        return 0;
    }
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    if (!bound) {
        return -ENOMEM;
    }
    int status = 0;
    if (hwloc_get_cpubind(topology->hwloc, bound, HWLOC_CPUBIND_THREAD) == 0) {
        status = hwloc_bitmap_and(topology->usable, topology->usable, bound);
    }
    hwloc_bitmap_free(bound);
    return status == 0 ? 0 : -ENOMEM;
}

static int compare_nodes(const void *left, const void *right)
{
    const struct haul_topology_node *a = left, *b = right;
    return (a->node > b->node) - (a->node < b->node);
}

static int read_nodes(struct haul_topology *topology)
{
    int count = hwloc_get_nbobjs_by_type(topology->hwloc, HWLOC_OBJ_NUMANODE);
    topology->nodes = calloc(count > 0 ? (size_t)count : 1, sizeof *topology->nodes);
    if (!topology->nodes) {
        return -ENOMEM;
    }
    for (int i = 0; i < count; i++) {
        hwloc_obj_t object = hwloc_get_obj_by_type(topology->hwloc, HWLOC_OBJ_NUMANODE, (unsigned)i);
        struct haul_topology_node *node = &topology->nodes[topology->node_count];
        node->cpus = hwloc_bitmap_dup(object->cpuset);
        if (!node->cpus) {
            return -ENOMEM;
        }
        node->node = (int)object->os_index;
        node->memory_bytes = object->attr->numanode.local_memory;
        topology->node_count++;
    }
    qsort(topology->nodes, topology->node_count, sizeof *topology->nodes, compare_nodes);

    /* Fast or slow memory beside the ordinary one makes a node of its own around the same CPUs: the ordinary
     * one has the lowest number. */
    for (unsigned i = 1; i < topology->node_count; i++) {
        for (unsigned j = 0; j < i; j++) {
            if (hwloc_bitmap_andnot(topology->nodes[i].cpus, topology->nodes[i].cpus,
                                    topology->nodes[j].cpus)) {
                return -ENOMEM;
            }
        }
    }
    return 0;
}

static int node_of_cpu(const struct haul_topology *topology, unsigned cpu)
{
    for (unsigned i = 0; i < topology->node_count; i++) {
        if (hwloc_bitmap_isset(topology->nodes[i].cpus, cpu)) {
            return topology->nodes[i].node;
        }
    }
    return HAUL_NODE_UNKNOWN;
}

/* How many usable hardware threads of the same core come before `pu`. */
static unsigned sibling_rank(const struct haul_topology *topology, hwloc_obj_t pu)
{
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology->hwloc, HWLOC_OBJ_CORE, pu);
    unsigned rank = 0;
    for (hwloc_obj_t other = pu->prev_cousin; core && other; other = other->prev_cousin) {
        if (hwloc_get_ancestor_obj_by_type(topology->hwloc, HWLOC_OBJ_CORE, other) != core) {
            break;
        }
        rank += hwloc_bitmap_isset(topology->usable, other->os_index) ? 1 : 0;
    }
    return rank;
}

/* Takes the CPUs in hwloc's logical order, one pass for each rank among siblings. */
static int read_cpus(struct haul_topology *topology)
{
    int count = hwloc_get_nbobjs_by_type(topology->hwloc, HWLOC_OBJ_PU);
    topology->cpus = calloc(count > 0 ? (size_t)count : 1, sizeof *topology->cpus);
    if (!topology->cpus) {
        return -ENOMEM;
    }
    bool more = true;
    for (unsigned rank = 0; more; rank++) {
        more = false;
        for (int i = 0; i < count; i++) {
            hwloc_obj_t pu = hwloc_get_obj_by_type(topology->hwloc, HWLOC_OBJ_PU, (unsigned)i);
            if (!hwloc_bitmap_isset(topology->usable, pu->os_index)) {
                continue;
            }
            unsigned sibling = sibling_rank(topology, pu);
            more = more || sibling > rank;
            if (sibling == rank) {
                topology->cpus[topology->cpu_count++] = (struct haul_topology_cpu){
                    .cpu = (int)pu->os_index, .node = node_of_cpu(topology, pu->os_index)};
            }
        }
    }
    return 0;
}

int haul_topology_new(enum haul_topology_source source, const char *text, struct haul_topology **topology,
                      struct haul_error *error)
{
    *topology = NULL;
    struct haul_topology *made = calloc(1, sizeof *made);
    if (!made || hwloc_topology_init(&made->hwloc) != 0) {
        free(made);
        return haul_error_set(error, ENOMEM, "no memory to read the topology");
    }
    int status = load(made->hwloc, source, text, error);
    if (status != 0) {
        goto fail;
    }
    status = find_usable(made);
    if (status == 0) {
        status = read_nodes(made);
    }
    if (status == 0) {
        status = read_cpus(made);
    }
    if (status == 0) {
        bool here = source == HAUL_TOPOLOGY_THIS_MACHINE;
        status = haul_topology_find_cards(made, here ? HAUL_NET_FOLDER : NULL);
    }
    if (status != 0) {
        haul_error_set(error, -status, "no memory to read the topology");
        goto fail;
    }
    *topology = made;
    return 0;

fail:
    haul_topology_free(made);
    return status;
}

void haul_topology_free(struct haul_topology *topology)
{
    if (!topology) {
        return;
    }
    free(topology->cards);
    free(topology->cpus);
    for (unsigned i = 0; i < topology->node_count; i++) {
        hwloc_bitmap_free(topology->nodes[i].cpus);
    }
    free(topology->nodes);
    hwloc_bitmap_free(topology->usable);
    hwloc_topology_destroy(topology->hwloc);
    free(topology);
}

unsigned haul_topology_node_count(const struct haul_topology *topology)
{
    unsigned count = 0;
    for (unsigned i = 0; i < topology->node_count; i++) {
        count += topology->nodes[i].memory_bytes > 0 ? 1 : 0;
    }
    return count > 0 ? count : 1;
}

const struct haul_topology_node *haul_topology_find_node(const struct haul_topology *topology, int node)
{
    for (unsigned i = 0; i < topology->node_count; i++) {
        if (topology->nodes[i].node == node) {
            return &topology->nodes[i];
        }
    }
    return NULL;
}

const struct haul_topology_cpu *haul_topology_find_cpu(const struct haul_topology *topology, int cpu)
{
    for (unsigned i = 0; i < topology->cpu_count; i++) {
        if (topology->cpus[i].cpu == cpu) {
            return &topology->cpus[i];
        }
    }
    return NULL;
}
