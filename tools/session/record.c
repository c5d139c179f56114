/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/record.h"

#include "tools/session/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct haul_store {
    int fd;
    char path[4096];
};

static int find_directory(char *path, size_t size, struct haul_error *error)
{
    const char *chosen = getenv("HAUL_STATE_DIR");
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int length;
    if (chosen && *chosen) {
        length = snprintf(path, size, "%s", chosen);
    } else if (geteuid() == 0) {
        length = snprintf(path, size, "/run/haul");
    } else if (runtime && *runtime) {
        length = snprintf(path, size, "%s/haul", runtime);
    } else {
        return haul_error_set(
            error, ENOENT,
            "there is no directory for the move's record: set HAUL_STATE_DIR or XDG_RUNTIME_DIR");
    }
    if (length < 0 || (size_t)length >= size) {
        return haul_error_set(error, ENAMETOOLONG,
                              "the path of the state directory is too long: set HAUL_STATE_DIR");
    }
    return 0;
}

/* A directory that somebody else can write would let him forge or remove the record of who owns a guest. */
static int check_directory(const struct haul_store *store, struct haul_error *error)
{
    struct stat status;
    if (fstat(store->fd, &status) < 0) {
        return haul_error_set(error, errno, "state directory %s: %m", store->path);
    }
    if (status.st_uid != geteuid() || (status.st_mode & (S_IWGRP | S_IWOTH))) {
        return haul_error_set(
            error, EPERM,
            "state directory %s belongs to or can be written by others: chown it to this user "
            "and chmod it to 700, or set HAUL_STATE_DIR to another",
            store->path);
    }
    int probe = openat(store->fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (probe < 0 && errno != EOPNOTSUPP && errno != EISDIR) {
        return haul_error_set(error, errno,
                              "the move's record cannot be written in state directory %s: %m; free it or set "
                              "HAUL_STATE_DIR to another",
                              store->path);
    }
    if (probe >= 0) {
        close(probe);
    }
    return 0;
}

int haul_store_open(struct haul_store **result, struct haul_error *error)
{
    struct haul_store *store = malloc(sizeof *store);
    if (!store) {
        return haul_error_set(error, ENOMEM, "no memory for the move's record");
    }
    store->fd = -1;
    int status = find_directory(store->path, sizeof store->path, error);
    if (status < 0) {
        goto fail;
    }
    if (mkdir(store->path, 0700) < 0 && errno != EEXIST) {
        status = haul_error_set(error, errno,
                                "state directory %s cannot be made: %m; set HAUL_STATE_DIR to another",
                                store->path);
        goto fail;
    }
    store->fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->fd < 0) {
        status = haul_error_set(error, errno,
                                "state directory %s cannot be opened: %m; set HAUL_STATE_DIR to another",
                                store->path);
        goto fail;
    }
    status = check_directory(store, error);
    if (status < 0) {
        goto fail;
    }
    *result = store;
    return 0;
fail:
    haul_store_close(store);
    return status;
}

void haul_store_close(struct haul_store *store)
{
    if (store) {
        if (store->fd >= 0) {
            close(store->fd);
        }
        free(store);
    }
}

const char *haul_store_path(const struct haul_store *store)
{
    return store->path;
}

int haul_store_fd(const struct haul_store *store)
{
    return store->fd;
}

int haul_store_lock(struct haul_store *store, struct haul_error *error)
{
    while (flock(store->fd, LOCK_EX) < 0) {
        if (errno != EINTR) {
            return haul_error_set(error, errno, "state directory %s cannot be locked: %m", store->path);
        }
    }
    return 0;
}

#define NAME_SIZE 64
#define TRIAL_SIZE 512
#define RECORD_MAX 65536 /* bytes of a record file: locator and peer escaped in full, and the rest */

static void record_name(char name[NAME_SIZE], const char *id, bool source, const char *tail)
{
    snprintf(name, NAME_SIZE, "%.32s.%s.json%s", id, source ? "source" : "destination", tail);
}

/* Adds a path or URI as it can be read and, if that is not all of it, its bytes in hexadecimal. */
static bool add_place(json_t *json, const char *name, const char *text)
{
    json_t *string = haul_text_json(text);
    bool whole = string && strcmp(json_string_value(string), text) == 0;
    if (json_object_set_new(json, name, string) < 0) {
        return false;
    }
    char member[32], *hex = whole ? NULL : malloc(2 * strlen(text) + 1);
    for (size_t i = 0; hex && text[i]; i++) {
        sprintf(hex + 2 * i, "%02x", (unsigned char)text[i]);
    }
    snprintf(member, sizeof member, "%s-hex", name);
    bool added = whole || (hex && json_object_set_new(json, member, json_string(hex)) == 0);
    free(hex);
    return added;
}

static json_t *record_to_json(const struct haul_record *record)
{
    json_t *json = json_pack("{s:i s:s s:s s:s s:s s:s s:i s:I}", "version", 1, "id", record->id, "side",
                             record->source ? "source" : "destination", "step", record->step, "time",
                             record->time, "machine", record->machine, "haul-pid", record->haul_pid,
                             "haul-start", (json_int_t)record->haul_start);
    if (!json || !add_place(json, "peer", record->peer) || !add_place(json, "locator", record->locator)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* Writes and syncs the whole text; the errno of the first failure, or 0. */
static int write_file(int directory, const char *name, const char *text)
{
    int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return errno;
    }
    int failure = 0;
    size_t length = strlen(text);
    while (length > 0 && !failure) {
        ssize_t written = write(fd, text, length);
        if (written < 0) {
            failure = errno == EINTR ? 0 : errno;
        } else {
            text += written;
            length -= (size_t)written;
        }
    }
    if (!failure && fsync(fd) < 0) {
        failure = errno;
    }
    if (close(fd) < 0 && !failure) {
        failure = errno;
    }
    return failure;
}

/* Writes `name` whole, by way of `temporary`, so that it outlives a crash. */
static int replace_file(struct haul_store *store, const char *name, const char *temporary, const char *text,
                        struct haul_error *error)
{
    int failure = write_file(store->fd, temporary, text);
    if (!failure && renameat(store->fd, temporary, store->fd, name) < 0) {
        failure = errno;
    }
    if (failure) {
        unlinkat(store->fd, temporary, 0);
        return haul_error_set(error, failure, "the move's record %s/%s cannot be written: %s", store->path,
                              name, strerror(failure));
    }
    if (fsync(store->fd) < 0) { /* the rename itself must outlive a crash */
        return haul_error_set(error, errno, "state directory %s cannot be synced: %m", store->path);
    }
    return 0;
}

int haul_record_write(struct haul_store *store, struct haul_record *record, struct haul_error *error)
{
    time_t now = time(NULL);
    struct tm utc;
    strftime(record->time, sizeof record->time, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    json_t *json = record_to_json(record);
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (!text) {
        return haul_error_set(error, ENOMEM, "no memory for the record of move %s", record->id);
    }
    char name[NAME_SIZE], temporary[NAME_SIZE];
    record_name(name, record->id, record->source, "");
    record_name(temporary, record->id, record->source, ".new");
    int status = replace_file(store, name, temporary, text, error);
    free(text);
    return status;
}

int haul_record_try(struct haul_store *store, struct haul_error *error)
{
    char text[TRIAL_SIZE + 1], name[NAME_SIZE], temporary[NAME_SIZE];
    memset(text, ' ', TRIAL_SIZE);
    text[TRIAL_SIZE] = '\0';
    /* A name of its own for each thread, that no list of records shows. */
    snprintf(name, sizeof name, ".trial-%d", (int)gettid());
    snprintf(temporary, sizeof temporary, ".trial-%d.new", (int)gettid());
    int status = replace_file(store, name, temporary, text, error);
    unlinkat(store->fd, name, 0);
    return status;
}

int haul_record_remove(struct haul_store *store, const char *id, bool source, struct haul_error *error)
{
    char name[NAME_SIZE];
    record_name(name, id, source, "");
    if (unlinkat(store->fd, name, 0) < 0 && errno != ENOENT) {
        return haul_error_set(error, errno, "the move's record %s/%s cannot be removed: %m", store->path,
                              name);
    }
    if (fsync(store->fd) < 0) { /* it must not come back after a crash */
        return haul_error_set(error, errno, "state directory %s cannot be synced: %m", store->path);
    }
    return 0;
}

static bool copy_text(char *to, size_t size, const char *from)
{
    return (size_t)snprintf(to, size, "%s", from) < size;
}

static int hex_digit(char digit)
{
    const char *at = digit ? strchr("0123456789abcdef", digit) : NULL;
    return at ? (int)(at - "0123456789abcdef") : -1;
}

/* What add_place added. */
static bool read_place(const json_t *json, const char *name, char *to, size_t size)
{
    char member[32];
    snprintf(member, sizeof member, "%s-hex", name);
    const char *text = json_string_value(json_object_get(json, name));
    const char *hex = json_string_value(json_object_get(json, member));
    if (!hex) {
        return text && copy_text(to, size, text);
    }
    size_t length = strlen(hex) / 2;
    for (size_t i = 0; i < length && length < size; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0 || high + low == 0) {
            return false;
        }
        to[i] = (char)(high << 4 | low);
    }
    to[length < size ? length : 0] = '\0';
    return length < size && hex[2 * length] == '\0';
}

static int record_read(struct haul_store *store, const char *name, struct haul_record *record)
{
    int fd = openat(store->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return -errno;
    }
    /* In one piece: jansson reads a descriptor byte by byte. */
    char text[RECORD_MAX];
    ssize_t length = read(fd, text, sizeof text);
    close(fd);
    json_t *json = length > 0 ? json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, NULL) : NULL;
    int version, haul_pid;
    json_int_t haul_start;
    const char *id, *side, *step, *when, *machine;
    int result = json_unpack(json, "{s:i s:s s:s s:s s:s s:s s:i s:I}", "version", &version, "id", &id,
                             "side", &side, "step", &step, "time", &when, "machine", &machine, "haul-pid",
                             &haul_pid, "haul-start", &haul_start);
    char expected[NAME_SIZE] = "";
    if (result == 0) {
        *record = (struct haul_record){
            .source = !strcmp(side, "source"), .haul_pid = haul_pid, .haul_start = (uint64_t)haul_start};
        record_name(expected, id, record->source, "");
    }
    if (result < 0 || version != 1 || strcmp(expected, name) != 0 ||
        !copy_text(record->id, sizeof record->id, id) ||
        !copy_text(record->step, sizeof record->step, step) ||
        !copy_text(record->time, sizeof record->time, when) ||
        !read_place(json, "peer", record->peer, sizeof record->peer) ||
        !copy_text(record->machine, sizeof record->machine, machine) ||
        !read_place(json, "locator", record->locator, sizeof record->locator)) {
        result = -EINVAL;
    }
    json_decref(json);
    return result < 0 ? -EINVAL : 0;
}

/* A stream over a second descriptor of the directory: fdopendir takes over and moves the one that it is
 * given. */
static DIR *open_listing(const struct haul_store *store)
{
    int fd = openat(store->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory && fd >= 0) {
        close(fd);
    }
    return directory;
}

int haul_record_list(struct haul_store *store, struct haul_record **records, size_t *count,
                     struct haul_error *error)
{
    DIR *directory = open_listing(store);
    if (!directory) {
        return haul_error_set(error, errno, "state directory %s cannot be read: %m", store->path);
    }
    struct haul_record *list = NULL;
    size_t used = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct haul_record record;
        if (entry->d_name[0] == '.' || record_read(store, entry->d_name, &record) < 0) {
            continue;
        }
        struct haul_record *grown = reallocarray(list, used + 1, sizeof *list);
        if (!grown) {
            free(list);
            closedir(directory);
            return haul_error_set(error, ENOMEM, "no memory to read the records in %s", store->path);
        }
        list = grown;
        list[used++] = record;
    }
    closedir(directory);
    *records = list;
    *count = used;
    return 0;
}

void haul_record_prune(struct haul_store *store, int64_t seconds)
{
    struct haul_record *records;
    size_t count;
    if (haul_record_list(store, &records, &count, NULL) < 0) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct tm utc = {0};
        if (!records[i].source && !strcmp(records[i].step, HAUL_RECORDED_RUNNING) &&
            strptime(records[i].time, "%Y-%m-%dT%H:%M:%SZ", &utc) && time(NULL) - timegm(&utc) > seconds) {
            haul_record_remove(store, records[i].id, false, NULL);
        }
    }
    free(records);
}

uint64_t haul_record_process_start(int pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) {
        close(fd);
    }
    if (length <= 0) {
        return 0;
    }
    text[length] = '\0';
    /* Field 22; the name in field 2 may hold spaces and parentheses, so count from its last one. */
    char *field = strrchr(text, ')');
    if (field && (field[2] == 'Z' || field[2] == 'X')) {
        return 0; /* dead, only not waited for yet */
    }
    for (int i = 2; field && i < 22; i++) {
        field = strchr(field + 1, ' ');
    }
    return field ? strtoull(field, NULL, 10) : 0;
}

bool haul_record_process_alive(int pid, uint64_t start)
{
    return pid > 0 && start != 0 && haul_record_process_start(pid) == start;
}
