// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/kvm_support.h"

namespace
{

constexpr size_t kPages = 2048;
constexpr uint32_t kRing = 16384; // 1024 entries: fewer than there are pages, so that the rings fill up
using Pages = std::vector<size_t>;

int make(const Vm &vm, uint32_t ring_bytes, Tracker *tracker, haul_error *error)
{
    haul_tracker *made = nullptr;
    int result =
        haul_tracker_kvm_ring_new(vm.vm, vm.vcpus.data(), static_cast<unsigned>(vm.vcpus.size()), ring_bytes,
                                  vm.slots.data(), static_cast<unsigned>(vm.slots.size()), &made, error);
    tracker->reset(made);
    return result;
}

#define NEED_KVM(vm)                                                                                         \
    if (!(vm).why.empty())                                                                                   \
    GTEST_SKIP() << (vm).why

TEST(KvmRing, ReportsPagesAtTheirPlaceInTheirBlock)
{
    Vm vm(kPages, 1, kRing);
    NEED_KVM(vm);
    vm.slots[1].first_page = 67;
    vm.slots[1].block = 1;
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(vm, kRing, &tracker, &error), 0) << error.message;
    EXPECT_STREQ(haul_tracker_get_ops(tracker.get())->name, "kvm-dirty-ring");
    for (const haul_kvm_slot &slot : vm.slots) {
        ASSERT_TRUE(vm.set_slot(slot, KVM_MEM_LOG_DIRTY_PAGES));
    }
    vm.write_page(300); /* before start, and logged */
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    Dirty dirty({Vm::kSplit, kPages - Vm::kSplit + 67});
    vm.write_page(5);
    ASSERT_EQ(haul_tracker_kvm_ring_collect(tracker.get(), &error), 0) << error.message;
    vm.write_page(Vm::kSplit - 1);
    vm.write_page(Vm::kSplit);
    vm.write_page(kPages - 1);
    ASSERT_EQ(dirty.sync(tracker, &error), 0) << error.message;
    EXPECT_EQ(dirty.pages(0), (Pages{5, Vm::kSplit - 1}));
    EXPECT_EQ(dirty.pages(1), (Pages{67, kPages - Vm::kSplit + 66}));
    EXPECT_EQ(dirty.reported, 4u);
    ASSERT_EQ(dirty.sync(tracker, &error), 0);
    EXPECT_EQ(dirty.count(0) + dirty.count(1), 0u);
    vm.write_page(5);
    ASSERT_EQ(dirty.sync(tracker, &error), 0);
    EXPECT_EQ(dirty.pages(0), Pages{5});
    stop(tracker);
    vm.write_page(6);
    ASSERT_EQ(dirty.sync(tracker, &error), 0);
    EXPECT_EQ(dirty.count(0), 0u) << "logging goes on after stop";
}

TEST(KvmRing, LosesNoWriteOfRunningVcpusThoughTheRingsFillUp)
{
    Vm vm(kPages, 2, kRing);
    NEED_KVM(vm);
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(vm, kRing, &tracker, &error), 0) << error.message;
    vm.run([&] { return haul_tracker_kvm_ring_collect(tracker.get(), nullptr); });
    copy_while_written(tracker, vm.memory.data(), kPages, 100, [&] {
        haul_test::Eventually([&] { return vm.ring_fulls > 0; });
        vm.end();
    });
    EXPECT_EQ(vm.failures, 0);
    EXPECT_GT(vm.ring_fulls, 0);
}

TEST(KvmRing, LosesNoWriteThoughSignalsInterruptIt)
{
    Vm vm(kPages, 2, kRing);
    NEED_KVM(vm);
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(vm, kRing, &tracker, &error), 0) << error.message;
    struct sigaction action = {}, before = {};
    action.sa_handler = [](int) {};
    sigaction(SIGUSR2, &action, &before);
    std::atomic<bool> end{false};
    std::thread disturber([&, self = pthread_self()] {
        while (!end) {
            pthread_kill(self, SIGUSR2);
            usleep(20);
        }
    });
    vm.run([&] { return haul_tracker_kvm_ring_collect(tracker.get(), nullptr); });
    copy_while_written(tracker, vm.memory.data(), kPages, 100, [&] { vm.end(); });
    end = true;
    disturber.join();
    sigaction(SIGUSR2, &before, nullptr);
    EXPECT_EQ(vm.failures, 0);
}

TEST(KvmRing, SaysWhenItWasNotEnabledOrHasAnotherSize)
{
    for (uint32_t enabled : {0u, kRing / 2, kRing * 2}) {
        Vm vm(kPages, 1, enabled);
        NEED_KVM(vm);
        Tracker tracker;
        haul_error error = {};
        EXPECT_EQ(make(vm, kRing, &tracker, &error), -EINVAL) << enabled;
        EXPECT_STREQ(error.message,
                     "vCPU 0 has no dirty ring of 16384 bytes: it must be enabled on the VM, with this "
                     "size, before its vCPUs are made");
    }
}

TEST(KvmRing, SaysWhenKvmOverranIt)
{
    Vm vm(kPages, 1, kRing);
    NEED_KVM(vm);
    Tracker tracker;
    haul_error error = {};
    ASSERT_EQ(make(vm, kRing, &tracker, &error), 0) << error.message;
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    void *at = mmap(nullptr, kRing, PROT_READ | PROT_WRITE, MAP_SHARED, vm.vcpus[0],
                    static_cast<off_t>(KVM_DIRTY_LOG_PAGE_OFFSET * kPage));
    ASSERT_NE(at, MAP_FAILED);
    for (size_t i = 0; i < kRing / sizeof(kvm_dirty_gfn); i++) {
        static_cast<kvm_dirty_gfn *>(at)[i].flags = KVM_DIRTY_GFN_F_DIRTY; /* as it looks then: all full */
    }
    const char *expected =
        "KVM overran a dirty ring of 16384 bytes, so writes of the guest are lost to it: use a larger "
        "ring, or KVM's dirty log";
    EXPECT_EQ(haul_tracker_kvm_ring_collect(tracker.get(), &error), -EOVERFLOW);
    EXPECT_STREQ(error.message, expected);
    Dirty dirty({kPages});
    EXPECT_EQ(dirty.sync(tracker, &error), -EOVERFLOW); /* and so for good */
    EXPECT_STREQ(error.message, expected);
    munmap(at, kRing);
}

TEST(KvmRing, RefusesABadSize)
{
    Vm vm(kPages, 1, kRing);
    NEED_KVM(vm);
    Tracker tracker;
    haul_error error = {};
    for (uint32_t bytes : {0u, 2048u, 12288u, 1u << 31}) {
        EXPECT_EQ(make(vm, bytes, &tracker, &error), -EINVAL);
        EXPECT_NE(std::string(error.message).find("it must be a power of two from 4096 to"),
                  std::string::npos);
    }
}

TEST(KvmRing, SaysWhenThereIsNone)
{
    haul_tracker *tracker = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_tracker_kvm_ring_new(-1, nullptr, 0, kRing, nullptr, 0, &tracker, &error), -ENOTSUP);
    EXPECT_STREQ(error.message, "this KVM has no dirty ring: use its dirty log");
}

} // namespace
