// SPDX-License-Identifier: Apache-2.0

// The reference guest on a real vCPU.
#include "tests/tools/guest_copy.h"

using namespace haul_test;

namespace
{

class GuestKvm : public testing::Test
{
  protected:
    void SetUp() override
    {
        haul_guest *guest = nullptr;
        haul_error error = {};
        if (haul_guest_new(&options, HAUL_GUEST_SOURCE, &guest, &error)) {
            GTEST_SKIP() << "no KVM guest can run here: " << error.message;
        }
        haul_guest_free(guest);
    }

    haul_guest_options options = small_guest("kvm");
};

TEST_F(GuestKvm, AutoChoosesKvm)
{
    options.vcpu = "auto";
    Guest guest = make_guest(options, HAUL_GUEST_SOURCE);
    EXPECT_STREQ(haul_guest_vcpu(guest.get()), "KVM vCPU");
    EXPECT_STREQ(haul_guest_vcpu_reason(guest.get()), "");
}

TEST_F(GuestKvm, WholeCopyPasses)
{
    expect_whole_copy_passes(options);
}

TEST_F(GuestKvm, LostPageIsNamed)
{
    expect_lost_page_is_named(options);
}

TEST_F(GuestKvm, StalePageIsNamed)
{
    expect_stale_page_is_named(options);
}

TEST_F(GuestKvm, SwappedVersionsAreNamed)
{
    expect_swapped_versions_are_named(options);
}

TEST_F(GuestKvm, TornPageIsNamed)
{
    expect_torn_page_is_named(options);
}

TEST_F(GuestKvm, MisplacedPageIsNamed)
{
    expect_misplaced_page_is_named(options);
}

TEST_F(GuestKvm, OldMemoryIsNoticed)
{
    expect_old_memory_is_noticed(options);
}

TEST_F(GuestKvm, OldStateIsNoticed)
{
    expect_old_state_is_noticed(options);
}

TEST_F(GuestKvm, GuestItselfFindsStalePage)
{
    expect_guest_itself_finds_stale_page(options);
}

TEST_F(GuestKvm, ManyStopsLoseNothing)
{
    expect_many_stops_lose_nothing(options);
}

TEST_F(GuestKvm, AutoTrackerSuffices)
{
    expect_tracker_suffices(options, "kvm-log");
}

TEST_F(GuestKvm, DirtyRingTrackerSuffices)
{
    options.tracker = "kvm-ring";
    expect_tracker_suffices(options, "kvm-ring");
}

// A hot set larger than the ring: it fills, the vCPU leaves KVM_RUN for it, and nothing is lost.
TEST_F(GuestKvm, FullDirtyRingLosesNothing)
{
    options.tracker = "kvm-ring";
    options.memory_bytes = 64 << 20;
    options.hot_bytes = 32 << 20;
    options.dirty_bytes_per_s = 1ull << 40;
    expect_tracker_suffices(options, "kvm-ring");
}

TEST_F(GuestKvm, UserfaultTrackerSuffices)
{
    options.tracker = "uffd";
    expect_tracker_suffices(options, "uffd");
}

// Without its program the guest cannot run, and says so.
TEST_F(GuestKvm, LostCodePageIsNoticed)
{
    GuestMove move(options);
    move.stop();
    auto memory = move.memory();
    memset(&memory[HAUL_GUEST_CODE_ADDRESS], 0xf4, HAUL_GUEST_PAGE_SIZE); // hlt
    move.copy(memory);
    EXPECT_NE(move.arrive(move.save(), 2), "");
}

TEST_F(GuestKvm, StateOfThreadIsRefusedByKvm)
{
    GuestMove move(small_guest("thread"));
    move.stop();
    auto state = move.save();
    Guest destination = make_guest(options, HAUL_GUEST_DESTINATION);
    haul_error error = {};
    EXPECT_EQ(haul_guest_load(destination.get(), state.data(), state.size(), &error), -EINVAL);
    EXPECT_STREQ(error.message,
                 "the source's guest runs on a thread, this one on a KVM vCPU: give both the same vcpu");
}

TEST_F(GuestKvm, AutoDestinationFollowsThreadSource)
{
    GuestMove move(small_guest("thread"));
    haul_guest_options automatic = small_guest("auto");
    move.destination = make_guest(automatic, HAUL_GUEST_DESTINATION);
    move.to = haul_guest_memory(move.destination.get(), &move.length);
    move.stop();
    move.copy(move.memory());
    EXPECT_EQ(move.arrive(move.save(), 20), "");
    EXPECT_STREQ(haul_guest_vcpu(move.destination.get()), "thread");
}

TEST_F(GuestKvm, MoreThanThreeGibibytesIsRefused)
{
    options.memory_bytes = 4ull << 30;
    haul_guest *guest = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_guest_new(&options, HAUL_GUEST_DESTINATION, &guest, &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("at most 3 GiB"), std::string::npos) << error.message;
}

// Every register that a hostile source could send: refused by KVM or harmless to this process.
TEST_F(GuestKvm, DamagedRegistersDoNotHarmTheHost)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    for (size_t i = 76; i < state.size(); i += 3) {
        auto damaged = state;
        damaged[i] ^= 0xff;
        Guest destination = make_guest(options, HAUL_GUEST_DESTINATION);
        uint64_t length;
        memcpy(haul_guest_memory(destination.get(), &length), move.from, move.length);
        haul_error error = {};
        if (haul_guest_load(destination.get(), damaged.data(), damaged.size(), &error) == 0) {
            haul_guest_resume(destination.get(), &error);
            sleep_ms(1);
            haul_guest_stop(destination.get(), nullptr, &error);
        }
    }
}

} // namespace
