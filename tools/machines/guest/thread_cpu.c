/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/cpu.h"

#include "tools/machines/guest/workload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct thread_cpu {
    struct haul_guest_cpu base;
    const struct haul_guest_layout *layout;
    unsigned char *memory;
    struct haul_guest_position position;
    struct haul_tracker *tracker; /* "bitmap": told of every write; else NULL */
};

static int thread_boot(struct haul_guest_cpu *cpu, struct haul_error *error)
{
    (void)error;
    ((struct thread_cpu *)cpu)->position = (struct haul_guest_position){.version = 1};
    return 0;
}

/*
 * Checks and replaces the stamps of one page, as workload.S does. The migration reads the page meanwhile, and
 * sends it again because it was written (trap T4): not a race that ThreadSanitizer should report.
 */
__attribute__((no_sanitize("thread"))) static bool rewrite(unsigned char *page, uint32_t expected,
                                                           uint32_t stamp)
{
    for (size_t i = 0; i < HAUL_GUEST_STAMPS; i++) {
        volatile uint32_t *here = (volatile uint32_t *)(void *)(page + i * HAUL_GUEST_STAMP_DISTANCE);
        if (*here != expected) {
            return false;
        }
        *here = stamp;
    }
    return true;
}

static int thread_run(struct haul_guest_cpu *cpu, uint32_t pages, struct haul_error *error)
{
    struct thread_cpu *self = (struct thread_cpu *)cpu;
    const struct haul_guest_layout *layout = self->layout;
    for (; pages; pages--) {
        uint64_t slot = (uint64_t)self->position.index * layout->stride % layout->hot_pages;
        uint64_t page = HAUL_GUEST_RESERVED_PAGES + slot;
        uint32_t version = self->position.version;
        if (!rewrite(self->memory + page * HAUL_GUEST_PAGE_SIZE, haul_guest_stamp(slot, version - 1),
                     haul_guest_stamp(slot, version))) {
            return haul_error_set(error, EIO,
                                  "self-check failed: the guest found page %" PRIu64
                                  " lost, stale or torn: it does not hold version %" PRIu32,
                                  page, version - 1);
        }
        if (self->tracker) {
            haul_tracker_mark(self->tracker, 0, page, 1);
        }
        if (++self->position.index == layout->hot_pages) {
            self->position.index = 0;
            self->position.version++;
        }
    }
    return HAUL_GUEST_RUN_BOUNDARY;
}

static int thread_settle(struct haul_guest_cpu *cpu, struct haul_error *error)
{
    (void)cpu;
    (void)error;
    return 0;
}

static const struct haul_device_field position_fields[] = {
    HAUL_DEVICE_VALUE(struct haul_guest_position, version, U32, 0),
    HAUL_DEVICE_VALUE(struct haul_guest_position, index, U32, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field thread_fields[] = {
    HAUL_DEVICE_NESTED(struct thread_cpu, position, position_fields, 0),
    HAUL_DEVICE_END,
};

static int check_position(void *object, uint32_t version, struct haul_error *error)
{
    (void)version;
    const struct thread_cpu *self = object;
    if (self->position.index >= self->layout->hot_pages) {
        return haul_error_set(error, EINVAL,
                              "the guest's position %" PRIu32 " is outside its %" PRIu32 " hot pages",
                              self->position.index, self->layout->hot_pages);
    }
    return 0;
}

static const struct haul_device_description thread_description = {
    .name = "thread",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = thread_fields,
    .post_load = check_position,
};

static int thread_add_devices(struct haul_guest_cpu *cpu, struct haul_devices *devices,
                              struct haul_error *error)
{
    const struct haul_device device = {
        .description = &thread_description, .priority = HAUL_GUEST_PRIORITY_CPU, .object = cpu};
    return haul_devices_add(devices, &device, error);
}

static int thread_position(struct haul_guest_cpu *cpu, struct haul_guest_position *position,
                           struct haul_error *error)
{
    (void)error;
    *position = ((struct thread_cpu *)cpu)->position;
    return 0;
}

static int thread_new_tracker(struct haul_guest_cpu *cpu, const char *name, struct haul_tracker **tracker,
                              struct haul_error *error)
{
    struct thread_cpu *self = (struct thread_cpu *)cpu;
    if (strcmp(name, "bitmap") != 0) {
        return haul_error_set(
            error, ENOTSUP,
            "tracker %s needs a KVM vCPU: use auto, uffd, soft-dirty or bitmap with a guest that "
            "runs on a thread",
            name);
    }
    return haul_tracker_bitmap_new(&self->layout->pages, 1, tracker, error);
}

static void thread_use_tracker(struct haul_guest_cpu *cpu, struct haul_tracker *tracker)
{
    ((struct thread_cpu *)cpu)->tracker = tracker;
}

static void thread_free(struct haul_guest_cpu *cpu)
{
    free(cpu);
}

static const struct haul_guest_cpu_ops thread_ops = {
    .name = "thread",
    .state_kind = HAUL_GUEST_STATE_KIND_THREAD,
    .boot = thread_boot,
    .run = thread_run,
    .settle = thread_settle,
    .add_devices = thread_add_devices,
    .position = thread_position,
    .new_tracker = thread_new_tracker,
    .use_tracker = thread_use_tracker,
    .free = thread_free,
};

int haul_guest_thread_cpu_new(const struct haul_guest_layout *layout, unsigned char *memory,
                              struct haul_guest_cpu **cpu, struct haul_error *error)
{
    struct thread_cpu *self = calloc(1, sizeof *self);
    if (!self) {
        return haul_error_set(error, ENOMEM, "no memory for the guest's thread");
    }
    self->base.ops = &thread_ops;
    self->layout = layout;
    self->memory = memory;
    *cpu = &self->base;
    return 0;
}
