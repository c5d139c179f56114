// SPDX-License-Identifier: Apache-2.0

// The reference guest on a thread: the workload, its check, its state, its pace.
#include "tests/tools/guest_copy.h"

#include "tools/machines/guest/content.h"
#include "tools/machines/guest/pace.h"
#include "tools/machines/guest/sweep.h"

#include <gtest/gtest.h>

#include <set>
#include <sys/stat.h>

using namespace haul_test;

namespace
{

class GuestThread : public testing::Test
{
  protected:
    std::string refused()
    {
        haul_guest *guest = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_guest_new(&options, HAUL_GUEST_SOURCE, &guest, &error), -EINVAL);
        return error.message;
    }

    haul_guest_options options = small_guest("thread");
};

TEST_F(GuestThread, WholeCopyPasses)
{
    expect_whole_copy_passes(options);
}

TEST_F(GuestThread, WholeCopyOfTextZeroAndUntouchedPasses)
{
    options.content = "text";
    options.zero_percent = 30;
    options.untouched_percent = 40;
    expect_whole_copy_passes(options);
}

TEST_F(GuestThread, WholeCopyOfSinglePageHotSetPasses)
{
    options.hot_bytes = HAUL_GUEST_PAGE_SIZE;
    expect_whole_copy_passes(options);
}

TEST_F(GuestThread, LostPageIsNamed)
{
    expect_lost_page_is_named(options);
}

TEST_F(GuestThread, StalePageIsNamed)
{
    expect_stale_page_is_named(options);
}

TEST_F(GuestThread, SwappedVersionsAreNamed)
{
    expect_swapped_versions_are_named(options);
}

TEST_F(GuestThread, TornPageIsNamed)
{
    expect_torn_page_is_named(options);
}

TEST_F(GuestThread, MisplacedPageIsNamed)
{
    expect_misplaced_page_is_named(options);
}

TEST_F(GuestThread, OldMemoryIsNoticed)
{
    expect_old_memory_is_noticed(options);
}

TEST_F(GuestThread, OldStateIsNoticed)
{
    expect_old_state_is_noticed(options);
}

TEST_F(GuestThread, GuestItselfFindsStalePage)
{
    expect_guest_itself_finds_stale_page(options);
}

TEST_F(GuestThread, ManyStopsLoseNothing)
{
    expect_many_stops_lose_nothing(options);
}

// A page that was written and is zero again must arrive as zero (trap T5): leaving its older content is
// stale.
TEST_F(GuestThread, BlinkedPageThatIsNotZeroedIsNamed)
{
    GuestMove move(options);
    const uint64_t page = HAUL_GUEST_RESERVED_PAGES + HAUL_GUEST_BLINK_MASK;
    const unsigned char *bytes = move.from + GuestMove::page_offset(page);
    std::vector<unsigned char> lit;
    // Pause again and again, until it was lit once and is dark after that.
    for (int i = 0; i < 10000; i++) {
        move.stop();
        bool dark = bytes[0] == 0;
        if (!dark) {
            lit.assign(bytes, bytes + HAUL_GUEST_PAGE_SIZE);
        } else if (!lit.empty()) {
            break;
        }
        move.resume_source();
        sleep_ms(1);
    }
    ASSERT_FALSE(lit.empty());
    ASSERT_EQ(bytes[0], 0);
    auto memory = move.memory();
    memcpy(&memory[GuestMove::page_offset(page)], lit.data(), lit.size());
    move.copy(memory);
    std::string error = move.arrive(move.save(), 0);
    EXPECT_NE(error.find("page " + std::to_string(page) + " is stale"), std::string::npos) << error;
}

TEST_F(GuestThread, EveryByteOfEveryKindOfPageIsChecked)
{
    options.untouched_percent = 10;
    GuestMove move(options);
    move.stop();
    const haul_guest_layout *layout = haul_guest_get_layout(move.source.get());
    std::vector<unsigned char> fresh(HAUL_GUEST_PAGE_SIZE);
    std::set<int> kinds;
    haul_guest_position start = {1, 0};
    options.dirty_bytes_per_s = 0;
    Guest still = make_guest(options, HAUL_GUEST_SOURCE);
    uint64_t length;
    unsigned char *memory = haul_guest_memory(still.get(), &length);
    haul_error error = {};
    ASSERT_EQ(haul_guest_verify(layout, haul_guest_memory_fd(still.get()), start, &error), 0)
        << error.message;
    for (uint64_t page = 0; page < layout->pages; page++) {
        if (!kinds.insert(haul_guest_page_kind(layout, page)).second) {
            continue;
        }
        for (unsigned at : {0u, 4u, 513u, 2048u, 4095u}) {
            memory[page * HAUL_GUEST_PAGE_SIZE + at] ^= 1;
            EXPECT_EQ(haul_guest_verify(layout, haul_guest_memory_fd(still.get()), start, &error), -EIO);
            EXPECT_NE(std::string(error.message)
                          .find("1 of 2048 pages are wrong; page " + std::to_string(page) + " "),
                      std::string::npos)
                << error.message;
            memory[page * HAUL_GUEST_PAGE_SIZE + at] ^= 1;
        }
    }
    EXPECT_EQ(kinds.size(), 6u);
}

TEST_F(GuestThread, UntouchedPagesStayHoles)
{
    options.untouched_percent = 50;
    Guest guest = make_guest(options, HAUL_GUEST_SOURCE);
    struct stat status;
    ASSERT_EQ(fstat(haul_guest_memory_fd(guest.get()), &status), 0);
    uint64_t present = (uint64_t)status.st_blocks * 512, size = options.memory_bytes;
    EXPECT_GT(present, size * 45 / 100);
    EXPECT_LT(present, size * 55 / 100);
    // The check reads the holes without filling them.
    char report[256];
    haul_error error = {};
    ASSERT_EQ(haul_guest_check(guest.get(), 1, report, sizeof report, &error), 0) << error.message;
    ASSERT_EQ(fstat(haul_guest_memory_fd(guest.get()), &status), 0);
    EXPECT_EQ((uint64_t)status.st_blocks * 512, present);
}

TEST_F(GuestThread, SharesAddUp)
{
    options.zero_percent = 25;
    options.untouched_percent = 25;
    haul_guest_layout layout;
    ASSERT_EQ(haul_guest_layout_init(&layout, &options, nullptr), 0);
    uint64_t count[6] = {};
    for (uint64_t page = 0; page < layout.pages; page++) {
        count[haul_guest_page_kind(&layout, page)]++;
    }
    EXPECT_EQ(count[HAUL_GUEST_KIND_HOT], options.hot_bytes / HAUL_GUEST_PAGE_SIZE);
    EXPECT_EQ(count[HAUL_GUEST_KIND_ZERO], layout.pages / 4);
    EXPECT_EQ(count[HAUL_GUEST_KIND_UNTOUCHED], layout.pages / 4);
}

// The check's idea of which page holds which version, against a plain simulation of the order.
TEST_F(GuestThread, VersionsFollowTheOrderOfWrites)
{
    for (uint64_t hot : {1, 2, 3, 7, 64, 100, 509}) {
        options.hot_bytes = hot * HAUL_GUEST_PAGE_SIZE;
        haul_guest_layout layout;
        ASSERT_EQ(haul_guest_layout_init(&layout, &options, nullptr), 0);
        std::vector<uint32_t> versions(hot, 0);
        haul_guest_position position = {1, 0};
        for (uint64_t write = 0; write < 3 * hot; write++) {
            for (uint64_t slot = 0; slot < hot; slot++) {
                ASSERT_EQ(haul_guest_page_version(&layout, HAUL_GUEST_RESERVED_PAGES + slot, position),
                          versions[slot])
                    << hot << " " << write << " " << slot;
            }
            versions[(uint64_t)position.index * layout.stride % hot]++;
            if (++position.index == hot) {
                position.index = 0;
                position.version++;
            }
            ASSERT_EQ(haul_guest_writes_between(&layout, {1, 0}, position), write + 1);
        }
    }
}

TEST_F(GuestThread, RetiredGuestNeverRunsAgain)
{
    Guest guest = make_guest(options, HAUL_GUEST_SOURCE);
    haul_error error = {};
    ASSERT_EQ(haul_guest_stop(guest.get(), nullptr, &error), 0);
    haul_guest_retire(guest.get());
    uint64_t length;
    unsigned char *memory = haul_guest_memory(guest.get(), &length);
    std::vector<unsigned char> before(memory, memory + length);
    EXPECT_EQ(haul_guest_resume(guest.get(), &error), -EPERM);
    EXPECT_STREQ(error.message, "this copy of the guest was given up and cannot run again");
    sleep_ms(50);
    EXPECT_EQ(memcmp(memory, before.data(), length), 0);
}

TEST_F(GuestThread, StoppedGuestDoesNotWriteAndResumeIsHarmlessTwice)
{
    Guest guest = make_guest(options, HAUL_GUEST_SOURCE);
    uint64_t stopped_ns = 0, length;
    haul_error error = {};
    ASSERT_EQ(haul_guest_stop(guest.get(), &stopped_ns, &error), 0);
    EXPECT_GT(stopped_ns, 0u);
    unsigned char *memory = haul_guest_memory(guest.get(), &length);
    std::vector<unsigned char> before(memory, memory + length);
    sleep_ms(50);
    EXPECT_EQ(memcmp(memory, before.data(), length), 0);
    EXPECT_EQ(haul_guest_resume(guest.get(), &error), 0);
    EXPECT_EQ(haul_guest_resume(guest.get(), &error), 0);
    char report[256];
    EXPECT_EQ(haul_guest_check(guest.get(), 10, report, sizeof report, &error), 0) << error.message;
}

TEST_F(GuestThread, CheckOfStoppedGuestIsRefused)
{
    Guest guest = make_guest(options, HAUL_GUEST_SOURCE);
    haul_error error = {};
    char report[256];
    ASSERT_EQ(haul_guest_stop(guest.get(), nullptr, &error), 0);
    EXPECT_EQ(haul_guest_check(guest.get(), 1, report, sizeof report, &error), -EINVAL);
    EXPECT_STREQ(error.message, "the guest does not run here, so it cannot check itself");
}

TEST_F(GuestThread, SaveOfRunningGuestIsRefused)
{
    Guest guest = make_guest(options, HAUL_GUEST_SOURCE);
    GuestState state;
    haul_error error = {};
    EXPECT_EQ(save_state(guest, &state, &error), -EINVAL);
    EXPECT_STREQ(error.message, "state of runner/0: the guest must be stopped before its state is saved");
}

TEST_F(GuestThread, DestinationWithoutStateDoesNotRun)
{
    Guest guest = make_guest(options, HAUL_GUEST_DESTINATION);
    haul_error error = {};
    EXPECT_EQ(haul_guest_resume(guest.get(), &error), -EINVAL);
    EXPECT_STREQ(error.message, "the guest has no state to run from");
}

// ---- hostile state ------------------------------------------------------------------------------------

TEST_F(GuestThread, StateCutShortOrTooLongIsRefused)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    haul_error error = {};
    for (size_t size = 0; size < state.late.size(); size++) {
        Guest guest = make_guest(options, HAUL_GUEST_DESTINATION);
        GuestState cut = {state.early, Bytes(state.late.begin(), state.late.begin() + (long)size)};
        EXPECT_EQ(load_state(guest, cut, &error), -EPROTO) << size;
        EXPECT_EQ(haul_guest_get_layout(guest.get()), nullptr) << size;
    }
    state.late.push_back(0);
    EXPECT_EQ(load_state(move.destination, state, &error), -EPROTO);
    EXPECT_STREQ(error.message, "the device state stream is damaged: bytes follow its end record");
}

TEST_F(GuestThread, DamagedStateIsRefusedOrStaysInsideMemory)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    for (Bytes GuestState::*stream : {&GuestState::early, &GuestState::late}) {
        for (size_t at = 0; at < (state.*stream).size(); at++) {
            auto damaged = state;
            (damaged.*stream)[at] ^= at % 2 ? 0x80 : 0x01;
            Guest guest = make_guest(options, HAUL_GUEST_DESTINATION);
            haul_error error = {};
            if (load_state(guest, damaged, &error) == 0) {
                // The position, seed or rate: legal numbers. It may run, within its own memory.
                EXPECT_EQ(haul_guest_resume(guest.get(), &error), 0);
                EXPECT_LT(haul_guest_stop(guest.get(), nullptr, &error), 1);
            } else {
                EXPECT_TRUE(error.code == EINVAL || error.code == EPROTO) << error.message;
                EXPECT_EQ(haul_guest_get_layout(guest.get()), nullptr);
            }
        }
    }
}

TEST_F(GuestThread, PositionOutsideTheHotSetIsRefused)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    memset(&state.late[fields_of(state.late, "thread") + 4], 0xff, 4); // behind the version
    haul_error error = {};
    EXPECT_EQ(load_state(move.destination, state, &error), -EINVAL);
    EXPECT_STREQ(error.message,
                 "state of thread/0: the guest's position 4294967295 is outside its 64 hot pages");
}

TEST_F(GuestThread, OtherMemorySizeIsRefused)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    options.memory_bytes *= 2;
    Guest larger = make_guest(options, HAUL_GUEST_DESTINATION);
    haul_error error = {};
    EXPECT_EQ(load_state(larger, state, &error), -EINVAL);
    EXPECT_STREQ(error.message, "state of setup/0: the source's guest has 8388608 bytes of memory, this one "
                                "16777216: give both the same");
}

TEST_F(GuestThread, KvmStateIsRefused)
{
    GuestMove move(options);
    move.stop();
    auto state = move.save();
    state.early[fields_of(state.early, "setup")] = 2; // the kind of vCPU
    haul_error error = {};
    EXPECT_EQ(load_state(move.destination, state, &error), -EINVAL);
    EXPECT_STREQ(error.message, "state of setup/0: the source's guest runs on a KVM vCPU, this one on a "
                                "thread: give both the same vcpu");
}

// ---- options ------------------------------------------------------------------------------------------

TEST_F(GuestThread, WrongMemorySizeIsRefused)
{
    options.memory_bytes = 4097;
    EXPECT_NE(refused().find("guest memory of 4097 bytes is refused"), std::string::npos);
}

TEST_F(GuestThread, SharesOverHundredPercentAreRefused)
{
    options.zero_percent = 60;
    options.untouched_percent = 41;
    EXPECT_NE(refused().find("zero share of 60 % and untouched share of 41 % are refused"),
              std::string::npos);
}

TEST_F(GuestThread, HotSetThatDoesNotFitIsRefused)
{
    options.zero_percent = 50;
    options.hot_bytes = 5 << 20;
    EXPECT_NE(refused().find("a hot set of 5242880 bytes is refused"), std::string::npos);
}

TEST_F(GuestThread, UnknownNamesAreRefused)
{
    options.content = "music";
    EXPECT_EQ(refused(), "unknown guest content 'music': use random or text");
    options.content = "text";
    options.tracker = "luck";
    EXPECT_EQ(refused(),
              "unknown guest tracker 'luck': use auto, kvm-log, kvm-ring, uffd, soft-dirty or bitmap");
    options.tracker = "auto";
    options.vcpu = "z80";
    EXPECT_EQ(refused(), "unknown guest vcpu 'z80': use auto, kvm or thread");
}

TEST_F(GuestThread, TrackerThatTheVcpuLacksIsRefused)
{
    options.tracker = "kvm-log";
    EXPECT_EQ(refused(), "guest tracker kvm-log does not work with vcpu thread: leave one of them auto");
    options.vcpu = "kvm";
    options.tracker = "bitmap";
    EXPECT_EQ(refused(), "guest tracker bitmap does not work with vcpu kvm: leave one of them auto");
}

// ---- trackers -----------------------------------------------------------------------------------------

TEST_F(GuestThread, BitmapTrackerSuffices)
{
    options.tracker = "bitmap";
    expect_tracker_suffices(options, "bitmap");
}

TEST_F(GuestThread, UserfaultTrackerSuffices)
{
    options.tracker = "uffd";
    expect_tracker_suffices(options, "uffd");
}

// ---- pace ---------------------------------------------------------------------------------------------

// Pages written in one virtual second by a CPU that needs `page_ns` a page.
uint64_t pages_in_a_second(uint64_t bytes_per_s, unsigned percent, uint64_t page_ns)
{
    haul_guest_pace pace;
    haul_guest_pace_init(&pace, bytes_per_s, 0);
    pace.percent = percent;
    uint64_t now = 0, pages = 0;
    while (now < 1000000000u) {
        uint64_t wait;
        uint32_t batch = haul_guest_pace_take(&pace, now, &wait);
        if (batch) {
            haul_guest_pace_ran(&pace, now, now + batch * page_ns);
            now += batch * page_ns;
            pages += batch;
        } else {
            EXPECT_GT(wait, 0u);
            now += wait;
        }
    }
    return pages;
}

TEST(GuestPace, KeepsTheRate)
{
    EXPECT_NEAR((double)pages_in_a_second(4096 * 10000, 0, 1000), 10000, 200);
    EXPECT_NEAR((double)pages_in_a_second(4096 * 10, 0, 1000), 10, 1);
    EXPECT_EQ(pages_in_a_second(0, 0, 1000), 0u);
}

TEST(GuestPace, ThrottleTakesItsShareOfARate)
{
    EXPECT_NEAR((double)pages_in_a_second(4096 * 10000, 50, 1000), 5000, 100);
    EXPECT_NEAR((double)pages_in_a_second(4096 * 10000, 99, 1000), 100, 5);
}

TEST(GuestPace, ThrottleTakesItsShareOfTheCpu)
{
    // 100 us a page: 10,000 pages a second are all that the CPU can do.
    EXPECT_NEAR((double)pages_in_a_second(1ull << 40, 0, 100000), 10000, 300);
    EXPECT_NEAR((double)pages_in_a_second(1ull << 40, 75, 100000), 2500, 300);
}

} // namespace
