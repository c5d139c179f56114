/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SOCKET_IO_H
#define HAUL_CHANNELS_SOCKET_IO_H

/* Whole-message reads and writes on blocking stream sockets. Never raises SIGPIPE. */

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The peer ended the stream in an orderly way; told apart from every errno of recvmsg. */
#define HAUL_IO_END ENODATA

/*
 * haul_io_send writes all of `parts` (1..IOV_MAX entries, used up as they are sent). Returns 0, or a negative
 * errno: -EPIPE and -ECONNRESET when the peer is gone, -ETIMEDOUT when SO_SNDTIMEO or TCP_USER_TIMEOUT passed
 * without progress. How much was written after a failure is not known.
 */
int haul_io_send(int fd, struct iovec *parts, size_t count);

/* haul_io_send_fd is haul_io_send with the descriptor `passed` (SCM_RIGHTS) beside the first byte. */
int haul_io_send_fd(int fd, struct iovec *parts, size_t count, int passed);

/*
 * haul_io_receive fills all of `parts` (1..IOV_MAX entries, used up), for as long as that takes: SO_RCVTIMEO
 * does not end it, shutdown() by another thread does. While it waits for much it sets SO_RCVLOWAT, which it
 * leaves at 1. Returns 0, -HAUL_IO_END or a negative errno.
 */
int haul_io_receive(int fd, struct iovec *parts, size_t count);

/* haul_io_now_ns returns the monotonic clock. */
uint64_t haul_io_now_ns(void);

#ifdef __cplusplus
}
#endif
#endif
