/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_DESCRIPTOR_H
#define HAUL_CHANNELS_TRANSPORT_DESCRIPTOR_H

/* Descriptors that this process was given, made into connections. */

#include "channels/error.h"
#include "channels/transport/pump.h"

/*
 * haul_descriptor_take moves the inherited descriptor `number` to a new one, *fd, close-on-exec, and frees
 * the number, so that nothing else uses it: standard input and output become /dev/null. -EBADF: it is not
 * open, or close-on-exec, as are the descriptors that this process opened for its own use.
 */
int haul_descriptor_take(const char *uri, int number, int *fd, struct haul_error *error);

/*
 * haul_descriptor_join makes one connected stream socket, *fd, of `in` and `out`, which it takes over also
 * when it fails: the socket that both are, or a socket that *pump bridges to them (else *pump is NULL). `in`
 * and `out` may be equal. `threads`: as haul_pump_start has it. -ENOTSOCK: they are no sockets or pipes, or
 * one pipe for both ways; -ENOTCONN.
 */
int haul_descriptor_join(const char *uri, int in, int out, struct haul_thread_list *threads, int *fd,
                         struct haul_pump **pump, struct haul_error *error);

#endif
