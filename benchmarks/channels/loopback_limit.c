/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit that the data path is compared with: the same bytes between two processes over tcp loopback, by
 * plain send() and recv() on N sockets with one thread each, no packets, no engine. Prints one line of JSON:
 * seconds and bytes per second, from the first byte to the last. "as-haul" gives the sockets what haul gives
 * those within a host (channels/transport/transport.c), and drops the sender's page table first: whoever
 * moves another process's memory has to map it on the way, the process itself does not.
 */
#include "tools/clock.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHANNELS_MAX 128
#define CHUNK ((size_t)1 << 20)

struct lane {
    pthread_t thread;
    int fd;
    char *memory;
    size_t length;
};

static void *send_all(void *argument)
{
    struct lane *lane = argument;
    for (size_t at = 0; at < lane->length;) {
        size_t left = lane->length - at;
        ssize_t sent = send(lane->fd, lane->memory + at, left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);
        if (sent <= 0) {
            err(1, "send");
        }
        at += (size_t)sent;
    }
    return NULL;
}

static void *receive_all(void *argument)
{
    struct lane *lane = argument;
    for (size_t at = 0; at < lane->length;) {
        size_t left = lane->length - at;
        ssize_t got = recv(lane->fd, lane->memory + at, left < CHUNK ? left : CHUNK, 0);
        if (got <= 0) {
            err(1, "recv");
        }
        at += (size_t)got;
    }
    return NULL;
}

static void run_all(struct lane *lanes, unsigned count, void *(*run)(void *))
{
    for (unsigned i = 0; i < count; i++) {
        if (pthread_create(&lanes[i].thread, NULL, run, &lanes[i]) != 0) {
            errx(1, "cannot start a thread");
        }
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(lanes[i].thread, NULL);
    }
}

static char *map_memory(size_t size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        err(1, "mmap");
    }
    return memory;
}

static void receiver(int listener, struct lane *lanes, unsigned channels, size_t size, bool present)
{
    char *memory = map_memory(size);
    if (present) {
        memset(memory, 1, size);
    }
    for (unsigned i = 0; i < channels; i++) {
        lanes[i].fd = accept(listener, NULL, NULL);
        lanes[i].length = size / channels;
        lanes[i].memory = memory + (size_t)i * lanes[i].length;
    }
    uint64_t begun = haul_clock_ns();
    run_all(lanes, channels, receive_all);
    double seconds = (double)(haul_clock_ns() - begun) * 1e-9;
    printf("{\"channels\": %u, \"memory\": \"%s\", \"seconds\": %.4f, \"bytes-per-second\": %.0f}\n",
           channels, present ? "present" : "fresh", seconds, (double)size / seconds);
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

int main(int argc, char **argv)
{
    bool as_haul = argc == 5 && strcmp(argv[4], "as-haul") == 0;
    if ((argc != 4 && !as_haul) || (strcmp(argv[3], "present") != 0 && strcmp(argv[3], "fresh") != 0)) {
        errx(2, "usage: loopback_limit CHANNELS MIB present|fresh [as-haul]");
    }
    size_t channel_count, mib;
    if (!parse_number(argv[1], CHANNELS_MAX, &channel_count) ||
        !parse_number(argv[2], SIZE_MAX >> 20, &mib)) {
        errx(2, "1 to %d channels and at least 1 MiB", CHANNELS_MAX);
    }
    unsigned channels = (unsigned)channel_count;
    size_t size = mib << 20;
    struct lane lanes[CHANNELS_MAX];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, CHANNELS_MAX) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) < 0) {
        err(1, "listen");
    }
    pid_t child = fork();
    if (child == 0) {
        receiver(listener, lanes, channels, size, strcmp(argv[3], "present") == 0);
        return 0;
    }
    char *memory = map_memory(size);
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        *(uint64_t *)(void *)(memory + i) = i * UINT64_C(0x9E3779B97F4A7C15);
    }
    if (as_haul && madvise(memory, size, MADV_DONTNEED) < 0) { /* the content of a shared mapping stays */
        err(1, "madvise");
    }
    for (unsigned i = 0; i < channels; i++) {
        int one = 1;
        lanes[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(lanes[i].fd, (struct sockaddr *)&address, sizeof address) < 0) {
            err(1, "connect");
        }
        setsockopt(lanes[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (as_haul) {
            int buffer = 512 * 1024;
            setsockopt(lanes[i].fd, IPPROTO_TCP, TCP_CONGESTION, "reno", strlen("reno"));
            setsockopt(lanes[i].fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
        }
        lanes[i].length = size / channels;
        lanes[i].memory = memory + (size_t)i * lanes[i].length;
    }
    run_all(lanes, channels, send_all);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
