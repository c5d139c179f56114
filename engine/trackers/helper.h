/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_HELPER_H
#define HAUL_ENGINE_TRACKERS_HELPER_H

/*
 * A short-lived child process that does all ptrace work. If the tracer itself were killed between two steps,
 * the kernel would let the traced thread go on with the registers of that moment and it would crash; a child
 * that ignores signals and is not the process that people kill finishes its few steps (trap T7). It also
 * keeps ptrace's wait statuses away from an application that waits for its own children.
 */

#include "channels/error.h"

struct haul_helper {
    int pid;
    int socket; /* ours; the other end is the child's */
};

/* The child's work: async-signal-safe calls only, as after any fork of a process with threads. */
typedef void haul_helper_work(void *opaque, int socket);

/*
 * haul_helper_start forks. The child keeps only its socket and `keep_fds` (which keep their numbers), runs
 * `work` and exits.
 */
int haul_helper_start(struct haul_helper *helper, haul_helper_work *work, void *opaque, const int *keep_fds,
                      unsigned keep, struct haul_error *error);

/* haul_helper_reply (child): sends the outcome; `fd` >= 0 goes with it. The error's code is 0 for success. */
void haul_helper_reply(int socket, const struct haul_error *outcome, int fd);

/* haul_helper_wait_close (child): waits until the parent closed its end, or died. */
void haul_helper_wait_close(int socket);

/* haul_helper_receive (parent): the child's outcome, and in *fd its descriptor or -1 (`fd` may be NULL). */
int haul_helper_receive(struct haul_helper *helper, int *fd, struct haul_error *error);

/* haul_helper_finish (parent): closes the socket and waits for the child's end. */
void haul_helper_finish(struct haul_helper *helper);

#endif
