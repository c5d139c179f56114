/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/orders.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_SIZE 640
#define PAUSE_MS 100 /* without accepting, after the process ran out of descriptors */

struct haul_orders {
    int fd;
    int directory; /* the store's */
    char name[64];
};

/* Through /proc/self/fd, because a state directory's path may be longer than the 108 bytes of sun_path. */
static void fill_address(struct sockaddr_un *address, int directory, const char *name)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s", directory, name);
}

static void fill_name(char *name, size_t size, const char *id, bool source)
{
    snprintf(name, size, "%.32s.%s.sock", id, source ? "source" : "destination");
}

/* A listening socket, or a negative errno. It takes the place of what had the name before, and has it only
 * once it listens: haul_orders_send removes one where nobody does. */
static int listen_in(int directory, const char *name)
{
    char first[72];
    struct sockaddr_un address;
    snprintf(first, sizeof first, "%s.new", name);
    fill_address(&address, directory, first);
    unlinkat(directory, first, 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4) < 0 ||
        renameat(directory, first, directory, name) < 0) {
        int failure = errno;
        close(fd);
        unlinkat(directory, first, 0);
        return -failure;
    }
    return fd;
}

int haul_orders_try(struct haul_store *store, struct haul_error *error)
{
    char name[64];
    snprintf(name, sizeof name, ".trial-%d.sock", (int)gettid()); /* each thread has its own */
    int fd = listen_in(haul_store_fd(store), name);
    if (fd < 0) {
        return haul_error_set(error, -fd,
                              "haul resume could not reach the guest, because no socket can be made in state "
                              "directory %s: %s; set HAUL_STATE_DIR to another",
                              haul_store_path(store), strerror(-fd));
    }
    close(fd);
    unlinkat(haul_store_fd(store), name, 0);
    return 0;
}

int haul_orders_open(struct haul_store *store, const char *id, bool source, struct haul_orders **result,
                     struct haul_error *error)
{
    struct haul_orders *orders = calloc(1, sizeof *orders);
    if (!orders) {
        return haul_error_set(error, ENOMEM, "no memory to wait for haul resume");
    }
    orders->directory = haul_store_fd(store);
    fill_name(orders->name, sizeof orders->name, id, source);
    orders->fd = listen_in(orders->directory, orders->name);
    if (orders->fd < 0) {
        int failure = -orders->fd;
        haul_error_set(error, failure, "the socket %s/%s cannot be made: %s", haul_store_path(store),
                       orders->name, strerror(failure));
        haul_orders_close(orders);
        return -failure;
    }
    *result = orders;
    return 0;
}

void haul_orders_close(struct haul_orders *orders)
{
    if (orders) {
        if (orders->fd >= 0) {
            close(orders->fd);
        }
        unlinkat(orders->directory, orders->name, 0);
        free(orders);
    }
}

/* One line of the peer, without its end. A peer that says nothing for five seconds loses its turn. */
static int read_line(int fd, char *line, size_t size, int seconds)
{
    struct timeval limit = {.tv_sec = seconds};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    size_t used = 0;
    while (used < size - 1) {
        ssize_t length = recv(fd, line + used, size - 1 - used, 0);
        if (length < 0 && errno == EINTR) {
            continue;
        }
        if (length < 0) {
            return -errno;
        }
        used += (size_t)length;
        line[used] = '\0';
        char *end = strchr(line, '\n');
        if (end) {
            *end = '\0';
            return 0;
        }
        if (length == 0) {
            return -EPIPE;
        }
    }
    return -EMSGSIZE;
}

int haul_orders_wait(struct haul_orders *orders, int interrupt_fd, enum haul_order *order, int *client,
                     struct haul_error *error)
{
    for (bool resting = false;;) {
        struct pollfd fds[] = {{interrupt_fd, POLLIN, 0}, {resting ? -1 : orders->fd, POLLIN, 0}};
        int ready = poll(fds, 2, resting ? PAUSE_MS : -1);
        if (ready > 0 && fds[0].revents) {
            return haul_error_set(error, EINTR, "interrupted while waiting for haul resume");
        }
        int fd = ready > 0 ? accept4(orders->fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        resting = ready > 0 && fd < 0;
        if (fd < 0) {
            continue;
        }
        char line[LINE_SIZE] = "";
        read_line(fd, line, sizeof line, 5);
        *order = !strcmp(line, "resume")    ? HAUL_ORDER_RESUME
                 : !strcmp(line, "abandon") ? HAUL_ORDER_ABANDON
                                            : HAUL_ORDER_NONE;
        if (*order != HAUL_ORDER_NONE) {
            *client = fd;
            return 0;
        }
        close(fd);
    }
}

void haul_orders_answer(int client, const struct haul_error *failure, const char *text)
{
    char line[LINE_SIZE];
    int length =
        snprintf(line, sizeof line, "%s: %s\n", failure ? "error" : "ok", failure ? failure->message : text);
    if (send(client, line, (size_t)length, MSG_NOSIGNAL) < 0) {
        /* Who asked has gone; what was done stays done. */
    }
    close(client);
}

int haul_orders_send(struct haul_store *store, const char *id, bool source, enum haul_order order,
                     char *answer, size_t size, struct haul_error *error)
{
    char name[64], line[LINE_SIZE] = "";
    struct sockaddr_un address;
    fill_name(name, sizeof name, id, source);
    fill_address(&address, haul_store_fd(store), name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int failure = errno == ENOENT || errno == ECONNREFUSED ? ESRCH : errno;
        if (errno == ECONNREFUSED) {
            unlinkat(haul_store_fd(store), name, 0); /* left by a process that was killed */
        }
        if (fd >= 0) {
            close(fd);
        }
        return haul_error_set(error, failure, "nobody answers for the guest of move %s", id);
    }
    const char *word = order == HAUL_ORDER_RESUME ? "resume\n" : "abandon\n";
    int status =
        send(fd, word, strlen(word), MSG_NOSIGNAL) < 0 ? -errno : read_line(fd, line, sizeof line, 60);
    close(fd);
    if (status < 0) {
        return haul_error_set(error, -status,
                              "the process that holds the guest of move %s did not answer: %s", id,
                              strerror(-status));
    }
    if (strncmp(line, "ok: ", 4) != 0) {
        return haul_error_set(error, EIO, "%s", strncmp(line, "error: ", 7) ? line : line + 7);
    }
    snprintf(answer, size, "%s", line + 4);
    return 0;
}
