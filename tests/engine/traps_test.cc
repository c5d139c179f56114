// SPDX-License-Identifier: Apache-2.0
// The traps of moving live memory that the engine itself must step around: pages that change while they are
// read, that become zero, that become holes, and that saving the state writes.
#include "tests/engine/move.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <fcntl.h>
#include <linux/falloc.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;

void ExpectSame(Move &move)
{
    std::string where;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message << " / " << move.destination_error.message;
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_TRUE(SameMemory(move.from, move.to, &where)) << where;
    EXPECT_EQ(move.to.starts, 1u);
}

class Codecs : public testing::TestWithParam<const char *>
{
  protected:
    haul_options OptionsWithCodec() const
    {
        haul_options options = Options();
        options.compress = GetParam();
        options.verify = true;
        return options;
    }
};

// Trap T4: the guest writes the same few pages as fast as it can while they are tested for zero, compressed
// and sent.
TEST_P(Codecs, PagesThatChangeWhileTheyAreRead)
{
    Guest from({2 * kMiB}, false), to({2 * kMiB}, true);
    from.Run(1000, 0);
    haul_options options = OptionsWithCodec();
    options.max_bandwidth_bytes_per_s = 20 * kMiB; // many writes while a page waits to be read
    options.downtime_limit_ms = 1000;
    Move move(from, to, options);
    ExpectSame(move);
}

// Trap T5: a page that was sent with content and is zero in a later round.
TEST_P(Codecs, PagesThatBecomeZero)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, true);
    from.on_round = [&](uint32_t round) {
        for (uint64_t page = 0; round < 4 && page < 700; page++) {
            // Alternately all zero and not.
            from.Fill(0, page * 1024 / 700, round % 2 == 1 ? 0 : static_cast<unsigned char>(round));
        }
    };
    haul_options options = OptionsWithCodec();
    options.downtime_limit_ms = 0; // on until nothing is dirty
    Move move(from, to, options);
    ExpectSame(move);
    EXPECT_GE(move.stats.dirty_sync_count, 4u);
    EXPECT_GE(move.stats.duplicate, 1000u);
}

// Trap T8: a balloon gives memory back; what was there must not stay at the destination.
TEST_P(Codecs, PagesThatBecomeHoles)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.on_round = [&](uint32_t round) {
        if (round < 4) {
            uint64_t first = round * 200;
            ASSERT_EQ(fallocate(from.blocks[0]->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                static_cast<off_t>(first * kPage), 100 * kPage),
                      0);
            from.Mark(0, first, 100); // as trackers report it
        }
    };
    haul_options options = OptionsWithCodec();
    options.downtime_limit_ms = 0;
    Move move(from, to, options);
    ExpectSame(move);
    for (uint64_t at = 200 * kPage; at < 300 * kPage; at++) {
        ASSERT_EQ(to.blocks[0]->data()[at], 0) << at;
    }
}

// Trap T9: saving the state writes much, zero pages and content, after the last scan.
TEST_P(Codecs, SavingTheStateWritesGuestMemory)
{
    Guest from({4 * kMiB, 2 * kMiB}, true), to({4 * kMiB, 2 * kMiB}, false);
    from.on_save = [](Guest &guest) {
        for (uint64_t page = 0; page < 1024; page += 3) {
            guest.Fill(0, page, page % 2 ? 0 : 0x77);
        }
        guest.Fill(1, 511, 0x55);
    };
    Move move(from, to, OptionsWithCodec());
    ExpectSame(move);
}

INSTANTIATE_TEST_SUITE_P(All, Codecs, testing::Values("none", "lz4", "auto"),
                         [](const auto &info) { return std::string(info.param); });

// Rule R3: memory that changed behind the tracker's back (a device, another process) is found by --verify.
TEST(Verify, AnUntrackedWriteFailsTheMove)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(1, 1000);
    // In every page: those of the last pass may still be on their way, and then arrive with the change.
    from.on_save = [](Guest &guest) {
        for (size_t at = 5; at < 4 * kMiB; at += kPage) {
            guest.blocks[0]->data()[at] ^= 1;
        }
    };
    haul_options options = Options();
    options.verify = true;
    Move move(from, to, options);
    EXPECT_EQ(move.Wait(), -EBADMSG) << move.source_error.message;
    EXPECT_STREQ(move.source_error.message,
                 "verify: RAM block block0 differs at the destination; the move is given "
                 "up before the hand-over");
    EXPECT_EQ(move.destination_result, -EBADMSG) << move.destination_error.message;
    EXPECT_TRUE(from.running());
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_EQ(to.starts, 0u);
}

TEST(Verify, AWriteAtTheDestinationFailsTheMove)
{
    Guest from({4 * kMiB, kMiB}, true), to({4 * kMiB, kMiB}, false);
    from.Run(5, 1000);
    to.on_load = [&] { to.blocks[1]->data()[77] ^= 1; };
    haul_options options = Options();
    options.verify = true;
    Move move(from, to, options);
    EXPECT_EQ(move.Wait(), -EBADMSG) << move.source_error.message;
    EXPECT_NE(std::string(move.source_error.message).find("RAM block block1 differs"), std::string::npos);
    EXPECT_TRUE(from.running());
}

// ---- starting again ----

TEST(Start, APortThatIsTakenCanBeReplacedByAnother)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    haul_options options = Options();
    haul_migration *first = nullptr, *second = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &first, &error), 0);
    ASSERT_EQ(haul_destination_new(&options, &second, &error), 0);
    Guest other({kMiB}, false);
    other.Attach(first, false);
    to.Attach(second, false);
    ASSERT_EQ(haul_start(first, "tcp:127.0.0.1:0", &error), 0) << error.message;
    EXPECT_EQ(haul_start(second, haul_local_uri(first), &error), -EADDRINUSE) << error.message;
    EXPECT_EQ(haul_local_uri(second), nullptr);
    EXPECT_EQ(haul_wait(second, &error), -EINVAL);
    EXPECT_STREQ(error.message, "the migration was not started");
    ASSERT_EQ(haul_start(second, "tcp:127.0.0.1:0", &error), 0) << error.message;
    EXPECT_EQ(haul_start(second, "tcp:127.0.0.1:0", &error), -EBUSY);
    haul_migration *source = nullptr;
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    ASSERT_EQ(haul_start(source, haul_local_uri(second), &error), 0) << error.message;
    EXPECT_EQ(haul_wait(source, &error), 0) << error.message;
    EXPECT_EQ(haul_wait(second, &error), 0) << error.message;
    haul_stats stats{};
    haul_get_stats(second, &stats);
    EXPECT_EQ(stats.total, kMiB);
    haul_free(source);
    haul_free(second);
    haul_free(first);
}

// A handler that only one side has.
TEST(Start, AStateThatTheSourceDoesNotHaveIsMissed)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.Run(5, 1000);
    haul_options options = Options();
    haul_migration *source = nullptr, *destination = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0);
    to.Attach(destination, false);
    static const haul_state_ops extra = {.name = "extra",
                                         .load = [](void *, haul_state_reader *, haul_error *) { return 0; }};
    ASSERT_EQ(haul_add_state(destination, &extra, nullptr, &error), 0);
    ASSERT_EQ(haul_start(destination, UnixUri().c_str(), &error), 0) << error.message;
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    ASSERT_EQ(haul_start(source, haul_local_uri(destination), &error), 0) << error.message;
    EXPECT_EQ(haul_wait(source, &error), -EPROTO);
    EXPECT_NE(std::string(error.message).find("the state of extra did not"), std::string::npos)
        << error.message;
    EXPECT_TRUE(from.running());
    EXPECT_LT(haul_wait(destination, &error), 0);
    EXPECT_EQ(to.starts, 0u);
    haul_free(source);
    haul_free(destination);
}

} // namespace
