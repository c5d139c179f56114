/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/streams.h"

#include "engine/clock.h"
#include "engine/destination/destination.h"
#include "engine/source/source.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static int timeout_ms(const struct haul_migration *migration)
{
    return (int)migration->limits.connect_timeout_ms;
}

/* ---- the list ---- */

static struct haul_streams *make(struct haul_migration *migration)
{
    struct haul_streams *made = calloc(1, sizeof *made);
    if (!made) {
        return NULL;
    }
    made->migration = migration;
    made->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (made->stop_fd < 0) {
        free(made);
        return NULL;
    }
    pthread_mutex_init(&made->lock, NULL);
    return made;
}

static int add(struct haul_streams *streams, const char *name, const char *description, int local,
               struct haul_error *error)
{
    for (unsigned i = 0; i < streams->count; i++) {
        if (strcmp(streams->list[i].name, name) == 0) {
            return haul_error_set(error, EEXIST, "side stream %s is there already", name);
        }
    }
    if (streams->count == HAUL_STREAMS_MAX) {
        return haul_error_set(error, ENOSPC, "more than %d side streams", HAUL_STREAMS_MAX);
    }
    struct haul_side_stream *own = &streams->list[streams->count];
    own->description = strdup(description);
    if (!own->description) {
        return haul_error_set(error, ENOMEM, "no memory for a side stream");
    }
    snprintf(own->name, sizeof own->name, "%s", name);
    own->all = streams;
    own->index = streams->count++;
    own->local = local;
    own->connection = -1;
    return 0;
}

int haul_add_stream(struct haul_migration *migration, const char *name, const char *description, int fd,
                    struct haul_error *error)
{
    if (migration->started) {
        return haul_error_set(error, EBUSY, "the migration has already started");
    }
    if (!migration->source) {
        return haul_error_set(error, EINVAL, "side streams are opened by the source");
    }
    size_t length = strlen(name);
    if (length == 0 || length > HAUL_NAME_MAX || strlen(description) > HAUL_DESCRIPTION_MAX) {
        return haul_error_set(error, EINVAL,
                              "a side stream has a name of %zu bytes and a description of %zu; they may have "
                              "1 to %d and up to %d",
                              length, strlen(description), HAUL_NAME_MAX, HAUL_DESCRIPTION_MAX);
    }
    if (!migration->streams && !(migration->streams = make(migration))) {
        return haul_error_set(error, ENOMEM, "no memory for a side stream");
    }
    return add(migration->streams, name, description, fd, error);
}

/* ---- carrying ---- */

/* Asked by the pumps of a source: the limit is that of all streams together. */
static uint64_t wait_ns(void *opaque)
{
    struct haul_streams *streams = opaque;
    /* Relaxed: pairs with nothing, see haul_set_max_bandwidth and haul_streams_set_share. */
    uint64_t rate = atomic_load_explicit(&streams->migration->knobs.max_bandwidth, memory_order_relaxed);
    int share = atomic_load_explicit(&streams->share, memory_order_relaxed);
    rate = share == HAUL_STREAMS_UNLIMITED ? 0 : share == HAUL_STREAMS_HALF ? rate - rate / 2 : rate;
    uint64_t used = haul_streams_carried(streams, false);
    pthread_mutex_lock(&streams->lock);
    uint64_t wait = haul_rate_limit_wait(&streams->limit, rate, used, haul_now_ns());
    pthread_mutex_unlock(&streams->lock);
    return wait;
}

/* A machine's socket that listens still: takes its one connection. False: stopped before it came. */
static bool take_local(struct haul_side_stream *stream)
{
    int listening = 0;
    socklen_t length = sizeof listening;
    if (getsockopt(stream->local, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 || !listening) {
        return true;
    }
    for (;;) {
        struct pollfd polled[] = {{.fd = stream->local, .events = POLLIN},
                                  {.fd = stream->all->stop_fd, .events = POLLIN}};
        if (poll(polled, 2, -1) < 0 && errno != EINTR) {
            return false;
        }
        if (polled[1].revents) {
            return false;
        }
        int fd = polled[0].revents ? accept4(stream->local, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0) {
            close(stream->local);
            stream->local = fd;
            return true;
        }
    }
}

static void close_one(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static void *carry(void *argument)
{
    struct haul_side_stream *stream = argument;
    struct haul_thread_list *threads = &stream->all->migration->threads;
    struct haul_thread_entry entry;
    haul_thread_enter(threads, &entry, "stream", (int)stream->index);
    if (take_local(stream)) {
        haul_pump_run(stream->local, stream->local, stream->connection, stream->all->stop_fd, &stream->meter);
    }
    /*
     * Whatever ended it, both sides shall see the end now. The machine's socket is closed: after a mere
     * shutdown what it wrote and nobody read would go on filling it, and a machine that waits until it can
     * write would wait for ever (poll then tells POLLHUP, but never POLLOUT).
     */
    shutdown(stream->connection, SHUT_RDWR);
    close_one(&stream->local);
    haul_thread_leave(threads, &entry);
    return NULL;
}

static int start(struct haul_side_stream *stream, int connection, struct haul_error *error)
{
    stream->connection = connection;
    if (stream->all->migration->source) {
        stream->meter.wait_ns = wait_ns;
        stream->meter.opaque = stream->all;
    }
    int code = -haul_thread_start(&stream->thread, carry, stream);
    if (code) {
        return haul_error_set(error, code, "cannot start the thread of side stream %s: %s", stream->name,
                              strerror(code));
    }
    stream->started = true;
    return 0;
}

/* ---- the source ---- */

int haul_streams_check(const struct haul_migration *migration, struct haul_error *error)
{
    unsigned count = haul_streams_count(migration->streams);
    if (count == 0) {
        return 0;
    }
    if (migration->file_path || migration->mode != HAUL_MODE_NORMAL) {
        return haul_error_set(error, EINVAL,
                              "disks and other side streams move to another haul: leave them out with %s",
                              migration->file_path ? "file:PATH" : "mode cpr-transfer");
    }
    if (migration->options.channels + count > HAUL_CHANNELS_MAX) {
        return haul_error_set(error, EINVAL,
                              "%u channels and %u side streams are more than %d connections: use fewer "
                              "channels",
                              migration->options.channels, count, HAUL_CHANNELS_MAX);
    }
    return 0;
}

int haul_streams_announce(struct haul_migration *migration, struct haul_error *error)
{
    const struct haul_streams *streams = migration->streams;
    if (haul_streams_count(streams) == 0) {
        return 0;
    }
    unsigned char *payload = malloc(HAUL_FRAME_MAX);
    if (!payload) {
        return haul_error_set(error, ENOMEM, "no memory for the side streams");
    }
    struct haul_writer writer;
    haul_writer_init(&writer, payload, HAUL_FRAME_MAX);
    haul_writer_u32(&writer, streams->count);
    for (unsigned i = 0; i < streams->count; i++) {
        haul_writer_string(&writer, streams->list[i].name);
        haul_writer_string(&writer, streams->list[i].description);
    }
    struct haul_frame *frame = NULL;
    int rc = haul_control_send(migration->control, HAUL_FRAME_STREAMS, payload, haul_writer_length(&writer),
                               error);
    if (rc == 0) {
        rc = haul_control_expect(migration->control, HAUL_FRAME_STREAMS_OK, timeout_ms(migration), &frame,
                                 error);
    }
    free(frame);
    free(payload);
    return rc;
}

int haul_streams_connect(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_streams *streams = migration->streams;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < haul_streams_count(streams); i++) {
        int fd;
        rc = haul_source_connect(migration, (uint16_t)(migration->options.channels + i), &fd, error);
        if (rc < 0) {
            int reason = haul_migration_reason(migration, error);
            return reason < 0 ? reason : haul_error_prefix(error, "side stream %s: ", streams->list[i].name);
        }
        rc = start(&streams->list[i], fd, error);
    }
    return rc;
}

void haul_streams_set_share(struct haul_streams *streams, enum haul_streams_share share)
{
    if (streams) {
        atomic_store_explicit(&streams->share, (int)share, memory_order_relaxed);
    }
}

/* ---- the destination ---- */

static int read_list(struct haul_streams *streams, const struct haul_frame *frame, unsigned most,
                     struct haul_error *error)
{
    struct haul_cursor cursor;
    haul_cursor_init(&cursor, frame->payload, frame->length);
    uint32_t count = haul_cursor_u32(&cursor);
    if (count == 0 || count > most) {
        return haul_error_set(error, EPROTO, "STREAMS announces %u side streams, allowed are 1 to %u", count,
                              most);
    }
    for (uint32_t i = 0; i < count; i++) {
        char name[HAUL_NAME_MAX + 1];
        char description[HAUL_DESCRIPTION_MAX + 1];
        haul_cursor_string(&cursor, name, sizeof name);
        haul_cursor_string(&cursor, description, sizeof description);
        if (cursor.failed || !name[0]) {
            return haul_error_set(error, EPROTO, "STREAMS is malformed");
        }
        int rc = add(streams, name, description, -1, error);
        if (rc < 0) {
            return rc;
        }
    }
    return haul_cursor_done(&cursor) ? 0 : haul_error_set(error, EPROTO, "STREAMS is malformed");
}

/* Has the machine open its ends. */
static int open_local(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_streams *streams = migration->streams;
    struct haul_stream list[HAUL_STREAMS_MAX];
    int fds[HAUL_STREAMS_MAX];
    for (unsigned i = 0; i < streams->count; i++) {
        list[i] = (struct haul_stream){streams->list[i].name, streams->list[i].description};
        fds[i] = -1;
    }
    int rc = migration->guest.streams(migration->guest_opaque, list, streams->count, fds, error);
    for (unsigned i = 0; rc == 0 && i < streams->count; i++) {
        streams->list[i].local = fds[i];
    }
    return rc;
}

int haul_streams_accept(struct haul_migration *migration, struct haul_error *error)
{
    unsigned room = HAUL_CHANNELS_MAX - migration->destination->channels;
    unsigned most = room < HAUL_STREAMS_MAX ? room : HAUL_STREAMS_MAX;
    struct haul_frame *frame = NULL;
    struct haul_streams *streams = make(migration);
    if (!streams) {
        return haul_error_set(error, ENOMEM, "no memory for the side streams");
    }
    int rc =
        haul_control_expect(migration->control, HAUL_FRAME_STREAMS, timeout_ms(migration), &frame, error);
    rc = rc == 0 ? read_list(streams, frame, most, error) : rc;
    free(frame);
    if (rc < 0) {
        haul_streams_free(streams);
        return rc;
    }
    pthread_mutex_lock(&migration->lock);
    migration->streams = streams;
    pthread_mutex_unlock(&migration->lock);
    rc = open_local(migration, error);
    return rc < 0 ? rc : haul_control_send(migration->control, HAUL_FRAME_STREAMS_OK, NULL, 0, error);
}

bool haul_streams_expects(const struct haul_migration *migration, unsigned channel)
{
    unsigned first = migration->destination->channels;
    return channel >= first && channel - first < haul_streams_count(migration->streams) &&
           migration->streams->list[channel - first].connection < 0;
}

int haul_streams_begin(struct haul_migration *migration, unsigned channel, int fd, struct haul_error *error)
{
    return start(&migration->streams->list[channel - migration->destination->channels], fd, error);
}

/* ---- both ---- */

static uint64_t carried(const struct haul_side_stream *stream, bool both)
{
    uint64_t out = atomic_load_explicit(&stream->meter.outward, memory_order_relaxed);
    return out + (both ? atomic_load_explicit(&stream->meter.inward, memory_order_relaxed) : 0);
}

uint64_t haul_streams_carried(const struct haul_streams *streams, bool both)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < haul_streams_count(streams); i++) {
        total += carried(&streams->list[i], both);
    }
    return total;
}

void haul_streams_count_up(struct haul_streams *streams, struct haul_stats *stats)
{
    stats->streams = haul_streams_count(streams);
    stats->stream_bytes = haul_streams_carried(streams, true);
    if (!streams) {
        return;
    }
    pthread_mutex_lock(&streams->lock);
    for (unsigned i = 0; i < streams->count; i++) {
        stats->stream_offset += streams->list[i].offset;
        stats->stream_length += streams->list[i].length;
        stats->streams_ready += streams->list[i].ready;
    }
    pthread_mutex_unlock(&streams->lock);
}

void haul_stream_progress(struct haul_migration *migration, unsigned index, uint64_t offset, uint64_t length,
                          bool ready)
{
    struct haul_streams *streams = migration->streams;
    if (index >= haul_streams_count(streams)) {
        return;
    }
    pthread_mutex_lock(&streams->lock);
    streams->list[index].offset = offset;
    streams->list[index].length = length;
    streams->list[index].ready = ready;
    pthread_mutex_unlock(&streams->lock);
}

int haul_get_stream_stats(struct haul_migration *migration, unsigned index, struct haul_stream_stats *stats)
{
    int rc = -ENOENT;
    pthread_mutex_lock(&migration->lock); /* a destination gets its list when the source comes */
    struct haul_streams *streams = migration->streams;
    if (index < haul_streams_count(streams)) {
        const struct haul_side_stream *stream = &streams->list[index];
        *stats = (struct haul_stream_stats){0};
        snprintf(stats->name, sizeof stats->name, "%s", stream->name);
        stats->bytes = carried(stream, true);
        pthread_mutex_lock(&streams->lock);
        stats->offset = stream->offset;
        stats->length = stream->length;
        stats->ready = stream->ready;
        pthread_mutex_unlock(&streams->lock);
        rc = 0;
    }
    pthread_mutex_unlock(&migration->lock);
    return rc;
}

void haul_streams_abort(const struct haul_streams *streams)
{
    if (streams) {
        eventfd_write(streams->stop_fd, 1); /* never read: all threads see it */
    }
}

void haul_streams_stop(struct haul_streams *streams)
{
    if (haul_streams_count(streams) == 0) {
        return;
    }
    haul_streams_abort(streams);
    for (unsigned i = 0; i < streams->count; i++) {
        struct haul_side_stream *stream = &streams->list[i];
        if (stream->started) {
            pthread_join(stream->thread, NULL);
            stream->started = false;
        }
        close_one(&stream->local);
        close_one(&stream->connection);
    }
}

void haul_streams_free(struct haul_streams *streams)
{
    if (!streams) {
        return;
    }
    haul_streams_stop(streams);
    for (unsigned i = 0; i < streams->count; i++) {
        free(streams->list[i].description);
    }
    close(streams->stop_fd);
    pthread_mutex_destroy(&streams->lock);
    free(streams);
}
