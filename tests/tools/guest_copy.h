// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_GUEST_COPY_H
#define HAUL_TESTS_TOOLS_GUEST_COPY_H

// Two reference guests and a move between them by hand: memory by memcpy, state by save and load. A test
// breaks the copy on purpose and sees the destination notice.

#include "tools/machines/guest/guest.h"
#include "tools/machines/guest/workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

namespace haul_test
{

struct GuestFree {
    void operator()(haul_guest *guest) const
    {
        haul_guest_free(guest);
    }
};
using Guest = std::unique_ptr<haul_guest, GuestFree>;

inline haul_guest_options small_guest(const char *vcpu)
{
    haul_guest_options options;
    haul_guest_options_default(&options);
    options.memory_bytes = 8 << 20;
    options.hot_bytes = 256 << 10;
    options.dirty_bytes_per_s = 50 << 20;
    options.vcpu = vcpu;
    return options;
}

inline Guest make_guest(const haul_guest_options &options, haul_guest_side side)
{
    haul_guest *guest = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_guest_new(&options, side, &guest, &error), 0) << error.message;
    return Guest(guest);
}

inline void sleep_ms(long ms)
{
    timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, nullptr);
}

using Bytes = std::vector<unsigned char>;

// The two streams of a guest's devices.
struct GuestState {
    Bytes early, late;
};

// The code of a failure, with its message in `error`.
inline int save_state(const Guest &guest, GuestState *state, haul_error *error)
{
    int code = 0;
    for (bool early : {true, false}) {
        unsigned char *bytes = nullptr;
        size_t length = 0;
        code =
            code ? code : haul_devices_save(haul_guest_devices(guest.get()), early, &bytes, &length, error);
        (early ? state->early : state->late).assign(bytes, bytes + length);
        free(bytes);
    }
    return code;
}

inline int load_state(const Guest &guest, const GuestState &state, haul_error *error)
{
    haul_devices *devices = haul_guest_devices(guest.get());
    int code = haul_devices_load(devices, true, state.early.data(), state.early.size(), error);
    return code ? code : haul_devices_load(devices, false, state.late.data(), state.late.size(), error);
}

// Where the fields of the only device with that name begin in a stream.
inline size_t fields_of(const Bytes &stream, const std::string &name)
{
    std::string record = std::string("\x02") + static_cast<char>(name.size()) + '\0' + name;
    auto at = std::search(stream.begin(), stream.end(), record.begin(), record.end());
    EXPECT_NE(at, stream.end()) << name;
    return static_cast<size_t>(at - stream.begin()) + record.size() + 8;
}

class GuestMove
{
  public:
    explicit GuestMove(const haul_guest_options &options)
        : source(make_guest(options, HAUL_GUEST_SOURCE)),
          destination(make_guest(options, HAUL_GUEST_DESTINATION))
    {
        from = haul_guest_memory(source.get(), &length);
        to = haul_guest_memory(destination.get(), &length);
    }

    void stop()
    {
        haul_error error = {};
        ASSERT_EQ(haul_guest_stop(source.get(), nullptr, &error), 0) << error.message;
    }

    void resume_source()
    {
        haul_error error = {};
        ASSERT_EQ(haul_guest_resume(source.get(), &error), 0) << error.message;
    }

    GuestState save()
    {
        GuestState state;
        haul_error error = {};
        EXPECT_EQ(save_state(source, &state, &error), 0) << error.message;
        return state;
    }

    std::vector<unsigned char> memory() const
    {
        return std::vector<unsigned char>(from, from + length);
    }
    void copy(const std::vector<unsigned char> &bytes)
    {
        memcpy(to, bytes.data(), length);
    }

    // Starts the destination and lets it check itself: "" when all is well, else its error.
    std::string arrive(const GuestState &state, unsigned seconds)
    {
        haul_error error = {};
        EXPECT_EQ(load_state(destination, state, &error), 0) << error.message;
        EXPECT_EQ(haul_guest_resume(destination.get(), &error), 0) << error.message;
        return check(destination, seconds);
    }

    std::string check(const Guest &guest, unsigned seconds)
    {
        haul_error error = {};
        report[0] = 0;
        int result = haul_guest_check(guest.get(), seconds, report, sizeof report, &error);
        EXPECT_TRUE(result == 0 || result == -EIO) << result << error.message;
        return result ? error.message : "";
    }

    // Runs the source until it has rewritten every hot page at least once more.
    void run_a_cycle()
    {
        resume_source();
        EXPECT_EQ(check(source, 30), "");
        stop();
    }

    static uint64_t page_offset(uint64_t page)
    {
        return page * HAUL_GUEST_PAGE_SIZE;
    }

    Guest source, destination;
    unsigned char *from, *to;
    uint64_t length = 0;
    char report[256];
};

// Each failure that a lossy engine could cause, against a guest on `vcpu`. Run by guest_test and
// guest_kvm_test.
void expect_whole_copy_passes(const haul_guest_options &options);
void expect_lost_page_is_named(const haul_guest_options &options);
void expect_stale_page_is_named(const haul_guest_options &options);
void expect_swapped_versions_are_named(const haul_guest_options &options);
void expect_torn_page_is_named(const haul_guest_options &options);
void expect_misplaced_page_is_named(const haul_guest_options &options);
void expect_old_memory_is_noticed(const haul_guest_options &options);
void expect_old_state_is_noticed(const haul_guest_options &options);
void expect_guest_itself_finds_stale_page(const haul_guest_options &options);
void expect_many_stops_lose_nothing(const haul_guest_options &options);
// Copies only what the guest's tracker, which must be `expected`, reports while it runs. Skips where there is
// none.
void expect_tracker_suffices(const haul_guest_options &options, const char *expected);

} // namespace haul_test

#endif
