/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_SESSION_ORDERS_H
#define HAUL_TOOLS_SESSION_ORDERS_H

/*
 * How `haul resume` and `haul abandon` reach a guest that lives inside a haul process: the process that holds
 * the paused guest listens on ID.SIDE.sock in the state directory, takes one line ("resume" or "abandon"),
 * acts, and answers with one line, "ok: ..." or "error: ...".
 */

#include "tools/session/record.h"

#ifdef __cplusplus
extern "C" {
#endif

enum haul_order { HAUL_ORDER_NONE, HAUL_ORDER_RESUME, HAUL_ORDER_ABANDON };

struct haul_orders; /* opaque: the listening socket */

/* haul_orders_try makes such a socket and removes it: whether orders could reach this process. */
int haul_orders_try(struct haul_store *store, struct haul_error *error);

int haul_orders_open(struct haul_store *store, const char *id, bool source, struct haul_orders **orders,
                     struct haul_error *error);
/*
 * haul_orders_wait waits for the next order. 0: *order and *client are set, and haul_orders_answer must
 * follow; -EINTR: the eventfd `interrupt_fd` (which is not read) has become readable.
 */
int haul_orders_wait(struct haul_orders *orders, int interrupt_fd, enum haul_order *order, int *client,
                     struct haul_error *error);
/* haul_orders_answer sends the answer and closes `client`. */
void haul_orders_answer(int client, const struct haul_error *failure, const char *text);
/* haul_orders_close removes the socket. NULL is accepted. */
void haul_orders_close(struct haul_orders *orders);

/*
 * haul_orders_send is the other end: gives `order` to the process that holds the guest and writes what it
 * answered to `answer`. -ESRCH: nobody listens (any more).
 */
int haul_orders_send(struct haul_store *store, const char *id, bool source, enum haul_order order,
                     char *answer, size_t size, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
