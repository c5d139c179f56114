/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_TRANSPORT_CHILD_H
#define HAUL_CHANNELS_TRANSPORT_CHILD_H

/* Shell commands whose standard input and output are a connection, and how they end. One thread at a time. */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define HAUL_CHILDREN_MAX 129 /* one for the control connection and one per channel */

struct haul_child {
    pid_t pid;
    int pidfd;
    uint16_t channel;
    bool own_group; /* it leads a process group of its own */
    bool reaped;
    int status; /* as waitpid has it, once reaped */
};

/* The children of one connector or listener. A zeroed set is empty. */
struct haul_children {
    unsigned count;
    struct haul_child list[HAUL_CHILDREN_MAX];
};

/*
 * haul_children_start runs `command` by /bin/sh with one end of a socket pair as its standard input and
 * output and HAUL_CHANNEL (control, or a number) in its environment; *fd is the other end. What it writes to
 * standard error goes to ours. With `own_group` Ctrl-C does not reach it and it ends with all that it
 * started; without, it may ask the terminal for a password. `uri` is for messages. -EUSERS when it would be
 * more than HAUL_CHILDREN_MAX.
 */
int haul_children_start(struct haul_children *children, const char *uri, const char *command,
                        uint16_t channel, bool own_group, int *fd, struct haul_error *error);

/*
 * haul_children_explain puts before the message in `error` how a child ended, if one did: by a signal rather
 * than by a status, rather by another status than 0, and of several the first channel's. Waits up to
 * `wait_ms` for the first to end. Returns whether one did.
 */
bool haul_children_explain(struct haul_children *children, int wait_ms, struct haul_error *error);

/*
 * haul_children_forget drops the child of `channel` from the set if it ends with exit status `status` within
 * `wait_ms`. Returns whether it did.
 */
bool haul_children_forget(struct haul_children *children, uint16_t channel, int status, int wait_ms);

/*
 * haul_children_end waits a moment for children that end by themselves now that their connection is closed,
 * ends the others (SIGTERM, then SIGKILL), and leaves the set empty.
 */
void haul_children_end(struct haul_children *children);

#endif
