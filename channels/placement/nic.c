/* SPDX-License-Identifier: Apache-2.0 */
/* Network cards: which NUMA node an interface is on, what lies below it, and how fast it is. */
#include "channels/placement/topology.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOWER_PREFIX "lower_"
#define LOWER_DEPTH 4 /* a VLAN on a bridge on a bond on a card */

/* Calls `visit` with the name of each interface directly below `name` (a bond's, a bridge's or a VLAN's). */
static void each_lower(const char *folder, const char *name, void (*visit)(void *opaque, const char *lower),
                       void *opaque)
{
    char path[256];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path) {
        return;
    }
    DIR *directory = opendir(path);
    if (!directory) {
        return;
    }
    for (struct dirent *entry = readdir(directory); entry; entry = readdir(directory)) {
        if (strncmp(entry->d_name, LOWER_PREFIX, strlen(LOWER_PREFIX)) == 0) {
            visit(opaque, entry->d_name + strlen(LOWER_PREFIX));
        }
    }
    closedir(directory);
}

unsigned long haul_link_speed(const char *folder, const char *name)
{
    char path[256];
    int length = snprintf(path, sizeof path, "%s/%s/speed", folder, name);
    if (length < 0 || (size_t)length >= sizeof path) {
        return 0;
    }
    FILE *file = fopen(path, "re");
    if (!file) {
        return 0;
    }
    /* A card that is down or virtual gives -1, or fails the read. */
    char text[32] = "";
    long speed = fgets(text, sizeof text, file) ? strtol(text, NULL, 10) : 0;
    fclose(file);
    return speed > 0 ? (unsigned long)speed : 0;
}

/* ---- cards ---- */

static int add_card(struct haul_topology *topology, const char *name, hwloc_obj_t at)
{
    size_t size = (topology->card_count + 1) * sizeof *topology->cards;
    struct haul_topology_card *grown = realloc(topology->cards, size);
    if (!grown) {
        return -ENOMEM;
    }
    topology->cards = grown;
    struct haul_topology_card *card = &grown[topology->card_count++];
    snprintf(card->name, sizeof card->name, "%.*s", HAUL_CARD_NAME_MAX, name);
    card->at = at;
    return 0;
}

/* Where the device of the interface is, NULL for an interface without one. */
static hwloc_obj_t device_of(const struct haul_topology *topology, const char *folder, const char *name)
{
    char path[256];
    int length = snprintf(path, sizeof path, "%s/%s/device", folder, name);
    char *device = length < 0 || (size_t)length >= sizeof path ? NULL : realpath(path, NULL);
    if (!device) {
        return NULL;
    }
    /* The card's own folder may lie some way below its PCI device's, ".../0000:00:03.0/virtio0". */
    hwloc_obj_t at = NULL;
    for (char *slash = strrchr(device, '/'); slash && !at; slash = strrchr(device, '/')) {
        at = hwloc_get_pcidev_by_busidstring(topology->hwloc, slash + 1);
        *slash = 0;
    }
    free(device);
    return at ? at : hwloc_get_root_obj(topology->hwloc);
}

static int find_interfaces(struct haul_topology *topology, const char *folder)
{
    DIR *directory = opendir(folder);
    int status = 0;
    for (struct dirent *entry; directory && status == 0 && (entry = readdir(directory));) {
        hwloc_obj_t at = entry->d_name[0] == '.' ? NULL : device_of(topology, folder, entry->d_name);
        status = at ? add_card(topology, entry->d_name, at) : 0;
    }
    if (directory) {
        closedir(directory);
    }
    return status;
}

int haul_topology_find_cards(struct haul_topology *topology, const char *folder)
{
    if (folder) {
        return find_interfaces(topology, folder);
    }
    int status = 0;
    hwloc_obj_t device = hwloc_get_next_osdev(topology->hwloc, NULL);
    for (; device && status == 0; device = hwloc_get_next_osdev(topology->hwloc, device)) {
        if (device->attr->osdev.type == HWLOC_OBJ_OSDEV_NETWORK && device->name) {
            status = add_card(topology, device->name, device->parent);
        }
    }
    return status;
}

int haul_card_node(const struct haul_topology *topology, const struct haul_topology_card *card)
{
    hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology->hwloc, card->at);
    int found = HAUL_NODE_UNKNOWN;
    for (unsigned i = 0; i < topology->node_count; i++) {
        const struct haul_topology_node *node = &topology->nodes[i];
        if (!hwloc_bitmap_isset(place->nodeset, (unsigned)node->node) || hwloc_bitmap_iszero(node->cpus)) {
            continue;
        }
        if (found != HAUL_NODE_UNKNOWN) {
            return HAUL_NODE_UNKNOWN;
        }
        found = node->node;
    }
    return found;
}

static int node_of_name(const struct haul_topology *topology, const char *name)
{
    for (unsigned i = 0; i < topology->card_count; i++) {
        if (strcmp(topology->cards[i].name, name) == 0) {
            return haul_card_node(topology, &topology->cards[i]);
        }
    }
    return HAUL_NODE_UNKNOWN;
}

struct lower {
    const struct haul_topology *topology;
    const char *folder;
    unsigned depth;
    int node;
    bool differ;
};

static void visit_lower(void *opaque, const char *name)
{
    struct lower *lower = opaque;
    int node = node_of_name(lower->topology, name);
    if (node == HAUL_NODE_UNKNOWN && lower->depth < LOWER_DEPTH) {
        struct lower next = {lower->topology, lower->folder, lower->depth + 1, HAUL_NODE_UNKNOWN, false};
        each_lower(lower->folder, name, visit_lower, &next);
        node = next.node;
        lower->differ = lower->differ || next.differ;
    }
    /* A bridge has the machines' own virtual cards below it too: those say nothing. */
    if (node != HAUL_NODE_UNKNOWN) {
        lower->differ = lower->differ || (lower->node != HAUL_NODE_UNKNOWN && lower->node != node);
        lower->node = node;
    }
}

int haul_nic_node_below(const struct haul_topology *topology, const char *folder, const char *name)
{
    int node = node_of_name(topology, name);
    if (node != HAUL_NODE_UNKNOWN) {
        return node;
    }
    struct lower lower = {topology, folder, 1, HAUL_NODE_UNKNOWN, false};
    each_lower(folder, name, visit_lower, &lower);
    return lower.differ ? HAUL_NODE_UNKNOWN : lower.node;
}

int haul_topology_nic_node(const struct haul_topology *topology, const char *name)
{
    /* Another machine's description knows nothing of this machine's bonds and bridges. */
    return hwloc_topology_is_thissystem(topology->hwloc)
               ? haul_nic_node_below(topology, HAUL_NET_FOLDER, name)
               : node_of_name(topology, name);
}
