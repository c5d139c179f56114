/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/kvm_state.h"

#include "tools/machines/guest/cpu.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSRS_MAX 512
#define XSAVE_LEAST 4096 /* sizeof(struct kvm_xsave) without dynamic features */
#define XSAVE_MAX 16384

struct xsave {
    uint32_t length;
    uint8_t region[XSAVE_MAX]; /* struct kvm_xsave: what KVM_GET_XSAVE2 gives */
};

struct haul_guest_kvm_state {
    int vm_fd;
    int vcpu_fd;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct xsave xsave;
    uint32_t xsave_length; /* as KVM has it here */
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debug;
    uint32_t mp_state;
    uint32_t msr_count;
    struct kvm_msr_entry msrs[MSRS_MAX];
    uint32_t known_count; /* the model-specific registers that KVM gives and takes here */
    uint32_t known[MSRS_MAX];
    struct kvm_vcpu_events events;
    bool events_came; /* while loading */
    uint64_t clock_ns;
};

/* ---- descriptions ------------------------------------------------------------------------------------- */

#define REGISTER(member) HAUL_DEVICE_VALUE(struct kvm_regs, member, U64, 0)
static const struct haul_device_field register_fields[] = {
    REGISTER(rax), REGISTER(rbx), REGISTER(rcx),    REGISTER(rdx),   REGISTER(rsi),
    REGISTER(rdi), REGISTER(rsp), REGISTER(rbp),    REGISTER(r8),    REGISTER(r9),
    REGISTER(r10), REGISTER(r11), REGISTER(r12),    REGISTER(r13),   REGISTER(r14),
    REGISTER(r15), REGISTER(rip), REGISTER(rflags), HAUL_DEVICE_END,
};

static const struct haul_device_field segment_fields[] = {
    HAUL_DEVICE_VALUE(struct kvm_segment, base, U64, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, limit, U32, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, selector, U16, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, type, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, present, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, dpl, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, db, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, s, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, l, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, g, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, avl, U8, 0),
    HAUL_DEVICE_VALUE(struct kvm_segment, unusable, U8, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field table_fields[] = {
    HAUL_DEVICE_VALUE(struct kvm_dtable, base, U64, 0),
    HAUL_DEVICE_VALUE(struct kvm_dtable, limit, U16, 0),
    HAUL_DEVICE_END,
};

#define SEGMENT(member) HAUL_DEVICE_NESTED(struct kvm_sregs, member, segment_fields, 0)
#define CONTROL(member) HAUL_DEVICE_VALUE(struct kvm_sregs, member, U64, 0)
static const struct haul_device_field system_fields[] = {
    SEGMENT(cs),
    SEGMENT(ds),
    SEGMENT(es),
    SEGMENT(fs),
    SEGMENT(gs),
    SEGMENT(ss),
    SEGMENT(tr),
    SEGMENT(ldt),
    HAUL_DEVICE_NESTED(struct kvm_sregs, gdt, table_fields, 0),
    HAUL_DEVICE_NESTED(struct kvm_sregs, idt, table_fields, 0),
    CONTROL(cr0),
    CONTROL(cr2),
    CONTROL(cr3),
    CONTROL(cr4),
    CONTROL(cr8),
    CONTROL(efer),
    CONTROL(apic_base),
    HAUL_DEVICE_ARRAY(struct kvm_sregs, interrupt_bitmap, U64, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field xsave_fields[] = {
    HAUL_DEVICE_VALUE(struct xsave, length, U32, 0),
    HAUL_DEVICE_COUNTED_BYTES(struct xsave, region, length, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field xcr_fields[] = {
    HAUL_DEVICE_VALUE(struct kvm_xcr, xcr, U32, 0),
    HAUL_DEVICE_VALUE(struct kvm_xcr, value, U64, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field xcrs_fields[] = {
    HAUL_DEVICE_VALUE(struct kvm_xcrs, nr_xcrs, U32, 0),
    HAUL_DEVICE_COUNTED_NESTED(struct kvm_xcrs, xcrs, xcr_fields, nr_xcrs, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field debug_fields[] = {
    HAUL_DEVICE_ARRAY(struct kvm_debugregs, db, U64, 0),
    HAUL_DEVICE_VALUE(struct kvm_debugregs, dr6, U64, 0),
    HAUL_DEVICE_VALUE(struct kvm_debugregs, dr7, U64, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field msr_fields[] = {
    HAUL_DEVICE_VALUE(struct kvm_msr_entry, index, U32, 0),
    HAUL_DEVICE_VALUE(struct kvm_msr_entry, data, U64, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field vcpu_fields[] = {
    HAUL_DEVICE_NESTED(struct haul_guest_kvm_state, regs, register_fields, 0),
    HAUL_DEVICE_NESTED(struct haul_guest_kvm_state, sregs, system_fields, 0),
    HAUL_DEVICE_NESTED(struct haul_guest_kvm_state, xsave, xsave_fields, 0),
    HAUL_DEVICE_NESTED(struct haul_guest_kvm_state, xcrs, xcrs_fields, 0),
    HAUL_DEVICE_NESTED(struct haul_guest_kvm_state, debug, debug_fields, 0),
    HAUL_DEVICE_VALUE(struct haul_guest_kvm_state, mp_state, U32, 0),
    HAUL_DEVICE_VALUE(struct haul_guest_kvm_state, msr_count, U32, 0),
    HAUL_DEVICE_COUNTED_NESTED(struct haul_guest_kvm_state, msrs, msr_fields, msr_count, 0),
    HAUL_DEVICE_END,
};

#define EVENT(of, member) HAUL_DEVICE_VALUE(__typeof__(((struct kvm_vcpu_events *)0)->of), member, U8, 0)
static const struct haul_device_field exception_fields[] = {
    EVENT(exception, injected),
    EVENT(exception, nr),
    EVENT(exception, has_error_code),
    HAUL_DEVICE_VALUE(__typeof__(((struct kvm_vcpu_events *)0)->exception), error_code, U32, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field interrupt_fields[] = {
    EVENT(interrupt, injected), EVENT(interrupt, nr), EVENT(interrupt, soft),
    EVENT(interrupt, shadow),   HAUL_DEVICE_END,
};

static const struct haul_device_field nmi_fields[] = {
    EVENT(nmi, injected),
    EVENT(nmi, pending),
    EVENT(nmi, masked),
    HAUL_DEVICE_END,
};

static const struct haul_device_field smi_fields[] = {
    EVENT(smi, smm),          EVENT(smi, pending), EVENT(smi, smm_inside_nmi),
    EVENT(smi, latched_init), HAUL_DEVICE_END,
};

#define EVENTS(member, list) HAUL_DEVICE_NESTED(struct kvm_vcpu_events, member, list, 0)
static const struct haul_device_field pending_fields[] = {
    EVENTS(exception, exception_fields),
    EVENTS(interrupt, interrupt_fields),
    EVENTS(nmi, nmi_fields),
    EVENTS(smi, smi_fields),
    HAUL_DEVICE_VALUE(struct kvm_vcpu_events, flags, U32, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field events_fields[] = {
    HAUL_DEVICE_NESTED(struct haul_guest_kvm_state, events, pending_fields, 0),
    HAUL_DEVICE_END,
};

static const struct haul_device_field clock_fields[] = {
    HAUL_DEVICE_VALUE(struct haul_guest_kvm_state, clock_ns, U64, 0),
    HAUL_DEVICE_END,
};

/* ---- the vCPU ----------------------------------------------------------------------------------------- */

struct one_msr {
    struct kvm_msrs header;
    struct kvm_msr_entry entry;
};

static bool get_msr(int vcpu_fd, uint32_t index, struct kvm_msr_entry *entry)
{
    struct one_msr msr = {.header.nmsrs = 1, .entry.index = index};
    bool good = ioctl(vcpu_fd, KVM_GET_MSRS, &msr) == 1;
    *entry = msr.entry;
    return good;
}

static bool set_msr(int vcpu_fd, const struct kvm_msr_entry *entry)
{
    struct one_msr msr = {.header.nmsrs = 1, .entry = *entry};
    return ioctl(vcpu_fd, KVM_SET_MSRS, &msr) == 1;
}

static int find_xsave_length(struct haul_guest_kvm_state *self, struct haul_error *error)
{
    /* 0 from kernels before 5.17, which have no features that need more. */
    int length = ioctl(self->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    self->xsave_length = length > XSAVE_LEAST ? (uint32_t)length : XSAVE_LEAST;
    return length <= XSAVE_MAX
               ? 0
               : haul_error_set(error, ENOTSUP,
                                "KVM's state of the FPU has %d bytes here, this haul takes %d", length,
                                XSAVE_MAX);
}

/* KVM lists registers that a vCPU without the feature does not take back. */
static int find_msrs(struct haul_guest_kvm_state *self, int kvm_fd, struct haul_error *error)
{
    struct {
        struct kvm_msr_list header;
        uint32_t indices[MSRS_MAX];
    } list = {.header.nmsrs = MSRS_MAX};
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &list)) {
        return haul_error_set(error, errno, "KVM does not list its model-specific registers: %s",
                              strerror(errno));
    }
    for (uint32_t i = 0; i < list.header.nmsrs && i < MSRS_MAX; i++) {
        struct kvm_msr_entry entry;
        if (get_msr(self->vcpu_fd, list.indices[i], &entry) && set_msr(self->vcpu_fd, &entry)) {
            self->known[self->known_count++] = list.indices[i];
        }
    }
    return 0;
}

static int get_vcpu(void *object, struct haul_error *error)
{
    struct haul_guest_kvm_state *self = object;
    struct kvm_mp_state mp;
    unsigned long get_xsave = self->xsave_length > XSAVE_LEAST ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
    if (ioctl(self->vcpu_fd, KVM_GET_REGS, &self->regs) ||
        ioctl(self->vcpu_fd, KVM_GET_SREGS, &self->sregs) ||
        ioctl(self->vcpu_fd, get_xsave, self->xsave.region) ||
        ioctl(self->vcpu_fd, KVM_GET_XCRS, &self->xcrs) ||
        ioctl(self->vcpu_fd, KVM_GET_DEBUGREGS, &self->debug) ||
        ioctl(self->vcpu_fd, KVM_GET_MP_STATE, &mp) ||
        ioctl(self->vcpu_fd, KVM_GET_VCPU_EVENTS, &self->events)) {
        return haul_error_set(error, errno, "cannot read the vCPU's registers: %s", strerror(errno));
    }
    self->xsave.length = self->xsave_length;
    self->mp_state = mp.mp_state;
    self->msr_count = self->known_count;
    for (uint32_t i = 0; i < self->known_count; i++) {
        if (!get_msr(self->vcpu_fd, self->known[i], &self->msrs[i])) {
            return haul_error_set(error, EIO, "cannot read the vCPU's model-specific register %#" PRIx32,
                                  self->known[i]);
        }
    }
    return 0;
}

static int set_vcpu(void *object, uint32_t version, struct haul_error *error)
{
    (void)version;
    struct haul_guest_kvm_state *self = object;
    struct kvm_mp_state mp = {.mp_state = self->mp_state};
    bool events_came = self->events_came;
    self->events_came = false;
    uint32_t length = self->xsave.length;
    if (length < XSAVE_LEAST || length > self->xsave_length) {
        return haul_error_set(error, EINVAL,
                              "field xsave.length: KVM takes %d to %" PRIu32 " bytes here, not %" PRIu32,
                              XSAVE_LEAST, self->xsave_length, length);
    }
    /* KVM reads all that it has room for. Features that the source did not have are in their initial state.
     */
    memset(self->xsave.region + length, 0, XSAVE_MAX - length);
    const struct {
        const char *field;
        unsigned long request;
        void *argument;
        bool wanted;
    } steps[] = {
        {"sregs", KVM_SET_SREGS, &self->sregs, true},
        {"regs", KVM_SET_REGS, &self->regs, true},
        {"xcrs", KVM_SET_XCRS, &self->xcrs, self->xcrs.nr_xcrs > 0},
        {"xsave", KVM_SET_XSAVE, self->xsave.region, true},
        {"debug", KVM_SET_DEBUGREGS, &self->debug, true},
        {"mp_state", KVM_SET_MP_STATE, &mp, true},
        {"events", KVM_SET_VCPU_EVENTS, &self->events, events_came},
    };
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].wanted && ioctl(self->vcpu_fd, steps[i].request, steps[i].argument)) {
            return haul_error_set(error, EINVAL, "field %s: KVM refuses it: %s", steps[i].field,
                                  strerror(errno));
        }
    }
    for (uint32_t i = 0; i < self->msr_count; i++) {
        if (!set_msr(self->vcpu_fd, &self->msrs[i])) {
            return haul_error_set(error, EINVAL,
                                  "field msrs[%" PRIu32 "]: KVM refuses register %#" PRIx32 " = %#" PRIx64, i,
                                  (uint32_t)self->msrs[i].index, (uint64_t)self->msrs[i].data);
        }
    }
    return 0;
}

/*
 * What is under way to the vCPU: an exception, an interrupt, a non-maskable or system management one. There
 * is hardly ever any when it stands still between two instructions, so they are a subsection.
 */
static bool has_events(const void *object)
{
    const struct kvm_vcpu_events *events = &((const struct haul_guest_kvm_state *)object)->events;
    const uint8_t states[] = {events->exception.injected,
                              events->interrupt.injected,
                              events->interrupt.shadow,
                              events->nmi.injected,
                              events->nmi.pending,
                              events->nmi.masked,
                              events->smi.smm,
                              events->smi.pending,
                              events->smi.smm_inside_nmi,
                              events->smi.latched_init};
    uint8_t any = 0;
    for (unsigned i = 0; i < sizeof states; i++) {
        any |= states[i];
    }
    return any != 0;
}

/* They are given to KVM with the other registers, which must come first. */
static int note_events(void *object, uint32_t version, struct haul_error *error)
{
    struct haul_guest_kvm_state *self = object;
    (void)version;
    (void)error;
    self->events_came = true;
    return 0;
}

/* ---- the clock ---------------------------------------------------------------------------------------- */

static int get_clock(void *object, struct haul_error *error)
{
    struct haul_guest_kvm_state *self = object;
    struct kvm_clock_data clock = {0};
    if (ioctl(self->vm_fd, KVM_GET_CLOCK, &clock)) {
        return haul_error_set(error, errno, "cannot read the guest's clock: %s", strerror(errno));
    }
    self->clock_ns = clock.clock;
    return 0;
}

static int set_clock(void *object, uint32_t version, struct haul_error *error)
{
    (void)version;
    struct haul_guest_kvm_state *self = object;
    struct kvm_clock_data clock = {.clock = self->clock_ns};
    return ioctl(self->vm_fd, KVM_SET_CLOCK, &clock)
               ? haul_error_set(error, EINVAL, "field clock_ns: KVM refuses it: %s", strerror(errno))
               : 0;
}

/* ---- the devices -------------------------------------------------------------------------------------- */

static const struct haul_device_description events_description = {
    .name = "events",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = events_fields,
    .needed = has_events,
    .post_load = note_events,
};

static const struct haul_device_description *const vcpu_subsections[] = {&events_description, NULL};

static const struct haul_device_description vcpu_description = {
    .name = "vcpu",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = vcpu_fields,
    .subsections = vcpu_subsections,
    .pre_save = get_vcpu,
    .post_load = set_vcpu,
};

static const struct haul_device_description clock_description = {
    .name = "clock",
    .version = HAUL_DEVICE_VERSION(1, 0),
    .fields = clock_fields,
    .pre_save = get_clock,
    .post_load = set_clock,
};

int haul_guest_kvm_state_add(struct haul_guest_kvm_state *state, struct haul_devices *devices,
                             struct haul_error *error)
{
    /* The clock first: registers of the vCPU may count from it. */
    const struct haul_device clock = {
        .description = &clock_description, .priority = HAUL_GUEST_PRIORITY_CPU + 1, .object = state};
    const struct haul_device vcpu = {
        .description = &vcpu_description, .priority = HAUL_GUEST_PRIORITY_CPU, .object = state};
    int result = haul_devices_add(devices, &clock, error);
    return result ? result : haul_devices_add(devices, &vcpu, error);
}

int haul_guest_kvm_state_new(int kvm_fd, int vm_fd, int vcpu_fd, struct haul_guest_kvm_state **state,
                             struct haul_error *error)
{
    struct haul_guest_kvm_state *self = calloc(1, sizeof *self);
    if (!self) {
        return haul_error_set(error, ENOMEM, "no memory for the vCPU's state");
    }
    self->vm_fd = vm_fd;
    self->vcpu_fd = vcpu_fd;
    int result = find_xsave_length(self, error);
    if (!result) {
        result = find_msrs(self, kvm_fd, error);
    }
    if (result) {
        free(self);
        return result;
    }
    *state = self;
    return 0;
}

void haul_guest_kvm_state_free(struct haul_guest_kvm_state *state)
{
    free(state);
}
