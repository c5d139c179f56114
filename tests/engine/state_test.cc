// SPDX-License-Identifier: Apache-2.0
// The table of legal changes of state, all of it.
#include "engine/state.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace
{

// One row per state, in the order of enum haul_state: where it may go. Written down a second time on purpose:
// a change of the table must be meant.
struct Row {
    haul_state from;
    std::set<haul_state> to;
    bool ended;
};

const Row kRows[] = {
    {HAUL_STATE_NONE, {HAUL_STATE_SETUP, HAUL_STATE_CANCELLING, HAUL_STATE_FAILED}, false},
    {HAUL_STATE_SETUP,
     {HAUL_STATE_ACTIVE, HAUL_STATE_DEVICE, HAUL_STATE_CANCELLING, HAUL_STATE_FAILED},
     false},
    {HAUL_STATE_ACTIVE,
     {HAUL_STATE_PRE_SWITCHOVER, HAUL_STATE_DEVICE, HAUL_STATE_COMPLETED, HAUL_STATE_CANCELLING,
      HAUL_STATE_FAILED},
     false},
    {HAUL_STATE_PRE_SWITCHOVER, {HAUL_STATE_DEVICE, HAUL_STATE_CANCELLING, HAUL_STATE_FAILED}, false},
    {HAUL_STATE_DEVICE,
     {HAUL_STATE_ACTIVE, HAUL_STATE_COMPLETED, HAUL_STATE_CANCELLING, HAUL_STATE_FAILED},
     false},
    {HAUL_STATE_COMPLETED, {}, true},
    {HAUL_STATE_FAILED, {}, true},
    {HAUL_STATE_CANCELLING, {HAUL_STATE_CANCELLED}, false},
    {HAUL_STATE_CANCELLED, {}, true},
    {HAUL_STATE_POSTCOPY_ACTIVE, {}, false},
    {HAUL_STATE_POSTCOPY_PAUSED, {}, false},
    {HAUL_STATE_POSTCOPY_RECOVER, {}, false},
};
static_assert(sizeof kRows / sizeof kRows[0] == HAUL_STATE_COUNT, "a state without a row in this test");

TEST(State, EveryTransitionIsAsTheTableSays)
{
    for (unsigned from = 0; from < HAUL_STATE_COUNT; from++) {
        ASSERT_EQ(kRows[from].from, static_cast<haul_state>(from)) << "rows are in the order of the states";
        for (unsigned to = 0; to < HAUL_STATE_COUNT; to++) {
            auto a = static_cast<haul_state>(from);
            auto b = static_cast<haul_state>(to);
            EXPECT_EQ(haul_state_allowed(a, b), kRows[from].to.count(b) != 0)
                << haul_state_name(a) << " -> " << haul_state_name(b);
        }
        EXPECT_EQ(haul_state_ended(kRows[from].from), kRows[from].ended) << haul_state_name(kRows[from].from);
    }
}

TEST(State, NothingLeavesAFinalState)
{
    for (const Row &row : kRows) {
        if (row.ended) {
            EXPECT_TRUE(row.to.empty()) << haul_state_name(row.from);
        }
    }
}

TEST(State, EveryStateThatCanBeReachedAndIsNotFinalCanBeCancelledAndCanFail)
{
    for (const Row &row : kRows) {
        bool live = !row.ended && row.from != HAUL_STATE_CANCELLING && !row.to.empty();
        if (live) {
            EXPECT_EQ(row.to.count(HAUL_STATE_CANCELLING), 1u) << haul_state_name(row.from);
            EXPECT_EQ(row.to.count(HAUL_STATE_FAILED), 1u) << haul_state_name(row.from);
        }
    }
}

TEST(State, NumbersOutsideTheEnumAreRefused)
{
    auto wild = static_cast<haul_state>(HAUL_STATE_COUNT);
    auto wilder = static_cast<haul_state>(1u << 30);
    EXPECT_FALSE(haul_state_allowed(wild, HAUL_STATE_SETUP));
    EXPECT_FALSE(haul_state_allowed(HAUL_STATE_NONE, wild));
    EXPECT_FALSE(haul_state_allowed(HAUL_STATE_NONE, wilder));
    EXPECT_STREQ(haul_state_name(wild), "unknown");
}

TEST(State, NamesAreThoseOfQueryMigrate)
{
    const char *names[] = {"none",      "setup",           "active",          "pre-switchover",
                           "device",    "completed",       "failed",          "cancelling",
                           "cancelled", "postcopy-active", "postcopy-paused", "postcopy-recover"};
    for (unsigned i = 0; i < HAUL_STATE_COUNT; i++) {
        EXPECT_STREQ(haul_state_name(static_cast<haul_state>(i)), names[i]);
    }
}

} // namespace
