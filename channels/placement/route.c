/* SPDX-License-Identifier: Apache-2.0 */
/* Which interface the kernel's routing table uses for a connection, asked over rtnetlink. */
#include "channels/placement/placement.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdalign.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct endpoint {
    unsigned char family; /* AF_INET or AF_INET6 */
    size_t length;
    unsigned char address[sizeof(struct in6_addr)];
};

/* A v4 peer of a v6 socket is routed by the v4 table. */
static int read_endpoint(const struct sockaddr_storage *from, struct endpoint *endpoint)
{
    *endpoint = (struct endpoint){0};
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
        endpoint->family = AF_INET;
        endpoint->length = sizeof v4->sin_addr;
        memcpy(endpoint->address, &v4->sin_addr, endpoint->length);
        return 0;
    }
    if (from->ss_family != AF_INET6) {
        return -ENOENT;
    }
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
    bool mapped = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);
    endpoint->family = mapped ? AF_INET : AF_INET6;
    endpoint->length = mapped ? sizeof(struct in_addr) : sizeof v6->sin6_addr;
    memcpy(endpoint->address, v6->sin6_addr.s6_addr + (mapped ? 12 : 0), endpoint->length);
    return 0;
}

struct request {
    struct nlmsghdr header;
    struct rtmsg route;
    alignas(NLMSG_ALIGNTO) unsigned char attributes[64]; /* two addresses and an interface */
};

static void add_attribute(struct request *request, unsigned short type, const void *data, size_t length)
{
    struct rtattr *attribute = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(length);
    memcpy(RTA_DATA(attribute), data, length);
    request->header.nlmsg_len = (uint32_t)(NLMSG_ALIGN(request->header.nlmsg_len) + RTA_SPACE(length));
}

/*
 * The local address and a bound interface take part, so that source routing and several networks are seen.
 * The kernel itself binds a socket that is connected to a link-local address.
 */
static int ask(int netlink, int fd, const struct endpoint *peer)
{
    struct request request = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof request.route),
                   .nlmsg_type = RTM_GETROUTE,
                   .nlmsg_flags = NLM_F_REQUEST},
        .route = {.rtm_family = peer->family, .rtm_dst_len = (unsigned char)(8 * peer->length)},
    };
    add_attribute(&request, RTA_DST, peer->address, peer->length);

    struct sockaddr_storage local = {0};
    socklen_t length = sizeof local;
    struct endpoint source;
    if (getsockname(fd, (struct sockaddr *)&local, &length) == 0 && read_endpoint(&local, &source) == 0 &&
        source.family == peer->family) {
        request.route.rtm_src_len = (unsigned char)(8 * source.length);
        add_attribute(&request, RTA_SRC, source.address, source.length);
    }
    int bound = 0;
    length = sizeof bound;
    if (getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &bound, &length) == 0 && bound != 0) {
        add_attribute(&request, RTA_OIF, &bound, sizeof bound);
    }
    return send(netlink, &request, request.header.nlmsg_len, 0) < 0 ? -errno : 0;
}

static int read_interface(const struct nlmsghdr *header, char *name)
{
    const struct rtmsg *route = NLMSG_DATA(header);
    int left = (int)RTM_PAYLOAD(header);
    for (const struct rtattr *at = RTM_RTA(route); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == RTA_OIF && RTA_PAYLOAD(at) == sizeof(uint32_t)) {
            uint32_t index = 0;
            memcpy(&index, RTA_DATA(at), sizeof index);
            return if_indextoname(index, name) ? 0 : -ENOENT;
        }
    }
    return -ENOENT;
}

static int read_answer(int netlink, char *name)
{
    alignas(NLMSG_ALIGNTO) unsigned char buffer[4096];
    ssize_t received = recv(netlink, buffer, sizeof buffer, 0);
    if (received < 0) {
        return -errno;
    }
    const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;
    if (!NLMSG_OK(header, (size_t)received)) {
        return -EPROTO;
    }
    if (header->nlmsg_type == RTM_NEWROUTE && header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct rtmsg))) {
        return read_interface(header, name);
    }
    if (header->nlmsg_type == NLMSG_ERROR && header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr))) {
        int code = ((const struct nlmsgerr *)NLMSG_DATA(header))->error;
        bool no_route = code == -ENETUNREACH || code == -EHOSTUNREACH;
        return no_route ? -ENOENT : code;
    }
    return -EPROTO;
}

int haul_route_interface(int fd, char *name, size_t size)
{
    if (size < IF_NAMESIZE) {
        return -EINVAL;
    }
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    if (getpeername(fd, (struct sockaddr *)&address, &length) != 0) {
        return -errno;
    }
    struct endpoint peer;
    int status = read_endpoint(&address, &peer);
    if (status != 0) {
        return status;
    }
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (netlink < 0) {
        return -errno;
    }
    status = ask(netlink, fd, &peer);
    if (status == 0) {
        status = read_answer(netlink, name);
    }
    close(netlink);
    return status;
}
