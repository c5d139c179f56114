/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves memory between two processes through senders and receivers alone, without the engine around them:
 *     data_path [-n CHANNELS] [-s MIB] [-d present|fresh] [-z none|lz4|auto] [-c random|text|zero] [-u URI]
 * The time runs from the moment when all channels are connected until every page is in place.
 */
#include "channels/batch.h"
#include "channels/doorbell.h"
#include "channels/receiver.h"
#include "channels/sender.h"
#include "channels/transport/transport.h"
#include "tools/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct options {
    unsigned channels;
    size_t bytes;
    const char *destination;
    const char *content;
    const char *uri;
    int compress; /* a mode of compress/choice.h */
};

static const struct haul_transport_options transport = {.limits = {10000, 30000}};

static double seconds(void)
{
    return (double)haul_clock_ns() * 1e-9;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void give_up(const struct haul_error *error)
{
    fprintf(stderr, "data_path: %s\n", error->message);
    _exit(1);
}

static unsigned char *map_memory(size_t bytes)
{
    int fd = memfd_create("data_path", MFD_CLOEXEC);
    void *memory = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0) {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (memory == MAP_FAILED) {
        perror("data_path: allocating memory");
        _exit(1);
    }
    close(fd);
    return memory;
}

static void fill(unsigned char *memory, const struct options *options)
{
    static const char words[] = "the quick brown fox jumps over the lazy dog and runs away from the wolf ";
    for (size_t i = 0; i < options->bytes; i += 8) {
        uint64_t value = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
        if (options->content[0] == 't') {
            memcpy(&value, words + (value >> 32) % (sizeof words - 8), 8);
        } else if (options->content[0] == 'z') {
            value = 0;
        }
        memcpy(memory + i, &value, 8);
    }
}

/* ---- the receiving process ---- */

struct barrier {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned arrived;
};

static int on_round(void *opaque, unsigned index, uint32_t round, struct haul_error *error)
{
    struct barrier *barrier = opaque;
    (void)index, (void)round, (void)error;
    pthread_mutex_lock(&barrier->mutex);
    barrier->arrived++;
    pthread_cond_signal(&barrier->changed);
    pthread_mutex_unlock(&barrier->mutex);
    return 0;
}

static void on_failure(void *opaque, unsigned index, const struct haul_error *error)
{
    (void)opaque, (void)index;
    give_up(error);
}

static void receive_all(const struct options *options, struct haul_listener *listener, int ready)
{
    struct haul_error error;
    struct haul_receiver *receivers[HAUL_CHANNELS_MAX];
    int sockets[HAUL_CHANNELS_MAX];
    struct barrier barrier = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    struct haul_block_view block = {.host = map_memory(options->bytes),
                                    .pages = options->bytes / HAUL_PAGE_SIZE,
                                    .maybe_nonzero = calloc(options->bytes / HAUL_PAGE_SIZE / 64 + 1, 8)};
    if (options->destination[0] == 'p') {
        memset(block.host, 2, options->bytes);
        memset((void *)block.maybe_nonzero, 0xff, block.pages / 8);
    }
    for (unsigned i = 0; i < options->channels; i++) {
        if (haul_listener_accept(listener, (uint16_t)i, -1, -1, &sockets[i], &error) < 0) {
            give_up(&error);
        }
    }
    double start = seconds(), start_cpu = cpu_seconds();
    for (unsigned i = 0; i < options->channels; i++) {
        struct haul_receiver_options receiver = {.index = i,
                                                 .fd = sockets[i],
                                                 .blocks = &block,
                                                 .block_count = 1,
                                                 .opaque = &barrier,
                                                 .round = on_round,
                                                 .failed = on_failure};
        if (haul_receiver_new(&receiver, &receivers[i], &error) < 0) {
            give_up(&error);
        }
    }
    if (write(ready, "x", 1) != 1) {
        _exit(1);
    }
    pthread_mutex_lock(&barrier.mutex);
    while (barrier.arrived < options->channels) {
        pthread_cond_wait(&barrier.changed, &barrier.mutex);
    }
    pthread_mutex_unlock(&barrier.mutex);
    double took = seconds() - start;
    printf("data_path %s, %u channels: %.3f s, %.2f GB/s, receiver cpu %.2f s", options->destination,
           options->channels, took, (double)options->bytes / took / 1e9, cpu_seconds() - start_cpu);
    fflush(stdout);
    for (unsigned i = 0; i < options->channels; i++) {
        haul_receiver_free(receivers[i]);
    }
    _exit(0);
}

/* ---- the sending process ---- */

/* Hands every page out, to whichever channel has room, then one mark to each. */
static void send_all(const struct options *options, const struct haul_block_view *block,
                     struct haul_sender **senders, struct haul_doorbell *bell)
{
    uint64_t next = 0;
    unsigned marked = 0;
    while (marked < options->channels) {
        uint32_t ticket = haul_doorbell_ticket(bell);
        bool progress = false;
        for (unsigned i = 0; i < options->channels; i++) {
            struct haul_error error;
            struct haul_batch *batch;
            if (haul_sender_error(senders[i], &error) < 0) {
                give_up(&error);
            }
            if (next == block->pages && i != marked) {
                continue;
            }
            batch = haul_sender_acquire(senders[i]);
            if (!batch) {
                continue;
            }
            progress = true;
            *batch = (struct haul_batch){.kind = HAUL_BATCH_KIND_ROUND, .round = 1};
            if (next < block->pages) {
                uint64_t left = block->pages - next;
                batch->kind = HAUL_BATCH_KIND_PAGES;
                batch->page_count = left < HAUL_BATCH_PAGES ? (uint32_t)left : HAUL_BATCH_PAGES;
                batch->run_count = 1;
                batch->runs[0] = (struct haul_run){next, batch->page_count};
                next += batch->page_count;
            } else {
                marked++;
            }
            haul_sender_submit(senders[i], batch);
        }
        if (!progress) {
            haul_doorbell_wait(bell, ticket, UINT64_MAX);
        }
    }
}

static int send_process(const struct options *options, const char *uri, int ready, unsigned char *memory)
{
    struct haul_error error;
    struct haul_sender *senders[HAUL_CHANNELS_MAX];
    struct haul_block_view block = {.host = memory, .pages = options->bytes / HAUL_PAGE_SIZE};
    struct haul_doorbell bell;
    int sockets[HAUL_CHANNELS_MAX];
    haul_doorbell_init(&bell);
    struct haul_connector *connector;
    if (haul_connector_open(uri, &transport, &connector, &error) < 0) {
        give_up(&error);
    }
    for (unsigned i = 0; i < options->channels; i++) {
        if (haul_connector_connect(connector, (uint16_t)i, -1, &sockets[i], &error) < 0) {
            give_up(&error);
        }
    }
    char byte;
    if (read(ready, &byte, 1) != 1) {
        return 1;
    }
    double start_cpu = cpu_seconds();
    for (unsigned i = 0; i < options->channels; i++) {
        struct haul_sender_options sender = {.index = i,
                                             .compress = options->compress,
                                             .blocks = &block,
                                             .block_count = 1,
                                             .completion_bell = &bell};
        if (haul_carrier_stream_new(sockets[i], &sender.carrier, &error) < 0 ||
            haul_sender_new(&sender, &senders[i], &error) < 0) {
            give_up(&error);
        }
    }
    send_all(options, &block, senders, &bell);
    uint64_t wire = 0;
    for (unsigned i = 0; i < options->channels; i++) {
        struct haul_channel_counters counters;
        while (haul_sender_in_flight(senders[i]) > 0) {
            uint32_t ticket = haul_doorbell_ticket(&bell);
            if (haul_sender_in_flight(senders[i]) > 0) {
                haul_doorbell_wait(&bell, ticket, UINT64_MAX);
            }
        }
        haul_sender_counters(senders[i], &counters);
        wire += counters.bytes_written;
    }
    double cpu = cpu_seconds() - start_cpu;
    int status = 1;
    wait(&status);
    printf(", sender cpu %.2f s, %.3f of the bytes on the wire\n", cpu,
           (double)wire / (double)options->bytes);
    for (unsigned i = 0; i < options->channels; i++) {
        haul_sender_free(senders[i]);
    }
    return status != 0;
}

/* A decimal number from 1 to `most`. */
static bool parse_number(const char *text, size_t most, size_t *value)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    *value = number;
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && number >= 1 && number <= most;
}

static int usage(void)
{
    fprintf(stderr, "usage: data_path [-n CHANNELS] [-s MIB] [-d present|fresh] [-z none|lz4|auto] "
                    "[-c random|text|zero] [-u URI]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct options options = {.channels = 4,
                              .bytes = (size_t)4 << 30,
                              .destination = "present",
                              .content = "random",
                              .uri = "tcp:127.0.0.1:0"};
    size_t number;
    for (int option; (option = getopt(argc, argv, "n:s:d:z:c:u:")) != -1;) {
        switch (option) {
        case 'n':
            if (!parse_number(optarg, HAUL_CHANNELS_MAX, &number)) {
                return usage();
            }
            options.channels = (unsigned)number;
            break;
        case 's':
            if (!parse_number(optarg, SIZE_MAX >> 20, &number)) {
                return usage();
            }
            options.bytes = number << 20;
            break;
        case 'd':
            options.destination = optarg;
            break;
        case 'z':
            if (haul_compress_mode_parse(optarg, &options.compress) < 0) {
                return usage();
            }
            break;
        case 'c':
            options.content = optarg;
            break;
        case 'u':
            options.uri = optarg;
            break;
        default:
            return usage();
        }
    }
    struct haul_error error;
    struct haul_listener *listener;
    int ready[2];
    if (haul_listener_open(options.uri, &transport, &listener, &error) < 0) {
        give_up(&error);
    }
    if (pipe(ready) < 0) {
        return 1;
    }
    pid_t child = fork();
    if (child == 0) {
        receive_all(&options, listener, ready[1]);
    }
    unsigned char *memory = map_memory(options.bytes);
    fill(memory, &options);
    int result = send_process(&options, haul_listener_uri(listener), ready[0], memory);
    haul_listener_close(listener);
    return result;
}
