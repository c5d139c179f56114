/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_RMA_SERVER_H
#define HAUL_CHANNELS_RMA_SERVER_H

/* The destination's end of one channel of rdma: an endpoint and the thread that lets it make progress. */

#include "channels/rma/rma.h"

struct haul_rma_server; /* opaque */
struct haul_thread_list;

/*
 * haul_rma_server_new starts the thread (named "multifdrma_N"). The thread opens the endpoint of channel
 * `index`, tells its port to the source over `fd`, and serves it; should it fail, it keeps the reason and
 * shuts `fd` down. It enters itself in `threads`, unless NULL. -ENOMEM, -EAGAIN.
 */
int haul_rma_server_new(struct haul_rma *rma, unsigned index, int fd, struct haul_thread_list *threads,
                        struct haul_rma_server **server, struct haul_error *error);

/* haul_rma_server_failure returns 0, or the negative errno that ended the server, with its message. Any
 * thread. */
int haul_rma_server_failure(struct haul_rma_server *server, struct haul_error *error);

/* haul_rma_server_abort asks for the end. Any thread, idempotent. */
void haul_rma_server_abort(struct haul_rma_server *server);

/*
 * haul_rma_server_stop aborts and waits: once it returned nobody writes through it any more. Idempotent; one
 * thread at a time. haul_rma_server_free stops and frees. NULL is accepted by both.
 */
void haul_rma_server_stop(struct haul_rma_server *server);
void haul_rma_server_free(struct haul_rma_server *server);

#endif
