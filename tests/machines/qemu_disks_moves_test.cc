// SPDX-License-Identifier: Apache-2.0
// A machine with drives under load, moved back and forth twenty times: each time the images are equal byte
// for byte when the guest stands still, over what the image before the last move had left in them.
#include "tests/machines/disks.h"

#include <cstdlib>
#include <gtest/gtest.h>

namespace
{

using namespace haul_test;

// HAUL_DISK_MOVES asks for another number of moves.
int moves()
{
    const char *text = getenv("HAUL_DISK_MOVES");
    return text ? atoi(text) : 20;
}

TEST(QemuDisks, MoveUnderLoadTwentyTimes)
{
    if (!missing_for_disks().empty()) {
        GTEST_SKIP() << missing_for_disks();
    }
    Drives drives;
    std::string at = "from", next = "back";
    drives.make_images(next);
    auto from = drives.source();
    long before = 0;
    for (int i = 0; i < moves(); i++) {
        SCOPED_TRACE("move " + std::to_string(i));
        MachineOptions with = drives.options(next);
        with.incoming = true;
        with.paused = i % 2 == 0;
        auto to = std::make_unique<Machine>(drives.folder, next + std::to_string(i), with);
        Move move(*from, *to, {with_disks({"hold=handover", "downtime=1000"}), with_disks()});
        ASSERT_NE("", move.source->expect("MESSAGE copying")) << move.log();
        uint64_t written_before = written(*from);
        move.source->expect("STATE handover");
        EXPECT_GT(written(*from), written_before) << "no load" << move.log();
        // The guest stands still and nothing was handed over yet.
        EXPECT_TRUE(drives.same_images(at, next)) << move.log();
        move.source->tell("go");
        ASSERT_EQ(0, move.source->wait()) << move.log() << to->errors();
        ASSERT_EQ(0, move.destination->wait()) << move.log() << to->errors();
        expect_clean(*from);
        expect_clean(*to);
        EXPECT_GE(from->last_ok(), before);
        before = from->last_ok();
        ASSERT_TRUE(to->counts(60)) << to->last_words() << to->errors();
        ASSERT_FALSE(to->says_bad()) << to->last_words();
        from = std::move(to);
        std::swap(at, next);
    }
    expect_healthy(*from);
}

} // namespace
