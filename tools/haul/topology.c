/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/commands.h"

#include "channels/placement/placement.h"

#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The interface that leads to `host`. A connected datagram socket sends nothing, so nobody needs to answer.
 */
static int find_interface(const char *host, char name[IF_NAMESIZE], struct haul_error *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *addresses;
    int failure = getaddrinfo(host, "9", &hints, &addresses);
    if (failure) {
        return haul_error_set(error, EHOSTUNREACH, "host %s is not known: %s", host, gai_strerror(failure));
    }
    int status = -ENETUNREACH;
    for (const struct addrinfo *address = addresses; address && status < 0; address = address->ai_next) {
        int fd = socket(address->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, address->ai_addr, address->ai_addrlen) == 0) {
            status = haul_route_interface(fd, name, IF_NAMESIZE);
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    freeaddrinfo(addresses);
    return status < 0
               ? haul_error_set(error, -status, "no route leads to host %s: %s", host, strerror(-status))
               : 0;
}

static int show(const struct cli_options *options, struct haul_topology *topology, struct haul_error *error)
{
    int nic_node = HAUL_NODE_UNKNOWN;
    haul_topology_print(topology, stdout);
    if (options->to) {
        char name[IF_NAMESIZE];
        int status = find_interface(options->to, name, error);
        if (status < 0) {
            return status;
        }
        nic_node = haul_topology_nic_node(topology, name);
        printf("\nThe way to %s: %s, ", options->to, name);
        if (nic_node == HAUL_NODE_UNKNOWN) {
            printf("on no known node\n");
        } else {
            printf("on node %d\n", nic_node);
        }
    }
    struct haul_placement_request request = {
        .policy = options->haul.placement, .channels = options->haul.channels, .nic_node = nic_node};
    struct haul_placement_slot *slots = calloc(request.channels, sizeof *slots);
    if (!slots) {
        return haul_error_set(error, ENOMEM, "no memory for the plan");
    }
    int status = haul_placement_plan(topology, &request, slots, error);
    if (status == 0) {
        printf("\nPlacement of %u channels (--placement %s):\n", request.channels, request.policy);
        haul_placement_print(slots, request.channels, stdout);
        printf("haul send weighs in where the guest's memory lies, where there are several nodes.\n");
    }
    free(slots);
    return status;
}

int cli_topology(const struct cli_options *options)
{
    struct haul_error error = {0};
    struct haul_topology *topology = NULL;
    int status = haul_topology_new(HAUL_TOPOLOGY_THIS_MACHINE, NULL, &topology, &error);
    if (status == 0) {
        status = show(options, topology, &error);
    }
    haul_topology_free(topology);
    return status < 0 ? cli_complain(CLI_EXIT_FAILED, "%s", error.message) : 0;
}
