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
    EXPECT_EQ(load_state(destination, state, &error), -EINVAL);
    EXPECT_STREQ(error.message, "state of setup/0: the source's guest runs on a thread, this one on a KVM "
                                "vCPU: give both the same vcpu");
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

// A description of the state of a real vCPU, as it is printed.
TEST_F(GuestKvm, StateIsPrinted)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    char *text = nullptr;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    haul_error error = {};
    EXPECT_EQ(haul_device_print(out, HAUL_DEVICE_TEXT, state.late.data(), state.late.size(), &error), 0)
        << error.message;
    fclose(out);
    std::string printed(text, size);
    free(text);
    for (const char *line : {"clock/0 version 1.0\n", "vcpu/0 version 1.0\n", "  sregs.cs.limit: 4294967295",
                             "  xsave.length: 4096", "  msrs[0].index: ", "runner/0 version 1.0\n"}) {
        EXPECT_NE(printed.find(line), std::string::npos) << line << "\n" << printed;
    }
}

// The FPU and the clock come back as they were, not only what the workload uses; kvm_state_test.cc looks at
// the other registers.
TEST_F(GuestKvm, FpuAndClockComeBack)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    size_t first = fields_of(state.late, "vcpu");
    // The registers xmm0 to xmm7 in the XSAVE area.
    size_t xmm = first + 18 * 8 + 8 * 23 + 2 * 10 + 7 * 8 + 4 * 8 + 4 + 160;
    for (size_t i = 0; i < 128; i++) {
        state.late[xmm + i] = static_cast<unsigned char>(i + 1);
    }
    // The area's own header says that they are in use.
    state.late[xmm - 160 + 512] |= 2;
    haul_error error = {};
    ASSERT_EQ(load_state(move.destination, state, &error), 0) << error.message;
    GuestState again;
    ASSERT_EQ(save_state(move.destination, &again, &error), 0) << error.message;
    ASSERT_EQ(again.late.size(), state.late.size());
    EXPECT_EQ(memcmp(&again.late[fields_of(again.late, "vcpu") + xmm - first], &state.late[xmm], 128), 0);
    uint64_t before, after;
    memcpy(&before, &state.late[fields_of(state.late, "clock")], sizeof before);
    memcpy(&after, &again.late[fields_of(again.late, "clock")], sizeof after);
    EXPECT_GE(after, before);
    EXPECT_LT(after, before + 60000000000u);
}

TEST_F(GuestKvm, XsaveOfAnotherSizeIsRefused)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    size_t length = fields_of(state.late, "vcpu") + 18 * 8 + 8 * 23 + 2 * 10 + 7 * 8 + 4 * 8;
    uint16_t most = 0xea60;
    memcpy(&state.late[length], &most, sizeof most);
    haul_error error = {};
    EXPECT_EQ(load_state(move.destination, state, &error), -EPROTO);
    EXPECT_STREQ(error.message, "state of vcpu/0: field xsave.length: 60000 is more than 16384");
    // A vCPU that has features of the FPU which this host's KVM lacks; the area is longer by as much.
    uint16_t more = 4096 + 64, section_length;
    size_t section = fields_of(state.late, "vcpu") - 4;
    memcpy(&section_length, &state.late[section], sizeof section_length);
    section_length += 64;
    memcpy(&state.late[section], &section_length, sizeof section_length);
    memcpy(&state.late[length], &more, sizeof more);
    state.late.insert(state.late.begin() + static_cast<long>(length) + 4 + 4096, 64, 0);
    Guest destination = make_guest(options, HAUL_GUEST_DESTINATION);
    EXPECT_EQ(load_state(destination, state, &error), -EINVAL);
    EXPECT_NE(std::string(error.message).find("field xsave.length: KVM takes 4096 to "), std::string::npos)
        << error.message;
}

// Every register that a hostile source could send: refused by KVM or harmless to this process.
TEST_F(GuestKvm, DamagedRegistersDoNotHarmTheHost)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    size_t first = fields_of(state.late, "vcpu");
    // Most of the state is the content of FPU registers.
    for (size_t i = first; i < state.late.size(); i += i < first + 560 ? 3 : 41) {
        auto damaged = state;
        damaged.late[i] ^= 0xff;
        Guest destination = make_guest(options, HAUL_GUEST_DESTINATION);
        uint64_t length;
        memcpy(haul_guest_memory(destination.get(), &length), move.from, move.length);
        haul_error error = {};
        if (load_state(destination, damaged, &error) == 0) {
            haul_guest_resume(destination.get(), &error);
            sleep_ms(1);
            haul_guest_stop(destination.get(), nullptr, &error);
        }
    }
}

} // namespace
