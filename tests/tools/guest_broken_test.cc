// SPDX-License-Identifier: Apache-2.0

// The reference guest moved through an engine that is broken on purpose: what the source sends of its memory,
// or of its disk, is lost, put in the wrong order or torn on its way. The guest's self-check must name the
// page, and a move that verifies must fail before the hand-over (rule R3).
#include "tests/engine/disk/disk.h"
#include "tests/tools/faults.h"
#include "tests/tools/machine_move.h"
#include "tools/machines/guest/disk_layout.h"
#include "tools/machines/guest/workload.h"

#include <cerrno>

using namespace haul_test;

namespace
{

// Long enough for the guest to write so much that the engine makes at least one more round.
constexpr unsigned kHoldMs = 300;
// The guest takes so long to come back to a page: what a late round carried is not written again before the
// check, and nothing heals what was broken.
constexpr uint64_t kLapSeconds = 8;

constexpr uint64_t kPages = 4096;
constexpr uint64_t kHotPages = 2560;
constexpr uint64_t kFirstCold = HAUL_GUEST_RESERVED_PAGES + kHotPages;
constexpr uint64_t kBlocks = 2048;
constexpr uint64_t kHotBlocks = kBlocks / 4;

// Blinking pages are zero at some versions, and a stale one may look lost.
bool blinks(uint64_t page)
{
    return page < kFirstCold &&
           ((page - HAUL_GUEST_RESERVED_PAGES) & HAUL_GUEST_BLINK_MASK) == HAUL_GUEST_BLINK_MASK;
}

// What is broken.
struct Part {
    const char *name;
    uint64_t pages;
    uint32_t block; // its number on the wire
    Temperature of;
    bool (*may_look_lost)(uint64_t page);
    const char *wrong;   // what the guest calls a page of it: "N of PAGES ..."
    const char *differs; // what the engine calls it
    void (*shape)(haul_guest_options *);
    uint32_t rounds; // that a move takes at least
    std::vector<std::string> images;
};

const Part kMemory = {
    .name = "Memory",
    .pages = kPages,
    .block = 0,
    .of = {
        [](uint64_t page) { return page >= HAUL_GUEST_RESERVED_PAGES && page < kFirstCold && !blinks(page); },
        [](uint64_t page) { return page >= kFirstCold; }},
    .may_look_lost = blinks,
    .wrong = "pages are wrong; page ",
    .differs = "verify: RAM block guest.ram differs at the destination",
    .shape =
        [](haul_guest_options *guest) {
            guest->memory_bytes = kPages * HAUL_PAGE_SIZE;
            guest->hot_bytes = kHotPages * HAUL_PAGE_SIZE;
            guest->dirty_bytes_per_s = guest->hot_bytes / kLapSeconds;
            guest->disk = nullptr;
        },
    .rounds = 3, // the first, a late one, and the last pass
    .images = {},
};

const Part kDisk = {
    .name = "Disk",
    .pages = kBlocks,
    .block = 1, // behind the one RAM block
    .of = {[](uint64_t block) { return block >= 1 && block <= kHotBlocks; },
           [](uint64_t block) { return block > kHotBlocks; }},
    .may_look_lost = [](uint64_t) { return false; },
    .wrong = "blocks of the disk are wrong; block ",
    .differs = "verify: disk guest.disk differs at the destination",
    .shape =
        [](haul_guest_options *guest) {
            guest->memory_bytes = 8 << 20;
            guest->dirty_bytes_per_s = 0;
            guest->disk_bytes = kBlocks * HAUL_GUEST_DISK_BLOCK;
            guest->disk_bytes_per_s = kHotBlocks * HAUL_GUEST_DISK_BLOCK / kLapSeconds;
        },
    .rounds = 2,
    .images = {"from"},
};

class BrokenEngine : public testing::TestWithParam<const Part *>
{
  protected:
    BrokenEngine() : from(make("from", haul_guest_source_new)), to(make("to", haul_guest_destination_new))
    {
    }
    Machine make(const char *image, int (*create)(const haul_guest_options *, haul_machine **, haul_error *))
    {
        std::string path = directory / image;
        haul_guest_options guest;
        haul_guest_options_default(&guest);
        guest.vcpu = "thread";
        guest.tracker = "bitmap";
        guest.disk = path.c_str();
        part.shape(&guest);
        haul_machine *machine = nullptr;
        haul_error error = {};
        EXPECT_EQ(create(&guest, &machine, &error), 0) << error.message;
        return Machine(machine);
    }

    // Moves through `fault`; "" when the guest runs at the destination.
    std::string move(const PacketProxy::Fault &fault, bool verify)
    {
        haul_options options = move_options();
        options.channels = 2;
        options.verify = verify;
        // No guest is so slow under a sanitizer that it would not fit after the first late round.
        options.downtime_limit_ms = 5000;
        PacketProxy proxy(part.pages, kHoldMs, fault, part.block);
        MachineMove move(from, to, options, [&](const std::string &uri) { return proxy.open(uri); });
        std::string why = move.wait();
        code = move.code;
        stats = move.stats;
        wrong = proxy.wrong();
        rounds = proxy.last_round();
        handed_over = proxy.handed_over();
        return why;
    }
    // "" when the machine proves itself, after running for up to `seconds`.
    static std::string check(const Machine &machine, unsigned seconds)
    {
        char report[256];
        haul_error error = {};
        int result = machine->ops->self_check(machine.get(), seconds, report, sizeof report, &error);
        EXPECT_TRUE(result == 0 || result == -EIO) << error.message;
        return result ? error.message : "";
    }
    // The engine notices nothing, and the guest all of it: as many pages as are wrong, and the first by name.
    void expect_guest_notices(const PacketProxy::Fault &fault, const char *what)
    {
        ASSERT_EQ(move(fault, false), "");
        ASSERT_FALSE(wrong.empty()) << "nothing was broken in " << rounds << " rounds";
        std::string expected = "self-check failed: " + std::to_string(wrong.size()) + " of " +
                               std::to_string(part.pages) + " " + part.wrong + std::to_string(wrong[0]) +
                               " is " + (part.may_look_lost(wrong[0]) ? "lost" : what) + ": ";
        std::string error = check(to, 0);
        EXPECT_EQ(error.rfind(expected, 0), 0u) << error << "\nexpected: " << expected;
    }
    void expect_verify_catches(const PacketProxy::Fault &fault)
    {
        std::string why = move(fault, true);
        ASSERT_FALSE(wrong.empty()) << "nothing was broken in " << rounds << " rounds";
        EXPECT_EQ(code, -EBADMSG) << why;
        EXPECT_NE(why.find(part.differs), std::string::npos) << why;
        EXPECT_FALSE(handed_over);
        EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_EQ(check(from, 1), ""); // fails too if the guest does not run
        char report[256];
        haul_error error = {};
        EXPECT_EQ(to->ops->self_check(to.get(), 0, report, sizeof report, &error), -EINVAL) << report;
        EXPECT_EQ(directory.Names(), part.images) << "an image that is worth nothing";
    }

    const Part &part = *GetParam();
    Directory directory;
    Machine from, to;
    int code = 0;
    haul_stats stats = {};
    std::vector<uint64_t> wrong;
    uint32_t rounds = 0;
    bool handed_over = false;
};

// The control: the same move with nothing broken.
TEST_P(BrokenEngine, WholeMovePasses)
{
    ASSERT_EQ(move(forward(), false), "");
    EXPECT_TRUE(wrong.empty());
    EXPECT_TRUE(handed_over);
    EXPECT_GE(rounds, part.rounds);
    EXPECT_EQ(check(to, 0), "");
}

TEST_P(BrokenEngine, VerifyPassesAWholeMove)
{
    ASSERT_EQ(move(forward(), true), "");
    EXPECT_TRUE(handed_over);
    EXPECT_EQ(check(to, 0), "");
}

TEST_P(BrokenEngine, DroppedBatchOfTheFirstRoundIsLost)
{
    expect_guest_notices(drop_early(part.of), "lost");
    EXPECT_TRUE(part.of.cold(wrong[0]));
}

TEST_P(BrokenEngine, DroppedBatchOfALateRoundIsStale)
{
    expect_guest_notices(drop_late(part.of), "stale");
}

TEST_P(BrokenEngine, SwappedRoundsOfAPageAreStale)
{
    expect_guest_notices(swap_rounds(part.of), "stale");
    EXPECT_EQ(wrong.size(), 1u);
}

TEST_P(BrokenEngine, HalfOfAPageIsTorn)
{
    expect_guest_notices(tear(part.of), "torn");
    EXPECT_EQ(wrong.size(), 1u);
}

TEST_P(BrokenEngine, VerifyCatchesADroppedBatchOfTheFirstRound)
{
    expect_verify_catches(drop_early(part.of));
}

TEST_P(BrokenEngine, VerifyCatchesADroppedBatchOfALateRound)
{
    expect_verify_catches(drop_late(part.of));
}

TEST_P(BrokenEngine, VerifyCatchesSwappedRoundsOfAPage)
{
    expect_verify_catches(swap_rounds(part.of));
}

TEST_P(BrokenEngine, VerifyCatchesATornPage)
{
    expect_verify_catches(tear(part.of));
}

INSTANTIATE_TEST_SUITE_P(Of, BrokenEngine, testing::Values(&kMemory, &kDisk),
                         [](const auto &info) { return std::string(info.param->name); });

} // namespace
