/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/transport/look_up.h"

#include "channels/thread_list.h"
#include "channels/transport/tcp_address.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* One question to the resolver. */
struct look_up {
    /* Written once, before the thread starts. */
    char host[HAUL_TCP_HOST_MAX];
    char port[HAUL_TCP_PORT_MAX];
    int flags;
    int done_fd; /* eventfd: the thread's answer is there */

    /* The thread's until it writes to done_fd, then the asker's who read it. */
    int result; /* as haul_look_up returns it */
    struct addrinfo *found;

    _Atomic int users; /* the asker and the thread, see let_go */
};

static int resolve(const char *host, const char *port, int flags, struct addrinfo **found)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    int result = getaddrinfo(host, port, &hints, found);
    return result == EAI_SYSTEM ? -errno : -result; /* EAI codes are negative too */
}

/* The last one frees. */
static void let_go(struct look_up *look_up)
{
    /* Release, so that what the other did is done; acquire, pairs with the other's release here. */
    if (atomic_fetch_sub_explicit(&look_up->users, 1, memory_order_acq_rel) == 1) {
        if (look_up->found) {
            freeaddrinfo(look_up->found);
        }
        close(look_up->done_fd);
        free(look_up);
    }
}

static void *look_up_thread(void *opaque)
{
    struct look_up *look_up = opaque;
    struct haul_thread_entry entry;
    haul_thread_enter(NULL, &entry, "look-up", HAUL_THREAD_ALONE);
    look_up->result = resolve(look_up->host, look_up->port, look_up->flags, &look_up->found);
    haul_thread_leave(NULL, &entry);
    eventfd_write(look_up->done_fd, 1);
    let_go(look_up);
    return NULL;
}

static int ask(const struct haul_attempt *attempt, const char *host, const char *port, int flags,
               struct addrinfo **found)
{
    struct look_up *look_up = calloc(1, sizeof *look_up);
    if (!look_up) {
        return -ENOMEM;
    }
    snprintf(look_up->host, sizeof look_up->host, "%s", host);
    snprintf(look_up->port, sizeof look_up->port, "%s", port);
    look_up->flags = flags;
    look_up->done_fd = eventfd(0, EFD_CLOEXEC);
    int result = look_up->done_fd < 0 ? -errno : 0;
    pthread_t thread;
    atomic_init(&look_up->users, 2);
    if (result < 0 || (result = haul_thread_start(&thread, look_up_thread, look_up)) < 0) {
        if (look_up->done_fd >= 0) {
            close(look_up->done_fd);
        }
        free(look_up);
        return result;
    }
    pthread_detach(thread); /* it may outlive the question by as long as the resolver takes */
    eventfd_t done;
    result = haul_attempt_wait(attempt, &look_up->done_fd, 1, POLLIN);
    if (result == 0 && (result = eventfd_read(look_up->done_fd, &done)) == 0) {
        result = look_up->result;
        *found = look_up->found;
        look_up->found = NULL;
    }
    let_go(look_up);
    return result;
}

int haul_look_up(const struct haul_attempt *attempt, const char *host, const char *port, int flags,
                 struct addrinfo **found)
{
    int result = resolve(host, port, flags | AI_NUMERICHOST, found);
    return result == -EAI_NONAME && host ? ask(attempt, host, port, flags, found) : result;
}
