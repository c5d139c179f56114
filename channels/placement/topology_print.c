/* SPDX-License-Identifier: Apache-2.0 */
/* What `haul topology` shows of a machine and of a plan. */
#include "channels/placement/topology.h"

#include <stdlib.h>
#include <string.h>

char *haul_cpu_list(hwloc_const_bitmap_t cpus)
{
    char *list = NULL;
    if (hwloc_bitmap_iszero(cpus)) {
        return strdup("none");
    }
    return hwloc_bitmap_list_asprintf(&list, cpus) >= 0 ? list : NULL;
}

static void print_cpus(const struct haul_topology *topology, hwloc_const_bitmap_t cpus, FILE *out)
{
    char *all = haul_cpu_list(cpus);
    fprintf(out, "CPUs %s", all ? all : "?");
    free(all);

    hwloc_bitmap_t usable = hwloc_bitmap_alloc();
    if (usable && hwloc_bitmap_and(usable, cpus, topology->usable) == 0 &&
        !hwloc_bitmap_isequal(usable, cpus)) {
        char *some = haul_cpu_list(usable);
        fprintf(out, " (usable here: %s)", some ? some : "?");
        free(some);
    }
    hwloc_bitmap_free(usable);
}

static void print_bytes(uint64_t bytes, FILE *out)
{
    if (bytes >= (uint64_t)1 << 30) {
        fprintf(out, "%.1f GiB", (double)bytes / (double)(1 << 30));
    } else {
        fprintf(out, "%.0f MiB", (double)bytes / (double)(1 << 20));
    }
}

static void print_speed(const struct haul_topology *topology, const struct haul_topology_card *card,
                        FILE *out)
{
    unsigned long mbit =
        hwloc_topology_is_thissystem(topology->hwloc) ? haul_link_speed(HAUL_NET_FOLDER, card->name) : 0;
    if (mbit >= 1000) {
        fprintf(out, ", %g Gbit/s", (double)mbit / 1000);
    } else if (mbit > 0) {
        fprintf(out, ", %lu Mbit/s", mbit);
    } else {
        fprintf(out, ", link speed not known");
    }
    hwloc_obj_t parent = card->at;
    if (parent->type == HWLOC_OBJ_PCI_DEVICE) {
        const struct hwloc_pcidev_attr_s *pci = &parent->attr->pcidev;
        fprintf(out, ", PCI %04x:%02x:%02x.%x", (unsigned)pci->domain, (unsigned)pci->bus, (unsigned)pci->dev,
                (unsigned)pci->func);
        if (pci->linkspeed > 0) {
            fprintf(out, " at %.1f GB/s", (double)pci->linkspeed);
        }
    }
}

static void print_cards(const struct haul_topology *topology, int node, FILE *out)
{
    for (unsigned i = 0; i < topology->card_count; i++) {
        const struct haul_topology_card *card = &topology->cards[i];
        if (haul_card_node(topology, card) == node) {
            fprintf(out, "    card %s", card->name);
            print_speed(topology, card, out);
            fputc('\n', out);
        }
    }
}

static bool has_card(const struct haul_topology *topology, int node)
{
    for (unsigned i = 0; i < topology->card_count; i++) {
        if (haul_card_node(topology, &topology->cards[i]) == node) {
            return true;
        }
    }
    return false;
}

void haul_topology_print(const struct haul_topology *topology, FILE *out)
{
    hwloc_const_bitmap_t cpus = hwloc_topology_get_topology_cpuset(topology->hwloc);
    uint64_t memory = 0;
    for (unsigned i = 0; i < topology->node_count; i++) {
        memory += topology->nodes[i].memory_bytes;
    }
    unsigned nodes = haul_topology_node_count(topology);
    fprintf(out, "%u NUMA node%s, %d CPU%s of which %u usable here, ", nodes, nodes == 1 ? "" : "s",
            hwloc_bitmap_weight(cpus), hwloc_bitmap_weight(cpus) == 1 ? "" : "s", topology->cpu_count);
    print_bytes(memory, out);
    fprintf(out, " of memory\n");

    for (unsigned i = 0; i < topology->node_count; i++) {
        const struct haul_topology_node *node = &topology->nodes[i];
        fprintf(out, "  node %d: ", node->node);
        print_cpus(topology, node->cpus, out);
        fprintf(out, ", memory ");
        print_bytes(node->memory_bytes, out);
        fputc('\n', out);
        print_cards(topology, node->node, out);
    }
    if (has_card(topology, HAUL_NODE_UNKNOWN)) {
        fprintf(out, "  on no node that the machine names:\n");
        print_cards(topology, HAUL_NODE_UNKNOWN, out);
    }
}

static void print_slot(const struct haul_placement_slot *slot, FILE *out)
{
    if (slot->cpu == HAUL_CPU_ANY) {
        fprintf(out, "any CPU");
    } else {
        fprintf(out, "CPU %d", slot->cpu);
    }
    if (slot->node != HAUL_NODE_UNKNOWN) {
        fprintf(out, ", node %d", slot->node);
    }
}

void haul_placement_print(const struct haul_placement_slot *slots, unsigned channels, FILE *out)
{
    unsigned next = 0;
    for (unsigned first = 0; first < channels; first = next) {
        next = first + 1;
        while (next < channels && slots[next].cpu == slots[first].cpu &&
               slots[next].node == slots[first].node) {
            next++;
        }
        if (next - first == 1) {
            fprintf(out, "  channel %u: ", first);
        } else {
            fprintf(out, "  channels %u-%u: ", first, next - 1);
        }
        print_slot(&slots[first], out);
        fputc('\n', out);
    }
}
