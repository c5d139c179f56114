/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_CONTROL_H
#define HAUL_ENGINE_CONTROL_H

/*
 * The control connection, the same object on both sides. A reader thread (at the source, design 4's
 * return-path thread) takes frames off the socket, answers PING, measures the round trip, notices silence,
 * and queues everything else for the owner: the migration_thread or the loader. Sending is open to several
 * threads.
 */

#include "channels/doorbell.h"
#include "channels/error.h"
#include "channels/placement/placement.h"
#include "channels/thread_list.h"
#include "channels/wire.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_control; /* opaque */

struct haul_control_options {
    int fd; /* connected, HELLO and WELCOME already exchanged; the control's from now on */
    const char *thread_name;
    struct haul_thread_list *threads; /* where the reader enters itself; may be NULL */
    uint32_t silence_timeout_ms;
    bool takes_descriptors; /* MEMORY frames come, each with a descriptor beside it */
    /* Called on the reader thread after a frame was queued or the connection failed; must be cheap. */
    void (*notify)(void *opaque);
    /* Called on the reader thread when the connection has ended, for whatever reason; must be cheap. NULL:
     * nothing to do. */
    void (*ended)(void *opaque);
    void *opaque;
};

/* haul_control_new starts the reader thread. On failure `fd` is closed. */
int haul_control_new(const struct haul_control_options *options, struct haul_control **control,
                     struct haul_error *error);

/* haul_control_send sends one frame; any thread, one frame at a time. Errors as haul_frame_send. */
int haul_control_send(struct haul_control *control, enum haul_frame_type type, const void *payload,
                      size_t length, struct haul_error *error);

/* haul_control_send_fd sends one frame with the descriptor `passed`, which stays the caller's, beside it. */
int haul_control_send_fd(struct haul_control *control, enum haul_frame_type type, const void *payload,
                         size_t length, int passed, struct haul_error *error);

/* haul_control_take_fd returns the descriptor that came with the oldest MEMORY frame whose descriptor was not
 * taken yet, or -1. It is the caller's. */
int haul_control_take_fd(struct haul_control *control);

/* haul_control_fail sends FAILED with `error`'s code and text, as well as it can be sent. */
void haul_control_fail(struct haul_control *control, const struct haul_error *error);

/*
 * haul_control_decline is the same as NOT_STARTED: the guest was not started on this side and never will be,
 * so that a source which sent HANDOVER may run it again (rule R1). The caller is certain of that.
 */
void haul_control_decline(struct haul_control *control, const struct haul_error *error);

/* haul_control_fail_fd is the same on a connection that has no control object (yet); `fd` stays the caller's.
 */
void haul_control_fail_fd(int fd, const struct haul_error *error);

/*
 * haul_control_progress is to be called for each step of work that an answer to the peer waits for, so that
 * the peer does not take it for silence: it sends WORKING every now and then. Any thread.
 */
void haul_control_progress(struct haul_control *control);

/* haul_control_worked returns how far the peer's work for us has come, as WORKING said. Any thread. */
uint64_t haul_control_worked(struct haul_control *control);

/* One frame off the queue; the owner frees it with free(). */
struct haul_frame {
    struct haul_frame *next;
    enum haul_frame_type type;
    size_t length;
    unsigned char payload[];
};

/*
 * haul_control_next waits up to timeout_ms for the next frame, counted anew from each WORKING. Queued frames
 * come before a failure of the connection. 0 with *frame set; -ETIMEDOUT; -ECANCELED after haul_control_wake;
 * else the errno that ended the connection. A FAILED frame of the peer is returned as its errno and text
 * ("the destination refused:
 * ...").
 */
int haul_control_next(struct haul_control *control, int timeout_ms, struct haul_frame **frame,
                      struct haul_error *error);

/* haul_control_quiet tells that haul_control_next would find nothing now; costs one load. Any thread. */
bool haul_control_quiet(const struct haul_control *control);

/* haul_control_expect is haul_control_next for one type of frame; any other is -EPROTO. */
int haul_control_expect(struct haul_control *control, enum haul_frame_type type, int timeout_ms,
                        struct haul_frame **frame, struct haul_error *error);

/* haul_control_status returns 0 while the connection stands, else the failure, but a FAILED frame of the peer
 * first, on the queue or taken off it before; never waits. */
int haul_control_status(struct haul_control *control, struct haul_error *error);

/* haul_control_check_peer is haul_control_status that also asks the kernel whether the peer has closed the
 * connection, which the reader may not have seen yet: -ECONNRESET. */
int haul_control_check_peer(struct haul_control *control, struct haul_error *error);

/*
 * How long a source that met a broken connection asks for the destination's reason: its guest may stand still
 * meanwhile. What a destination waits for itself before it says so is measured by it.
 */
#define HAUL_ASKS_MS 1000

/*
 * haul_control_reason asks why the peer gives up, when something else broke: it waits for a FAILED frame
 * for timeout_ms, no longer than the connection stands. 0: no reason came and `error` is unchanged; else the
 * peer's errno and text. Does not end by haul_control_wake.
 */
int haul_control_reason(struct haul_control *control, int timeout_ms, struct haul_error *error);

/* haul_control_declined tells whether the peer failed by a NOT_STARTED that can be read and never said
 * RUNNING before it, also in another frame's place; ask haul_control_reason first. */
bool haul_control_declined(struct haul_control *control);

/* haul_control_wake makes every present and later haul_control_next return -ECANCELED. Any thread. */
void haul_control_wake(struct haul_control *control);

/* haul_control_read_failure turns the payload of a FAILED frame of `peer` into our own error; returns its
 * negative errno. */
int haul_control_read_failure(const void *payload, size_t length, const char *peer, struct haul_error *error);

/* haul_control_fd returns the connection, to ask for its addresses; nobody but the control reads or writes
 * it.
 */
int haul_control_fd(const struct haul_control *control);

/* haul_control_nic_node returns the NUMA node of the network card that leads to the peer, or
 * HAUL_NODE_UNKNOWN. */
int haul_control_nic_node(const struct haul_control *control, const struct haul_topology *topology);

/* haul_control_round_trip_ns returns the smoothed round trip, 0 before the first answer. Any thread. */
uint64_t haul_control_round_trip_ns(const struct haul_control *control);

/* haul_control_free closes the connection and joins the reader. NULL is accepted. */
void haul_control_free(struct haul_control *control);

#ifdef __cplusplus
}
#endif
#endif
