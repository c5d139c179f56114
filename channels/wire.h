/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_WIRE_H
#define HAUL_CHANNELS_WIRE_H

/*
 * The wire format of docs/protocol.md: frames on the control channel, and the bounded cursors that every byte
 * of the peer goes through (rule R4). All numbers are little-endian. The packets of data channels are in
 * channels/packet.h.
 */

#include "channels/batch.h"
#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_WIRE_VERSION 1
#define HAUL_MIGRATION_ID_SIZE 16
#define HAUL_FRAME_MAX ((size_t)1 << 20) /* payload of one control frame, a limit of rule R6 */
#define HAUL_CONTROL_CHANNEL 0xffff      /* the channel number of the control connection's hello */

/* Control frames, as they travel. S: from the source, D: from the destination. Never renumber. */
#define HAUL_FRAMES(X)                                                                                       \
    X(1, HELLO)        /* S: first on every connection, control and data */                                  \
    X(2, WELCOME)      /* D: answers HELLO */                                                                \
    X(3, BLOCKS)       /* S: the block table */                                                              \
    X(4, BLOCKS_OK)    /* D: the table fits; data channels may connect */                                    \
    X(5, ROUND_DONE)   /* D: every channel reached the mark of this round and its pages are in memory */     \
    X(6, STATE_BEGIN)  /* S: a handler's name, and the round that its loading needs in memory */             \
    X(7, STATE)        /* S: part of the handler's state */                                                  \
    X(8, STATE_END)    /* S: the handler's state is complete */                                              \
    X(9, VERIFY)       /* S: asks for the hash of every block */                                             \
    X(10, HASHES)      /* D: answers VERIFY */                                                               \
    X(11, HANDOVER)    /* S: the destination owns the guest from here (rule R1) */                           \
    X(12, RUNNING)     /* D: the guest runs here */                                                          \
    X(13, PING)        /* both: silence test and round trip; answered by PONG */                             \
    X(14, PONG)        /* both: answers PING */                                                              \
    X(15, FAILED)      /* both: errno and text; the sender of it gives up */                                 \
    X(16, PREPARE)     /* S: all is sent; can you take over? */                                              \
    X(17, PREPARED)    /* D: everything loaded; waits for HANDOVER */                                        \
    X(18, PRESENT)     /* S: which 2 MiB chunks of a block will come with content, for populating */         \
    X(19, MEMORY)      /* S: a block's memory itself, as a descriptor beside the frame (cpr-transfer) */     \
    X(20, MEMORY_OK)   /* D: took over the memory of every block */                                          \
    X(21, RDMA_OFFER)  /* D: provider, addresses and keys of its registered memory */                        \
    X(22, RDMA_PORT)   /* D, on a data connection: where the channel's endpoint is */                        \
    X(23, STREAMS)     /* S: the side streams that will connect after the channels */                        \
    X(24, STREAMS_OK)  /* D: the machine takes them */                                                       \
    X(25, NOT_STARTED) /* D, after PREPARED: FAILED, and the guest never ran here and never will */          \
    X(26, WORKING)     /* D: what is due takes longer, and got further since the last of these */            \
    X(27, DISKS)       /* S: the disk table */

enum haul_frame_type {
#define X(number, name) HAUL_FRAME_##name = (number),
    HAUL_FRAMES(X)
#undef X
};

/* haul_frame_name returns "HELLO" and so on, or "unknown" for any other number. */
const char *haul_frame_name(unsigned type);

/*
 * A cursor over received bytes. Every read checks what is left; after the first that does not fit the cursor
 * is failed and all reads return zero, so a decoder checks once, at its end, with haul_cursor_done.
 */
struct haul_cursor {
    const unsigned char *at;
    const unsigned char *end;
    bool failed;
};
void haul_cursor_init(struct haul_cursor *cursor, const void *bytes, size_t length);
uint8_t haul_cursor_u8(struct haul_cursor *cursor);
uint16_t haul_cursor_u16(struct haul_cursor *cursor);
uint32_t haul_cursor_u32(struct haul_cursor *cursor);
uint64_t haul_cursor_u64(struct haul_cursor *cursor);
/* Returns a pointer to `length` bytes inside the input, or NULL (and fails the cursor). */
const void *haul_cursor_bytes(struct haul_cursor *cursor, size_t length);
/* Copies a u16-length-prefixed string of at most capacity - 1 bytes without NULs, and terminates it. */
bool haul_cursor_string(struct haul_cursor *cursor, char *text, size_t capacity);
/* True when nothing failed and nothing is left over. */
bool haul_cursor_done(const struct haul_cursor *cursor);

/* The writing twin: fails (and stays failed) instead of passing the end of its buffer. */
struct haul_writer {
    unsigned char *start;
    unsigned char *at;
    unsigned char *end;
    bool failed;
};
void haul_writer_init(struct haul_writer *writer, void *bytes, size_t capacity);
void haul_writer_u8(struct haul_writer *writer, uint8_t value);
void haul_writer_u16(struct haul_writer *writer, uint16_t value);
void haul_writer_u32(struct haul_writer *writer, uint32_t value);
void haul_writer_u64(struct haul_writer *writer, uint64_t value);
void haul_writer_bytes(struct haul_writer *writer, const void *bytes, size_t length);
void haul_writer_string(struct haul_writer *writer, const char *text);
size_t haul_writer_length(const struct haul_writer *writer); /* 0 after a failure */

/* Header and checksum of a frame, for those who keep frames elsewhere than on a connection. */
#define HAUL_FRAME_HEADER_SIZE 16
void haul_frame_header_encode(void *header, enum haul_frame_type type, const void *payload, size_t length);
/*
 * haul_frame_header_decode checks HAUL_FRAME_HEADER_SIZE bytes. -EPROTO for a bad magic, an unknown type or a
 * length over `capacity` or HAUL_FRAME_MAX.
 */
int haul_frame_header_decode(const void *header, size_t capacity, enum haul_frame_type *type, size_t *length,
                             struct haul_error *error);
/* haul_frame_intact tells whether the header's checksum is that of header and payload. */
bool haul_frame_intact(const void *header, const void *payload, size_t length);

/*
 * haul_frame_send writes one frame (blocking; bounded by the socket's own SO_SNDTIMEO). -EPIPE, -ETIMEDOUT,
 * -EMSGSIZE for a payload over HAUL_FRAME_MAX. One thread at a time per socket.
 */
int haul_frame_send(int fd, enum haul_frame_type type, const void *payload, size_t length,
                    struct haul_error *error);

/*
 * haul_frame_recv reads one frame into `payload` (`capacity` bytes, the caller's). timeout_ms bounds the wait
 * for the whole frame (-1: none). -ETIMEDOUT; -ECONNRESET when the peer closed; -EPROTO for a bad magic,
 * an unknown type or a length over `capacity`, nothing of which is read into memory, and for a wrong
 * checksum.
 */
int haul_frame_recv(int fd, enum haul_frame_type *type, void *payload, size_t capacity, size_t *length,
                    int timeout_ms, struct haul_error *error);

/*
 * haul_frame_send_fd sends a frame with the descriptor `passed` beside its first byte (SCM_RIGHTS; it stays
 * the caller's): `fd` must be a unix socket. haul_frame_recv_fd also takes what came beside the frame:
 * *passed is the caller's, close-on-exec, or -1; never more than one, further ones are dropped.
 * haul_frame_recv drops all.
 */
int haul_frame_send_fd(int fd, enum haul_frame_type type, const void *payload, size_t length, int passed,
                       struct haul_error *error);
int haul_frame_recv_fd(int fd, enum haul_frame_type *type, void *payload, size_t capacity, size_t *length,
                       int timeout_ms, int *passed, struct haul_error *error);

/* The first frame of every connection. */
struct haul_hello {
    uint32_t version;
    uint32_t capabilities; /* bits of HAUL_CAPABILITY_*; the destination refuses bits that it does not know */
    unsigned char id[HAUL_MIGRATION_ID_SIZE];
    uint16_t channel;  /* 0-based, or HAUL_CONTROL_CHANNEL; from `channels` on, a side stream */
    uint16_t channels; /* 1 to HAUL_CHANNELS_MAX; 0 exactly with HAUL_CAPABILITY_CPR_TRANSFER */
    uint32_t page_size;
};
#define HAUL_CAPABILITY_VERIFY (1u << 0)
#define HAUL_CAPABILITY_CPR_TRANSFER (1u << 1) /* memory is handed over, not copied */
#define HAUL_CAPABILITY_RDMA (1u << 2)         /* raw pages are written into registered memory */
#define HAUL_CAPABILITY_STREAMS (1u << 3)      /* side streams: STREAMS follows BLOCKS_OK */
#define HAUL_CAPABILITY_DISKS (1u << 4)        /* disks come too: DISKS follows BLOCKS */
#define HAUL_CAPABILITIES_KNOWN                                                                              \
    (HAUL_CAPABILITY_VERIFY | HAUL_CAPABILITY_CPR_TRANSFER | HAUL_CAPABILITY_RDMA |                          \
     HAUL_CAPABILITY_STREAMS | HAUL_CAPABILITY_DISKS)

size_t haul_hello_encode(const struct haul_hello *hello, void *bytes, size_t capacity);
/* -EPROTO: malformed; -EPROTONOSUPPORT: another version or unknown capabilities (message names them). */
int haul_hello_decode(const void *bytes, size_t length, struct haul_hello *hello, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
