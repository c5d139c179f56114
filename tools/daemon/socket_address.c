/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/daemon/socket_address.h"

#include <stddef.h>
#include <string.h>

/* HOST:PORT of `length` bytes; an IPv6 address stands in brackets. */
static json_t *inet(const char *text, size_t length)
{
    size_t colon = length;
    while (colon > 0 && text[colon - 1] != ':') {
        colon--;
    }
    if (colon == 0) {
        return NULL;
    }
    size_t host = colon - 1;
    size_t bracket = host >= 2 && text[0] == '[' && text[host - 1] == ']' ? 1 : 0;
    return json_pack("{s:s s:s% s:s%}", "type", "inet", "host", text + bracket, host - 2 * bracket, "port",
                     text + colon, length - colon);
}

json_t *haul_socket_address_json(const char *uri)
{
    json_t *list = json_array();
    if (strncmp(uri, "unix:", 5) == 0) {
        json_array_append_new(list, json_pack("{s:s s:s}", "type", "unix", "path", uri + 5));
    } else if (strncmp(uri, "tcp:", 4) == 0) {
        for (const char *at = uri + 4; *at;) {
            size_t length = strcspn(at, ",");
            json_array_append_new(list, inet(at, length));
            at += length + (at[length] == ',');
        }
    }
    return list;
}
