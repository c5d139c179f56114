/* SPDX-License-Identifier: Apache-2.0 */

/* The reference guest as a machine: the engine's view of a struct haul_guest. */

#include "tools/machines/guest/disk.h"
#include "tools/machines/guest/guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct guest_machine {
    struct haul_machine base;
    enum haul_guest_side side;
    struct haul_guest *guest;
    struct haul_guest_disk *disk; /* or NULL */
    struct haul_tracker *tracker; /* of the last attach */
    const char *tracker_name;
    struct haul_write_guard *guard; /* of the last attach */
};

/* Stopping is a signal or a page, starting a wake-up, state a few hundred bytes. */
#define STOP_NS 50000u
#define DEVICE_NS 150000u
#define START_NS 300000u

/* ---- hooks of the engine ------------------------------------------------------------------------------ */

static int run(struct guest_machine *self, struct haul_error *error)
{
    int result = haul_guest_resume(self->guest, error);
    if (!result && self->disk) {
        haul_guest_disk_resume(self->disk);
    }
    return result;
}

static void retire(struct guest_machine *self)
{
    haul_guest_retire(self->guest);
    if (self->disk) {
        haul_guest_disk_retire(self->disk);
    }
}

static int stop_hook(void *opaque, uint64_t *stopped_ns, struct haul_error *error)
{
    struct guest_machine *self = opaque;
    int result = haul_guest_stop(self->guest, stopped_ns, error);
    if (!result && self->disk) {
        result = haul_guest_disk_pause(self->disk, error);
        if (result) {
            haul_guest_resume(self->guest, NULL);
        }
    }
    return result;
}

static int resume_hook(void *opaque, struct haul_error *error)
{
    struct guest_machine *self = opaque;
    return run(self, error);
}

static int throttle_hook(void *opaque, unsigned percent, struct haul_error *error)
{
    (void)error;
    struct guest_machine *self = opaque;
    haul_guest_throttle(self->guest, percent);
    if (self->disk) {
        haul_guest_disk_throttle(self->disk, percent);
    }
    return 0;
}

static void estimate_hook(void *opaque, struct haul_guest_costs *costs)
{
    struct guest_machine *self = opaque;
    costs->stop_ns = STOP_NS;
    costs->device_ns = DEVICE_NS;
    costs->start_ns = START_NS;
    costs->state_bytes = haul_devices_size(haul_guest_devices(self->guest), false);
}

static void handed_over_hook(void *opaque)
{
    retire(opaque);
}

static const struct haul_guest_ops source_hooks = {
    .stop = stop_hook,
    .resume = resume_hook,
    .throttle = throttle_hook,
    .estimate = estimate_hook,
    .handed_over = handed_over_hook,
};

static int adopt_hook(void *opaque, const char *block, int fd, uint64_t fd_offset, struct haul_error *error)
{
    (void)block; /* there is only one */
    struct guest_machine *self = opaque;
    return fd_offset ? haul_error_set(error, EINVAL, "the source's guest does not begin where its file does")
                     : haul_guest_adopt(self->guest, fd, error);
}

static void disown_hook(void *opaque)
{
    struct guest_machine *self = opaque;
    haul_guest_disown(self->guest, NULL);
}

/* A start that fails does so before the vCPU is let go; from here it has none. */
static bool never_ran_hook(void *opaque)
{
    retire(opaque);
    return true;
}

static const struct haul_guest_ops destination_hooks = {
    .start = resume_hook,
    .never_ran = never_ran_hook,
    .adopt = adopt_hook,
    .disown = disown_hook,
};

/* ---- the machine -------------------------------------------------------------------------------------- */

/* A vCPU, and the kernel for it, write by this process's page tables. */
static int guard_memory(struct guest_machine *self, const struct haul_ram_block *block,
                        struct haul_migration *migration, struct haul_error *error)
{
    const struct haul_tracked_range range = {
        .address = (uint64_t)(uintptr_t)block->host, .length = block->length, .memory_fd = block->fd};
    int result = haul_write_guard_uffd_new(0, &range, 1, &self->guard, error);
    if (!result) {
        result = haul_set_write_guard(migration, haul_write_guard_get_ops(self->guard),
                                      haul_write_guard_get_opaque(self->guard), error);
    }
    return result;
}

static int attach(struct haul_machine *machine, struct haul_migration *migration, struct haul_error *error)
{
    struct guest_machine *self = (struct guest_machine *)machine;
    struct haul_ram_block block = {
        .name = "guest.ram", .page_size = HAUL_GUEST_PAGE_SIZE, .fd = haul_guest_memory_fd(self->guest)};
    block.host = haul_guest_memory(self->guest, &block.length);
    int result = haul_add_ram(migration, &block, error);
    bool source = self->side == HAUL_GUEST_SOURCE;
    if (!result && source) {
        haul_guest_free_tracker(self->guest, self->tracker);
        haul_write_guard_free(self->guard);
        self->tracker = NULL;
        self->tracker_name = NULL;
        self->guard = NULL;
    }
    if (!result && source && haul_get_mode(migration) == HAUL_MODE_BACKGROUND_SNAPSHOT) {
        result = guard_memory(self, &block, migration, error);
    }
    if (!result && source && haul_get_mode(migration) == HAUL_MODE_NORMAL) {
        result = haul_guest_new_tracker(self->guest, &self->tracker, &self->tracker_name, error);
    }
    if (!result && self->tracker) {
        result = haul_set_tracker(migration, haul_tracker_get_ops(self->tracker),
                                  haul_tracker_get_opaque(self->tracker), error);
    }
    if (!result && self->disk) {
        struct haul_disk disk = haul_guest_disk_describe(self->disk);
        result = haul_add_disk(migration, &disk, error);
    }
    if (!result) {
        result = haul_devices_attach(haul_guest_devices(self->guest), migration, error);
    }
    if (!result) {
        result = haul_set_guest(
            migration, self->side == HAUL_GUEST_SOURCE ? &source_hooks : &destination_hooks, self, error);
    }
    return result;
}

static int self_check(struct haul_machine *machine, unsigned seconds, char *report, size_t size,
                      struct haul_error *error)
{
    struct guest_machine *self = (struct guest_machine *)machine;
    char disk[128];
    int result = haul_guest_check(self->guest, seconds, report, size, error);
    if (result || !self->disk) {
        return result;
    }
    result = haul_guest_disk_check(self->disk, disk, sizeof disk, error);
    if (!result) {
        size_t length = strlen(report);
        snprintf(report + length, size - length, ", %s", disk);
    }
    return result;
}

static void summary(struct haul_machine *machine, char *text, size_t size)
{
    struct guest_machine *self = (struct guest_machine *)machine;
    const char *reason = haul_guest_vcpu_reason(self->guest);
    snprintf(text, size, "reference guest on a %s%s%s%s%s%s", haul_guest_vcpu(self->guest),
             reason[0] ? " (" : "", reason, reason[0] ? ")" : "", self->tracker_name ? ", tracked by " : "",
             self->tracker_name ? self->tracker_name : "");
}

/* The guest lives and dies with this process: nothing to find again. */
static const char *locator(struct haul_machine *machine)
{
    (void)machine;
    return "guest";
}

static int resume(struct haul_machine *machine, struct haul_error *error)
{
    return run((struct guest_machine *)machine, error);
}

static int abandon(struct haul_machine *machine, struct haul_error *error)
{
    (void)error;
    retire((struct guest_machine *)machine);
    return 0;
}

static void free_machine(struct haul_machine *machine)
{
    struct guest_machine *self = (struct guest_machine *)machine;
    if (self->guest) {
        haul_guest_free_tracker(self->guest, self->tracker);
        haul_write_guard_free(self->guard);
    }
    haul_guest_free(self->guest);
    haul_guest_disk_free(self->disk);
    free(self);
}

static const struct haul_machine_ops machine_ops = {
    .kind = "guest",
    .attach = attach,
    .self_check = self_check,
    .summary = summary,
    .locator = locator,
    .resume = resume,
    .abandon = abandon,
    .free = free_machine,
};

static int machine_new(const struct haul_guest_options *options, enum haul_guest_side side,
                       struct haul_machine **machine, struct haul_error *error)
{
    struct guest_machine *self = haul_machine_alloc(sizeof *self, &machine_ops, error);
    if (!self) {
        return -ENOMEM;
    }
    self->side = side;
    int result = haul_guest_new(options, side, &self->guest, error);
    if (!result && options->disk) {
        result = haul_guest_disk_new(options, side, &self->disk, error);
    }
    if (!result && self->disk) {
        result = haul_guest_disk_add_device(self->disk, haul_guest_devices(self->guest), error);
    }
    return haul_machine_finish(&self->base, result, machine);
}

int haul_guest_source_new(const struct haul_guest_options *options, struct haul_machine **machine,
                          struct haul_error *error)
{
    return machine_new(options, HAUL_GUEST_SOURCE, machine, error);
}

int haul_guest_destination_new(const struct haul_guest_options *options, struct haul_machine **machine,
                               struct haul_error *error)
{
    return machine_new(options, HAUL_GUEST_DESTINATION, machine, error);
}
