/* SPDX-License-Identifier: Apache-2.0 */
/* The plan: which CPU and node each channel gets. */
#include "channels/batch.h"
#include "channels/placement/topology.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct cpu_range {
    int first;
    int last;
};

/* Reads a CPU number at *at and moves on; false when there is none or it does not fit an int. */
static bool read_cpu(const char **at, int *cpu)
{
    if (**at < '0' || **at > '9') {
        return false;
    }
    char *end = NULL;
    errno = 0;
    long value = strtol(*at, &end, 10);
    if (errno != 0 || value > INT_MAX - 1) {
        return false;
    }
    *cpu = (int)value;
    *at = end;
    return true;
}

/* Reads "3" or "0-3" at *at, then "," or the end. */
static int read_range(const char *list, const char **at, struct cpu_range *range, struct haul_error *error)
{
    const char *start = *at;
    bool good = read_cpu(at, &range->first);
    range->last = range->first;
    if (good && **at == '-') {
        (*at)++;
        good = read_cpu(at, &range->last);
    }
    good = good && (**at == '\0' || (**at == ',' && (*at)[1] != '\0'));
    if (!good) {
        return haul_error_set(error, EINVAL,
                              "placement \"%s\" is neither auto, none nor a CPU list like 0-3,8 (at \"%s\")",
                              list, start);
    }
    if (range->last < range->first) {
        return haul_error_set(error, EINVAL, "placement \"%s\": the range %d-%d runs backwards, write %d-%d",
                              list, range->first, range->last, range->last, range->first);
    }
    if (**at == ',') {
        (*at)++;
    }
    return 0;
}

static int refuse_cpu(const struct haul_topology *topology, const char *list, int cpu,
                      struct haul_error *error)
{
    char *usable = haul_cpu_list(topology->usable);
    int status = haul_error_set(error, EINVAL, "placement \"%s\": CPU %d is not usable here, only %s", list,
                                cpu, usable ? usable : "others");
    free(usable);
    return status;
}

/* The whole list is checked, also what no channel needs. */
static int plan_list(const struct haul_topology *topology, const struct haul_placement_request *request,
                     struct haul_placement_slot *slots, struct haul_error *error)
{
    unsigned listed = 0;
    const char *at = request->policy;
    do {
        struct cpu_range range = {0};
        int status = read_range(request->policy, &at, &range, error);
        if (status != 0) {
            return status;
        }
        for (int number = range.first; number <= range.last; number++) {
            const struct haul_topology_cpu *cpu = haul_topology_find_cpu(topology, number);
            if (!cpu) {
                return refuse_cpu(topology, request->policy, number, error);
            }
            if (listed < request->channels) {
                slots[listed++] = (struct haul_placement_slot){.cpu = cpu->cpu, .node = cpu->node};
            }
        }
    } while (*at != '\0');

    for (unsigned i = listed; i < request->channels; i++) {
        slots[i] = slots[i - listed];
    }
    return 0;
}

static void plan_none(struct haul_placement_slot *slots, unsigned channels)
{
    for (unsigned i = 0; i < channels; i++) {
        slots[i] = (struct haul_placement_slot){.cpu = HAUL_CPU_ANY, .node = HAUL_NODE_UNKNOWN};
    }
}

static unsigned nodes_with_cpus(const struct haul_topology *topology)
{
    unsigned count = 0;
    for (unsigned i = 0; i < topology->node_count; i++) {
        count += hwloc_bitmap_intersects(topology->nodes[i].cpus, topology->usable) ? 1 : 0;
    }
    return count;
}

static uint64_t memory_on(const struct haul_placement_request *request, int node)
{
    bool known = request->memory_bytes_by_node && node >= 0 && (unsigned)node < request->memory_nodes;
    return known ? request->memory_bytes_by_node[node] : 0;
}

/* A node while the automatic plan is made. */
struct share {
    int node;
    double weight;     /* its part of the guest memory, in any unit */
    unsigned channels; /* that it has so far */
};

/*
 * Memory on a node without usable CPUs weighs nothing: some channel has to fetch it from afar, whichever
 * that is. When nothing weighs anything, all weigh the same.
 */
static void weigh(const struct haul_topology *topology, const struct haul_placement_request *request,
                  struct share *shares)
{
    double total = 0;
    for (unsigned i = 0; i < topology->node_count; i++) {
        const struct haul_topology_node *node = &topology->nodes[i];
        bool usable = hwloc_bitmap_intersects(node->cpus, topology->usable);
        shares[i] = (struct share){.node = node->node};
        shares[i].weight = usable ? (double)memory_on(request, node->node) : 0;
        total += shares[i].weight;
    }
    for (unsigned i = 0; i < topology->node_count && total <= 0; i++) {
        shares[i].weight = 1;
    }
}

static struct share *find_share(struct share *shares, unsigned count, int node)
{
    for (unsigned i = 0; i < count; i++) {
        if (shares[i].node == node) {
            return &shares[i];
        }
    }
    return NULL;
}

/* Sainte-Lague's method: the seats of a parliament go to the greatest weight / (2 * seats + 1). */
static bool serves_better(const struct share *a, const struct share *b, int nic_node)
{
    double left = a->weight / (2.0 * a->channels + 1), right = b->weight / (2.0 * b->channels + 1);
    if (left != right) {
        return left > right;
    }
    if (a->node == nic_node || b->node == nic_node) {
        return a->node == nic_node && b->node != nic_node;
    }
    return a->node < b->node;
}

/* `load` counts the channels of each of topology->cpus. A CPU that no node claims is left out. */
static unsigned choose_cpu(const struct haul_topology *topology, struct share *shares, const unsigned *load,
                           int nic_node)
{
    const struct share *best_share = NULL;
    unsigned best = 0;
    for (unsigned i = 0; i < topology->cpu_count; i++) {
        const struct share *share = find_share(shares, topology->node_count, topology->cpus[i].node);
        if (!share || (best_share && load[i] > load[best])) {
            continue;
        }
        if (!best_share || load[i] < load[best] || serves_better(share, best_share, nic_node)) {
            best_share = share;
            best = i;
        }
    }
    return best;
}

static int plan_auto(const struct haul_topology *topology, const struct haul_placement_request *request,
                     struct haul_placement_slot *slots, struct haul_error *error)
{
    if (nodes_with_cpus(topology) < 2) {
        plan_none(slots, request->channels);
        return 0;
    }
    struct share *shares = calloc(topology->node_count, sizeof *shares);
    unsigned *load = calloc(topology->cpu_count, sizeof *load);
    int status = 0;
    if (!shares || !load) {
        status = haul_error_set(error, ENOMEM, "no memory to plan the placement");
        goto out;
    }
    weigh(topology, request, shares);
    for (unsigned i = 0; i < request->channels; i++) {
        unsigned chosen = choose_cpu(topology, shares, load, request->nic_node);
        const struct haul_topology_cpu *cpu = &topology->cpus[chosen];
        slots[i] = (struct haul_placement_slot){.cpu = cpu->cpu, .node = cpu->node};
        load[chosen]++;
        find_share(shares, topology->node_count, cpu->node)->channels++;
    }
out:
    free(load);
    free(shares);
    return status;
}

int haul_placement_plan(const struct haul_topology *topology, const struct haul_placement_request *request,
                        struct haul_placement_slot *slots, struct haul_error *error)
{
    if (request->channels < 1 || request->channels > HAUL_CHANNELS_MAX) {
        return haul_error_set(error, EINVAL, "cannot place %u channels: the number must be 1 to %d",
                              request->channels, HAUL_CHANNELS_MAX);
    }
    if (!request->policy) {
        return haul_error_set(error, EINVAL, "no placement given: use auto, none or a CPU list like 0-3,8");
    }
    if (strcmp(request->policy, "none") == 0) {
        plan_none(slots, request->channels);
        return 0;
    }
    if (strcmp(request->policy, "auto") == 0) {
        return plan_auto(topology, request, slots, error);
    }
    return plan_list(topology, request, slots, error);
}
