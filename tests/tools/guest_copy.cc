// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/guest_copy.h"

#include <algorithm>
#include <cerrno>

#include <unistd.h>

namespace haul_test
{

// A hot page that does not blink, so that two versions in a row always differ.
static const uint64_t victim = HAUL_GUEST_RESERVED_PAGES + 5;
static const std::string victim_name = "page " + std::to_string(victim) + " ";
static const uint64_t offset = victim * HAUL_GUEST_PAGE_SIZE;

static void expect_names_victim(const std::string &error, const char *what)
{
    EXPECT_NE(error.find(victim_name), std::string::npos) << error;
    EXPECT_NE(error.find(what), std::string::npos) << error;
}

void expect_whole_copy_passes(const haul_guest_options &options)
{
    GuestMove move(options);
    sleep_ms(50);
    move.stop();
    move.copy(move.memory());
    EXPECT_EQ(move.arrive(move.save(), 20), "");
    unsigned long pages = 0, mib = 0, writes = 0;
    int end = 0;
    EXPECT_EQ(sscanf(move.report, "self-check passed: %lu pages (%lu MiB), %lu writes during the check%n",
                     &pages, &mib, &writes, &end),
              3)
        << move.report;
    EXPECT_EQ(strlen(move.report), static_cast<size_t>(end)) << move.report;
    EXPECT_EQ(pages, options.memory_bytes / HAUL_GUEST_PAGE_SIZE);
    EXPECT_GT(writes, 0u);
    // It goes on running after the check, and passes again.
    EXPECT_EQ(move.check(move.destination, 20), "");
}

// With 0 seconds the check looks at memory before the guest could repair or trip over what is wrong.
void expect_lost_page_is_named(const haul_guest_options &options)
{
    GuestMove move(options);
    move.run_a_cycle();
    auto memory = move.memory();
    memset(&memory[offset], 0, HAUL_GUEST_PAGE_SIZE);
    move.copy(memory);
    expect_names_victim(move.arrive(move.save(), 0), "lost");
}

void expect_stale_page_is_named(const haul_guest_options &options)
{
    GuestMove move(options);
    move.run_a_cycle();
    auto before = move.memory();
    move.run_a_cycle();
    auto memory = move.memory();
    memcpy(&memory[offset], &before[offset], HAUL_GUEST_PAGE_SIZE);
    move.copy(memory);
    expect_names_victim(move.arrive(move.save(), 0), "stale");
}

// Two rounds of one page arrive in the wrong order at one page, in the right one at all others.
void expect_swapped_versions_are_named(const haul_guest_options &options)
{
    GuestMove move(options);
    move.run_a_cycle();
    auto first = move.memory();
    move.run_a_cycle();
    auto second = move.memory();
    move.copy(second);
    for (uint64_t page = 0; page < move.length / HAUL_GUEST_PAGE_SIZE; page++) {
        const auto &last = page == victim ? first : second;
        memcpy(move.to + GuestMove::page_offset(page), &last[GuestMove::page_offset(page)],
               HAUL_GUEST_PAGE_SIZE);
    }
    expect_names_victim(move.arrive(move.save(), 0), "stale");
}

void expect_torn_page_is_named(const haul_guest_options &options)
{
    for (size_t tear : {8, 1000, 4000}) {
        GuestMove move(options);
        move.run_a_cycle();
        auto before = move.memory();
        move.run_a_cycle();
        auto memory = move.memory();
        memcpy(&memory[offset], &before[offset], tear);
        // Past the last stamp there is nothing left that differs: such a tear is a stale page.
        move.copy(memory);
        expect_names_victim(move.arrive(move.save(), 0), tear > 3584 ? "stale" : "torn");
    }
}

void expect_misplaced_page_is_named(const haul_guest_options &options)
{
    GuestMove move(options);
    move.stop();
    auto memory = move.memory();
    // Find a content page outside the hot set, and put its neighbour's bytes there.
    uint64_t page = HAUL_GUEST_RESERVED_PAGES + options.hot_bytes / HAUL_GUEST_PAGE_SIZE;
    while (haul_guest_page_kind(haul_guest_get_layout(move.source.get()), page) != HAUL_GUEST_KIND_CONTENT) {
        page++;
    }
    memcpy(&memory[GuestMove::page_offset(page)], &memory[offset], HAUL_GUEST_PAGE_SIZE);
    move.copy(memory);
    std::string error = move.arrive(move.save(), 0);
    EXPECT_NE(error.find("1 of 2048 pages are wrong; page " + std::to_string(page) + " is corrupt"),
              std::string::npos)
        << error;
}

void expect_old_memory_is_noticed(const haul_guest_options &options)
{
    GuestMove move(options);
    move.run_a_cycle();
    auto before = move.memory();
    move.run_a_cycle();
    move.copy(before);
    EXPECT_NE(move.arrive(move.save(), 0), "");
}

void expect_old_state_is_noticed(const haul_guest_options &options)
{
    GuestMove move(options);
    move.run_a_cycle();
    auto state = move.save();
    move.run_a_cycle();
    move.copy(move.memory());
    EXPECT_NE(move.arrive(state, 0), "");
}

void expect_guest_itself_finds_stale_page(const haul_guest_options &options)
{
    GuestMove move(options);
    move.run_a_cycle();
    auto before = move.memory();
    move.run_a_cycle();
    auto memory = move.memory();
    memcpy(&memory[offset], &before[offset], HAUL_GUEST_PAGE_SIZE);
    move.copy(memory);
    expect_names_victim(move.arrive(move.save(), 30), "the guest found");
    // What it found stays found.
    haul_error error = {};
    EXPECT_EQ(haul_guest_check(move.destination.get(), 1, move.report, sizeof move.report, &error), -EIO);
    expect_names_victim(error.message, "the guest found");
}

// Stopping between any two instructions, again and again, must never cost a write.
void expect_many_stops_lose_nothing(const haul_guest_options &options)
{
    GuestMove move(options);
    for (int i = 0; i < 50; i++) {
        move.stop();
        move.copy(move.memory());
        auto state = move.save();
        Guest destination = make_guest(options, HAUL_GUEST_DESTINATION);
        haul_error error = {};
        uint64_t length;
        memcpy(haul_guest_memory(destination.get(), &length), move.from, move.length);
        ASSERT_EQ(load_state(destination, state, &error), 0) << error.message;
        ASSERT_EQ(haul_guest_resume(destination.get(), &error), 0) << error.message;
        ASSERT_EQ(move.check(destination, 0), "");
        move.resume_source();
        sleep_ms(i % 4);
    }
    EXPECT_EQ(move.check(move.source, 20), "");
}

// Copies as the engine does, while the guest runs: only what the tracker reports is copied again.
void expect_tracker_suffices(const haul_guest_options &options, const char *expected)
{
    GuestMove move(options);
    haul_tracker *tracker = nullptr;
    const char *name = nullptr;
    haul_error error = {};
    int result = haul_guest_new_tracker(move.source.get(), &tracker, &name, &error);
    if (result == -ENOSYS || result == -EPERM) {
        GTEST_SKIP() << "tracker " << options.tracker << " does not work here: " << error.message;
    }
    ASSERT_EQ(result, 0) << error.message;
    EXPECT_STREQ(name, expected);
    const haul_tracker_ops *ops = haul_tracker_get_ops(tracker);
    void *opaque = haul_tracker_get_opaque(tracker);
    ASSERT_EQ(ops->start(opaque, &error), 0) << error.message;
    const uint64_t pages = move.length / HAUL_GUEST_PAGE_SIZE;
    std::vector<uint64_t> bitmap((pages + 63) / 64, ~0ull);
    for (int round = 0; round < 6; round++) {
        if (round == 5) {
            move.stop();
        }
        uint64_t count = 0, *bitmaps[] = {bitmap.data()};
        ASSERT_EQ(ops->sync(opaque, bitmaps, &count, &error), 0) << error.message;
        for (uint64_t page = 0; page < pages; page++) {
            if (bitmap[page / 64] >> page % 64 & 1) {
                ASSERT_EQ(pread(haul_guest_memory_fd(move.source.get()),
                                move.to + GuestMove::page_offset(page), HAUL_GUEST_PAGE_SIZE,
                                (off_t)GuestMove::page_offset(page)),
                          (ssize_t)HAUL_GUEST_PAGE_SIZE);
            }
        }
        std::fill(bitmap.begin(), bitmap.end(), 0);
        sleep_ms(round < 5 ? 10 : 0);
    }
    EXPECT_EQ(move.arrive(move.save(), 20), "");
    ops->stop(opaque);
    haul_guest_free_tracker(move.source.get(), tracker);
}

} // namespace haul_test
