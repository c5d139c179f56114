/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_LOOK_UP_H
#define HAUL_CHANNELS_TRANSPORT_LOOK_UP_H

#include "channels/transport/ops.h"

#include <netdb.h>

/*
 * haul_look_up is getaddrinfo(3) for as long as `attempt` lasts. The resolver cannot be interrupted: it works
 * on a thread of its own, which a wait that ends early leaves behind until the resolver's own timeouts
 * (resolv.conf) end it. Numeric hosts take no thread. 0 with *found, for freeaddrinfo; -ETIMEDOUT,
 * -ECANCELED, -ENOMEM, -EAGAIN, or what eventfd(2) says; or, positive, an EAI code without its sign.
 */
int haul_look_up(const struct haul_attempt *attempt, const char *host, const char *port, int flags,
                 struct addrinfo **found);

#endif
