// SPDX-License-Identifier: Apache-2.0

// The reference guest moved through an engine that is broken on purpose: what the source sends is lost, put
// in the wrong order or torn on its way. The guest's self-check must name the page, and a move that verifies
// must fail before the hand-over (rule R3).
#include "tests/tools/machine_move.h"
#include "tests/tools/packet_proxy.h"
#include "tools/machines/guest/workload.h"

#include <cerrno>
#include <cstring>

using namespace haul_test;

namespace
{

constexpr uint64_t kPages = 4096;
constexpr uint64_t kHotPages = 2560;
constexpr uint64_t kFirstCold = HAUL_GUEST_RESERVED_PAGES + kHotPages;
// The guest takes eight seconds to come back to a page: what a late round carried is not written again before
// the check, and nothing heals what was broken.
constexpr uint64_t kPagesPerSecond = kHotPages / 8;
// Long enough for the guest to write so much that the engine makes at least one more round.
constexpr unsigned kHoldMs = 300;

using Packets = std::vector<WirePacket>;

// Blinking pages are zero at some versions, and a stale one may look lost.
bool blinks(uint64_t page)
{
    return ((page - HAUL_GUEST_RESERVED_PAGES) & HAUL_GUEST_BLINK_MASK) == HAUL_GUEST_BLINK_MASK;
}

// Where in the payload the first hot page begins whose bytes differ from what the destination holds; the
// payload's length when there is none.
size_t find_newer(const WirePacket &packet, const PacketProxy::Memory &held, uint64_t *page)
{
    size_t at = 0;
    for (uint64_t candidate : data_pages(packet)) {
        if (candidate >= HAUL_GUEST_RESERVED_PAGES && candidate < kFirstCold && !blinks(candidate) &&
            memcmp(&packet.payload[at], &held[candidate * HAUL_PAGE_SIZE], HAUL_PAGE_SIZE) != 0) {
            *page = candidate;
            break;
        }
        at += HAUL_PAGE_SIZE;
    }
    return at;
}

// Each fault strikes once.
Packets forward(const WirePacket &packet, const PacketProxy::Memory &)
{
    return {packet};
}

// One packet of the first round, of pages that are not written again.
PacketProxy::Fault drop_early()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &) mutable -> Packets {
        bool cold = !done && packet.head.round == 1 && packet.head.data_runs > 0;
        for (uint64_t page : data_pages(packet)) {
            cold = cold && page >= kFirstCold;
        }
        done = done || cold;
        return cold ? Packets{} : Packets{packet};
    };
}

PacketProxy::Fault drop_late()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &held) mutable -> Packets {
        uint64_t page;
        if (done || packet.head.round == 1 || find_newer(packet, held, &page) == packet.payload.size()) {
            return {packet};
        }
        done = true;
        return {};
    };
}

// A page's older version comes after its newer one.
PacketProxy::Fault swap_rounds()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &held) mutable -> Packets {
        uint64_t page;
        if (done || packet.head.round == 1 || find_newer(packet, held, &page) == packet.payload.size()) {
            return {packet};
        }
        done = true;
        WirePacket older;
        older.head.type = HAUL_PACKET_PAGES;
        older.head.codec = HAUL_CODEC_RAW;
        older.head.round = packet.head.round;
        older.head.block = packet.head.block;
        older.head.data_runs = 1;
        older.head.data_pages = 1;
        older.head.payload_bytes = HAUL_PAGE_SIZE;
        older.head.runs[0] = {page, 1};
        const unsigned char *bytes = &held[page * HAUL_PAGE_SIZE];
        older.payload.assign(bytes, bytes + HAUL_PAGE_SIZE);
        return {packet, older};
    };
}

// Half of a page is of its older version.
PacketProxy::Fault tear()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &held) mutable -> Packets {
        uint64_t page;
        size_t at = find_newer(packet, held, &page);
        if (done || packet.head.round == 1 || at == packet.payload.size()) {
            return {packet};
        }
        done = true;
        WirePacket torn = packet;
        memcpy(&torn.payload[at], &held[page * HAUL_PAGE_SIZE], HAUL_PAGE_SIZE / 2);
        return {torn};
    };
}

class BrokenEngine : public testing::Test
{
  protected:
    BrokenEngine()
    {
        haul_guest_options guest;
        haul_guest_options_default(&guest);
        guest.memory_bytes = kPages * HAUL_PAGE_SIZE;
        guest.hot_bytes = kHotPages * HAUL_PAGE_SIZE;
        guest.dirty_bytes_per_s = kPagesPerSecond * HAUL_PAGE_SIZE;
        guest.vcpu = "thread";
        guest.tracker = "bitmap";
        haul_machine *machine = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_guest_destination_new(&guest, &machine, &error), 0) << error.message;
        to = Machine(machine);
        EXPECT_EQ(haul_guest_source_new(&guest, &machine, &error), 0) << error.message;
        from = Machine(machine);
    }

    // Moves through `fault`; "" when the guest runs at the destination.
    std::string move(const PacketProxy::Fault &fault, bool verify)
    {
        haul_options options = move_options();
        options.channels = 2;
        options.verify = verify;
        // No guest is so slow under a sanitizer that it would not fit after the first late round.
        options.downtime_limit_ms = 5000;
        PacketProxy proxy(kPages, kHoldMs, fault);
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
        std::string expected = "self-check failed: " + std::to_string(wrong.size()) + " of 4096 pages are " +
                               "wrong; page " + std::to_string(wrong[0]) + " is " +
                               (blinks(wrong[0]) && wrong[0] < kFirstCold ? "lost" : what) + ": ";
        std::string error = check(to, 0);
        EXPECT_EQ(error.rfind(expected, 0), 0u) << error << "\nexpected: " << expected;
    }
    void expect_verify_catches(const PacketProxy::Fault &fault)
    {
        std::string why = move(fault, true);
        ASSERT_FALSE(wrong.empty()) << "nothing was broken in " << rounds << " rounds";
        EXPECT_EQ(code, -EBADMSG) << why;
        EXPECT_NE(why.find("verify: RAM block guest.ram differs at the destination"), std::string::npos)
            << why;
        EXPECT_FALSE(handed_over);
        EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_EQ(check(from, 1), ""); // fails too if the guest does not run
        char report[256];
        haul_error error = {};
        EXPECT_EQ(to->ops->self_check(to.get(), 0, report, sizeof report, &error), -EINVAL) << report;
    }

    Machine from, to;
    int code = 0;
    haul_stats stats = {};
    std::vector<uint64_t> wrong;
    uint32_t rounds = 0;
    bool handed_over = false;
};

// The control: the same move with nothing broken.
TEST_F(BrokenEngine, WholeMovePasses)
{
    ASSERT_EQ(move(forward, false), "");
    EXPECT_TRUE(wrong.empty());
    EXPECT_TRUE(handed_over);
    EXPECT_GE(rounds, 3u); // the first, a late one, and the last pass
    EXPECT_EQ(check(to, 0), "");
}

TEST_F(BrokenEngine, DroppedBatchOfTheFirstRoundIsLost)
{
    expect_guest_notices(drop_early(), "lost");
    EXPECT_GE(wrong[0], kFirstCold);
}

TEST_F(BrokenEngine, DroppedBatchOfALateRoundIsStale)
{
    expect_guest_notices(drop_late(), "stale");
}

TEST_F(BrokenEngine, SwappedRoundsOfAPageAreStale)
{
    expect_guest_notices(swap_rounds(), "stale");
    EXPECT_EQ(wrong.size(), 1u);
}

TEST_F(BrokenEngine, HalfOfAPageIsTorn)
{
    expect_guest_notices(tear(), "torn");
    EXPECT_EQ(wrong.size(), 1u);
}

TEST_F(BrokenEngine, VerifyPassesAWholeMove)
{
    ASSERT_EQ(move(forward, true), "");
    EXPECT_TRUE(handed_over);
    EXPECT_EQ(check(to, 0), "");
}

TEST_F(BrokenEngine, VerifyCatchesADroppedBatchOfTheFirstRound)
{
    expect_verify_catches(drop_early());
}

TEST_F(BrokenEngine, VerifyCatchesADroppedBatchOfALateRound)
{
    expect_verify_catches(drop_late());
}

TEST_F(BrokenEngine, VerifyCatchesSwappedRoundsOfAPage)
{
    expect_verify_catches(swap_rounds());
}

TEST_F(BrokenEngine, VerifyCatchesATornPage)
{
    expect_verify_catches(tear());
}

} // namespace
