/* SPDX-License-Identifier: Apache-2.0 */
/* vsock:CID:PORT, between a host and its virtual machines. CID 4294967295, to listen: whichever this side
 * has. */
#include "channels/transport/ops.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

/* Reads a decimal number of 32 bits up to `end`. */
static bool parse_number(const char *text, const char *end, unsigned *number)
{
    size_t length = (size_t)(end - text);
    if (length == 0 || length > 10 || strspn(text, "0123456789") < length) {
        return false;
    }
    unsigned long value = strtoul(text, NULL, 10);
    *number = (unsigned)value;
    return value <= UINT32_MAX;
}

static bool parse(const char *address, enum haul_uri_role role, struct sockaddr_vm *place)
{
    const char *colon = strchr(address, ':');
    memset(place, 0, sizeof *place);
    place->svm_family = AF_VSOCK;
    return colon && parse_number(address, colon, &place->svm_cid) &&
           parse_number(colon + 1, address + strlen(address), &place->svm_port) &&
           (role == HAUL_URI_LISTEN || place->svm_cid != VMADDR_CID_ANY);
}

static int vsock_check(const char *uri, const char *address, enum haul_uri_role role,
                       struct haul_error *error)
{
    struct sockaddr_vm place;
    return parse(address, role, &place)
               ? 0
               : haul_error_set(
                     error, EINVAL,
                     "\"%.100s\" is not a vsock address: use vsock:CID:PORT with numbers, where the "
                     "CID is 2 for the host%s",
                     uri, role == HAUL_URI_LISTEN ? " and 4294967295 for any" : "");
}

static int no_vsock(const char *step, const char *uri, struct haul_error *error)
{
    return haul_error_set(
        error, EAFNOSUPPORT,
        "%s %s: this kernel has no vsock; load vhost_vsock on a host, or give the machine a "
        "vsock device",
        step, uri);
}

static int vsock_listen(struct haul_listener *listener, struct haul_error *error)
{
    struct sockaddr_vm place;
    const char *uri = listener->end.uri;
    parse(listener->end.address, HAUL_URI_LISTEN, &place);
    listener->uri = strdup(uri);
    if (!listener->uri) {
        return haul_error_set(error, ENOMEM, "listening on %s: out of memory", uri);
    }
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return errno == EAFNOSUPPORT
                   ? no_vsock("listening on", uri, error)
                   : haul_error_set(error, errno, "listening on %s: %s", uri, strerror(errno));
    }
    listener->fds[listener->count++] = fd; /* closed with the listener, also after a failure */
    if (bind(fd, (struct sockaddr *)&place, sizeof place) == 0 && listen(fd, HAUL_LISTEN_BACKLOG) == 0) {
        return 0;
    }
    if (errno == EADDRNOTAVAIL) {
        return haul_error_set(error, errno,
                              "listening on %s: this side does not have the CID %u; 4294967295 takes any",
                              uri, place.svm_cid);
    }
    if (errno == EADDRINUSE) {
        return haul_error_set(error, errno, "listening on %s: the port is in use; choose another", uri);
    }
    return haul_error_set(error, errno, "listening on %s: %s", uri, strerror(errno));
}

static int vsock_connect(struct haul_connector *connector, const struct haul_attempt *attempt,
                         uint16_t channel, int *fd, struct haul_error *error)
{
    (void)channel; /* all to one place */
    struct sockaddr_vm place;
    parse(connector->end.address, HAUL_URI_CONNECT, &place);
    int connected = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connected < 0) {
        return errno == EAFNOSUPPORT ? no_vsock("connecting to", attempt->uri, error)
                                     : haul_attempt_failed(attempt, errno, error);
    }
    /* Left alone, the kernel gives up after two seconds. */
    struct timeval limit = {.tv_sec = attempt->timeout_ms / 1000,
                            .tv_usec = (suseconds_t)(attempt->timeout_ms % 1000) * 1000};
    int result = setsockopt(connected, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &limit, sizeof limit) < 0
                     ? -errno
                     : haul_attempt_connect(attempt, connected, (struct sockaddr *)&place, sizeof place);
    if (result == 0) {
        *fd = connected;
        return 0;
    }
    close(connected);
    /* The kernel's words for these would mislead. */
    if (result == -ENODEV || result == -ENETUNREACH) {
        return haul_error_set(error, -result, "connecting to %s: there is no way from here to the CID %u",
                              attempt->uri, place.svm_cid);
    }
    if (result == -ECONNRESET) {
        result = -ECONNREFUSED;
    }
    return haul_attempt_failed(attempt, -result, error);
}

const struct haul_transport haul_transport_vsock = {
    .scheme = "vsock",
    .form = "vsock:CID:PORT",
    .check = vsock_check,
    .connect = vsock_connect,
    .listen = vsock_listen,
};
