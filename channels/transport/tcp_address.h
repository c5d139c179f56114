/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_TCP_ADDRESS_H
#define HAUL_CHANNELS_TRANSPORT_TCP_ADDRESS_H

/* HOST:PORT[,HOST:PORT...], where HOST is a name, a v4 address, a v6 address in brackets, or for listening
 * nothing. */

#include "channels/transport/ops.h"

#include <netdb.h>

#define HAUL_TCP_HOST_MAX 254 /* a DNS name and its NUL */
#define HAUL_TCP_PORT_MAX 6   /* "65535" and its NUL */
#define HAUL_TCP_URI_MAX 320  /* "tcp:[", a name, "]:65535", with room to spare */

/* One HOST:PORT of the list. */
struct haul_tcp_place {
    char host[HAUL_TCP_HOST_MAX];
    char port[HAUL_TCP_PORT_MAX];
    bool bracketed;
    bool any;                    /* no host was given: all addresses of this one */
    struct addrinfo *found;      /* all addresses of the host, once looked up */
    const struct addrinfo *good; /* the one of them that answered first, or NULL */
};

struct haul_tcp_list {
    unsigned count;
    struct haul_tcp_place places[HAUL_ADDRESSES_MAX];
};

/* haul_tcp_list_parse reads the text after the scheme. -EINVAL with the right form; port 0 is for listening
 * only.
 */
int haul_tcp_list_parse(const char *uri, const char *address, enum haul_uri_role role,
                        struct haul_tcp_list *list, struct haul_error *error);

/* haul_tcp_list_look_up finds the addresses of every place within `attempt`. -EHOSTUNREACH: a host is not
 * known; -ETIMEDOUT, -ECANCELED. */
int haul_tcp_list_look_up(const struct haul_attempt *attempt, int flags, struct haul_tcp_list *list,
                          struct haul_error *error);

/* haul_tcp_list_parse_sources reads a comma list of numeric own addresses, as --bind has it. -EINVAL. */
int haul_tcp_list_parse_sources(const char *text, struct haul_tcp_list *list, struct haul_error *error);

/* haul_tcp_list_cleanup frees the found addresses; a zeroed list is fine. */
void haul_tcp_list_cleanup(struct haul_tcp_list *list);

/* haul_tcp_place_text writes HOST:PORT as the user would. */
void haul_tcp_place_text(const struct haul_tcp_place *place, const char *port, char *text, size_t size);

#endif
