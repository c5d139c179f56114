/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/guest.h"

#include "tools/clock.h"
#include "tools/machines/guest/cpu.h"
#include "tools/machines/guest/runner.h"
#include "tools/machines/guest/sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* How long the self-check waits for progress between two looks. */
#define LOOK_NS 20000000L
/* A guest that should have written this many pages and wrote none does not run. */
#define MIN_DUE_PAGES 16u

enum vcpu_choice { VCPU_AUTO, VCPU_KVM, VCPU_THREAD };

/* What a destination must know first: what memory holds, and what runs it. */
struct setup_state {
    uint32_t kind; /* of vCPU */
    struct haul_guest_layout layout;
};

struct haul_guest {
    enum haul_guest_side side;
    enum vcpu_choice vcpu;
    const char *tracker; /* the option: one of tracker_names */
    struct haul_guest_layout layout;
    uint64_t dirty_bytes_per_s;
    bool ready; /* filled or loaded */
    bool retired;
    unsigned char *memory;
    uint64_t length;
    int memory_fd;
    bool locked; /* adopted, and mapped without the right to write */
    struct haul_guest_cpu *cpu;
    struct haul_guest_runner *runner;
    struct haul_devices *devices;
    bool cpu_described;       /* the cpu's devices are among them */
    struct setup_state setup; /* as saved, or as it came */
    char vcpu_reason[512];
};

static const char *const tracker_names[] = {"auto", "kvm-log", "kvm-ring", "uffd", "soft-dirty", "bitmap"};

void haul_guest_options_default(struct haul_guest_options *options)
{
    *options = (struct haul_guest_options){
        .memory_bytes = 256ull << 20,
        .dirty_bytes_per_s = 100000000,
        .content = "random",
        .zero_percent = 25,
        .tracker = "auto",
        .vcpu = "auto",
        .seed = 1,
        .disk_bytes_per_s = 10000000,
    };
}

/* ---- making one --------------------------------------------------------------------------------------- */

int haul_guest_cancelled(const struct haul_guest_options *options, struct haul_error *error)
{
    bool cancelled = options->cancelled && options->cancelled(options->opaque);
    return cancelled ? haul_error_set(error, ECANCELED, "cancelled before the guest ran") : 0;
}

static int read_choices(struct haul_guest *guest, const struct haul_guest_options *options,
                        struct haul_error *error)
{
    const char *tracker = options->tracker ? options->tracker : "auto";
    for (unsigned i = 0; i < sizeof tracker_names / sizeof *tracker_names; i++) {
        guest->tracker = strcmp(tracker, tracker_names[i]) ? guest->tracker : tracker_names[i];
    }
    if (!guest->tracker) {
        return haul_error_set(
            error, EINVAL,
            "unknown guest tracker '%s': use auto, kvm-log, kvm-ring, uffd, soft-dirty or bitmap", tracker);
    }
    const char *vcpu = options->vcpu ? options->vcpu : "auto";
    if (!strcmp(vcpu, "auto")) {
        guest->vcpu = VCPU_AUTO;
    } else if (!strcmp(vcpu, "kvm")) {
        guest->vcpu = VCPU_KVM;
    } else if (!strcmp(vcpu, "thread")) {
        guest->vcpu = VCPU_THREAD;
    } else {
        return haul_error_set(error, EINVAL, "unknown guest vcpu '%s': use auto, kvm or thread", vcpu);
    }
    bool kvm_only = !strncmp(guest->tracker, "kvm", 3);
    if ((kvm_only && guest->vcpu == VCPU_THREAD) ||
        (!strcmp(guest->tracker, "bitmap") && guest->vcpu == VCPU_KVM)) {
        return haul_error_set(error, EINVAL,
                              "guest tracker %s does not work with vcpu %s: leave one of them auto",
                              guest->tracker, vcpu);
    }
    guest->vcpu = kvm_only ? VCPU_KVM : !strcmp(guest->tracker, "bitmap") ? VCPU_THREAD : guest->vcpu;
    return 0;
}

/* Makes `fd`, which it takes over, the guest's memory, where the memory is that it had before. */
static int map_file(struct haul_guest *guest, int fd, bool writable, struct haul_error *error)
{
    int protection = PROT_READ | (writable ? PROT_WRITE : 0);
    int flags = MAP_SHARED | (guest->memory ? MAP_FIXED : 0);
    void *memory = mmap(guest->memory, guest->length, protection, flags, fd, 0);
    if (memory == MAP_FAILED) {
        int code = errno;
        close(fd);
        return haul_error_set(error, code, "cannot map %" PRIu64 " bytes of guest memory: %s", guest->length,
                              strerror(code));
    }
    if (guest->memory_fd >= 0) {
        close(guest->memory_fd);
    }
    guest->memory = memory;
    guest->memory_fd = fd;
    guest->locked = !writable;
    return 0;
}

static int map_memory(struct haul_guest *guest, struct haul_error *error)
{
    int fd = memfd_create("haul-guest", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)guest->length)) {
        int code = errno;
        if (fd >= 0) {
            close(fd);
        }
        return haul_error_set(error, code, "cannot make %" PRIu64 " bytes of guest memory: %s", guest->length,
                              strerror(code));
    }
    return map_file(guest, fd, true, error);
}

int haul_guest_adopt(struct haul_guest *guest, int fd, struct haul_error *error)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        return haul_error_set(error, errno, "cannot keep the source's memory: %s", strerror(errno));
    }
    return map_file(guest, own, false, error);
}

int haul_guest_disown(struct haul_guest *guest, struct haul_error *error)
{
    return map_memory(guest, error);
}

static void drop_cpu(struct haul_guest *guest)
{
    if (guest->cpu) {
        guest->cpu->ops->free(guest->cpu);
        guest->cpu = NULL;
    }
}

/* Takes over a new cpu; a source's is started, which proves it. */
static int use_cpu(struct haul_guest *guest, struct haul_guest_cpu *cpu, struct haul_error *error)
{
    drop_cpu(guest);
    guest->cpu = cpu;
    return guest->side == HAUL_GUEST_SOURCE ? cpu->ops->boot(cpu, error) : 0;
}

static int use_thread(struct haul_guest *guest, struct haul_error *error)
{
    struct haul_guest_cpu *cpu;
    int result = haul_guest_thread_cpu_new(&guest->layout, guest->memory, &cpu, error);
    return result ? result : use_cpu(guest, cpu, error);
}

static int use_kvm(struct haul_guest *guest, struct haul_error *error)
{
    struct haul_guest_cpu *cpu;
    int result = haul_guest_kvm_cpu_new(&guest->layout, guest->memory, guest->length,
                                        !strcmp(guest->tracker, "kvm-ring"), &cpu, error);
    return result ? result : use_cpu(guest, cpu, error);
}

/* A destination's memory is not there yet, so that only a source proves its vCPU by running it. */
static int choose_cpu(struct haul_guest *guest, struct haul_error *error)
{
    struct haul_error why = {0};
    if (guest->vcpu == VCPU_THREAD) {
        return use_thread(guest, error);
    }
    int result = use_kvm(guest, &why);
    if (!result) {
        return 0;
    }
    if (guest->vcpu == VCPU_KVM) {
        return haul_error_set(error, why.code, "%s; vcpu thread runs the same workload without KVM",
                              why.message);
    }
    snprintf(guest->vcpu_reason, sizeof guest->vcpu_reason, "%s", why.message);
    return use_thread(guest, error);
}

static int start_runner(struct haul_guest *guest, struct haul_error *error)
{
    int result = haul_guest_runner_new(guest->cpu, guest->dirty_bytes_per_s, &guest->runner, error);
    guest->ready = !result;
    return result;
}

/* ---- state -------------------------------------------------------------------------------------------- */

#define LAYOUT(member, kind) HAUL_DEVICE_VALUE(struct haul_guest_layout, member, kind, 0)
static const struct haul_device_field layout_fields[] = {
    LAYOUT(pages, U64),           LAYOUT(seed, U64),    LAYOUT(hot_pages, U32),
    LAYOUT(stride, U32),          LAYOUT(inverse, U32), LAYOUT(zero_pages, U64),
    LAYOUT(untouched_pages, U64), LAYOUT(content, U32), HAUL_DEVICE_END,
};

static const struct haul_device_field setup_fields[] = {
    HAUL_DEVICE_VALUE(struct setup_state, kind, U32, 0),
    HAUL_DEVICE_NESTED(struct setup_state, layout, layout_fields, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field guest_setup_fields[] = {
    HAUL_DEVICE_NESTED(struct haul_guest, setup, setup_fields, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field runner_fields[] = {
    HAUL_DEVICE_VALUE(struct haul_guest, dirty_bytes_per_s, U64, 0),
    HAUL_DEVICE_END,
};

static int get_setup(void *object, struct haul_error *error)
{
    (void)error;
    struct haul_guest *guest = object;
    guest->setup = (struct setup_state){.kind = guest->cpu->ops->state_kind, .layout = guest->layout};
    return 0;
}

/* The kind of vCPU must be the source's: only memory at a page boundary would suit the other. */
static int match_cpu(struct haul_guest *guest, uint32_t kind, struct haul_error *error)
{
    if (kind == guest->cpu->ops->state_kind) {
        return 0;
    }
    if (kind == HAUL_GUEST_STATE_KIND_THREAD && guest->vcpu == VCPU_AUTO && !guest->cpu_described) {
        snprintf(guest->vcpu_reason, sizeof guest->vcpu_reason, "the source runs it on a thread");
        return use_thread(guest, error);
    }
    if (kind == HAUL_GUEST_STATE_KIND_KVM && guest->vcpu_reason[0]) {
        return haul_error_set(
            error, EINVAL,
            "the source's guest has a KVM vCPU, but KVM does not work here (%s): start the source's "
            "guest with vcpu thread",
            guest->vcpu_reason);
    }
    return haul_error_set(error, EINVAL,
                          "the source's guest runs on a %s, this one on a %s: give both the same vcpu",
                          kind == HAUL_GUEST_STATE_KIND_KVM ? "KVM vCPU" : "thread", guest->cpu->ops->name);
}

static int describe_cpu(struct haul_guest *guest, struct haul_error *error)
{
    int result = guest->cpu_described ? 0 : guest->cpu->ops->add_devices(guest->cpu, guest->devices, error);
    guest->cpu_described = !result;
    return result;
}

static int use_setup(void *object, uint32_t version, struct haul_error *error)
{
    (void)version;
    struct haul_guest *guest = object;
    const struct haul_guest_layout *layout = &guest->setup.layout;
    uint32_t kind = guest->setup.kind;
    if (guest->side != HAUL_GUEST_DESTINATION || guest->ready) {
        return haul_error_set(error, EINVAL, "the guest has a state already");
    }
    if (kind != HAUL_GUEST_STATE_KIND_THREAD && kind != HAUL_GUEST_STATE_KIND_KVM) {
        return haul_error_set(error, EINVAL, "field setup.kind: %" PRIu32 " is no kind of vCPU", kind);
    }
    int result = haul_guest_layout_check(layout, error);
    if (result) {
        return result;
    }
    if (layout->pages * HAUL_GUEST_PAGE_SIZE != guest->length) {
        return haul_error_set(error, EINVAL,
                              "the source's guest has %" PRIu64 " bytes of memory, this one %" PRIu64
                              ": give both the same",
                              layout->pages * HAUL_GUEST_PAGE_SIZE, guest->length);
    }
    guest->layout = *layout;
    result = match_cpu(guest, kind, error);
    return result ? result : describe_cpu(guest, error);
}

static int check_stopped(void *object, struct haul_error *error)
{
    const struct haul_guest *guest = object;
    if (!guest->ready || (guest->runner && haul_guest_runner_runs(guest->runner))) {
        return haul_error_set(error, EINVAL, "the guest must be stopped before its state is saved");
    }
    return 0;
}

static int make_ready(void *object, uint32_t version, struct haul_error *error)
{
    (void)version;
    return start_runner(object, error);
}

static const struct haul_device_description setup_description = {
    .name = "setup",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = guest_setup_fields,
    .pre_save = get_setup,
    .post_load = use_setup,
};

static const struct haul_device_description runner_description = {
    .name = "runner",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = runner_fields,
    .pre_save = check_stopped,
    .post_load = make_ready,
};

/* A destination learns from "setup" what its cpu will be. */
static int add_devices(struct haul_guest *guest, struct haul_error *error)
{
    /* Saved before the cpu, because it checks that this stands still; loaded after it, because then the guest
     * is ready. */
    int priority = HAUL_GUEST_PRIORITY_CPU + (guest->side == HAUL_GUEST_SOURCE ? 10 : -10);
    const struct haul_device setup = {.description = &setup_description, .early = true, .object = guest};
    const struct haul_device runner = {
        .description = &runner_description, .priority = priority, .object = guest};
    int result = haul_devices_new(&guest->devices, error);
    if (!result) {
        result = haul_devices_add(guest->devices, &setup, error);
    }
    if (!result) {
        result = haul_devices_add(guest->devices, &runner, error);
    }
    return result || guest->side == HAUL_GUEST_DESTINATION ? result : describe_cpu(guest, error);
}

struct haul_devices *haul_guest_devices(struct haul_guest *guest)
{
    return guest->devices;
}

/* ---- life ---- */

int haul_guest_new(const struct haul_guest_options *options, enum haul_guest_side side,
                   struct haul_guest **guest, struct haul_error *error)
{
    struct haul_guest *self = calloc(1, sizeof *self);
    if (!self) {
        return haul_error_set(error, ENOMEM, "no memory for the guest");
    }
    self->side = side;
    self->memory_fd = -1;
    self->length = options->memory_bytes;
    self->dirty_bytes_per_s = options->dirty_bytes_per_s;
    int result = read_choices(self, options, error);
    if (!result) { /* at the destination this only checks the size: the layout comes with the state */
        result = haul_guest_layout_init(&self->layout, options, error);
    }
    if (!result) {
        result = map_memory(self, error);
    }
    if (!result && side == HAUL_GUEST_SOURCE) {
        result = haul_guest_fill(&self->layout, options, self->memory, error);
    }
    if (!result) {
        result = choose_cpu(self, error);
    }
    if (!result) {
        result = add_devices(self, error);
    }
    if (!result && side == HAUL_GUEST_SOURCE) {
        result = start_runner(self, error);
        if (!result) {
            haul_guest_runner_resume(self->runner);
        }
    }
    if (result) {
        haul_guest_free(self);
        return result;
    }
    *guest = self;
    return 0;
}

void haul_guest_free(struct haul_guest *guest)
{
    if (!guest) {
        return;
    }
    haul_guest_runner_free(guest->runner);
    haul_devices_free(guest->devices);
    drop_cpu(guest);
    if (guest->memory) {
        munmap(guest->memory, guest->length);
    }
    if (guest->memory_fd >= 0) {
        close(guest->memory_fd);
    }
    free(guest);
}

unsigned char *haul_guest_memory(struct haul_guest *guest, uint64_t *length)
{
    *length = guest->length;
    return guest->memory;
}

int haul_guest_memory_fd(const struct haul_guest *guest)
{
    return guest->memory_fd;
}

const char *haul_guest_vcpu(const struct haul_guest *guest)
{
    return guest->cpu->ops->name;
}

const char *haul_guest_vcpu_reason(const struct haul_guest *guest)
{
    return guest->vcpu_reason;
}

const struct haul_guest_layout *haul_guest_get_layout(const struct haul_guest *guest)
{
    return guest->ready ? &guest->layout : NULL;
}

/* ---- running ------------------------------------------------------------------------------------------ */

int haul_guest_stop(struct haul_guest *guest, uint64_t *stopped_ns, struct haul_error *error)
{
    if (!guest->runner) {
        return 0;
    }
    return haul_guest_runner_pause(guest->runner, HAUL_GUEST_PAUSE_NOW, stopped_ns, error);
}

int haul_guest_resume(struct haul_guest *guest, struct haul_error *error)
{
    if (guest->retired) {
        return haul_error_set(error, EPERM, "this copy of the guest was given up and cannot run again");
    }
    if (!guest->ready) {
        return haul_error_set(error, EINVAL, "the guest has no state to run from");
    }
    if (guest->locked && mprotect(guest->memory, guest->length, PROT_READ | PROT_WRITE)) {
        return haul_error_set(error, errno, "cannot let the guest write its memory: %s", strerror(errno));
    }
    guest->locked = false;
    haul_guest_runner_resume(guest->runner);
    return 0;
}

void haul_guest_throttle(struct haul_guest *guest, unsigned percent)
{
    if (guest->runner) {
        haul_guest_runner_throttle(guest->runner, percent);
    }
}

void haul_guest_retire(struct haul_guest *guest)
{
    guest->retired = true;
    haul_guest_runner_free(guest->runner);
    guest->runner = NULL;
}

/* ---- self-check --------------------------------------------------------------------------------------- */

static int position_at_boundary(struct haul_guest *guest, struct haul_guest_position *position,
                                struct haul_error *error)
{
    int result = haul_guest_runner_pause(guest->runner, HAUL_GUEST_PAUSE_BOUNDARY, NULL, error);
    return result ? result : guest->cpu->ops->position(guest->cpu, position, error);
}

int haul_guest_check(struct haul_guest *guest, unsigned seconds, char *report, size_t size,
                     struct haul_error *error)
{
    if (!guest->runner || !haul_guest_runner_runs(guest->runner)) {
        struct haul_error why = {0};
        if (guest->runner && haul_guest_stop(guest, NULL, &why) == -EIO) { /* it had found something itself */
            return haul_error_set(error, EIO, "%s", why.message);
        }
        return haul_error_set(error, EINVAL, "the guest does not run here, so it cannot check itself");
    }
    struct haul_guest_position begin, end;
    int result = position_at_boundary(guest, &begin, error);
    end = begin;
    uint64_t deadline = haul_clock_ns() + seconds * 1000000000ull, writes = 0;
    while (!result && guest->dirty_bytes_per_s && haul_clock_ns() < deadline &&
           writes < guest->layout.hot_pages) {
        haul_guest_runner_resume(guest->runner);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
        result = position_at_boundary(guest, &end, error);
        writes = haul_guest_writes_between(&guest->layout, begin, end);
    }
    uint64_t due = guest->dirty_bytes_per_s / HAUL_GUEST_PAGE_SIZE * seconds;
    if (!result && due >= MIN_DUE_PAGES && !writes) {
        return haul_error_set(error, EIO, "self-check failed: the guest does not write, so it does not run");
    }
    if (!result) {
        result = haul_guest_verify(&guest->layout, guest->memory_fd, end, error);
    }
    if (result) {
        return result;
    }
    haul_guest_runner_resume(guest->runner);
    snprintf(report, size,
             "self-check passed: %" PRIu64 " pages (%" PRIu64 " MiB), %" PRIu64 " writes during the check",
             guest->layout.pages, guest->length >> 20, writes);
    return 0;
}

/* ---- tracking ----------------------------------------------------------------------------------------- */

static int make_tracker(struct haul_guest *guest, const char *name, struct haul_tracker **tracker,
                        struct haul_error *error)
{
    struct haul_tracked_range range = {
        .address = (uint64_t)(uintptr_t)guest->memory,
        .length = guest->length,
        .memory_fd = guest->memory_fd,
    };
    if (!strcmp(name, "uffd")) {
        return haul_tracker_uffd_new(0, &range, 1, tracker, error);
    }
    if (!strcmp(name, "soft-dirty")) {
        return haul_tracker_soft_dirty_new((int)getpid(), &range, 1, tracker, error);
    }
    return guest->cpu->ops->new_tracker(guest->cpu, name, tracker, error);
}

/* The cpu must not run while it learns of its tracker, or forgets it. */
static void tell_cpu(struct haul_guest *guest, struct haul_tracker *tracker)
{
    bool runs = guest->runner && haul_guest_runner_runs(guest->runner);
    if (runs) {
        haul_guest_runner_pause(guest->runner, HAUL_GUEST_PAUSE_NOW, NULL, NULL);
    }
    guest->cpu->ops->use_tracker(guest->cpu, tracker);
    if (runs) {
        haul_guest_runner_resume(guest->runner);
    }
}

int haul_guest_new_tracker(struct haul_guest *guest, struct haul_tracker **tracker, const char **name,
                           struct haul_error *error)
{
    /* Best first; every one of them works for some cpu only, or on some kernels only. */
    const char *const automatic[] = {"kvm-log", "uffd", "bitmap", "soft-dirty"};
    int result = -ENOTSUP;
    const char *found = guest->tracker;
    if (strcmp(guest->tracker, "auto") != 0) {
        result = make_tracker(guest, guest->tracker, tracker, error);
    }
    for (unsigned i = 0;
         !strcmp(guest->tracker, "auto") && result && i < sizeof automatic / sizeof *automatic; i++) {
        found = automatic[i];
        result = make_tracker(guest, found, tracker, error);
    }
    if (result) {
        return result;
    }
    /* Only "bitmap" and "kvm-ring" have something to be told by the cpu. */
    if (!strcmp(found, "bitmap") || !strcmp(found, "kvm-ring")) {
        tell_cpu(guest, *tracker);
    }
    *name = found;
    return 0;
}

void haul_guest_free_tracker(struct haul_guest *guest, struct haul_tracker *tracker)
{
    if (tracker) {
        tell_cpu(guest, NULL);
        haul_tracker_free(tracker);
    }
}
