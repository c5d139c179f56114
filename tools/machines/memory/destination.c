/* SPDX-License-Identifier: Apache-2.0 */

/* A shared memory object as a machine, at its destination. */

#include "tools/machines/machine.h"
#include "tools/machines/memory/object.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct memory_destination {
    struct haul_machine base;
    char *path;
    struct haul_memory_object object;
    char *adopted; /* a second name of the source's object, which becomes `path` at the hand-over; or NULL */
    bool ours;     /* after HANDOVER: the file stays */
};

static int start_hook(void *opaque, struct haul_error *error)
{
    struct memory_destination *self = opaque;
    if (self->adopted && rename(self->adopted, self->path)) {
        return haul_error_set(error, errno, "cannot give the source's memory the name %s: %s", self->path,
                              strerror(errno));
    }
    free(self->adopted);
    self->adopted = NULL;
    self->ours = true;
    return 0;
}

static bool same_file(int one, int other)
{
    struct stat a, b;
    return !fstat(one, &a) && !fstat(other, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int adopt_hook(void *opaque, const char *block, int fd, uint64_t fd_offset, struct haul_error *error)
{
    (void)block; /* there is only one, and it begins where its file does */
    (void)fd_offset;
    struct memory_destination *self = opaque;
    if (same_file(fd, self->object.fd)) {
        return 0;
    }
    char from[64];
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    if (asprintf(&self->adopted, "%s.haul-%d", self->path, getpid()) < 0) {
        self->adopted = NULL;
        return haul_error_set(error, ENOMEM, "no memory for a file name");
    }
    if (linkat(AT_FDCWD, from, AT_FDCWD, self->adopted, AT_SYMLINK_FOLLOW)) {
        int code = errno;
        free(self->adopted);
        self->adopted = NULL;
        return haul_error_set(
            error, code,
            "%s cannot become a name of the source's memory: %s; mode cpr-transfer needs both "
            "names in one tmpfs (a memfd has none), else use --mode normal",
            self->path, strerror(code));
    }
    return 0;
}

static void disown_hook(void *opaque)
{
    struct memory_destination *self = opaque;
    if (self->adopted) {
        unlink(self->adopted);
    }
    free(self->adopted);
    self->adopted = NULL;
}

static const struct haul_guest_ops hooks = {.start = start_hook, .adopt = adopt_hook, .disown = disown_hook};

static int attach(struct haul_machine *machine, struct haul_migration *migration, struct haul_error *error)
{
    struct memory_destination *self = (struct memory_destination *)machine;
    struct haul_ram_block block = {
        .name = "memory",
        .host = self->object.host,
        .length = self->object.length,
        .page_size = self->object.page_size,
        .fd = self->object.fd,
    };
    int result = haul_add_ram(migration, &block, error);
    return result ? result : haul_set_guest(migration, &hooks, self, error);
}

static const char *locator(struct haul_machine *machine)
{
    return ((struct memory_destination *)machine)->path;
}

/* The object is complete and lies at rest: whoever uses it next decides. */
static int leave(struct haul_machine *machine, struct haul_error *error)
{
    (void)machine;
    (void)error;
    return 0;
}

static void free_machine(struct haul_machine *machine)
{
    struct memory_destination *self = (struct memory_destination *)machine;
    if (self->object.created && !self->ours) {
        unlink(self->path);
    }
    disown_hook(self);
    haul_memory_object_close(&self->object);
    free(self->path);
    free(self);
}

static const struct haul_machine_ops machine_ops = {
    .kind = "memory",
    .attach = attach,
    .locator = locator,
    .resume = leave,
    .abandon = leave,
    .free = free_machine,
};

int haul_memory_destination_new(const char *path, uint64_t size, struct haul_machine **machine,
                                struct haul_error *error)
{
    struct memory_destination *self = haul_machine_alloc(sizeof *self, &machine_ops, error);
    if (!self) {
        return -ENOMEM;
    }
    self->object.fd = -1;
    self->path = strdup(path);
    int result = !self->path ? haul_error_set(error, ENOMEM, "no memory for a memory machine")
                 : size      ? haul_memory_object_create(&self->object, path, size, error)
                             : haul_memory_object_open(&self->object, path, true, error);
    if (result == -ENOENT && !size) {
        haul_error_set(error, ENOENT,
                       "there is no file %s; make it with the source's size, or let haul receive do so: "
                       "--memory-size SIZE",
                       path);
    }
    result = result ? result : haul_memory_object_map(&self->object, path, true, error);
    return haul_machine_finish(&self->base, result, machine);
}
