/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to pages in random order at a given rate, and times every write: what a background snapshot costs
 * its guest, as the guest feels it. A process, which shares its memory as an object: timed_writer PATH MIB
 * MB_PER_S or /init of a Linux guest, whose kernel command line has writer.mib=MIB and writer.rate=MB_PER_S,
 * and who talks by its first serial port. Says "ready" when all memory has content. Takes lines: forget what
 * was measured so far; report COUNT LEAST SPAN says "report waits N p50 NS p99 NS longest NS total NS written
 * BYTES seconds S" of the COUNT longest writes (0: all) that took LEAST nanoseconds or more, and how much was
 * written in that span of SPAN nanoseconds, or of all where that is shorter, in which the least was.
 */
#include "tools/clock.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define KEPT 1000000u
#define BURSTS 1000000u
#define LEAST_NS 1500u /* shorter ones have not waited for anybody */
#define BURST 64u

struct writer {
    unsigned char *memory;
    double pages_per_ns;
    uint64_t *kept; /* the longer writes */
    size_t count;
    uint64_t *burst_ns; /* when each burst ended */
    size_t bursts;
    uint64_t begun_ns;
    char line[64]; /* what was read of a command */
    size_t length;
};

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- commands ---- */

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

static void forget(struct writer *writer)
{
    writer->count = 0;
    writer->bursts = 0;
    writer->begun_ns = haul_clock_ns();
}

/* The least that was written in any `span` that ends by now; 0 where that was more than could be kept. */
static uint64_t least_written(const struct writer *writer, uint64_t span, uint64_t now)
{
    size_t end = 0;
    size_t least = BURSTS;
    for (size_t first = 0; first <= writer->bursts; first++) {
        uint64_t from = first == 0 ? writer->begun_ns : writer->burst_ns[first - 1];
        if (from + span > now) {
            break;
        }
        while (end < writer->bursts && writer->burst_ns[end] <= from + span) {
            end++;
        }
        least = end - first < least ? end - first : least;
    }
    return writer->bursts < BURSTS ? (uint64_t)least * BURST * PAGE : 0;
}

static void report(const struct writer *writer, size_t count, uint64_t least, uint64_t span)
{
    uint64_t now = haul_clock_ns();
    span = now - writer->begun_ns < span ? now - writer->begun_ns : span;
    uint64_t written = least_written(writer, span, now);
    qsort(writer->kept, writer->count, sizeof *writer->kept, compare);
    size_t first = 0;
    while (first < writer->count && writer->kept[first] < least) {
        first++;
    }
    if (count > 0 && writer->count - first > count) {
        first = writer->count - count;
    }
    size_t left = writer->count - first;
    const uint64_t *waits = writer->kept + first;
    uint64_t total = 0;
    for (size_t i = 0; i < left; i++) {
        total += waits[i];
    }
    printf("report waits %zu p50 %llu p99 %llu longest %llu total %llu written %llu seconds %.6f\n", left,
           left ? (unsigned long long)waits[left / 2] : 0,
           left ? (unsigned long long)waits[left * 99 / 100] : 0,
           left ? (unsigned long long)waits[left - 1] : 0, (unsigned long long)total,
           (unsigned long long)written, (double)span / 1e9);
    fflush(stdout);
}

static void obey(struct writer *writer)
{
    static const char asking[] = "report ";
    if (strcmp(writer->line, "forget") == 0) {
        forget(writer);
    } else if (strncmp(writer->line, asking, sizeof asking - 1) == 0) {
        char *next;
        uint64_t count = strtoull(writer->line + sizeof asking - 1, &next, 10);
        uint64_t least = strtoull(next, &next, 10);
        report(writer, count, least, strtoull(next, NULL, 10));
    }
}

/* Never waits. False: whoever commands is gone. */
static int take_commands(struct writer *writer)
{
    char byte;
    ssize_t got;
    while ((got = read(STDIN_FILENO, &byte, 1)) == 1) {
        if (byte == '\n' || byte == '\r') {
            writer->line[writer->length] = '\0';
            writer->length = 0;
            obey(writer);
        } else if (writer->length + 1 < sizeof writer->line) {
            writer->line[writer->length++] = byte;
        }
    }
    return got != 0;
}

/* ---- writing ---- */

/* Content that does not compress. */
static void fill(unsigned char *memory, size_t bytes, uint64_t *state)
{
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
        uint64_t word = next(state);
        memcpy(memory + at, &word, sizeof word);
    }
}

static void run(struct writer *writer, size_t pages)
{
    unsigned char content[PAGE];
    uint64_t state = 99;
    fill(content, PAGE, &state);
    uint64_t paced = 0;
    uint64_t pace_begun = haul_clock_ns();
    forget(writer);
    while (take_commands(writer)) {
        for (unsigned i = 0; i < BURST; i++, paced++) {
            unsigned char *page = writer->memory + next(&state) % pages * PAGE;
            uint64_t before = haul_clock_ns();
            memcpy(page, content, PAGE);
            uint64_t took = haul_clock_ns() - before;
            if (took >= LEAST_NS && writer->count < KEPT) {
                writer->kept[writer->count++] = took;
            }
        }
        uint64_t now = haul_clock_ns();
        if (writer->bursts < BURSTS) {
            writer->burst_ns[writer->bursts++] = now;
        }
        double ahead = (double)paced / writer->pages_per_ns - (double)(now - pace_begun);
        if (ahead > 0) {
            const struct timespec nap = {.tv_sec = (time_t)(ahead / 1e9),
                                         .tv_nsec = (long)ahead % 1000000000};
            nanosleep(&nap, NULL);
        } else if (ahead < -1e8) { /* what was missed in a tenth of a second is not made good for */
            pace_begun = haul_clock_ns();
            paced = 0;
        }
    }
}

/* ---- beginning ---- */

static double number(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? strtod(at + strlen(name), NULL) : 0;
}

/* A guest's first process; 0 and the sizes. */
static int begin_guest(double *mib, double *rate)
{
    char line[1024] = "";
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, "");
    mount("dev", "/dev", "devtmpfs", 0, "");
    int console = open("/dev/ttyS0", O_RDWR);
    int command_line = open("/proc/cmdline", O_RDONLY);
    if (console < 0 || command_line < 0 || read(command_line, line, sizeof line - 1) < 0) {
        return -1;
    }
    close(command_line);
    struct termios settings;
    tcgetattr(console, &settings);
    cfmakeraw(&settings);
    tcsetattr(console, TCSANOW, &settings);
    for (int fd = 0; fd < 3; fd++) {
        dup2(console, fd);
    }
    *mib = number(line, "writer.mib=");
    *rate = number(line, "writer.rate=");
    return 0;
}

/* -1: private memory. */
static int make_object(const char *path, size_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0) {
        perror(path);
        exit(1);
    }
    return fd;
}

/* Mapped already, so that no write waits for the kernel to find them. */
static uint64_t *numbers(size_t count)
{
    void *memory = mmap(NULL, count * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

int main(int argc, char **argv)
{
    double mib = argc == 4 ? strtod(argv[2], NULL) : 0;
    double rate = argc == 4 ? strtod(argv[3], NULL) : 0;
    if (getpid() == 1 && begin_guest(&mib, &rate) < 0) {
        return 1;
    }
    size_t bytes = (size_t)mib << 20;
    if (bytes == 0 || rate <= 0) {
        fprintf(stderr, "usage: timed_writer PATH MIB MB_PER_S\n");
        return 2;
    }
    int fd = getpid() == 1 ? -1 : make_object(argv[1], bytes);
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    struct writer writer = {.pages_per_ns = rate * 1e6 / PAGE / 1e9};
    writer.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    writer.kept = numbers(KEPT);
    writer.burst_ns = numbers(BURSTS);
    if (writer.memory == MAP_FAILED || !writer.kept || !writer.burst_ns) {
        perror("memory");
        return 1;
    }
    uint64_t state = 1;
    fill(writer.memory, bytes, &state);
    fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
    puts("ready");
    fflush(stdout);
    run(&writer, bytes / PAGE);
    return 0;
}
