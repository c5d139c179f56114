// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/kvm_support.h"

namespace
{

constexpr size_t kPages = 2048;
using Pages = std::vector<size_t>;

Tracker make(const Vm &vm)
{
    haul_tracker *tracker = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_tracker_kvm_log_new(vm.vm, vm.slots.data(), static_cast<unsigned>(vm.slots.size()),
                                       &tracker, &error),
              0)
        << error.message;
    return Tracker(tracker);
}

#define NEED_KVM(vm)                                                                                         \
    if (!(vm).why.empty())                                                                                   \
    GTEST_SKIP() << (vm).why

TEST(KvmLog, ReportsPagesAtTheirPlaceInTheirBlock)
{
    Vm vm(kPages, 1);
    NEED_KVM(vm);
    vm.slots[1].first_page = 67; /* the second slot: another block, at an odd place */
    vm.slots[1].block = 1;
    Tracker tracker = make(vm);
    EXPECT_STREQ(haul_tracker_get_ops(tracker.get())->name, "kvm-dirty-log");
    vm.write_page(300); /* before start */
    haul_error error = {};
    ASSERT_EQ(start(tracker, &error), 0) << error.message;
    Dirty dirty({Vm::kSplit, kPages - Vm::kSplit + 67});
    vm.write_page(5);
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
    EXPECT_EQ(dirty.sync(tracker, &error), -ENOENT); /* logging is off again */
    EXPECT_EQ(std::string(error.message),
              "cannot fetch KVM's dirty log of slot 3: No such file or directory");
}

TEST(KvmLog, LosesNoWriteOfRunningVcpus)
{
    Vm vm(kPages, 2);
    NEED_KVM(vm);
    Tracker tracker = make(vm);
    vm.run();
    copy_while_written(tracker, vm.memory.data(), kPages, 100, [&] { vm.end(); });
    EXPECT_EQ(vm.failures, 0);
}

TEST(KvmLog, RefusesBadSlots)
{
    haul_kvm_slot slot = {.slot = 7,
                          .block = 0,
                          .first_page = 0,
                          .pages = 0,
                          .guest_physical_address = 0,
                          .userspace_address = 0};
    haul_tracker *tracker = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_tracker_kvm_log_new(-1, &slot, 1, &tracker, &error), -EINVAL);
    EXPECT_STREQ(error.message, "KVM slot 7 has no pages, or its addresses are not page-aligned");
    slot.pages = 1;
    slot.userspace_address = 1;
    EXPECT_EQ(haul_tracker_kvm_log_new(-1, &slot, 1, &tracker, &error), -EINVAL);
    slot.userspace_address = 0;
    ASSERT_EQ(haul_tracker_kvm_log_new(-1, &slot, 1, &tracker, &error), 0);
    Tracker made(tracker);
    EXPECT_EQ(start(made, &error), -EBADF);
    EXPECT_STREQ(error.message, "cannot switch KVM's dirty logging on for slot 7: Bad file descriptor");
}

} // namespace
