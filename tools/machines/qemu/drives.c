/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/drives.h"

#include "tools/machines/qemu/process.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

/* ---- which there are ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static int read_drive(const json_t *entry, struct haul_qemu_drives *drives, struct haul_error *error)
{
    const json_t *inserted = json_object_get(entry, "inserted");
    const char *device = text_of(entry, "device");
    const char *qdev = text_of(entry, "qdev");
    if (!inserted || !qdev[0]) {
        return 0; /* without a medium, or without a device of the machine's */
    }
    const char *name = device[0] ? device : qdev;
    const char *node = text_of(inserted, "node-name");
    struct haul_qemu_drive *drive = &drives->list[drives->count];
    if (strlen(name) >= sizeof drive->name || !node[0] || strlen(node) >= sizeof drive->node) {
        return haul_error_set(error, ENOTSUP, "drive %.64s has no usable name: give it a shorter id", name);
    }
    if (drives->count == HAUL_QEMU_DRIVES_MAX) {
        return haul_error_set(error, ENOTSUP, "the machine has more than %d drives", HAUL_QEMU_DRIVES_MAX);
    }
    snprintf(drive->name, sizeof drive->name, "%s", name);
    snprintf(drive->node, sizeof drive->node, "%s", node);
    snprintf(drive->file, sizeof drive->file, "%s", text_of(inserted, "file"));
    snprintf(drive->format, sizeof drive->format, "%s", text_of(inserted, "drv"));
    drive->size =
        (uint64_t)json_integer_value(json_object_get(json_object_get(inserted, "image"), "virtual-size"));
    drive->read_only = json_is_true(json_object_get(inserted, "ro"));
    drives->count++;
    return 0;
}

int haul_qemu_drives_read(const json_t *answer, struct haul_qemu_drives *drives, struct haul_error *error)
{
    size_t index;
    const json_t *entry;
    int result = 0;
    drives->count = 0;
    json_array_foreach(answer, index, entry)
    {
        result = result ? result : read_drive(entry, drives, error);
    }
    return result;
}

int haul_qemu_drives_query(struct haul_qmp *qmp, struct haul_qemu_drives *drives, struct haul_error *error)
{
    json_t *reply = NULL;
    int result = haul_qmp_execute(qmp, "query-block", NULL, &reply, error);
    result = result ? result : haul_qemu_drives_read(reply, drives, error);
    json_decref(reply);
    return result;
}

int haul_qemu_refuse_block_jobs(struct haul_qmp *qmp, struct haul_error *error)
{
    json_t *reply = NULL;
    int result = haul_qmp_execute(qmp, "query-block-jobs", NULL, &reply, error);
    size_t index;
    const json_t *entry;
    json_array_foreach(reply, index, entry)
    {
        const char *id = text_of(entry, "device");
        if (!result && strncmp(id, HAUL_QEMU_JOB_PREFIX, strlen(HAUL_QEMU_JOB_PREFIX)) != 0) {
            result = haul_error_set(error, EBUSY,
                                    "block job %.64s (%.32s) works on the machine's drives: let it end, or "
                                    "cancel it, before the drives are moved",
                                    id, text_of(entry, "type"));
        }
    }
    json_decref(reply);
    return result;
}

/* ---- where they are ---- */

/* Drivers whose images lie on other servers, as they begin names and stand in json: ones. */
static const char *const network_drivers[] = {"nbd",  "rbd",   "iscsi", "nfs",  "gluster", "ssh",
                                              "http", "https", "ftp",   "ftps", "sheepdog"};

static bool is_network_driver(const char *text, size_t length)
{
    size_t plus = 0; /* gluster+unix:// */
    while (plus < length && text[plus] != '+') {
        plus++;
    }
    for (unsigned i = 0; i < sizeof network_drivers / sizeof network_drivers[0]; i++) {
        if (strlen(network_drivers[i]) == plus && memcmp(network_drivers[i], text, plus) == 0) {
            return true;
        }
    }
    return false;
}

/* Looks for the driver in a description of nested nodes, {"driver": "raw", "file": {"driver": "rbd", ...}}.
 */
static bool names_network_driver(const json_t *node)
{
    for (int depth = 0; json_is_object(node) && depth < 16; depth++) {
        const char *driver = text_of(node, "driver");
        const char *flat = text_of(node, "file.driver");
        if (is_network_driver(driver, strlen(driver)) || is_network_driver(flat, strlen(flat))) {
            return true;
        }
        node = json_object_get(node, "file");
    }
    return false;
}

static bool is_network_name(const char *file)
{
    if (strncmp(file, "json:", 5) == 0) {
        json_t *json = json_loads(file + 5, 0, NULL);
        bool network = names_network_driver(json);
        json_decref(json);
        return network;
    }
    size_t length = 0;
    while (isalnum((unsigned char)file[length]) || file[length] == '+') {
        length++;
    }
    return file[length] == ':' && is_network_driver(file, length);
}

/* File systems that several hosts mount. statfs(2) and the kernel's sources have their numbers. */
static bool is_network_file_system(long type)
{
    static const uint32_t types[] = {
        0x6969,     /* nfs */
        0x517b,     /* smb */
        0xff534d42, /* cifs */
        0xfe534d42, /* smb2 */
        0x00c36400, /* ceph */
        0x01021997, /* 9p */
        0x0bd00bd0, /* lustre */
        0x01161970, /* gfs2 */
        0x7461636f, /* ocfs2 */
        0x47504653, /* gpfs */
        0x6b414653, /* afs, */
        0x5346414f, /* and that of OpenAFS */
        0x19830326, /* beegfs */
        0x20030528, /* orangefs */
    };
    for (unsigned i = 0; i < sizeof types / sizeof types[0]; i++) {
        if ((uint32_t)type == types[i]) {
            return true;
        }
    }
    return false;
}

/* One behind FUSE may be anything: glusterfs and virtiofs, but local ones too. */
static enum haul_qemu_storage storage_of(long type)
{
    return is_network_file_system(type)         ? HAUL_QEMU_STORAGE_SHARED
           : (uint32_t)type == FUSE_SUPER_MAGIC ? HAUL_QEMU_STORAGE_UNKNOWN
                                                : HAUL_QEMU_STORAGE_LOCAL;
}

void haul_qemu_drive_find(const struct haul_qemu_drive *drive, pid_t pid, struct haul_qemu_place *place)
{
    char path[sizeof drive->file + 64];
    struct stat file;
    struct statfs fs;
    *place = (struct haul_qemu_place){.storage = HAUL_QEMU_STORAGE_UNKNOWN};
    if (is_network_name(drive->file)) {
        place->storage = HAUL_QEMU_STORAGE_SHARED;
        return;
    }
    snprintf(path, sizeof path, "/proc/%d/%s/%s", (int)pid, drive->file[0] == '/' ? "root" : "cwd",
             drive->file);
    if (stat(path, &file) < 0) {
        return;
    }
    place->device = S_ISBLK(file.st_mode) ? file.st_rdev : file.st_dev;
    place->inode = S_ISBLK(file.st_mode) ? 0 : file.st_ino;
    if (S_ISREG(file.st_mode) && statfs(path, &fs) == 0) {
        place->storage = storage_of(fs.f_type);
    }
}

/* Whether one of the process' descriptors is the file. */
static bool has_open(int pid, const struct haul_qemu_place *place)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *folder = opendir(path);
    bool found = false;
    for (struct dirent *entry; folder && !found && (entry = readdir(folder));) {
        struct stat file;
        found = fstatat(dirfd(folder), entry->d_name, &file, 0) == 0 && S_ISREG(file.st_mode) &&
                file.st_dev == place->device && file.st_ino == place->inode;
    }
    if (folder) {
        closedir(folder);
    }
    return found;
}

/* Not qemu-nbd, qemu-img and the like, which are no machine's destination. */
static bool runs_a_machine(const char *process)
{
    return strncmp(process, "qemu-system", strlen("qemu-system")) == 0 || strcmp(process, "qemu-kvm") == 0;
}

pid_t haul_qemu_find_other_user(const struct haul_qemu_place *place, pid_t pid)
{
    DIR *processes = place->inode ? opendir("/proc") : NULL;
    pid_t found = 0;
    for (struct dirent *entry; processes && !found && (entry = readdir(processes));) {
        char name[32];
        int other = (int)strtol(entry->d_name, NULL, 10); /* 0: not a process */
        if (other <= 0 || other == pid) {
            continue;
        }
        haul_process_name(other, name, sizeof name);
        found = runs_a_machine(name) && has_open(other, place) ? other : 0;
    }
    if (processes) {
        closedir(processes);
    }
    return found;
}

/* ---- what both ends compare ---- */

/* Which boot of which host this is: device and inode numbers mean the same on both ends only within one. */
static void read_boot(char *text, size_t size)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    text[0] = '\0';
    if (file) {
        if (fgets(text, (int)size, file)) {
            text[strcspn(text, "\n")] = '\0';
        }
        fclose(file);
    }
}

int haul_qemu_drive_describe(const struct haul_qemu_drive *drive, const struct haul_qemu_place *place,
                             char *text, size_t size, struct haul_error *error)
{
    char boot[64];
    read_boot(boot, sizeof boot);
    json_t *json =
        json_pack("{s:I, s:s, s:s, s:b, s:I, s:I}", "size", (json_int_t)drive->size, "file", drive->file,
                  "boot", boot, "shared", place->storage != HAUL_QEMU_STORAGE_LOCAL ? 1 : 0, "device",
                  (json_int_t)place->device, "inode", (json_int_t)place->inode);
    char *line = json ? json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(json);
    int length = line ? snprintf(text, size, "%s", line) : -1;
    free(line);
    return length < 0 || (size_t)length >= size
               ? haul_error_set(error, ENOTSUP, "the image of drive %s has a name that cannot be sent",
                                drive->name)
               : 0;
}

static bool same_image(const struct haul_qemu_drive *own, const struct haul_qemu_place *place,
                       const json_t *other)
{
    char boot[64];
    uint64_t device = (uint64_t)json_integer_value(json_object_get(other, "device"));
    uint64_t inode = (uint64_t)json_integer_value(json_object_get(other, "inode"));
    bool same_name = strcmp(own->file, text_of(other, "file")) == 0;
    bool same_inode = place->inode && inode == place->inode;
    read_boot(boot, sizeof boot);
    if (place->device && boot[0] && strcmp(boot, text_of(other, "boot")) == 0) {
        return device == place->device && inode == place->inode;
    }
    /* Another host: a network file system has the same inode numbers there, a server the same names. Of what
     * may be one or not, both have to be the same; block devices have no inode here, and equal names often.
     */
    if (place->storage == HAUL_QEMU_STORAGE_LOCAL || !json_is_true(json_object_get(other, "shared"))) {
        return false;
    }
    return place->storage == HAUL_QEMU_STORAGE_UNKNOWN ? same_inode && same_name
                                                       : (place->inode ? same_inode : same_name);
}

int haul_qemu_drive_compare(const struct haul_qemu_drive *own, const struct haul_qemu_place *place,
                            const char *description, struct haul_error *error)
{
    json_t *other = json_loads(description, 0, NULL);
    json_int_t size = json_integer_value(json_object_get(other, "size"));
    int result = 0;
    if (!json_is_object(other) || size < 0) {
        result = haul_error_set(error, EPROTO, "the source says nothing sensible about drive %s", own->name);
    } else if (own->read_only) {
        result = haul_error_set(error, EINVAL,
                                "drive %s is read-only at the destination: start its QEMU with a writable "
                                "image",
                                own->name);
    } else if ((uint64_t)size != own->size) {
        result = haul_error_set(error, EINVAL,
                                "drive %s has %" PRIu64 " bytes at the source and %" PRIu64
                                " at the destination: make the destination's image of the same size",
                                own->name, (uint64_t)size, own->size);
    } else if (same_image(own, place, other)) {
        result = haul_error_set(error, EINVAL,
                                "drive %s is the same image (%.256s) on both sides, on shared storage: leave "
                                "--disks out",
                                own->name, own->file);
    }
    json_decref(other);
    return result;
}
