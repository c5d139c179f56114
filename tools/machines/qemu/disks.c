/* SPDX-License-Identifier: Apache-2.0 */
/* The drives of a QEMU machine that moves away: which move along, by side streams, and which stay behind. */
#include "tools/machines/qemu/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DESCRIPTION_SIZE 4096

/* One end of a socket pair for QEMU, the other for the migration to carry. */
static int add_stream(struct haul_qemu_source *source, const struct haul_qemu_drive *drive, int *socket,
                      struct haul_error *error)
{
    struct haul_qemu_place place;
    char description[DESCRIPTION_SIZE];
    int pair[2];
    haul_qemu_drive_find(drive, source->inspection.pid, &place);
    int result = haul_qemu_drive_describe(drive, &place, description, sizeof description, error);
    if (result) {
        return result;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return haul_error_set(error, errno, "cannot make a socket for drive %s: %s", drive->name,
                              strerror(errno));
    }
    result = haul_add_stream(source->migration, drive->name, description, pair[0], error);
    if (result) {
        close(pair[0]);
        close(pair[1]);
        return result;
    }
    *socket = pair[1];
    return 0;
}

int haul_qemu_disks_attach(struct haul_qemu_source *source, struct haul_error *error)
{
    struct haul_qemu_mirror *mirror = &source->mirror;
    struct haul_qemu_drives *drives = calloc(1, sizeof *drives);
    int result = drives ? haul_qemu_mirror_remove(source->qmp, error) /* what a haul that was killed left */
                        : haul_error_set(error, ENOMEM, "no memory for the list of drives");
    if (!result && source->disks) {
        result = haul_qemu_refuse_block_jobs(source->qmp, error);
        result = result ? result : haul_qemu_drives_query(source->qmp, drives, error);
        for (unsigned i = 0; !result && i < drives->count; i++) {
            if (!drives->list[i].read_only) {
                result = add_stream(source, &drives->list[i], &mirror->sockets[mirror->drives.count], error);
                mirror->drives.list[mirror->drives.count] = drives->list[i];
                mirror->drives.count += !result;
            }
        }
    }
    free(drives);
    return result;
}

/* A snapshot file has memory and devices only. */
static void warn_of_file(struct haul_qemu_source *source, const struct haul_qemu_drive *drive)
{
    static const char moved[] = "haul restore needs its image as it is when the machine stops, so keep or "
                                "copy it";
    static const char goes_on[] = "the machine goes on writing to it, and haul restore needs it as it is at "
                                  "the stop: docs/snapshot.md tells how to keep it so";
    static const char paused[] = "haul restore needs it as it is now, so keep or copy it before the machine "
                                 "goes on";
    char text[768];
    const char *advice = !source->snapshots ? moved : source->was_running ? goes_on : paused;
    snprintf(text, sizeof text, "warning: drive %s (%.300s) is not in the file: %s", drive->name, drive->file,
             advice);
    haul_say(source->migration, text);
}

static void warn(struct haul_qemu_source *source, const struct haul_qemu_drive *drive)
{
    struct haul_qemu_place place;
    char text[768];
    if (drive->read_only) {
        return;
    }
    if (haul_writes_file(source->migration)) {
        warn_of_file(source, drive);
        return;
    }
    haul_qemu_drive_find(drive, source->inspection.pid, &place);
    if (place.storage == HAUL_QEMU_STORAGE_SHARED) {
        return;
    }
    pid_t other = haul_qemu_find_other_user(&place, source->inspection.pid);
    if (other) {
        snprintf(text, sizeof text,
                 "drive %s (%.300s) is in use by the QEMU of process %d on this host too: if that is not the "
                 "destination, the drive stays behind",
                 drive->name, drive->file, (int)other);
        haul_say(source->migration, text);
        return;
    }
    snprintf(text, sizeof text,
             "warning: drive %s (%.300s) stays behind on this host%s: the destination's machine goes on "
             "with its own image, whatever is in it; move it along with --disks",
             drive->name, drive->file,
             place.storage == HAUL_QEMU_STORAGE_LOCAL ? "" : ", unless its storage is shared");
    haul_say(source->migration, text);
}

int haul_qemu_disks_warn(struct haul_qemu_source *source, struct haul_error *error)
{
    if (source->disks || source->hands_over) {
        return 0; /* in mode cpr-transfer the storage is this host's */
    }
    struct haul_qemu_drives *drives = calloc(1, sizeof *drives);
    int result = drives ? haul_qemu_drives_query(source->qmp, drives, error)
                        : haul_error_set(error, ENOMEM, "no memory for the list of drives");
    for (unsigned i = 0; !result && i < drives->count; i++) {
        warn(source, &drives->list[i]);
    }
    free(drives);
    return result;
}

static int start_mirror(struct haul_qemu_source *source, struct haul_error *error)
{
    struct haul_qemu_mirror *mirror = &source->mirror;
    uint64_t bytes = 0;
    char text[160];
    mirror->started = true; /* for the guardian, which must know before there is anything to end */
    int result = haul_qemu_source_rearm(source, "", error);
    result = result ? result : haul_qemu_mirror_start(mirror, source->qmp, error);
    for (unsigned i = 0; i < mirror->drives.count; i++) {
        bytes += mirror->drives.list[i].size;
    }
    if (!result) {
        snprintf(text, sizeof text, "copying %u drive%s of %" PRIu64 " MiB ahead of the memory",
                 mirror->drives.count, mirror->drives.count == 1 ? "" : "s", bytes >> 20);
        haul_say(source->migration, text);
    }
    return result;
}

int haul_qemu_disks_ready(struct haul_qemu_source *source, struct haul_error *error)
{
    struct haul_qemu_mirror *mirror = &source->mirror;
    if (mirror->drives.count == 0) {
        return 1;
    }
    bool was_ready = mirror->ready;
    int result = mirror->started ? 0 : start_mirror(source, error);
    result = result ? result : haul_qemu_mirror_poll(mirror, source->qmp, error);
    if (result == 1) {
        int flushed = haul_qemu_mirror_flush(mirror, source->qmp, error);
        result = flushed < 0 ? flushed : result;
    }
    for (unsigned i = 0; result >= 0 && i < mirror->drives.count; i++) {
        haul_stream_progress(source->migration, i, mirror->jobs[i].done_bytes, mirror->jobs[i].total_bytes,
                             mirror->jobs[i].ready);
    }
    if (result >= 0) {
        haul_qemu_lag_watch(source);
    }
    if (result == 1 && !was_ready) {
        char text[160];
        snprintf(text, sizeof text,
                 "drive%s copied in %.1f s; the memory follows, and the mirror%s carr%s on",
                 mirror->drives.count == 1 ? "" : "s", (double)mirror->ready_ns / 1e9,
                 mirror->drives.count == 1 ? "" : "s", mirror->drives.count == 1 ? "ies" : "y");
        haul_say(source->migration, text);
    }
    return result;
}

void haul_qemu_disks_detach(struct haul_qemu_source *source)
{
    if (source->mirror.started && source->qmp) {
        haul_qemu_mirror_remove(source->qmp, NULL);
    }
    haul_qemu_mirror_cleanup(&source->mirror);
    source->lag = (struct haul_qemu_lag){0};
}

void haul_qemu_disks_summary(const struct haul_qemu_source *source, char *text, size_t size)
{
    const struct haul_qemu_mirror *mirror = &source->mirror;
    text[0] = '\0';
    if (mirror->finish_ns) {
        snprintf(text, size,
                 "%u drive%s mirrored in %.1f s; their last %.1f KiB took %.1f ms of the downtime",
                 mirror->drives.count, mirror->drives.count == 1 ? "" : "s", (double)mirror->ready_ns / 1e9,
                 (double)mirror->last_bytes / 1024, (double)mirror->finish_ns / 1e6);
    } else {
        snprintf(text, size, "%s", source->lag.advice);
    }
    size_t used = strlen(text);
    if (mirror->flushes) {
        snprintf(
            text + used, size - used,
            "%sQEMU waited for %u flush%s of the destination's images: %.1f ms each, %.1f ms the longest",
            used ? "; " : "", mirror->flushes, mirror->flushes == 1 ? "" : "es",
            (double)mirror->flush_total_ns / mirror->flushes / 1e6, (double)mirror->flush_longest_ns / 1e6);
    }
}
