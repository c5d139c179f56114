// SPDX-License-Identifier: Apache-2.0
// The state of a KVM vCPU that runs no program: what is under way to it.
#include "tools/machines/guest/kvm_state.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <string>
#include <sys/ioctl.h>
#include <unistd.h>
#include <vector>

namespace
{

class Vcpu
{
  public:
    Vcpu() : kvm_(open("/dev/kvm", O_RDWR | O_CLOEXEC))
    {
        vm_ = ioctl(kvm_, KVM_CREATE_VM, 0);
        vcpu_ = ioctl(vm_, KVM_CREATE_VCPU, 0);
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
    int kvm_, vm_ = -1, vcpu_ = -1;
    haul_devices *devices_ = nullptr;
    haul_guest_kvm_state *state_ = nullptr;
};

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
