/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/guest.h"

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

#define STATE_MAGIC 0x54534748u /* "HGST" */
#define STATE_VERSION 1u

/* How long the self-check waits for progress between two looks. */
#define LOOK_NS 20000000L
/* A guest that should have written this many pages and wrote none does not run. */
#define MIN_DUE_PAGES 16u

enum vcpu_choice { VCPU_AUTO, VCPU_KVM, VCPU_THREAD };

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
    };
}

/* ---- making one --------------------------------------------------------------------------------------- */

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
        result = haul_guest_fill(&self->layout, self->memory, error);
    }
    if (!result) {
        result = choose_cpu(self, error);
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

/* ---- state -------------------------------------------------------------------------------------------- */

/* Magic, version, kind of vCPU, layout, rate; what the vCPU adds follows. */
static void state_fields(struct haul_guest_codec *codec, uint32_t *magic, uint32_t *version, uint32_t *kind,
                         struct haul_guest_layout *layout, uint64_t *dirty_bytes_per_s)
{
    HAUL_GUEST_FIELD(codec, *magic);
    HAUL_GUEST_FIELD(codec, *version);
    HAUL_GUEST_FIELD(codec, *kind);
    HAUL_GUEST_FIELD(codec, layout->pages);
    HAUL_GUEST_FIELD(codec, layout->seed);
    HAUL_GUEST_FIELD(codec, layout->hot_pages);
    HAUL_GUEST_FIELD(codec, layout->stride);
    HAUL_GUEST_FIELD(codec, layout->inverse);
    HAUL_GUEST_FIELD(codec, layout->zero_pages);
    HAUL_GUEST_FIELD(codec, layout->untouched_pages);
    HAUL_GUEST_FIELD(codec, layout->content);
    HAUL_GUEST_FIELD(codec, *dirty_bytes_per_s);
}

int haul_guest_save(struct haul_guest *guest, unsigned char *bytes, size_t capacity, size_t *length,
                    struct haul_error *error)
{
    if (!guest->ready || (guest->runner && haul_guest_runner_runs(guest->runner))) {
        return haul_error_set(error, EINVAL, "the guest must be stopped before its state is saved");
    }
    struct haul_guest_codec codec = {.bytes = bytes, .size = capacity, .writing = true};
    uint32_t magic = STATE_MAGIC, version = STATE_VERSION, kind = guest->cpu->ops->state_kind;
    state_fields(&codec, &magic, &version, &kind, &guest->layout, &guest->dirty_bytes_per_s);
    int result = guest->cpu->ops->state(guest->cpu, &codec, error);
    if (!result && codec.bad) {
        result = haul_error_set(error, ENOSPC, "the guest's state does not fit into %zu bytes", capacity);
    }
    *length = codec.at;
    return result;
}

/* The kind of vCPU must be the source's: only memory at a page boundary would suit the other. */
static int match_cpu(struct haul_guest *guest, uint32_t kind, struct haul_error *error)
{
    if (kind == guest->cpu->ops->state_kind) {
        return 0;
    }
    if (kind == HAUL_GUEST_STATE_KIND_THREAD && guest->vcpu == VCPU_AUTO) {
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

static int load_fields(struct haul_guest *guest, struct haul_guest_codec *codec, struct haul_error *error)
{
    uint32_t magic = 0, version = 0, kind = 0;
    struct haul_guest_layout layout = {0};
    uint64_t dirty_bytes_per_s = 0;
    state_fields(codec, &magic, &version, &kind, &layout, &dirty_bytes_per_s);
    if (codec->bad || magic != STATE_MAGIC || version != STATE_VERSION ||
        (kind != HAUL_GUEST_STATE_KIND_THREAD && kind != HAUL_GUEST_STATE_KIND_KVM)) {
        return haul_error_set(error, EINVAL, "the guest's state is damaged or of another version of haul");
    }
    int result = haul_guest_layout_check(&layout, error);
    if (result) {
        return result;
    }
    if (layout.pages * HAUL_GUEST_PAGE_SIZE != guest->length) {
        return haul_error_set(error, EINVAL,
                              "the source's guest has %" PRIu64 " bytes of memory, this one %" PRIu64
                              ": give both the same",
                              layout.pages * HAUL_GUEST_PAGE_SIZE, guest->length);
    }
    guest->layout = layout;
    guest->dirty_bytes_per_s = dirty_bytes_per_s;
    return match_cpu(guest, kind, error);
}

int haul_guest_load(struct haul_guest *guest, const unsigned char *bytes, size_t length,
                    struct haul_error *error)
{
    if (guest->side != HAUL_GUEST_DESTINATION || guest->ready) {
        return haul_error_set(error, EINVAL, "the guest has a state already");
    }
    /* A reading codec does not change its bytes. */
    struct haul_guest_codec codec = {.bytes = (unsigned char *)(uintptr_t)bytes, .size = length};
    int result = load_fields(guest, &codec, error);
    if (!result) {
        result = guest->cpu->ops->state(guest->cpu, &codec, error);
    }
    if (!result && (codec.bad || codec.at != length)) {
        result = haul_error_set(error, EINVAL, "the guest's state of %zu bytes is %s", length,
                                codec.bad ? "cut short" : "too long");
    }
    return result ? result : start_runner(guest, error);
}

/* ---- self-check --------------------------------------------------------------------------------------- */

static int position_at_boundary(struct haul_guest *guest, struct haul_guest_position *position,
                                struct haul_error *error)
{
    int result = haul_guest_runner_pause(guest->runner, HAUL_GUEST_PAUSE_BOUNDARY, NULL, error);
    return result ? result : guest->cpu->ops->position(guest->cpu, position, error);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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
    uint64_t deadline = now_ns() + seconds * 1000000000ull, writes = 0;
    while (!result && guest->dirty_bytes_per_s && now_ns() < deadline && writes < guest->layout.hot_pages) {
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
             "self-check passed: %" PRIu64 " pages (%" PRIu64 " MiB), %" PRIu64 " writes after the move",
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
