// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/trackers/support.h"

namespace
{

haul_tracker *bitmap()
{
    const uint64_t pages = 64;
    haul_tracker *tracker = nullptr;
    EXPECT_EQ(haul_tracker_bitmap_new(&pages, 1, &tracker, nullptr), 0);
    return tracker;
}

TEST(Group, ReportsTheUnionOfItsMembers)
{
    haul_tracker *members[] = {bitmap(), bitmap(), bitmap()};
    haul_tracker *made = nullptr;
    haul_error error = {};
    ASSERT_EQ(haul_tracker_group_new(members, 3, &made, &error), 0) << error.message;
    Tracker group(made);
    EXPECT_STREQ(haul_tracker_get_ops(made)->name, "bitmap x3");
    haul_tracker_mark(members[0], 0, 9, 1);
    ASSERT_EQ(start(group, &error), 0);
    haul_tracker_mark(members[0], 0, 1, 1);
    haul_tracker_mark(members[1], 0, 1, 2);
    haul_tracker_mark(members[2], 0, 63, 1);
    Dirty dirty({64});
    ASSERT_EQ(dirty.sync(group, &error), 0);
    EXPECT_EQ(dirty.pages(), (std::vector<size_t>{1, 2, 63}));
    EXPECT_EQ(dirty.reported, 4u);
    stop(group);
}

TEST(Group, RefusesToBeEmpty)
{
    haul_tracker *made = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_tracker_group_new(nullptr, 0, &made, &error), -EINVAL);
    EXPECT_STREQ(error.message, "tracker group: it has no members");
    EXPECT_EQ(made, nullptr);
}

} // namespace
