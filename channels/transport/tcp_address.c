/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport/tcp_address.h"

#include "channels/transport/look_up.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int bad_uri(const char *uri, enum haul_uri_role role, struct haul_error *error)
{
    return haul_error_set(error, EINVAL,
                          "\"%.100s\" is not a tcp address: use tcp:HOST:PORT or tcp:[V6]:PORT with a port "
                          "from %d to 65535; up to %d of them, separated by commas",
                          uri, role == HAUL_URI_CONNECT, HAUL_ADDRESSES_MAX);
}

/* A port of one to five digits, at most 65535. */
static bool is_port(const char *text, size_t length)
{
    return length >= 1 && length < HAUL_TCP_PORT_MAX && strspn(text, "0123456789") >= length &&
           strtoul(text, NULL, 10) <= 65535;
}

/* Reads one HOST:PORT of `length` bytes; false when it has another form. */
static bool parse_place(const char *text, size_t length, enum haul_uri_role role,
                        struct haul_tcp_place *place)
{
    const char *colon = memrchr(text, ':', length);
    if (!colon || !is_port(colon + 1, (size_t)(text + length - colon - 1))) {
        return false;
    }
    const char *from = text;
    const char *to = colon;
    place->bracketed = *from == '[';
    if (place->bracketed) {
        from++;
        if (to[-1] != ']') {
            return false;
        }
        to--;
    }
    size_t host_length = to > from ? (size_t)(to - from) : 0;
    place->any = colon == text && role == HAUL_URI_LISTEN;
    if ((host_length == 0 && !place->any) || host_length >= HAUL_TCP_HOST_MAX ||
        memchr(from, ']', host_length)) {
        return false;
    }
    /* A v6 address without brackets would be ambiguous. */
    if (!place->bracketed && memchr(from, ':', host_length)) {
        return false;
    }
    memcpy(place->host, from, host_length);
    memcpy(place->port, colon + 1, (size_t)(text + length - colon - 1));
    return true;
}

int haul_tcp_list_parse(const char *uri, const char *address, enum haul_uri_role role,
                        struct haul_tcp_list *list, struct haul_error *error)
{
    memset(list, 0, sizeof *list);
    for (const char *at = address;; at++) {
        size_t length = strcspn(at, ",");
        if (list->count == HAUL_ADDRESSES_MAX || !parse_place(at, length, role, &list->places[list->count])) {
            return bad_uri(uri, role, error);
        }
        if (role == HAUL_URI_CONNECT && strtoul(list->places[list->count].port, NULL, 10) == 0) {
            return bad_uri(uri, role, error);
        }
        list->count++;
        at += length;
        if (!*at) {
            return 0;
        }
    }
}

static int unknown_host(const struct haul_attempt *attempt, const char *host, int code,
                        struct haul_error *error)
{
    switch (code) {
    case -ETIMEDOUT:
        return haul_error_set(error, ETIMEDOUT,
                              "%s: no name server told within %u ms what the address of \"%s\" is; see "
                              "resolv.conf, or give the address",
                              attempt->uri, attempt->timeout_ms, host);
    case -ECANCELED:
        return haul_error_set(error, ECANCELED, "%s: looking up \"%s\": cancelled", attempt->uri, host);
    default:
        return code < 0 ? haul_error_set(error, -code, "%s: looking up \"%s\": %s", attempt->uri, host,
                                         strerror(-code))
                        : haul_error_set(
                              error, EHOSTUNREACH,
                              "%s: the host \"%s\" is not known: %s; check the name, or give its address",
                              attempt->uri, host, gai_strerror(-code));
    }
}

int haul_tcp_list_look_up(const struct haul_attempt *attempt, int flags, struct haul_tcp_list *list,
                          struct haul_error *error)
{
    for (unsigned i = 0; i < list->count; i++) {
        struct haul_tcp_place *place = &list->places[i];
        int result = place->found ? 0
                                  : haul_look_up(attempt, place->any ? NULL : place->host, place->port, flags,
                                                 &place->found);
        if (result != 0) {
            return unknown_host(attempt, place->host, result, error);
        }
    }
    return 0;
}

int haul_tcp_list_parse_sources(const char *text, struct haul_tcp_list *list, struct haul_error *error)
{
    memset(list, 0, sizeof *list);
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_PASSIVE};
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        struct haul_tcp_place *place = &list->places[list->count];
        bool bracketed = length > 2 && at[0] == '[' && at[length - 1] == ']';
        bool fits = list->count < HAUL_ADDRESSES_MAX && length > 0 && length < HAUL_TCP_HOST_MAX;
        if (fits) {
            snprintf(place->host, sizeof place->host, "%.*s", (int)length - 2 * bracketed, at + bracketed);
        }
        if (!fits || getaddrinfo(place->host, "0", &hints, &place->found) != 0) {
            return haul_error_set(error, EINVAL,
                                  "\"%.100s\" are no source addresses: give IPv4 or IPv6 addresses of this "
                                  "host, up to %d, separated by commas",
                                  text, HAUL_ADDRESSES_MAX);
        }
        list->count++;
        at += length;
        if (!*at) {
            return 0;
        }
    }
}

void haul_tcp_list_cleanup(struct haul_tcp_list *list)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (list->places[i].found) {
            freeaddrinfo(list->places[i].found);
        }
    }
    list->count = 0;
}

void haul_tcp_place_text(const struct haul_tcp_place *place, const char *port, char *text, size_t size)
{
    const char *open = place->bracketed ? "[" : "";
    const char *close = place->bracketed ? "]" : "";
    snprintf(text, size, "%s%s%s:%s", open, place->host, close, port);
}
