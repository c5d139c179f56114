// SPDX-License-Identifier: Apache-2.0
// What a snapshot says of the writes that it held: how many, and for how long.
#include "tests/engine/background/background.h"

#include <vector>

using namespace haul_test;

namespace
{

constexpr std::chrono::milliseconds kDelay{100};
constexpr uint64_t kDelayNs = 100000000;

TEST_F(Snapshot, CountsTheTimeForWhichAWriteWaitedForTheOneBefore)
{
    Make({8 * kMiB}, true);
    HeldWrite first(guest->blocks[0]->data() + kCluster), second(guest->blocks[0]->data() + 9 * kCluster);
    guard->on_release = [&](uint32_t, uint64_t page, uint64_t count) {
        if (page == kCluster / kPage && count == kCluster / kPage) {
            EXPECT_TRUE(second.Waits());
            std::this_thread::sleep_for(kDelay);
        }
        return 0;
    };
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            EXPECT_TRUE(first.Ends());
            EXPECT_TRUE(second.Ends());
        }
    };
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(end->stats.write_faults, 2u);
    EXPECT_GE(end->stats.write_fault_p50_ns, kDelayNs) << "both waited so long";
    EXPECT_LE(end->stats.write_fault_p50_ns, end->stats.write_fault_longest_ns);
}

TEST_F(SnapshotStuck, CountsTheTimeForWhichWritesWaitedForASlowDisk)
{
    haul_options options = SnapshotOptions();
    options.max_bandwidth_bytes_per_s = 1; // the first chunk, and no more: writes save the others
    ASSERT_NO_FATAL_FAILURE(Start(options));
    HoldWrites(kSlots + 1);
    std::this_thread::sleep_for(kDelay);
    go_on.Set();
    for (auto &write : writes) {
        EXPECT_TRUE(write->Ends());
    }
    haul_set_max_bandwidth(end->migration, 0);
    ASSERT_EQ(Wait(), 0) << end->message();
    EXPECT_EQ(end->stats.write_faults, 2 * kSlots + 1);
    EXPECT_GE(end->stats.write_fault_p50_ns, kDelayNs) << "more than half of them waited so long";
    ExpectRestoresTheMoment(directory / "a");
}

// What tells the guest to run waits for more writes than there is room for, as QEMU does when its main loop
// writes guest memory before it answers.
TEST_F(Snapshot, ResumingTheGuestMayWaitForWrites)
{
    haul_options options = SnapshotOptions();
    options.channels = 1;
    Make({8 * kMiB}, true, options);
    Signal written;
    std::thread vcpu;
    guest->on_resume = [&] {
        vcpu = std::thread([&] {
            WriteEverything();
            written.Set();
        });
        EXPECT_TRUE(written.Wait()) << "nobody makes room before the guest runs";
    };
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    vcpu.join();
    EXPECT_EQ(end->stats.write_faults, 8 * kMiB / kCluster) << "memory was read before the guest ran";
    ExpectRestoresTheMoment(directory / "a");
}

// Protection holds up who writes before the moment, too.
TEST_F(Snapshot, CountsWritesThatWereReleasedUnsaved)
{
    Make({8 * kMiB}, true);
    guard->on_release = [&](uint32_t, uint64_t page, uint64_t count) {
        if (page == 3 * kCluster / kPage && count == kCluster / kPage) {
            std::this_thread::sleep_for(kDelay);
        }
        return 0;
    };
    guest->on_stop = [this] { memset(guest->blocks[0]->data() + 3 * kCluster, 0x33, kPage); };
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(end->stats.write_faults, 1u);
    EXPECT_GE(end->stats.write_fault_longest_ns, kDelayNs);
    ExpectRestoresTheMoment(directory / "a");
}

} // namespace
