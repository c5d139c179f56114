/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/inspect.h"

#include "tools/machines/qemu/process.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define BLOCKS_MAX 256 /* QEMU itself stops at 256 memory slots */

/* What the steps of one inspection share. */
struct search {
    struct haul_qmp *qmp;
    struct haul_qemu_inspection *found;
    struct haul_shared_mapping *mappings;
    bool *claimed; /* per mapping */
    unsigned mapping_count;
    char *flat_view;
};

static int query_identity(struct search *search, struct haul_error *error)
{
    struct haul_qemu_inspection *found = search->found;
    json_t *reply = NULL;
    int result = haul_qmp_execute(search->qmp, "query-version", NULL, &reply, error);
    if (result) {
        return result;
    }
    json_t *qemu = json_object_get(reply, "qemu");
    found->major = (int)json_integer_value(json_object_get(qemu, "major"));
    found->minor = (int)json_integer_value(json_object_get(qemu, "minor"));
    snprintf(found->version, sizeof found->version, "%d.%d.%d", found->major, found->minor,
             (int)json_integer_value(json_object_get(qemu, "micro")));
    json_decref(reply);
    reply = NULL;
    result = haul_qmp_execute(search->qmp, "qom-get",
                              json_pack("{s:s, s:s}", "path", "/machine", "property", "type"), &reply, error);
    if (result) {
        return result;
    }
    snprintf(found->machine_type, sizeof found->machine_type, "%s",
             json_is_string(reply) ? json_string_value(reply) : "?");
    json_decref(reply);
    return 0;
}

/*
 * From 8.1 on, x-ignore-shared passes over named files only: QEMU would carry a memfd itself, while the
 * machine is stopped.
 */
static int check_backend_type(struct search *search, const char *id, struct haul_error *error)
{
    if (search->found->major < 8 || (search->found->major == 8 && search->found->minor < 1)) {
        return 0;
    }
    char path[320];
    snprintf(path, sizeof path, "/objects/%s", id);
    json_t *reply = NULL;
    int result = haul_qmp_execute(search->qmp, "qom-get",
                                  json_pack("{s:s, s:s}", "path", path, "property", "type"), &reply, error);
    if (result) {
        return result;
    }
    bool named_file = json_is_string(reply) && strcmp(json_string_value(reply), "memory-backend-file") == 0;
    if (!named_file) {
        result = haul_error_set(
            error, ENOTSUP,
            "memory backend \"%s\" is a %s, which QEMU %s does not leave to haul: start it with "
            "-object memory-backend-file,id=%s,mem-path=/dev/shm/NAME,share=on,size=SIZE",
            id, json_is_string(reply) ? json_string_value(reply) : "?", search->found->version, id);
    }
    json_decref(reply);
    return result;
}

static int add_backend(struct search *search, const json_t *memdev, struct haul_error *error)
{
    const char *id = json_string_value(json_object_get(memdev, "id"));
    json_int_t size = json_integer_value(json_object_get(memdev, "size"));
    if (!id || !id[0] || strlen(id) >= sizeof search->found->blocks[0].name || size <= 0) {
        return haul_error_set(
            error, ENOTSUP,
            "QEMU reports a memory backend without a usable id: give every -object memory-backend-* an id");
    }
    if (!json_is_true(json_object_get(memdev, "share"))) {
        return haul_error_set(
            error, ENOTSUP,
            "memory backend \"%s\" (%lld MiB) is private to QEMU: start it with -object "
            "%s,id=%s,size=%lldM,share=on%s and, for the main memory, -machine memory-backend=%s",
            id, (long long)size >> 20,
            search->found->major < 8 ? "memory-backend-memfd" : "memory-backend-file", id,
            (long long)size >> 20, search->found->major < 8 ? "" : ",mem-path=/dev/shm/NAME", id);
    }
    int result = check_backend_type(search, id, error);
    if (result) {
        return result;
    }
    struct haul_qemu_block *block = &search->found->blocks[search->found->count++];
    snprintf(block->name, sizeof block->name, "%s", id);
    block->length = (uint64_t)size;
    block->fd = -1;
    return 0;
}

static int compare_blocks(const void *a, const void *b)
{
    return strcmp(((const struct haul_qemu_block *)a)->name, ((const struct haul_qemu_block *)b)->name);
}

static int query_backends(struct search *search, struct haul_error *error)
{
    json_t *memdevs = NULL;
    int result = haul_qmp_execute(search->qmp, "query-memdev", NULL, &memdevs, error);
    if (result) {
        return result;
    }
    size_t count = json_array_size(memdevs);
    if (count == 0 || count > BLOCKS_MAX) {
        json_decref(memdevs);
        return haul_error_set(error, ENOTSUP,
                              "QEMU reports %zu memory backends, haul moves 1 to %d: start QEMU with -object "
                              "memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram",
                              count, BLOCKS_MAX);
    }
    search->found->blocks = calloc(count, sizeof *search->found->blocks);
    if (!search->found->blocks) {
        result = haul_error_set(error, ENOMEM, "no memory for the list of memory backends");
    }
    size_t index;
    json_t *memdev;
    json_array_foreach(memdevs, index, memdev)
    {
        if (!result) {
            result = add_backend(search, memdev, error);
        }
    }
    json_decref(memdevs);
    if (!result) {
        qsort(search->found->blocks, search->found->count, sizeof *search->found->blocks, compare_blocks);
    }
    return result;
}

/* "/objects/ram", "0000:00:03.0/ram" and "ram" all name the backend "ram". */
static bool names_backend(const char *region, size_t length, const char *id)
{
    size_t id_length = strlen(id);
    return length >= id_length && memcmp(region + length - id_length, id, id_length) == 0 &&
           (length == id_length || region[length - id_length - 1] == '/');
}

/* Takes a hexadecimal number and what must follow it off the text; leaves both alone if they are not there.
 */
static bool take_hex(const char **text, const char *after, uint64_t *value)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(*text, &end, 16);
    if (end == *text || errno || strncmp(end, after, strlen(after)) != 0) {
        return false;
    }
    *text = end + strlen(after);
    *value = number;
    return true;
}

/* "  ADDRESS-END (prio N, TYPE): REGION": returns REGION, or NULL for any other line and for I/O. */
static const char *memory_region(const char *line, uint64_t *address)
{
    const char *at = line;
    uint64_t end;
    if (!take_hex(&at, "-", address) || !take_hex(&at, " (prio ", &end)) {
        return NULL;
    }
    at += strcspn(at, ",\n");
    if (strncmp(at, ", ", 2) != 0 || strncmp(at, ", i/o)", 6) == 0) {
        return NULL;
    }
    at += strcspn(at, ")\n");
    return strncmp(at, "): ", 3) == 0 ? at + 3 : NULL;
}

bool haul_qemu_flat_view_find(const char *text, const char *id, uint64_t *guest_address, uint64_t *offset)
{
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        const char *region = memory_region(line, guest_address);
        if (!region) {
            continue;
        }
        size_t length = strcspn(region, "\r\n");
        *offset = 0;
        for (const char *mark = region; (mark = strstr(mark, " @")) && mark < region + length; mark++) {
            const char *number = mark + 2;
            if (take_hex(&number, "", offset)) {
                length = (size_t)(mark - region);
                break;
            }
        }
        const char *tail = memchr(region, ' ', length); /* "ram KVM" */
        if (names_backend(region, tail ? (size_t)(tail - region) : length, id)) {
            return true;
        }
    }
    return false;
}

/* Asks QEMU itself where a backend lies in its address space. *address stays 0 for one that the guest cannot
 * see now. */
static int query_address(struct search *search, const struct haul_qemu_block *block, uint64_t *address,
                         struct haul_error *error)
{
    uint64_t guest_address;
    uint64_t offset;
    char line[64];
    char *text = NULL;
    *address = 0;
    if (!haul_qemu_flat_view_find(search->flat_view, block->name, &guest_address, &offset)) {
        return 0;
    }
    snprintf(line, sizeof line, "gpa2hva 0x%" PRIx64, guest_address);
    int result = haul_qmp_hmp(search->qmp, line, &text, error);
    if (result) {
        return result;
    }
    const char *is = strstr(text, ") is 0x");
    const char *number = is ? is + strlen(") is ") : "";
    if (take_hex(&number, "", address)) {
        *address -= offset;
    }
    free(text);
    return 0;
}

static bool contains(const struct haul_shared_mapping *mapping, uint64_t address, uint64_t length)
{
    return address >= mapping->address && address - mapping->address <= mapping->length &&
           mapping->length - (address - mapping->address) >= length;
}

static int find_mapping(struct search *search, struct haul_qemu_block *block, unsigned *index,
                        struct haul_error *error)
{
    int result = query_address(search, block, &block->address, error);
    if (result) {
        return result;
    }
    unsigned candidates = 0;
    for (unsigned i = 0; i < search->mapping_count; i++) {
        const struct haul_shared_mapping *mapping = &search->mappings[i];
        if (block->address ? contains(mapping, block->address, block->length)
                           : !search->claimed[i] && mapping->length == block->length) {
            *index = i;
            candidates++;
        }
    }
    if (candidates == 1) {
        if (!block->address) {
            block->address = search->mappings[*index].address;
        }
        return 0;
    }
    char name[32];
    haul_process_name(search->found->pid, name, sizeof name);
    return haul_error_set(
        error, ENOTSUP,
        "memory backend \"%s\" (%" PRIu64 " MiB) %s in process %d (%s), which listens on %s: %s", block->name,
        block->length >> 20, candidates ? "cannot be told from others of its size" : "is not mapped",
        (int)search->found->pid, name, haul_qmp_path(search->qmp),
        candidates ? "give unmapped backends different sizes" : "let QEMU itself create its monitor socket");
}

static int open_and_map(struct search *search, struct haul_qemu_block *block,
                        const struct haul_shared_mapping *mapping, bool writable, struct haul_error *error)
{
    int result = haul_shared_mapping_open(search->found->pid, mapping, writable, &block->fd, error);
    if (result) {
        return result;
    }
    struct statfs filesystem;
    if (fstatfs(block->fd, &filesystem) < 0) {
        return haul_error_set(error, errno, "memory backend \"%s\": fstatfs: %s", block->name,
                              strerror(errno));
    }
    block->page_size = filesystem.f_type == HUGETLBFS_MAGIC ? (uint32_t)filesystem.f_bsize : 4096;
    block->fd_offset = mapping->offset + (block->address - mapping->address);
    if (block->length % block->page_size) {
        return haul_error_set(error, ENOTSUP,
                              "memory backend \"%s\" is not a multiple of its page size, %u bytes",
                              block->name, block->page_size);
    }
    void *host = mmap(NULL, block->length, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                      block->fd, (off_t)block->fd_offset);
    if (host == MAP_FAILED) {
        return haul_error_set(error, errno, "cannot map memory backend \"%s\" (%" PRIu64 " MiB): %s",
                              block->name, block->length >> 20, strerror(errno));
    }
    block->host = host;
    /* A child of ours is not one more process that maps the machine's memory (trap T1). */
    madvise(host, block->length, MADV_DONTFORK);
    return 0;
}

/* Backends that the guest sees come first: they are certain, and leave fewer candidates for the others. */
static int map_backends(struct search *search, bool writable, struct haul_error *error)
{
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < search->found->count; i++) {
            struct haul_qemu_block *block = &search->found->blocks[i];
            uint64_t guest_address;
            uint64_t offset;
            unsigned index = 0;
            bool visible = haul_qemu_flat_view_find(search->flat_view, block->name, &guest_address, &offset);
            if (visible != (pass == 0)) {
                continue;
            }
            int result = find_mapping(search, block, &index, error);
            if (!result) {
                search->claimed[index] = true;
                result = open_and_map(search, block, &search->mappings[index], writable, error);
            }
            if (result) {
                return result;
            }
        }
    }
    return 0;
}

static bool is_backend(const struct haul_qemu_inspection *found, const char *name)
{
    for (unsigned i = 0; i < found->count; i++) {
        if (names_backend(name, strlen(name), found->blocks[i].name)) {
            return true;
        }
    }
    return false;
}

/* Returns where the line's word of the number (from 0) begins, NULL when it has fewer. */
static const char *find_word(const char *line, unsigned number)
{
    for (;; number--) {
        line += strspn(line, " \t");
        size_t length = strcspn(line, " \t\r\n");
        if (length == 0 || number == 0) {
            return length ? line : NULL;
        }
        line += length;
    }
}

/* "NAME 4 KiB OFFSET USED TOTAL ..." of "info ramblock"; false for its heading. */
static bool parse_ram_block(const char *line, char *name, size_t size, uint64_t *total)
{
    const char *first = find_word(line, 0);
    const char *sixth = find_word(line, 5);
    if (!sixth || !take_hex(&sixth, "", total)) {
        return false;
    }
    snprintf(name, size, "%.*s", (int)strcspn(first, " \t\r\n"), first);
    return true;
}

/* T10: a RAM block outside every backend whose memory is shared all the same (ivshmem with a server) would be
 * carried by nobody. */
static int refuse_orphans(struct search *search, struct haul_error *error)
{
    char *text = NULL;
    int result = haul_qmp_hmp(search->qmp, "info ramblock", &text, error);
    if (result) {
        return result;
    }
    for (char *line = text; *line && !result; line += strcspn(line, "\n"), line += *line == '\n') {
        char name[256];
        uint64_t total;
        if (!parse_ram_block(line, name, sizeof name, &total) || is_backend(search->found, name)) {
            continue;
        }
        for (unsigned i = 0; i < search->mapping_count && !result; i++) {
            if (!search->claimed[i] && search->mappings[i].length == total) {
                result =
                    haul_error_set(error, ENOTSUP,
                                   "RAM block \"%s\" (%" PRIu64
                                   " KiB) is shared memory outside every memory backend, which neither QEMU "
                                   "nor haul would move: remove its device before the move",
                                   name, total >> 10);
            }
        }
    }
    free(text);
    return result;
}

static int inspect(struct search *search, bool writable, struct haul_error *error)
{
    struct haul_qemu_inspection *found = search->found;
    found->pid = haul_qmp_peer(search->qmp);
    if (found->pid <= 0) {
        return haul_error_set(
            error, ENOTSUP,
            "QEMU behind %s runs in another PID namespace: run haul in the host's, or in QEMU's",
            haul_qmp_path(search->qmp));
    }
    int result = query_identity(search, error);
    result = result ? result : query_backends(search, error);
    result = result ? result : haul_process_refuse_passthrough(found->pid, error);
    result = result ? result
                    : haul_shared_mappings_read(found->pid, &search->mappings, &search->mapping_count, error);
    result = result ? result : haul_qmp_hmp(search->qmp, "info mtree -f", &search->flat_view, error);
    if (result) {
        return result;
    }
    search->claimed = calloc(search->mapping_count + 1, sizeof *search->claimed);
    if (!search->claimed) {
        return haul_error_set(error, ENOMEM, "no memory for the memory map of QEMU");
    }
    result = map_backends(search, writable, error);
    result = result ? result : refuse_orphans(search, error);
    return result ? result
                  : haul_qemu_query_direct_io(search->qmp, found->direct_io, sizeof found->direct_io, error);
}

int haul_qemu_inspect(struct haul_qmp *qmp, bool writable, struct haul_qemu_inspection *inspection,
                      struct haul_error *error)
{
    memset(inspection, 0, sizeof *inspection);
    struct search search = {.qmp = qmp, .found = inspection};
    int result = inspect(&search, writable, error);
    free(search.mappings);
    free(search.claimed);
    free(search.flat_view);
    return result;
}

static bool is_inspected(const struct haul_qemu_inspection *inspection, const char *id, json_int_t size)
{
    for (unsigned i = 0; i < inspection->count; i++) {
        if (strcmp(inspection->blocks[i].name, id) == 0) {
            return inspection->blocks[i].length == (uint64_t)size;
        }
    }
    return false;
}

int haul_qemu_recheck_backends(struct haul_qmp *qmp, const struct haul_qemu_inspection *inspection,
                               struct haul_error *error)
{
    json_t *memdevs = NULL;
    int result = haul_qmp_execute(qmp, "query-memdev", NULL, &memdevs, error);
    size_t index;
    json_t *memdev;
    json_array_foreach(memdevs, index, memdev)
    {
        const char *id = json_string_value(json_object_get(memdev, "id"));
        json_int_t size = json_integer_value(json_object_get(memdev, "size"));
        if (!result && !is_inspected(inspection, id ? id : "", size)) {
            result = haul_error_set(
                error, EAGAIN, "memory backend \"%s\" (%lld MiB) was plugged during the move: move again",
                id ? id : "?", (long long)size >> 20);
        }
    }
    if (!result && json_array_size(memdevs) != inspection->count) {
        result = haul_error_set(error, EAGAIN,
                                "a memory backend of the machine was unplugged during the move: move again");
    }
    json_decref(memdevs);
    return result;
}

void haul_qemu_inspection_cleanup(struct haul_qemu_inspection *inspection)
{
    for (unsigned i = 0; i < inspection->count; i++) {
        struct haul_qemu_block *block = &inspection->blocks[i];
        if (block->host) {
            munmap(block->host, block->length);
        }
        if (block->fd >= 0) {
            close(block->fd);
        }
    }
    free(inspection->blocks);
    memset(inspection, 0, sizeof *inspection);
}

void haul_qemu_find_direct_io(const json_t *nodes, char *why, size_t size)
{
    /* Drivers that reach a device or map guest memory whatever their cache mode says. */
    static const char *const direct_drivers[] = {"host_device",
                                                 "host_cdrom",
                                                 "nvme",
                                                 "nvme-io_uring",
                                                 "io_uring",
                                                 "virtio-blk-vhost-user",
                                                 "virtio-blk-vfio-pci",
                                                 "virtio-blk-vhost-vdpa"};
    size_t index;
    const json_t *node;
    why[0] = '\0';
    json_array_foreach(nodes, index, node)
    {
        const char *driver = json_string_value(json_object_get(node, "drv"));
        bool direct = json_is_true(json_object_get(json_object_get(node, "cache"), "direct"));
        for (unsigned i = 0; driver && i < sizeof direct_drivers / sizeof direct_drivers[0]; i++) {
            direct = direct || strcmp(driver, direct_drivers[i]) == 0;
        }
        if (direct) {
            const char *file = json_string_value(json_object_get(node, "file"));
            snprintf(why, size, "%s", file ? file : "a drive");
            return;
        }
    }
}

int haul_qemu_query_direct_io(struct haul_qmp *qmp, char *why, size_t size, struct haul_error *error)
{
    json_t *nodes = NULL;
    int result =
        haul_qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &nodes, error);
    if (!result) {
        haul_qemu_find_direct_io(nodes, why, size);
        json_decref(nodes);
    }
    return result;
}

int haul_qemu_status(struct haul_qmp *qmp, char *status, size_t size, struct haul_error *error)
{
    json_t *reply = NULL;
    int result = haul_qmp_execute(qmp, "query-status", NULL, &reply, error);
    if (!result) {
        const char *text = json_string_value(json_object_get(reply, "status"));
        snprintf(status, size, "%s", text ? text : "?");
        json_decref(reply);
    }
    return result;
}
