/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma:HOST:PORT. The connections are those of tcp:; the pages go by remote memory access beside them
 * (channels/rma/rma.h), to the address at which the control connection was made. Hence one HOST:PORT.
 */
#include "channels/transport/tcp_address.h"

#include <errno.h>

static int rdma_check(const char *uri, const char *address, enum haul_uri_role role, struct haul_error *error)
{
    struct haul_tcp_list list;
    if (haul_tcp_list_parse(uri, address, role, &list, NULL) < 0 || list.count != 1 || list.places[0].any) {
        return haul_error_set(
            error, EINVAL,
            "\"%.100s\" is not an rdma address: use rdma:HOST:PORT or rdma:[V6]:PORT with a "
            "port from %d to 65535",
            uri, role == HAUL_URI_CONNECT);
    }
    return 0;
}

static int rdma_open(struct haul_connector *connector, struct haul_error *error)
{
    return haul_transport_tcp.open(connector, error);
}

static int rdma_connect(struct haul_connector *connector, const struct haul_attempt *attempt,
                        uint16_t channel, int *fd, struct haul_error *error)
{
    return haul_transport_tcp.connect(connector, attempt, channel, fd, error);
}

static void rdma_close(struct haul_connector *connector)
{
    haul_transport_tcp.close(connector);
}

static int rdma_listen(struct haul_listener *listener, struct haul_error *error)
{
    return haul_transport_tcp.listen(listener, error);
}

const struct haul_transport haul_transport_rdma = {
    .scheme = "rdma",
    .form = "rdma:HOST:PORT",
    .check = rdma_check,
    .open = rdma_open,
    .connect = rdma_connect,
    .close = rdma_close,
    .listen = rdma_listen,
};
