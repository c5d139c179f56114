/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_RMA_SERVER_H
#define HAUL_CHANNELS_RMA_SERVER_H

/* The destination's end of one channel of rdma: an endpoint and the thread that lets it make progress. */

#include "channels/rma/rma.h"

struct haul_rma_server; /* opaque */
struct haul_thread_list;

/*
 * haul_rma_server_new opens the endpoint of channel `index`, starts the thread (named "multifdrma_N") and
 * tells its port to the source over `fd`, which it shuts down should the provider fail. The thread enters
 * itself in `threads`, unless NULL. Errors as
 * haul_rma_endpoint_open, -EAGAIN, and what the socket said.
 */
int haul_rma_server_new(struct haul_rma *rma, unsigned index, int fd, struct haul_thread_list *threads,
                        struct haul_rma_server **server, struct haul_error *error);

/* haul_rma_server_abort asks for the end. Any thread, idempotent. */
void haul_rma_server_abort(struct haul_rma_server *server);

/*
 * haul_rma_server_stop aborts and waits: once it returned nobody writes through it any more. Idempotent; one
 * thread at a time. haul_rma_server_free stops and frees. NULL is accepted by both.
 */
void haul_rma_server_stop(struct haul_rma_server *server);
void haul_rma_server_free(struct haul_rma_server *server);

#endif
