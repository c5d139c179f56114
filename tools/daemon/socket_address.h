/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_SOCKET_ADDRESS_H
#define HAUL_TOOLS_DAEMON_SOCKET_ADDRESS_H

#include <jansson.h>

/* haul_socket_address_json writes a tcp: or unix: URI as QEMU's list of SocketAddress; of other URIs, and
 * without memory, the list is empty. A new object. */
json_t *haul_socket_address_json(const char *uri);

#endif
