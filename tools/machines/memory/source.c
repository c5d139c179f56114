/* SPDX-License-Identifier: Apache-2.0 */

/* A shared memory object as a machine, at its source: at rest, or written by one process. */

#include "tools/clock.h"
#include "tools/machines/machine.h"
#include "tools/machines/memory/object.h"
#include "tools/machines/memory/process.h"
#include "tools/machines/memory/writers.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Stopping waits for every thread and looks into every process once more. */
#define STOP_NS 5000000u

struct memory_source {
    struct haul_machine base;
    char *path;
    struct haul_memory_object object;
    struct haul_process *process;   /* NULL: at rest */
    int handed_fd;                  /* the object, writable, to be handed over; -1: none */
    struct haul_tracker *tracker;   /* of the last attach, and what it watches */
    struct haul_write_guard *guard; /* of the last attach, in its place for a background snapshot */
    struct haul_tracked_range ranges[HAUL_MEMORY_MAX_RANGES];
    unsigned range_count;
    bool handed_over;
    char *locator;
};

/* ---- hooks of the engine ------------------------------------------------------------------------------ */

static bool is_tracked(const struct memory_source *self, const struct haul_tracked_range *range)
{
    for (unsigned i = 0; i < self->range_count; i++) {
        const struct haul_tracked_range *known = &self->ranges[i];
        if (known->address <= range->address && range->address - known->address <= known->length &&
            range->length <= known->length - (range->address - known->address) &&
            known->memory_offset + (range->address - known->address) == range->memory_offset) {
            return true;
        }
    }
    return false;
}

/* Where the process mapped the object, or took a device, after the move began, it wrote unseen. */
static int check_again(struct memory_source *self, struct haul_error *error)
{
    int pid = haul_process_pid(self->process);
    struct haul_tracked_range ranges[HAUL_MEMORY_MAX_RANGES];
    unsigned count;
    int result = haul_memory_find_ranges(&self->object, self->path, pid, ranges, &count, error);
    for (unsigned i = 0; !result && i < count; i++) {
        if (!is_tracked(self, &ranges[i])) {
            result = haul_error_set(error, EBUSY,
                                    "process %d mapped %s anew during the move, at %#" PRIx64
                                    ", where its writes were not seen: move it again",
                                    pid, self->path, ranges[i].address);
        }
    }
    return result ? result : haul_memory_refuse_unseen(pid, error);
}

static int stop_hook(void *opaque, uint64_t *stopped_ns, struct haul_error *error)
{
    struct memory_source *self = opaque;
    /* Looking into every process of the host is slow, and no better while one of them stands still: before
     * the stop. */
    int result = haul_memory_refuse_others(&self->object, self->path, haul_process_pid(self->process), error);
    if (result) {
        return result;
    }
    *stopped_ns = haul_clock_ns();
    result = haul_process_stop(self->process, error);
    if (result) {
        return result;
    }
    result = check_again(self, error);
    if (result) {
        haul_process_resume(self->process, NULL);
    }
    return result;
}

static int resume_hook(void *opaque, struct haul_error *error)
{
    struct memory_source *self = opaque;
    return haul_process_resume(self->process, error);
}

static int handing_over_hook(void *opaque, struct haul_error *error)
{
    struct memory_source *self = opaque;
    return haul_process_keep_stopped(self->process, error);
}

/* The process stays stopped: it must not write what is no longer its own, and only its operator may end it.
 */
static void handed_over_hook(void *opaque)
{
    struct memory_source *self = opaque;
    self->handed_over = true;
}

static void live_estimate_hook(void *opaque, struct haul_guest_costs *costs)
{
    (void)opaque;
    costs->stop_ns = STOP_NS;
    costs->start_ns = costs->state_bytes = 0;
}

static void rest_estimate_hook(void *opaque, struct haul_guest_costs *costs)
{
    (void)opaque;
    costs->stop_ns = costs->start_ns = costs->state_bytes = 0;
}

static const struct haul_guest_ops live_hooks = {
    .stop = stop_hook,
    .resume = resume_hook,
    .estimate = live_estimate_hook,
    .handing_over = handing_over_hook,
    .handed_over = handed_over_hook,
};

static const struct haul_guest_ops rest_hooks = {.estimate = rest_estimate_hook};

/* ---- the machine -------------------------------------------------------------------------------------- */

static int new_tracker(struct memory_source *self, struct haul_error *error)
{
    haul_tracker_free(self->tracker);
    self->tracker = NULL;
    if (!self->process) { /* nothing writes, so that nothing is ever marked */
        uint64_t pages = self->object.length / 4096;
        return haul_tracker_bitmap_new(&pages, 1, &self->tracker, error);
    }
    int pid = haul_process_pid(self->process);
    int result =
        haul_memory_find_ranges(&self->object, self->path, pid, self->ranges, &self->range_count, error);
    return result ? result
                  : haul_tracker_process_new(pid, self->ranges, self->range_count, &self->tracker, error);
}

/* Who takes the object over must be able to write it; what we opened is for reading. */
static int open_writable(struct memory_source *self, struct haul_error *error)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", self->object.fd);
    if (self->handed_fd < 0) {
        self->handed_fd = open(path, O_RDWR | O_CLOEXEC);
    }
    return self->handed_fd >= 0
               ? 0
               : haul_error_set(error, errno, "cannot open %s for writing, to hand it over: %s", self->path,
                                strerror(errno));
}

/* What mode background-snapshot needs in place of a tracker. */
static int set_guard(struct memory_source *self, struct haul_migration *migration, struct haul_error *error)
{
    if (!self->process) {
        return haul_error_set(error, EINVAL,
                              "a background snapshot is of memory that is being written: name the process "
                              "that writes %s with --pid, or save memory at rest with haul send file:PATH",
                              self->path);
    }
    int pid = haul_process_pid(self->process);
    int result =
        haul_memory_find_ranges(&self->object, self->path, pid, self->ranges, &self->range_count, error);
    if (!result) {
        result = haul_write_guard_uffd_new(pid, self->ranges, self->range_count, &self->guard, error);
    }
    return result ? result
                  : haul_set_write_guard(migration, haul_write_guard_get_ops(self->guard),
                                         haul_write_guard_get_opaque(self->guard), error);
}

static int set_tracker(struct memory_source *self, struct haul_migration *migration, struct haul_error *error)
{
    int result = new_tracker(self, error);
    return result ? result
                  : haul_set_tracker(migration, haul_tracker_get_ops(self->tracker),
                                     haul_tracker_get_opaque(self->tracker), error);
}

static int attach(struct haul_machine *machine, struct haul_migration *migration, struct haul_error *error)
{
    struct memory_source *self = (struct memory_source *)machine;
    struct haul_ram_block block = {
        .name = "memory",
        .host = self->object.host,
        .length = self->object.length,
        .page_size = self->object.page_size,
        .fd = self->object.fd,
    };
    haul_write_guard_free(self->guard);
    self->guard = NULL;
    enum haul_mode mode = haul_get_mode(migration);
    int result = mode == HAUL_MODE_NORMAL                ? set_tracker(self, migration, error)
                 : mode == HAUL_MODE_BACKGROUND_SNAPSHOT ? set_guard(self, migration, error)
                                                         : open_writable(self, error);
    if (!result && mode == HAUL_MODE_CPR_TRANSFER) {
        block.fd = self->handed_fd;
    }
    if (!result) {
        result = haul_add_ram(migration, &block, error);
    }
    return result ? result
                  : haul_set_guest(migration, self->process ? &live_hooks : &rest_hooks, self, error);
}

static void summary(struct haul_machine *machine, char *text, size_t size)
{
    struct memory_source *self = (struct memory_source *)machine;
    text[0] = '\0';
    if (self->handed_over) {
        snprintf(
            text, size,
            "process %d stays stopped here, its memory is at the destination now: end it with kill -KILL %d",
            haul_process_pid(self->process), haul_process_pid(self->process));
    }
}

static const char *locator(struct haul_machine *machine)
{
    return ((struct memory_source *)machine)->locator;
}

static bool ended(struct haul_machine *machine)
{
    struct memory_source *self = (struct memory_source *)machine;
    return self->process && haul_process_ended(self->process);
}

static int resume(struct haul_machine *machine, struct haul_error *error)
{
    struct memory_source *self = (struct memory_source *)machine;
    return self->process ? haul_process_continue(self->process, error) : 0;
}

/* Giving it up is leaving it stopped; ending it is the operator's. */
static int abandon(struct haul_machine *machine, struct haul_error *error)
{
    (void)error;
    struct memory_source *self = (struct memory_source *)machine;
    self->handed_over = self->process != NULL;
    return 0;
}

static void free_machine(struct haul_machine *machine)
{
    struct memory_source *self = (struct memory_source *)machine;
    haul_write_guard_free(self->guard);
    haul_tracker_free(self->tracker);
    haul_process_close(self->process);
    haul_memory_object_close(&self->object);
    if (self->handed_fd >= 0) {
        close(self->handed_fd);
    }
    free(self->locator);
    free(self->path);
    free(self);
}

static const struct haul_machine_ops machine_ops = {
    .kind = "memory",
    .attach = attach,
    .summary = summary,
    .locator = locator,
    .ended = ended,
    .resume = resume,
    .abandon = abandon,
    .free = free_machine,
};

/* The process first: its guardian must be forked before there is memory that the child would map too. */
static int open_process(struct memory_source *self, int pid, struct haul_error *error)
{
    if (pid) {
        int result = haul_process_open(pid, &self->process, error);
        if (result) {
            return result;
        }
    }
    uint64_t start_time = pid ? haul_process_start_time(self->process) : 0;
    if (asprintf(&self->locator, "%d %" PRIu64 " %s", pid, start_time, self->path) < 0) {
        self->locator = NULL;
        return haul_error_set(error, ENOMEM, "no memory for a memory machine");
    }
    return 0;
}

static struct memory_source *machine_alloc(const char *path, struct haul_error *error)
{
    struct memory_source *self = haul_machine_alloc(sizeof *self, &machine_ops, error);
    if (!self) {
        return NULL;
    }
    self->object.fd = -1;
    self->handed_fd = -1;
    self->path = strdup(path);
    if (!self->path) {
        haul_error_set(error, ENOMEM, "no memory for a memory machine");
        free_machine(&self->base);
        return NULL;
    }
    return self;
}

/* What only the first look can see: that the object is one, and that its writers are known. */
static int open_object(struct memory_source *self, int pid, struct haul_error *error)
{
    int result = haul_memory_object_open(&self->object, self->path, false, error);
    if (!result && pid) {
        result =
            haul_memory_find_ranges(&self->object, self->path, pid, self->ranges, &self->range_count, error);
    }
    if (!result) {
        result = haul_memory_refuse_others(&self->object, self->path, pid, error);
    }
    if (!result && pid) {
        result = haul_memory_refuse_unseen(pid, error);
    }
    return result ? result : haul_memory_object_map(&self->object, self->path, false, error);
}

int haul_memory_source_new(const char *path, int pid, struct haul_machine **machine, struct haul_error *error)
{
    struct memory_source *self = machine_alloc(path, error);
    if (!self) {
        return -ENOMEM;
    }
    int result = open_process(self, pid, error);
    result = result ? result : open_object(self, pid, error);
    return haul_machine_finish(&self->base, result, machine);
}

int haul_memory_attach_existing(const char *text, struct haul_machine **machine, struct haul_error *error)
{
    char *end;
    long pid = strtol(text, &end, 10);
    uint64_t start_time = strtoull(end, &end, 10);
    if (*end != ' ' || !end[1] || pid < 0 || pid > INT32_MAX) {
        return haul_error_set(error, EINVAL, "'%s' does not name a memory machine", text);
    }
    struct memory_source *self = machine_alloc(end + 1, error);
    if (!self) {
        return -ENOMEM;
    }
    int result = open_process(self, (int)pid, error);
    if (!result && pid && haul_process_start_time(self->process) != start_time) {
        result = haul_error_set(error, ESRCH, "process %ld is gone: another one has its number now", pid);
    }
    return haul_machine_finish(&self->base, result, machine);
}
