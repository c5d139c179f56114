/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer's entry point for the reader of snapshot files: whatever a file holds, it is read or refused with
 * a message, memory is written within its blocks only, and looking at a file and loading it agree.
 */
#include "tests/fuzz/snapshot_fuzz.h"

#include "channels/snapshot/reader.h"
#include "channels/snapshot/writer.h"
#include "engine/device_state.h"
#include "engine/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define LEAVES 2
#define LOADED_MAX ((uint64_t)16 << 20) /* memory that is really loaded into */

static void require(bool condition)
{
    if (!condition) {
        abort();
    }
}

/* ---- the good file ---- */

/* What is not zero in it. */
struct piece {
    uint64_t offset;
    size_t length;
    unsigned char bytes[4096];
};

struct good_file {
    struct piece pieces[16];
    unsigned count;
    uint64_t length;
};

static struct good_file good;
static pthread_once_t made = PTHREAD_ONCE_INIT;

static void put_state(struct haul_snapshot_writer *writer)
{
    struct timer {
        uint32_t ticks;
        bool armed;
    } timer = {5, true};
    static const struct haul_device_field fields[] = {HAUL_DEVICE_VALUE(struct timer, ticks, U32, 0),
                                                      HAUL_DEVICE_VALUE(struct timer, armed, BOOL, 0),
                                                      HAUL_DEVICE_END};
    const struct haul_device_description description = {
        .name = "timer", .version = HAUL_DEVICE_VERSION(1, 0), .fields = fields};
    const struct haul_device device = {.description = &description, .object = &timer};
    static const unsigned char begin[] = {0, 0, 0, 0, 7, 0, 'd', 'e', 'v', 'i', 'c', 'e', 's'};
    struct haul_devices *devices;
    unsigned char *bytes;
    size_t length;
    require(haul_devices_new(&devices, NULL) == 0 && haul_devices_add(devices, &device, NULL) == 0);
    require(haul_devices_save(devices, false, &bytes, &length, NULL) == 0);
    unsigned char total[8] = {(unsigned char)length};
    require(length < 256);
    require(haul_snapshot_add_state(writer, HAUL_FRAME_STATE_BEGIN, begin, sizeof begin, NULL) == 0);
    require(haul_snapshot_add_state(writer, HAUL_FRAME_STATE, bytes, length, NULL) == 0);
    require(haul_snapshot_add_state(writer, HAUL_FRAME_STATE_END, total, sizeof total, NULL) == 0);
    free(bytes);
    haul_devices_free(devices);
}

static void write_good(const char *path)
{
    static const unsigned char table[] = {1,    0, 0, 0, 3, 0, 'r', 'a',  'm', 0, 0x80,
                                          0x25, 0, 0, 0, 0, 0, 0,   0x10, 0,   0}; /* 600 pages */
    static const unsigned char id[HAUL_SNAPSHOT_ID_SIZE] = {1};
    static const unsigned pages[] = {0, 1, 511, 512, 599};
    static _Alignas(4096) unsigned char page[4096];
    struct haul_snapshot_writer *writer;
    bool published;
    require(haul_snapshot_writer_new(path, table, sizeof table, false, &writer, NULL) == 0);
    for (unsigned i = 0; i < sizeof pages / sizeof *pages; i++) {
        memset(page, (int)i + 1, sizeof page);
        uint64_t sum = haul_snapshot_page_sum(page);
        require(haul_snapshot_put(writer, 0, pages[i], 1, page, &sum, NULL) == 0);
    }
    put_state(writer);
    require(haul_snapshot_complete(writer, id, NULL) == 0);
    require(haul_snapshot_publish(writer, &published, NULL) == 0);
    haul_snapshot_writer_free(writer);
}

static void make_good(void)
{
    const char *root = getenv("TEST_TMPDIR");
    char directory[4096], path[4200];
    static unsigned char zero[4096];
    snprintf(directory, sizeof directory, "%s/snapshot-fuzz.XXXXXX", root ? root : "/tmp");
    require(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/a", directory);
    write_good(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length;
    require(fd >= 0);
    do {
        struct piece *piece = &good.pieces[good.count];
        length = pread(fd, piece->bytes, sizeof piece->bytes, (off_t)good.length);
        require(length >= 0);
        piece->offset = good.length;
        piece->length = (size_t)length;
        good.length += (uint64_t)length;
        if (memcmp(piece->bytes, zero, piece->length) != 0) {
            require(++good.count < sizeof good.pieces / sizeof *good.pieces);
        }
    } while (length > 0);
    close(fd);
    unlink(path);
    rmdir(directory);
}

/* ---- what is done to it ---- */

static void put(int fd, const void *bytes, size_t length, uint64_t offset)
{
    require(pwrite(fd, bytes, length, (off_t)offset) == (ssize_t)length);
}

static void get(int fd, void *bytes, size_t length, uint64_t offset)
{
    memset(bytes, 0, length);
    require(pread(fd, bytes, length, (off_t)offset) >= 0);
}

static void change(int fd, const uint8_t *data, size_t size)
{
    while (size >= 5) {
        uint32_t offset;
        memcpy(&offset, data, sizeof offset);
        offset %= (uint32_t)good.length + 8192;
        size_t length = data[4];
        data += 5;
        size -= 5;
        if (length == 0) {
            require(ftruncate(fd, (off_t)offset) == 0);
        }
        length = length < size ? length : size;
        put(fd, data, length, offset);
        data += length;
        size -= length;
    }
}

static void mend_frames(int fd, uint64_t end)
{
    unsigned char frame[8192];
    for (uint64_t at = HAUL_SNAPSHOT_FUZZ_STATE_AT; at + HAUL_FRAME_HEADER_SIZE <= end;) {
        enum haul_frame_type type;
        size_t length;
        get(fd, frame, sizeof frame, at);
        if (haul_frame_header_decode(frame, sizeof frame - HAUL_FRAME_HEADER_SIZE, &type, &length, NULL) <
            0) {
            return;
        }
        haul_frame_header_encode(frame, type, frame + HAUL_FRAME_HEADER_SIZE, length);
        put(fd, frame, HAUL_FRAME_HEADER_SIZE, at);
        at += HAUL_FRAME_HEADER_SIZE + length;
    }
}

static void mend(int fd, unsigned flags)
{
    struct stat status;
    require(fstat(fd, &status) == 0);
    uint64_t length = (uint64_t)status.st_size;
    unsigned char header[HAUL_SNAPSHOT_HEADER_SIZE], table[4096], leaf[HAUL_SNAPSHOT_LEAF_SIZE];
    uint64_t sums[LEAVES], sum;
    get(fd, header, sizeof header, 0);
    if (flags & HAUL_SNAPSHOT_MEND_LENGTH) {
        memcpy(header + 96, &length, sizeof length);
    }
    if (flags & HAUL_SNAPSHOT_MEND_TABLE) {
        uint64_t table_length;
        memcpy(&table_length, header + 40, sizeof table_length);
        get(fd, table, sizeof table, HAUL_SNAPSHOT_HEADER_SIZE);
        sum = XXH3_64bits(table, table_length < sizeof table ? (size_t)table_length : sizeof table);
        memcpy(header + 48, &sum, sizeof sum);
    }
    if (flags & HAUL_SNAPSHOT_MEND_LEAVES) {
        for (unsigned i = 0; i < LEAVES; i++) {
            get(fd, leaf, sizeof leaf, HAUL_SNAPSHOT_FUZZ_TABLES_AT + i * HAUL_SNAPSHOT_LEAF_SIZE);
            sums[i] = haul_snapshot_leaf_sum(leaf);
        }
        put(fd, sums, sizeof sums, HAUL_SNAPSHOT_FUZZ_SUMS_AT);
        sum = XXH3_64bits(sums, sizeof sums);
        memcpy(header + 56, &sum, sizeof sum);
    }
    if (flags & HAUL_SNAPSHOT_MEND_STATE && length > HAUL_SNAPSHOT_FUZZ_STATE_AT) {
        unsigned char state[16384];
        size_t bytes = (size_t)(length - HAUL_SNAPSHOT_FUZZ_STATE_AT);
        mend_frames(fd, length);
        get(fd, state, bytes < sizeof state ? bytes : sizeof state, HAUL_SNAPSHOT_FUZZ_STATE_AT);
        sum = XXH3_64bits(state, bytes < sizeof state ? bytes : sizeof state);
        memcpy(header + 88, &sum, sizeof sum);
    }
    if (flags & HAUL_SNAPSHOT_MEND_HEADER) {
        sum = XXH3_64bits(header, 4088);
        memcpy(header + 4088, &sum, sizeof sum);
    }
    if (flags) {
        put(fd, header, sizeof header, 0);
    }
}

/* ---- what is done with it ---- */

/* A refusal says why. */
static int checked(int rc, const struct haul_error *error)
{
    require(rc >= 0 || (error->code == -rc && error->message[0] != 0));
    require(rc >= 0 || rc == -EPROTO || rc == -EPROTONOSUPPORT || rc == -EMSGSIZE);
    return rc;
}

static void look_at_state(struct haul_snapshot *snapshot, const struct haul_snapshot_state_info *info)
{
    struct haul_error error = {0};
    unsigned char *bytes;
    size_t length;
    if (checked(haul_snapshot_copy_state(snapshot, info, &bytes, &length, &error), &error) < 0) {
        return;
    }
    require(length == info->bytes);
    if (haul_device_is_stream(bytes, length)) {
        FILE *out = fopen("/dev/null", "w");
        require(out != NULL);
        int rc = haul_device_print(out, HAUL_DEVICE_TEXT, bytes, length, &error);
        require(rc == 0 || error.code == -rc);
        fclose(out);
    }
    free(bytes);
}

/* As haul inspect does; returns whether the file is sound. */
static bool look(const char *path)
{
    struct haul_snapshot *snapshot;
    struct haul_error error = {0};
    if (checked(haul_snapshot_open(path, &snapshot, &error), &error) < 0) {
        return false;
    }
    struct haul_snapshot_info info;
    struct haul_snapshot_block_info block;
    struct haul_snapshot_state_info state;
    haul_snapshot_get_info(snapshot, &info);
    for (uint32_t i = 0; i < info.blocks; i++) {
        require(haul_snapshot_get_block(snapshot, i, &block) == 0);
        require(block.name[0] != 0 && block.length > 0 && block.length <= info.file_bytes);
    }
    while (checked(haul_snapshot_next_state(snapshot, &state, &error), &error) == 1) {
        look_at_state(snapshot, &state);
    }
    int rc = checked(haul_snapshot_verify(snapshot, 2, false, &error), &error);
    haul_snapshot_get_info(snapshot, &info);
    require(rc < 0 || (info.content_pages + info.zero_pages) * 4096 == info.memory_bytes);
    haul_snapshot_close(snapshot);
    return rc == 0;
}

/* As haul restore does, into memory of exactly the blocks' sizes; returns whether all of it came. */
static bool load(struct haul_snapshot_reader *reader)
{
    const struct haul_snapshot_layout *layout = haul_snapshot_reader_layout(reader);
    struct haul_block_view *views = calloc(layout->block_count, sizeof *views);
    struct haul_snapshot_load *load = NULL;
    struct haul_error error = {0};
    require(views != NULL);
    for (uint32_t i = 0; i < layout->block_count; i++) {
        views[i] = (struct haul_block_view){.host = aligned_alloc(4096, layout->blocks[i].length),
                                            .pages = layout->blocks[i].pages};
        require(views[i].host != NULL);
        memset(views[i].host, 0xee, layout->blocks[i].length);
    }
    const struct haul_snapshot_load_options options = {.reader = reader, .views = views, .threads = 1};
    require(haul_snapshot_load_start(&options, &load, &error) == 0);
    int rc = checked(haul_snapshot_load_wait(load, &error), &error);
    haul_snapshot_load_free(load);
    for (uint32_t i = 0; i < layout->block_count; i++) {
        free(views[i].host);
    }
    free(views);
    return rc == 0;
}

static void start_from(const char *path, bool sound)
{
    struct haul_snapshot_reader *reader;
    struct haul_error error = {0};
    if (checked(haul_snapshot_reader_new(path, &reader, &error), &error) < 0) {
        require(!sound);
        return;
    }
    const struct haul_snapshot_layout *layout = haul_snapshot_reader_layout(reader);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < layout->block_count; i++) {
        bytes += layout->blocks[i].length;
    }
    bool state = checked(haul_snapshot_check_state(reader, &error), &error) == 0;
    require(bytes > LOADED_MAX || (load(reader) && state) == sound);
    haul_snapshot_reader_free(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pthread_once(&made, make_good);
    int fd = memfd_create("snapshot", MFD_CLOEXEC);
    char path[64];
    require(fd >= 0 && ftruncate(fd, (off_t)good.length) == 0);
    for (unsigned i = 0; i < good.count; i++) {
        put(fd, good.pieces[i].bytes, good.pieces[i].length, good.pieces[i].offset);
    }
    if (size > 0) {
        change(fd, data + 1, size - 1);
        mend(fd, data[0]);
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    bool sound = look(path);
    require(sound || size > 0);
    start_from(path, sound);
    close(fd);
    return 0;
}
