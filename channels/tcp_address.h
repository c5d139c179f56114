/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TCP_ADDRESS_H
#define HAUL_CHANNELS_TCP_ADDRESS_H

/* HOST:PORT[,HOST:PORT...], where HOST is a name, a v4 address or a v6 address in brackets. */

#include "channels/transport_ops.h"

#include <netdb.h>

#define TCP_HOST_MAX 254 /* a DNS name and its NUL */
#define TCP_PORT_MAX 6   /* "65535" and its NUL */
#define TCP_URI_MAX 320  /* "tcp:[", a name, "]:65535", with room to spare */

/* One HOST:PORT of the list. */
struct tcp_place {
    char host[TCP_HOST_MAX];
    char port[TCP_PORT_MAX];
    bool bracketed;
    struct addrinfo *found;      /* all addresses of the host, once looked up */
    const struct addrinfo *good; /* the one of them that answered first, or NULL */
};

struct tcp_list {
    unsigned count;
    struct tcp_place places[HAUL_ADDRESSES_MAX];
};

/* tcp_list_parse reads the text after the scheme. -EINVAL with the right form; port 0 is for listening only.
 */
int tcp_list_parse(const char *uri, const char *address, enum haul_uri_role role, struct tcp_list *list,
                   struct haul_error *error);

/*
 * tcp_list_look_up finds the addresses of every place. A name that is not numeric goes to the system's
 * resolver, whose own timeouts bound the wait (resolv.conf). -EHOSTUNREACH: a host is not known.
 */
int tcp_list_look_up(const char *uri, int flags, struct tcp_list *list, struct haul_error *error);

/* tcp_list_parse_sources reads a comma list of numeric own addresses, as --bind has it. -EINVAL. */
int tcp_list_parse_sources(const char *text, struct tcp_list *list, struct haul_error *error);

/* tcp_list_cleanup frees the found addresses; a zeroed list is fine. */
void tcp_list_cleanup(struct tcp_list *list);

/* tcp_place_text writes HOST:PORT as the user would. */
void tcp_place_text(const struct tcp_place *place, const char *port, char *text, size_t size);

#endif
