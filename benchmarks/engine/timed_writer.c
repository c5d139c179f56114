/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes pages of a shared memory object in random order at a given rate, and times every write: what a
 * background snapshot costs its guest, as the guest feels it.
 * usage: timed_writer PATH MIB MB_PER_S
 * Prints "ready" when all memory has content. SIGUSR1: forget what was measured so far. SIGTERM: print one
 * line of the longest writes (ns, ascending, at most KEPT), then "writes N seconds S", and end.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define KEPT 1000000u
#define LEAST_NS 1500u /* shorter ones have not waited for anybody */
#define BURST 64u

static volatile sig_atomic_t forget, end;

static void on_signal(int number)
{
    if (number == SIGUSR1) {
        forget = 1;
    } else {
        end = 1;
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill(unsigned char *memory, size_t bytes, uint64_t *state)
{
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
        uint64_t word = next(state);
        memcpy(memory + at, &word, sizeof word);
    }
}

/* Writes until told to end; returns how many writes took long, and their times in `kept`. */
static size_t run(unsigned char *memory, size_t pages, double pages_per_ns, uint64_t *kept, uint64_t *writes,
                  uint64_t *begun)
{
    unsigned char content[PAGE];
    uint64_t state = 99;
    size_t count = 0;
    uint64_t paced = 0;
    fill(content, PAGE, &state);
    *begun = now_ns();
    uint64_t pace_begun = *begun;
    while (!end) {
        if (forget) {
            forget = 0;
            count = 0;
            *writes = 0;
            *begun = now_ns();
        }
        for (unsigned i = 0; i < BURST; i++, paced++, (*writes)++) {
            unsigned char *page = memory + next(&state) % pages * PAGE;
            uint64_t before = now_ns();
            memcpy(page, content, PAGE);
            uint64_t took = now_ns() - before;
            if (took >= LEAST_NS && count < KEPT) {
                kept[count++] = took;
            }
        }
        double ahead = (double)paced / pages_per_ns - (double)(now_ns() - pace_begun);
        if (ahead > 0) {
            const struct timespec nap = {.tv_sec = (time_t)(ahead / 1e9),
                                         .tv_nsec = (long)ahead % 1000000000};
            nanosleep(&nap, NULL);
        } else if (ahead < -1e8) { /* what was missed in a tenth of a second is not made good for */
            pace_begun = now_ns();
            paced = 0;
        }
    }
    return count;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: timed_writer PATH MIB MB_PER_S\n");
        return 2;
    }
    size_t bytes = strtoull(argv[2], NULL, 10) << 20;
    double pages_per_ns = strtod(argv[3], NULL) * 1e6 / PAGE / 1e9;
    if (bytes == 0 || pages_per_ns <= 0) {
        fprintf(stderr, "timed_writer: MIB and MB_PER_S are numbers above 0\n");
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0) {
        perror(argv[1]);
        return 1;
    }
    unsigned char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint64_t *kept = malloc(KEPT * sizeof *kept);
    if (memory == MAP_FAILED || !kept) {
        perror("memory");
        free(kept);
        return 1;
    }
    memset(kept, 1, KEPT * sizeof *kept);
    signal(SIGUSR1, on_signal);
    signal(SIGTERM, on_signal);
    uint64_t state = 1, writes = 0, begun;
    fill(memory, bytes, &state);
    puts("ready");
    fflush(stdout);
    size_t count = run(memory, bytes / PAGE, pages_per_ns, kept, &writes, &begun);
    double seconds = (double)(now_ns() - begun) / 1e9;
    qsort(kept, count, sizeof *kept, compare);
    for (size_t i = 0; i < count; i++) {
        printf("%llu ", (unsigned long long)kept[i]);
    }
    printf("\nwrites %llu seconds %.3f\n", (unsigned long long)writes, seconds);
    return 0;
}
