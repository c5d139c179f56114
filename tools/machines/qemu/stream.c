/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE ((size_t)256 << 10)

struct piece {
    struct piece *next;
    size_t start;
    size_t end;
    char bytes[PIECE];
};

struct haul_qemu_stream {
    int fd; /* read by the thread only; shut down by free */
    size_t limit;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    struct piece *first;
    struct piece *last;
    size_t unread;
    bool ended;
    int failure; /* errno */
};

/* Appends to the last piece; false when the thread shall end. Called without the lock, the last piece's free
 * end belongs to the thread. */
static bool take(struct haul_qemu_stream *stream)
{
    struct piece *fresh = NULL;
    pthread_mutex_lock(&stream->lock);
    struct piece *piece = stream->last;
    bool full = stream->unread >= stream->limit;
    pthread_mutex_unlock(&stream->lock);
    if (full) {
        stream->failure = EFBIG;
        return false;
    }
    if (!piece || piece->end == PIECE) {
        piece = fresh = malloc(sizeof *fresh);
        if (!fresh) {
            stream->failure = ENOMEM;
            return false;
        }
        fresh->next = NULL;
        fresh->start = fresh->end = 0;
    }
    ssize_t count;
    do {
        count = recv(stream->fd, piece->bytes + piece->end, PIECE - piece->end, 0);
    } while (count < 0 && errno == EINTR);
    if (count <= 0) {
        stream->failure = count < 0 ? errno : 0;
        free(fresh);
        return false;
    }
    pthread_mutex_lock(&stream->lock);
    if (fresh) {
        if (stream->last) {
            stream->last->next = fresh;
        } else {
            stream->first = fresh;
        }
        stream->last = fresh;
    }
    piece->end += (size_t)count;
    stream->unread += (size_t)count;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return true;
}

static void *read_all(void *opaque)
{
    struct haul_qemu_stream *stream = opaque;
    while (take(stream)) {
    }
    pthread_mutex_lock(&stream->lock);
    stream->ended = true;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

int haul_qemu_stream_new(int fd, size_t limit, struct haul_qemu_stream **stream, struct haul_error *error)
{
    struct haul_qemu_stream *made = calloc(1, sizeof *made);
    if (!made) {
        close(fd);
        return haul_error_set(error, ENOMEM, "no memory to read QEMU's device state");
    }
    made->fd = fd;
    made->limit = limit;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int code = pthread_create(&made->thread, NULL, read_all, made);
    if (code) {
        pthread_cond_destroy(&made->changed);
        pthread_mutex_destroy(&made->lock);
        close(fd);
        free(made);
        return haul_error_set(error, code, "cannot start the thread that reads QEMU's device state: %s",
                              strerror(code));
    }
    pthread_setname_np(made->thread, "qemu_stream");
    *stream = made;
    return 0;
}

static int failed(int code, size_t limit, struct haul_error *error)
{
    if (code == EFBIG) {
        return haul_error_set(
            error, EFBIG,
            "QEMU has more than %zu MiB of its own memory to move: put every large memory of the machine "
            "into a memory-backend with share=on",
            limit >> 20);
    }
    return haul_error_set(error, code, "reading QEMU's device state: %s", strerror(code));
}

int haul_qemu_stream_read(struct haul_qemu_stream *stream, void *bytes, size_t capacity, size_t *length,
                          int timeout_ms, struct haul_error *error)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    int waited = 0;
    pthread_mutex_lock(&stream->lock);
    while (!stream->unread && !stream->ended && !waited) {
        waited = pthread_cond_timedwait(&stream->changed, &stream->lock, &deadline);
    }
    struct piece *piece = stream->first;
    struct piece *done = NULL;
    int result = 0;
    *length = 0;
    if (stream->unread) {
        if (piece->start == piece->end) { /* the thread had filled it up, and went on to the next */
            stream->first = piece->next;
            done = piece;
            piece = stream->first;
        }
        *length = piece->end - piece->start < capacity ? piece->end - piece->start : capacity;
        memcpy(bytes, piece->bytes + piece->start, *length);
        piece->start += *length;
        stream->unread -= *length;
    } else if (!stream->ended) {
        result = haul_error_set(error, ETIMEDOUT, "QEMU's device state stopped coming for %d s",
                                timeout_ms / 1000);
    } else if (stream->failure) {
        result = failed(stream->failure, stream->limit, error);
    }
    pthread_mutex_unlock(&stream->lock);
    free(done);
    return result;
}

bool haul_qemu_stream_full(struct haul_qemu_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    bool full = stream->ended && stream->failure == EFBIG;
    pthread_mutex_unlock(&stream->lock);
    return full;
}

void haul_qemu_stream_free(struct haul_qemu_stream *stream)
{
    if (!stream) {
        return;
    }
    shutdown(stream->fd, SHUT_RDWR);
    pthread_join(stream->thread, NULL);
    close(stream->fd);
    for (struct piece *piece = stream->first; piece;) {
        struct piece *next = piece->next;
        free(piece);
        piece = next;
    }
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}
