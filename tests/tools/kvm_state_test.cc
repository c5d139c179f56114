// SPDX-License-Identifier: Apache-2.0
// The state of a KVM vCPU that runs no program: its registers, and what is under way to it.
#include "tools/machines/guest/kvm_state.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <memory>
#include <string>
#include <sys/ioctl.h>
#include <unistd.h>
#include <vector>

namespace
{

// As struct kvm_xsave, which ends with an array without a length: that makes it, and with it the requests'
// numbers, others in C++ than in C.
struct Xsave {
    uint32_t region[1024];
};
constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, Xsave), kSetXsave = _IOW(KVMIO, 0xa5, Xsave);

class Vcpu
{
  public:
    // `whole`: with all features that KVM has here.
    explicit Vcpu(bool whole = false) : kvm_(open("/dev/kvm", O_RDWR | O_CLOEXEC))
    {
        vm_ = ioctl(kvm_, KVM_CREATE_VM, 0);
        vcpu_ = ioctl(vm_, KVM_CREATE_VCPU, 0);
        if (whole && vcpu_ >= 0) {
            auto cpuid = std::make_unique<Cpuid>();
            cpuid->head.count = 256;
            EXPECT_EQ(ioctl(kvm_, _IOWR(KVMIO, 0x05, Head), cpuid.get()), 0) << "KVM_GET_SUPPORTED_CPUID";
            EXPECT_EQ(ioctl(vcpu_, _IOW(KVMIO, 0x90, Head), cpuid.get()), 0) << "KVM_SET_CPUID2";
        }
        haul_error error{};
        if (vcpu_ < 0 || haul_devices_new(&devices_, &error) < 0 ||
            haul_guest_kvm_state_new(kvm_, vm_, vcpu_, &state_, &error) < 0 ||
            haul_guest_kvm_state_add(state_, devices_, &error) < 0) {
            problem = vcpu_ < 0 ? strerror(errno) : error.message;
        }
    }
    ~Vcpu()
    {
        haul_devices_free(devices_);
        haul_guest_kvm_state_free(state_);
        for (int fd : {vcpu_, vm_, kvm_}) {
            if (fd >= 0) {
                close(fd);
            }
        }
    }
    Vcpu(const Vcpu &) = delete;
    template <typename Value> Value Get(unsigned long request) const
    {
        Value value{};
        EXPECT_EQ(ioctl(vcpu_, request, &value), 0) << strerror(errno);
        return value;
    }
    template <typename Value> void Set(unsigned long request, const Value &value) const
    {
        EXPECT_EQ(ioctl(vcpu_, request, &value), 0) << strerror(errno);
    }
    uint64_t Msr(uint32_t index) const
    {
        OneMsr msr{{1, 0}, {index, 0, 0}};
        EXPECT_EQ(ioctl(vcpu_, _IOWR(KVMIO, 0x88, Head), &msr), 1) << "KVM_GET_MSRS " << index;
        return msr.entry.data;
    }
    void SetMsr(uint32_t index, uint64_t value) const
    {
        OneMsr msr{{1, 0}, {index, 0, value}};
        EXPECT_EQ(ioctl(vcpu_, _IOW(KVMIO, 0x89, Head), &msr), 1) << "KVM_SET_MSRS " << index;
    }
    kvm_vcpu_events Events() const
    {
        kvm_vcpu_events events{};
        EXPECT_EQ(ioctl(vcpu_, KVM_GET_VCPU_EVENTS, &events), 0);
        return events;
    }
    int SetEvents(const kvm_vcpu_events &events) const
    {
        return ioctl(vcpu_, KVM_SET_VCPU_EVENTS, &events);
    }
    std::string Save() const
    {
        unsigned char *bytes = nullptr;
        size_t length = 0;
        haul_error error{};
        EXPECT_EQ(haul_devices_save(devices_, false, &bytes, &length, &error), 0) << error.message;
        std::string stream(reinterpret_cast<char *>(bytes), length);
        free(bytes);
        return stream;
    }
    int Load(const std::string &stream, haul_error *error) const
    {
        return haul_devices_load(devices_, false, stream.data(), stream.size(), error);
    }
    std::string problem;

  private:
    // struct kvm_msrs and struct kvm_cpuid2 with room. The header's own end with an array without a length,
    // which makes them, and with them the requests' numbers, others in C++ than in C.
    struct Head {
        uint32_t count, pad;
    };
    struct OneMsr {
        Head head;
        kvm_msr_entry entry;
    };
    struct Cpuid {
        Head head;
        kvm_cpuid_entry2 entries[256];
    };
    int kvm_, vm_ = -1, vcpu_ = -1;
    haul_devices *devices_ = nullptr;
    haul_guest_kvm_state *state_ = nullptr;
};

class KvmRegisters : public testing::Test
{
  protected:
    void SetUp() override
    {
        if (!from.problem.empty() || !to.problem.empty()) {
            GTEST_SKIP() << "no KVM vCPU can be made here: " << from.problem << to.problem;
        }
    }
    void Transfer()
    {
        haul_error error{};
        ASSERT_EQ(to.Load(from.Save(), &error), 0) << error.message;
    }
    Vcpu from{true}, to{true};
};

TEST_F(KvmRegisters, OfTheProgramArrive)
{
    auto regs = from.Get<kvm_regs>(KVM_GET_REGS);
    regs.rax = 0x1111222233334444;
    regs.r15 = 15;
    regs.rip = 0x5000;
    from.Set(KVM_SET_REGS, regs);
    auto sregs = from.Get<kvm_sregs>(KVM_GET_SREGS);
    sregs.cs.base = 0x10000;
    sregs.cs.selector = 0x1000;
    sregs.gdt.base = 0x7000;
    sregs.idt.limit = 0x123;
    sregs.cr2 = 0xabcde000;
    from.Set(KVM_SET_SREGS, sregs);
    Transfer();
    auto regs_there = to.Get<kvm_regs>(KVM_GET_REGS);
    EXPECT_EQ(memcmp(&regs_there, &regs, sizeof regs), 0);
    auto there = to.Get<kvm_sregs>(KVM_GET_SREGS);
    EXPECT_EQ(there.cs.base, 0x10000u);
    EXPECT_EQ(there.cs.selector, 0x1000u);
    EXPECT_EQ(there.gdt.base, 0x7000u);
    EXPECT_EQ(there.idt.limit, 0x123u);
    EXPECT_EQ(there.cr2, 0xabcde000u);
}

TEST_F(KvmRegisters, ThatAreModelSpecificArrive)
{
    const std::pair<uint32_t, uint64_t> values[] = {
        {0x174, 0x1230},                // IA32_SYSENTER_CS
        {0x176, 0x456789},              // IA32_SYSENTER_EIP
        {0x277, 0x0007040600070405},    // IA32_PAT
        {0xc0000081, 0x23001000000000}, // STAR
        {0xc0000102, 0x7fff12345000},   // KERNEL_GS_BASE
    };
    for (const auto &[index, value] : values) {
        ASSERT_NE(to.Msr(index), value);
        from.SetMsr(index, value);
    }
    Transfer();
    for (const auto &[index, value] : values) {
        EXPECT_EQ(to.Msr(index), value) << std::hex << index;
    }
}

TEST_F(KvmRegisters, ForDebuggingArrive)
{
    auto debug = from.Get<kvm_debugregs>(KVM_GET_DEBUGREGS);
    for (uint64_t i = 0; i < 4; i++) {
        debug.db[i] = 0x1000 * (i + 1);
    }
    debug.dr6 |= 1;
    debug.dr7 |= 0x55; // all four are on
    from.Set(KVM_SET_DEBUGREGS, debug);
    Transfer();
    auto there = to.Get<kvm_debugregs>(KVM_GET_DEBUGREGS);
    EXPECT_EQ(memcmp(there.db, debug.db, sizeof debug.db), 0);
    EXPECT_EQ(there.dr6, debug.dr6);
    EXPECT_EQ(there.dr7, debug.dr7);
}

// Which parts of the FPU the program has turned on, and what is in them.
TEST_F(KvmRegisters, OfTheFpuArrive)
{
    auto xcrs = from.Get<kvm_xcrs>(KVM_GET_XCRS);
    if (xcrs.nr_xcrs == 0) {
        GTEST_SKIP() << "the vCPU has no extended control register here";
    }
    ASSERT_EQ(xcrs.xcrs[0].value, 1u);
    xcrs.xcrs[0].value = 3; // x87 and SSE
    from.Set(KVM_SET_XCRS, xcrs);
    auto xsave = from.Get<Xsave>(kGetXsave);
    xsave.region[160 / 4] = 0x01020304;         // xmm0
    xsave.region[(160 + 252) / 4] = 0x05060708; // the end of xmm15
    xsave.region[512 / 4] |= 2;                 // SSE is in use
    from.Set(kSetXsave, xsave);
    Transfer();
    EXPECT_EQ(to.Get<kvm_xcrs>(KVM_GET_XCRS).xcrs[0].value, 3u);
    auto there = to.Get<Xsave>(kGetXsave);
    EXPECT_EQ(memcmp(&there.region[160 / 4], &xsave.region[160 / 4], 256), 0);
}

class KvmEvents : public testing::Test
{
  protected:
    void SetUp() override
    {
        if (!from.problem.empty() || !to.problem.empty()) {
            GTEST_SKIP() << "no KVM vCPU can be made here: " << from.problem << to.problem;
        }
    }
    static std::string Printed(const std::string &stream)
    {
        char *text = nullptr;
        size_t size = 0;
        FILE *out = open_memstream(&text, &size);
        haul_error error{};
        EXPECT_EQ(haul_device_print(out, HAUL_DEVICE_TEXT, stream.data(), stream.size(), &error), 0)
            << error.message;
        fclose(out);
        std::string printed(text, size);
        free(text);
        return printed;
    }
    Vcpu from, to;
};

TEST_F(KvmEvents, ArriveWithTheVcpu)
{
    kvm_vcpu_events events = from.Events();
    events.interrupt.injected = 1;
    events.interrupt.nr = 0x31;
    events.nmi.masked = 1;
    ASSERT_EQ(from.SetEvents(events), 0) << strerror(errno);
    std::string stream = from.Save();
    EXPECT_NE(Printed(stream).find("events.interrupt.nr: 49"), std::string::npos) << Printed(stream);
    haul_error error{};
    ASSERT_EQ(to.Load(stream, &error), 0) << error.message;
    kvm_vcpu_events after = to.Events();
    EXPECT_EQ(after.interrupt.injected, 1);
    EXPECT_EQ(after.interrupt.nr, 0x31);
    EXPECT_EQ(after.nmi.masked, 1);
    EXPECT_EQ(after.exception.injected, 0);
}

TEST_F(KvmEvents, AreSentOnlyWhereThereAreAny)
{
    std::string stream = from.Save();
    EXPECT_EQ(Printed(stream).find("events.interrupt"), std::string::npos) << Printed(stream);
    haul_error error{};
    ASSERT_EQ(to.Load(stream, &error), 0) << error.message;
    EXPECT_EQ(to.Events().interrupt.injected, 0);
}

TEST_F(KvmEvents, OfAnotherMoveAreNotLeftOver)
{
    kvm_vcpu_events events = from.Events();
    events.nmi.masked = 1;
    ASSERT_EQ(from.SetEvents(events), 0) << strerror(errno);
    std::string with = from.Save();
    events.nmi.masked = 0;
    ASSERT_EQ(from.SetEvents(events), 0) << strerror(errno);
    std::string without = from.Save();
    haul_error error{};
    Vcpu other;
    ASSERT_EQ(other.Load(with, &error), 0) << error.message;
    EXPECT_EQ(other.Events().nmi.masked, 1);
    ASSERT_EQ(to.Load(without, &error), 0) << error.message;
    EXPECT_EQ(to.Events().nmi.masked, 0);
}

TEST_F(KvmEvents, ThatKvmRefusesAreNamed)
{
    kvm_vcpu_events events = from.Events();
    events.nmi.masked = 1;
    ASSERT_EQ(from.SetEvents(events), 0) << strerror(errno);
    std::string stream = from.Save();
    /* The flags end the subsection, which ends the vCPU: no flag has the highest bits. */
    std::string flags(4, '\0');
    memcpy(flags.data(), &events.flags, 4);
    size_t at = stream.rfind(flags);
    ASSERT_NE(at, std::string::npos);
    stream[at + 3] = '\x40';
    haul_error error{};
    EXPECT_EQ(to.Load(stream, &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("state of vcpu/0: field events: KVM refuses it"),
              std::string::npos)
        << error.message;
}

} // namespace
