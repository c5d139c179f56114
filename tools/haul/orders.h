/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_ORDERS_H
#define HAUL_TOOLS_HAUL_ORDERS_H

/*
 * How `haul resume` and `haul abandon` reach a guest that lives inside a haul process: the process that holds
 * the paused guest listens on ID.SIDE.sock in the state directory, takes one line ("resume" or "abandon"),
 * acts, and answers with one line, "ok: ..." or "error: ...".
 */

#include "tools/haul/record.h"
#include "tools/haul/watch.h"

enum cli_order { CLI_ORDER_NONE, CLI_ORDER_RESUME, CLI_ORDER_ABANDON };

struct cli_orders; /* opaque: the listening socket */

int cli_orders_open(struct cli_store *store, const char *id, bool source, struct cli_orders **orders,
                    struct haul_error *error);
/*
 * cli_orders_wait waits for the next order. 0: *order and *client are set, and cli_orders_answer must follow;
 * -EINTR: a signal came.
 */
int cli_orders_wait(struct cli_orders *orders, struct cli_watch *watch, enum cli_order *order, int *client,
                    struct haul_error *error);
/* cli_orders_answer sends the answer and closes `client`. */
void cli_orders_answer(int client, const struct haul_error *failure, const char *text);
/* cli_orders_close removes the socket. NULL is accepted. */
void cli_orders_close(struct cli_orders *orders);

/*
 * cli_orders_send is the other end: gives `order` to the process that holds the guest and writes what it
 * answered to `answer`. -ESRCH: nobody listens (any more).
 */
int cli_orders_send(struct cli_store *store, const char *id, bool source, enum cli_order order, char *answer,
                    size_t size, struct haul_error *error);

#endif
