/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/cpu.h"
#include "tools/machines/guest/kvm_state.h"
#include "tools/machines/guest/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Sent to the runner's thread, which blocks it except within KVM_RUN: no handler, nothing global. */
#define KICK_SIGNAL SIGUSR1

#define RING_ENTRIES 16384u
#define RING_BYTES 262144u /* of 16 bytes each */

/* Three pages that KVM on Intel wants for itself, above what the guest may have. */
#define TSS_ADDRESS 0xfffbd000u
#define MAX_MEMORY (3ull << 30)

struct kvm_cpu {
    struct haul_guest_cpu base;
    const struct haul_guest_layout *layout;
    unsigned char *memory;
    uint64_t length;
    int vm_fd;
    int vcpu_fd;
    bool dirty_ring;
    struct kvm_run *run; /* shared with the kernel */
    size_t run_size;
    struct haul_guest_kvm_state *state;
    bool asking;                  /* the guest waits for the answer to its IN */
    struct haul_tracker *tracker; /* "kvm-ring": emptied before the ring is full; else NULL */
    uint32_t uncollected;         /* pages asked of the guest since then */
};

/* ---- running ------------------------------------------------------------------------------------------ */

static void answer(struct kvm_cpu *self, uint32_t pages)
{
    if (self->asking) {
        memcpy((unsigned char *)self->run + self->run->io.data_offset, &pages, sizeof pages);
        self->asking = false;
    }
}

static void consume_kick(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KICK_SIGNAL);
    sigtimedwait(&set, NULL, &(struct timespec){0});
}

/* A port access: the workload asks for work, or found a wrong page. */
static int handle_io(struct kvm_cpu *self, struct haul_error *error)
{
    bool in = self->run->io.direction == KVM_EXIT_IO_IN;
    uint32_t value;
    memcpy(&value, (unsigned char *)self->run + self->run->io.data_offset, sizeof value);
    bool whole = self->run->io.size == sizeof value && self->run->io.count == 1;
    if (whole && in && self->run->io.port == HAUL_GUEST_PORT_ASK) {
        self->asking = true;
        return HAUL_GUEST_RUN_BOUNDARY;
    }
    if (whole && !in && self->run->io.port == HAUL_GUEST_PORT_FAIL) {
        return haul_error_set(error, EIO,
                              "self-check failed: the guest found page %" PRIu32
                              " lost, stale or torn: it does not hold the version before the one it writes",
                              value / HAUL_GUEST_PAGE_SIZE);
    }
    return haul_error_set(error, EIO,
                          "the guest used I/O port 0x%x, which its program does not: memory is corrupt",
                          self->run->io.port);
}

/*
 * Empties the ring before it can be full. KVM stops a vCPU for a full ring only when it enters guest mode:
 * where it emulates the guest, which also takes an entry for each stamp rather than each page, it overruns
 * the ring instead.
 */
static void make_room(struct kvm_cpu *self, uint32_t pages)
{
    self->uncollected += pages;
    if (self->tracker && self->uncollected >= RING_ENTRIES / HAUL_GUEST_STAMPS / 4) {
        /* A failure is the tracker's to report, at its next sync; the guest goes on. */
        haul_tracker_kvm_ring_collect(self->tracker, NULL);
        self->uncollected = pages;
    }
}

static int kvm_cpu_run(struct haul_guest_cpu *cpu, uint32_t pages, struct haul_error *error)
{
    struct kvm_cpu *self = (struct kvm_cpu *)cpu;
    int result;
    make_room(self, pages);
    answer(self, pages);
    for (;;) {
        if (ioctl(self->vcpu_fd, KVM_RUN, 0)) {
            if (errno == EINTR || errno == EAGAIN) {
                consume_kick();
                return HAUL_GUEST_RUN_INTERRUPTED;
            }
            return haul_error_set(error, errno, "KVM_RUN failed: %s", strerror(errno));
        }
        switch (self->run->exit_reason) {
        case KVM_EXIT_IO:
            return handle_io(self, error);
        case KVM_EXIT_DIRTY_RING_FULL:
            if (!self->tracker) {
                return haul_error_set(error, EIO, "KVM's dirty ring is full and nothing collects it");
            }
            result = haul_tracker_kvm_ring_collect(self->tracker, error);
            if (result) {
                return result;
            }
            break;
        case KVM_EXIT_INTERNAL_ERROR:
            return haul_error_set(error, EIO, "KVM cannot run the guest's program (internal error %u)",
                                  self->run->internal.suberror);
        default:
            return haul_error_set(error, EIO,
                                  "the guest left its program (KVM exit %u): memory or registers are corrupt",
                                  self->run->exit_reason);
        }
    }
}

static void kvm_cpu_kick(struct haul_guest_cpu *cpu, pthread_t runner)
{
    (void)cpu;
    pthread_kill(runner, KICK_SIGNAL);
}

/* The registers are those after the IN only once KVM_RUN was entered again with the answer. */
static int kvm_cpu_settle(struct haul_guest_cpu *cpu, struct haul_error *error)
{
    struct kvm_cpu *self = (struct kvm_cpu *)cpu;
    answer(self, 0);
    self->run->immediate_exit = 1;
    int result = ioctl(self->vcpu_fd, KVM_RUN, 0);
    int code = errno;
    self->run->immediate_exit = 0;
    if (result && code == EINTR) {
        return 0;
    }
    return haul_error_set(error, result ? code : EIO, "cannot stop the vCPU between two instructions: %s",
                          result ? strerror(code) : "it went on");
}

/* ---- state -------------------------------------------------------------------------------------------- */

static int get_registers(struct kvm_cpu *self, struct kvm_regs *regs, struct kvm_sregs *sregs,
                         struct haul_error *error)
{
    if (ioctl(self->vcpu_fd, KVM_GET_REGS, regs) || ioctl(self->vcpu_fd, KVM_GET_SREGS, sregs)) {
        return haul_error_set(error, errno, "cannot read the vCPU's registers: %s", strerror(errno));
    }
    return 0;
}

static int set_registers(struct kvm_cpu *self, const struct kvm_regs *regs, const struct kvm_sregs *sregs,
                         struct haul_error *error)
{
    if (ioctl(self->vcpu_fd, KVM_SET_SREGS, sregs) || ioctl(self->vcpu_fd, KVM_SET_REGS, regs)) {
        return haul_error_set(error, errno, "KVM refuses the vCPU's registers: %s", strerror(errno));
    }
    return 0;
}

static int kvm_cpu_add_devices(struct haul_guest_cpu *cpu, struct haul_devices *devices,
                               struct haul_error *error)
{
    return haul_guest_kvm_state_add(((struct kvm_cpu *)cpu)->state, devices, error);
}

static int kvm_cpu_boot(struct haul_guest_cpu *cpu, struct haul_error *error)
{
    struct kvm_cpu *self = (struct kvm_cpu *)cpu;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    int result = get_registers(self, &regs, &sregs, error);
    if (result) {
        return result;
    }
    /* Flat 32-bit protected mode, no paging. */
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_segment data = code;
    data.selector = 16;
    data.type = 3;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 |= 1;
    regs = (struct kvm_regs){.rip = HAUL_GUEST_CODE_ADDRESS, .rflags = 2, .rbx = 1};
    result = set_registers(self, &regs, &sregs, error);
    if (!result) {
        result = kvm_cpu_run(cpu, 0, error);
    }
    return result < 0 ? result : 0;
}

static int kvm_cpu_position(struct haul_guest_cpu *cpu, struct haul_guest_position *position,
                            struct haul_error *error)
{
    struct kvm_cpu *self = (struct kvm_cpu *)cpu;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    int result = get_registers(self, &regs, &sregs, error);
    if (result) {
        return result;
    }
    uint64_t hot = self->layout->hot_pages;
    if (regs.rcx >= hot || regs.rsi != regs.rcx * self->layout->stride % hot || regs.rbx > UINT32_MAX) {
        return haul_error_set(error, EIO,
                              "self-check failed: the vCPU's registers (ebx %#" PRIx64 ", ecx %#" PRIx64
                              ", esi %#" PRIx64 ") are not the workload's",
                              (uint64_t)regs.rbx, (uint64_t)regs.rcx, (uint64_t)regs.rsi);
    }
    *position = (struct haul_guest_position){.version = (uint32_t)regs.rbx, .index = (uint32_t)regs.rcx};
    return 0;
}

/* ---- tracking ----------------------------------------------------------------------------------------- */

static int kvm_cpu_new_tracker(struct haul_guest_cpu *cpu, const char *name, struct haul_tracker **tracker,
                               struct haul_error *error)
{
    struct kvm_cpu *self = (struct kvm_cpu *)cpu;
    struct haul_kvm_slot slot = {
        .pages = self->length / HAUL_GUEST_PAGE_SIZE,
        .userspace_address = (uint64_t)(uintptr_t)self->memory,
    };
    if (!strcmp(name, "kvm-log") && !self->dirty_ring) {
        return haul_tracker_kvm_log_new(self->vm_fd, &slot, 1, tracker, error);
    }
    if (!strcmp(name, "kvm-ring") && self->dirty_ring) {
        return haul_tracker_kvm_ring_new(self->vm_fd, &self->vcpu_fd, 1, RING_BYTES, &slot, 1, tracker,
                                         error);
    }
    return haul_error_set(error, ENOTSUP,
                          "tracker %s does not see a KVM vCPU's writes: use auto, kvm-log, kvm-ring, uffd or "
                          "soft-dirty",
                          name);
}

static void kvm_cpu_use_tracker(struct haul_guest_cpu *cpu, struct haul_tracker *tracker)
{
    ((struct kvm_cpu *)cpu)->tracker = tracker;
}

/* ---- making one --------------------------------------------------------------------------------------- */

static void kvm_cpu_free(struct haul_guest_cpu *cpu)
{
    struct kvm_cpu *self = (struct kvm_cpu *)cpu;
    if (self->run) {
        munmap(self->run, self->run_size);
    }
    haul_guest_kvm_state_free(self->state);
    if (self->vcpu_fd >= 0) {
        close(self->vcpu_fd);
    }
    if (self->vm_fd >= 0) {
        close(self->vm_fd);
    }
    free(self);
}

static const struct haul_guest_cpu_ops kvm_ops = {
    .name = "KVM vCPU",
    .state_kind = HAUL_GUEST_STATE_KIND_KVM,
    .boot = kvm_cpu_boot,
    .run = kvm_cpu_run,
    .kick = kvm_cpu_kick,
    .settle = kvm_cpu_settle,
    .add_devices = kvm_cpu_add_devices,
    .position = kvm_cpu_position,
    .new_tracker = kvm_cpu_new_tracker,
    .use_tracker = kvm_cpu_use_tracker,
    .free = kvm_cpu_free,
};

/* The ring must be there before the first vCPU. */
static int enable_ring(struct kvm_cpu *self, struct haul_error *error)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {RING_BYTES}};
    if (ioctl(self->vm_fd, KVM_ENABLE_CAP, &cap)) {
        return haul_error_set(error, errno, "this kernel's KVM has no dirty ring (%s): use tracker kvm-log",
                              strerror(errno));
    }
    self->dirty_ring = true;
    return 0;
}

static int make_vm(struct kvm_cpu *self, int kvm_fd, bool dirty_ring, struct haul_error *error)
{
    self->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    if (self->vm_fd < 0) {
        return haul_error_set(error, errno, "KVM cannot make a virtual machine: %s", strerror(errno));
    }
    int result = dirty_ring ? enable_ring(self, error) : 0;
    if (result) {
        return result;
    }
    struct kvm_userspace_memory_region region = {
        .memory_size = self->length,
        .userspace_addr = (uint64_t)(uintptr_t)self->memory,
    };
    if (ioctl(self->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) ||
        ioctl(self->vm_fd, KVM_SET_USER_MEMORY_REGION, &region)) {
        return haul_error_set(error, errno, "KVM refuses the guest's memory: %s", strerror(errno));
    }
    return 0;
}

static int make_vcpu(struct kvm_cpu *self, int kvm_fd, struct haul_error *error)
{
    self->vcpu_fd = ioctl(self->vm_fd, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (self->vcpu_fd < 0 || size < (int)sizeof *self->run) {
        return haul_error_set(error, errno, "KVM cannot make a vCPU: %s", strerror(errno));
    }
    void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, self->vcpu_fd, 0);
    if (run == MAP_FAILED) {
        return haul_error_set(error, errno, "cannot map the vCPU: %s", strerror(errno));
    }
    self->run = run;
    self->run_size = (size_t)size;

    /* Within KVM_RUN every signal is blocked but the kick. The kernel's signal set is 8 bytes. */
    struct {
        struct kvm_signal_mask header;
        unsigned char set[8];
    } mask = {.header.len = sizeof mask.set};
    uint64_t set = ~(1ull << (KICK_SIGNAL - 1));
    memcpy(mask.set, &set, sizeof set);
    if (ioctl(self->vcpu_fd, KVM_SET_SIGNAL_MASK, &mask)) {
        return haul_error_set(error, errno, "cannot set the vCPU's signal mask: %s", strerror(errno));
    }
    return 0;
}

int haul_guest_kvm_cpu_new(const struct haul_guest_layout *layout, unsigned char *memory, uint64_t length,
                           bool dirty_ring, struct haul_guest_cpu **cpu, struct haul_error *error)
{
    if (length > MAX_MEMORY) {
        return haul_error_set(error, EINVAL,
                              "a KVM guest has at most 3 GiB of memory: use less, or vcpu thread");
    }
    struct kvm_cpu *self = calloc(1, sizeof *self);
    if (!self) {
        return haul_error_set(error, ENOMEM, "no memory for the guest's vCPU");
    }
    self->base.ops = &kvm_ops;
    self->layout = layout;
    self->memory = memory;
    self->length = length;
    self->vm_fd = self->vcpu_fd = -1;

    int result = 0;
    int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_fd < 0) {
        result = haul_error_set(error, errno, "cannot open /dev/kvm: %s", strerror(errno));
        goto fail;
    }
    if (ioctl(kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION ||
        ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0) {
        result = haul_error_set(error, ENOSYS, "this kernel's KVM is too old (no KVM_CAP_IMMEDIATE_EXIT)");
        goto fail;
    }
    result = make_vm(self, kvm_fd, dirty_ring, error);
    if (!result) {
        result = make_vcpu(self, kvm_fd, error);
    }
    if (!result) {
        result = haul_guest_kvm_state_new(kvm_fd, self->vm_fd, self->vcpu_fd, &self->state, error);
    }
    if (result) {
        goto fail;
    }
    close(kvm_fd);
    *cpu = &self->base;
    return 0;

fail:
    if (kvm_fd >= 0) {
        close(kvm_fd);
    }
    kvm_cpu_free(&self->base);
    return result;
}
