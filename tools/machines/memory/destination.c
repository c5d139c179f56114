/* SPDX-License-Identifier: Apache-2.0 */

/* A shared memory object as a machine, at its destination. */

#include "tools/machines/machine.h"
#include "tools/machines/memory/object.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct memory_destination {
    struct haul_machine base;
    char *path;
    struct haul_memory_object object;
    bool ours; /* after HANDOVER: the file stays */
};

static int start_hook(void *opaque, struct haul_error *error)
{
    (void)error;
    ((struct memory_destination *)opaque)->ours = true;
    return 0;
}

static const struct haul_guest_ops hooks = {.start = start_hook};

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
    struct memory_destination *self = calloc(1, sizeof *self);
    char *copy = strdup(path);
    if (!self || !copy) {
        free(self);
        free(copy);
        return haul_error_set(error, ENOMEM, "no memory for a memory machine");
    }
    self->base.ops = &machine_ops;
    self->path = copy;
    int result = size ? haul_memory_object_create(&self->object, path, size, error)
                      : haul_memory_object_open(&self->object, path, true, error);
    if (!result) {
        result = haul_memory_object_map(&self->object, path, true, error);
    }
    if (result) {
        free_machine(&self->base);
        return result;
    }
    *machine = &self->base;
    return 0;
}
