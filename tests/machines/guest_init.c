/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /init of the Linux guests that the tests move. It keeps a table of pages whose content it can compute,
 * rewrites them, checks each before it rewrites it, and says on the console how it goes: "ok N" four times a
 * second, "sweep N ok" when all were checked in order, "BAD ..." for a lost, stale or torn page. With a disk
 * it also reads it by direct I/O into memory that it checks later, and writes and reads back files in its
 * file system. With haul.disk=2 (or 3: one disk) several threads write random blocks of both instead, in
 * requests of several sizes, flush, read others back, and say "vda N" for every lap in which they checked all
 * of the disk. Kernel command line: haul.mib=N haul.rate=MIB_PER_S haul.disk=0|1|2|3 haul.balloon=0|1.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define SLOT 65536u /* one direct read */
#define SLOTS 256u

static void say(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (write(1, text, (size_t)length) != length) {
        _exit(1);
    }
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Half of the pages are random, a quarter compress well, a quarter are zero but for two words, some versions
 * of these all zero. */
static uint64_t word(uint64_t page, uint64_t version, unsigned i)
{
    uint64_t seed = mix(page * 0x9e3779b97f4a7c15u + version);
    switch (page % 4) {
    case 0:
    case 1:
        return seed + i * 0xda942042e4dd58b5u;
    case 2:
        return seed + i % 8;
    default:
        return version % 3 == 0 ? 0 : i == seed % WORDS ? seed : 0;
    }
}

static void fill(uint64_t *at, uint64_t page, uint64_t version)
{
    for (unsigned i = 0; i < WORDS; i++) {
        at[i] = word(page, version, i);
    }
}

static void check(const uint64_t *at, uint64_t page, uint64_t version)
{
    for (unsigned i = 0; i < WORDS; i++) {
        if (at[i] != word(page, version, i)) {
            say("BAD page %llu version %llu word %u\n", (unsigned long long)page, (unsigned long long)version,
                i);
            return;
        }
    }
}

static uint64_t number(const char *line, const char *name, uint64_t otherwise)
{
    const char *at = strstr(line, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : otherwise;
}

static void load_module(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/%s.ko", name);
    int fd = open(path, O_RDONLY);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) {
        say("BAD module %s\n", name);
    }
    close(fd);
}

/* ---- the disk: its first half is a pattern that the host wrote, /dev/vdb a file system ---- */

static void check_slot(const uint64_t *at, uint64_t block)
{
    for (unsigned i = 0; i < SLOT / sizeof(uint64_t); i++) {
        if (at[i] != mix(block) + i) {
            say("BAD disk block %llu word %u\n", (unsigned long long)block, i);
            return;
        }
    }
}

/* Direct reads land in memory by the host's direct I/O; what they brought is checked a lap later. */
static void *read_disk(void *opaque)
{
    static uint64_t block_of[SLOTS];
    (void)opaque;
    int fd = open("/dev/vda", O_RDONLY | O_DIRECT);
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *memory =
        mmap(NULL, (size_t)SLOTS * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint64_t n = 0;; n++) {
        size_t slot = n % SLOTS;
        uint64_t block = mix(n) % ((uint64_t)size / SLOT);
        if (n >= SLOTS) {
            check_slot((uint64_t *)(memory + slot * SLOT), block_of[slot]);
        }
        block_of[slot] = block;
        if (pread(fd, memory + slot * SLOT, SLOT, (off_t)(block * SLOT)) != SLOT) {
            say("BAD disk read\n");
        }
        if (n % SLOTS == SLOTS - 1) {
            say("lap %llu\n", (unsigned long long)(n / SLOTS));
        }
    }
    return NULL;
}

static void *use_files(void *opaque)
{
    static uint64_t bytes[SLOT / sizeof(uint64_t)];
    (void)opaque;
    mkdir("/mnt", 0755);
    if (mount("/dev/vdb", "/mnt", "ext4", 0, "") < 0) {
        say("BAD mount\n");
        return NULL;
    }
    for (uint64_t n = 0;; n++) {
        char path[64];
        snprintf(path, sizeof path, "/mnt/%llu", (unsigned long long)(n % 32));
        for (unsigned i = 0; i < SLOT / sizeof(uint64_t); i++) {
            bytes[i] = mix(n) + i;
        }
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
        if (write(fd, bytes, SLOT) != SLOT || fsync(fd) < 0) {
            say("BAD write\n");
        }
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        memset(bytes, 0, sizeof bytes);
        if (pread(fd, bytes, SLOT, 0) != SLOT) {
            say("BAD read\n");
        }
        check_slot(bytes, n);
        close(fd);
        if (n % 32 == 31) {
            say("files %llu\n", (unsigned long long)n);
        }
    }
    return NULL;
}

/* ---- both disks under load: zero at first, then what was written last ---- */

#define BLOCK 4096u
#define LOADERS 4      /* threads for each disk, which share nothing of it */
#define LOAD_CHECKED 4 /* blocks, by one direct read */
#define LOAD_WRITES 3  /* direct ones for each read, */
#define LOAD_SIZES 4   /* of 1, 2, 4 or 8 blocks */
#define LOAD_MOST 8
#define LOAD_FLUSH 64 /* reads between two flushes */

struct load {
    const char *disk;
    pthread_barrier_t *lap_end;
    uint64_t first; /* block of its own */
    uint64_t count;
    uint32_t *versions; /* of each of them; 0: never written */
    uint64_t *buffer;   /* of LOAD_MOST blocks */
    int fd;
};

static uint64_t block_word(uint64_t block, uint32_t version, unsigned i)
{
    return version ? mix(block * 0x9e3779b97f4a7c15u + version) + i : 0;
}

static void check_blocks(const struct load *load, uint64_t at, uint64_t count)
{
    const uint64_t *word = load->buffer;
    if (pread(load->fd, load->buffer, count * BLOCK, (off_t)((load->first + at) * BLOCK)) !=
        (ssize_t)(count * BLOCK)) {
        say("BAD %s read\n", load->disk);
        return;
    }
    for (uint64_t block = at; block < at + count; block++) {
        uint64_t on_disk = load->first + block;
        for (unsigned i = 0; i < BLOCK / sizeof *word; i++) {
            if (*word++ != block_word(on_disk, load->versions[block], i)) {
                say("BAD %s block %llu version %u word %u\n", load->disk, (unsigned long long)on_disk,
                    load->versions[block], i);
                return;
            }
        }
    }
}

static void write_blocks(struct load *load, uint64_t at, uint64_t count)
{
    uint64_t *word = load->buffer;
    for (uint64_t block = at; block < at + count; block++) {
        load->versions[block]++;
        for (unsigned i = 0; i < BLOCK / sizeof *word; i++) {
            *word++ = block_word(load->first + block, load->versions[block], i);
        }
    }
    if (pwrite(load->fd, load->buffer, count * BLOCK, (off_t)((load->first + at) * BLOCK)) !=
        (ssize_t)(count * BLOCK)) {
        say("BAD %s write\n", load->disk);
    }
}

static void *load_range(void *opaque)
{
    struct load *load = opaque;
    uint64_t state = load->first + (uint64_t)load->disk[2];
    for (uint64_t lap = 0;; lap++) {
        for (uint64_t at = 0; at + LOAD_CHECKED <= load->count; at += LOAD_CHECKED) {
            check_blocks(load, at, LOAD_CHECKED);
            for (int n = 0; n < LOAD_WRITES; n++) {
                state = mix(state + 0x9e3779b97f4a7c15u);
                uint64_t count = 1u << (state >> 32) % LOAD_SIZES;
                write_blocks(load, state % (load->count - count + 1), count);
            }
            if (at / LOAD_CHECKED % LOAD_FLUSH == 0 && fdatasync(load->fd) < 0) {
                say("BAD %s flush\n", load->disk);
            }
        }
        if (pthread_barrier_wait(load->lap_end) != 0) { /* one of them */
            say("%s %llu\n", load->disk, (unsigned long long)lap);
        }
    }
    return NULL;
}

static void load_disk(const char *disk)
{
    char path[32];
    snprintf(path, sizeof path, "/dev/%s", disk);
    int fd = open(path, O_RDWR | O_DIRECT);
    uint64_t count = (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK / LOADERS;
    struct load *loads = calloc(LOADERS, sizeof *loads);
    pthread_barrier_t *lap_end = malloc(sizeof *lap_end);
    pthread_barrier_init(lap_end, NULL, LOADERS);
    for (unsigned i = 0; i < LOADERS; i++) {
        pthread_t thread;
        loads[i] =
            (struct load){.disk = disk, .lap_end = lap_end, .first = i * count, .count = count, .fd = fd};
        loads[i].versions = calloc(count, sizeof *loads[i].versions);
        loads[i].buffer =
            mmap(NULL, (size_t)LOAD_MOST * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pthread_create(&thread, NULL, load_range, &loads[i]);
    }
}

static void load_driver(const char *driver)
{
    static const char *const modules[] = {"virtio_ring", "virtio", "virtio_pci_modern_dev",
                                          "virtio_pci_legacy_dev", "virtio_pci"};
    for (unsigned i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        load_module(modules[i]);
    }
    load_module(driver);
}

/* What haul.disk says. */
enum use { NO_DISK, READ_DISK, LOAD_TWO, LOAD_ONE };

static void start_disks(enum use use)
{
    pthread_t thread;
    load_driver("virtio_blk");
    for (int i = 0; i < 100 && access(use == LOAD_ONE ? "/dev/vda" : "/dev/vdb", F_OK) < 0; i++) {
        usleep(50000);
    }
    if (use != READ_DISK) {
        load_disk("vda");
        if (use == LOAD_TWO) {
            load_disk("vdb");
        }
        return;
    }
    pthread_create(&thread, NULL, read_disk, NULL);
    pthread_create(&thread, NULL, use_files, NULL);
}

/* ---- memory ---- */

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void work(uint8_t *memory, uint32_t *versions, uint64_t pages, uint64_t pages_per_slice)
{
    uint64_t next = 0;
    uint64_t state = 1;
    uint64_t sweeps = 0;
    for (uint64_t slice = 0;; slice++) {
        double deadline = seconds() + 0.25;
        for (uint64_t i = 0; i < pages_per_slice && seconds() < deadline; i++) {
            state = mix(state + 0x9e3779b97f4a7c15u);
            uint64_t page = state % pages;
            uint64_t *at = (uint64_t *)(memory + page * PAGE);
            check(at, page, versions[page]);
            fill(at, page, ++versions[page]);
        }
        for (uint64_t i = 0; i < pages / 8 && seconds() < deadline; i++) {
            check((uint64_t *)(memory + next * PAGE), next, versions[next]);
            if (++next == pages) {
                next = 0;
                say("sweep %llu ok\n", (unsigned long long)++sweeps);
            }
        }
        say("ok %llu\n", (unsigned long long)slice);
        while (seconds() < deadline) {
            usleep(5000);
        }
    }
}

int main(void)
{
    char line[1024] = "";
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, "");
    mount("dev", "/dev", "devtmpfs", 0, "");
    int console = open("/dev/ttyS0", O_RDWR);
    for (int fd = 0; fd < 3 && console >= 0; fd++) {
        dup2(console, fd);
    }
    int fd = open("/proc/cmdline", O_RDONLY);
    if (fd < 0 || read(fd, line, sizeof line - 1) < 0) {
        say("BAD cmdline\n");
    }
    close(fd);
    uint64_t pages = number(line, "haul.mib=", 32) * 256;
    uint64_t rate = number(line, "haul.rate=", 8) * 256 / 4;
    uint8_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *versions = calloc(pages, sizeof *versions);
    for (uint64_t page = 0; page < pages; page++) {
        fill((uint64_t *)(memory + page * PAGE), page, 0);
    }
    if (number(line, "haul.balloon=", 0)) {
        load_driver("virtio_balloon");
    }
    if (number(line, "haul.disk=", NO_DISK) != NO_DISK) {
        start_disks((enum use)number(line, "haul.disk=", NO_DISK));
    }
    say("ready\n");
    work(memory, versions, pages, rate);
}
