// SPDX-License-Identifier: Apache-2.0

// The reference guest's disk moved through an engine that is broken on purpose: what the source sends of it
// is lost, put in the wrong order or torn on its way. The guest's self-check must name the block, and a move
// that verifies must fail before the hand-over (rule R3).
#include "tests/engine/disk.h"
#include "tests/tools/machine_move.h"
#include "tests/tools/packet_proxy.h"
#include "tools/machines/guest/disk_layout.h"

#include <cerrno>
#include <cstring>

using namespace haul_test;

namespace
{

constexpr uint64_t kBytes = 8 << 20; // memory and disk alike
constexpr uint64_t kBlocks = kBytes / HAUL_GUEST_DISK_BLOCK;
constexpr uint64_t kHot = kBlocks / 4;
// The writer takes eight seconds to come back to a block: nothing heals what was broken before the check.
constexpr uint64_t kBlocksPerSecond = kHot / 8;
constexpr unsigned kHoldMs = 300;  // long enough for some blocks to be written in each round
constexpr uint32_t kDiskBlock = 1; // behind the one RAM block

using Packets = std::vector<WirePacket>;

bool hot(uint64_t block)
{
    return block >= 1 && block <= kHot;
}

// Where in the payload the first hot block begins whose bytes differ from what the destination holds; the
// payload's length when there is none.
size_t find_newer(const WirePacket &packet, const PacketProxy::Memory &held, uint64_t *block)
{
    size_t at = 0;
    for (uint64_t candidate : data_pages(packet)) {
        if (hot(candidate) &&
            memcmp(&packet.payload[at], &held[candidate * HAUL_PAGE_SIZE], HAUL_PAGE_SIZE) != 0) {
            *block = candidate;
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

// One packet of the first round, of blocks that are not written again.
PacketProxy::Fault drop_early()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &) mutable -> Packets {
        bool cold = !done && packet.head.round == 1 && packet.head.data_runs > 0;
        for (uint64_t block : data_pages(packet)) {
            cold = cold && !hot(block) && block != 0;
        }
        done = done || cold;
        return cold ? Packets{} : Packets{packet};
    };
}

PacketProxy::Fault drop_late()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &held) mutable -> Packets {
        uint64_t block;
        if (done || packet.head.round == 1 || find_newer(packet, held, &block) == packet.payload.size()) {
            return {packet};
        }
        done = true;
        return {};
    };
}

// A block's older version comes after its newer one.
PacketProxy::Fault swap_rounds()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &held) mutable -> Packets {
        uint64_t block;
        if (done || packet.head.round == 1 || find_newer(packet, held, &block) == packet.payload.size()) {
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
        older.head.runs[0] = {block, 1};
        const unsigned char *bytes = &held[block * HAUL_PAGE_SIZE];
        older.payload.assign(bytes, bytes + HAUL_PAGE_SIZE);
        return {packet, older};
    };
}

// Half of a block is of its older version.
PacketProxy::Fault tear()
{
    return [done = false](const WirePacket &packet, const PacketProxy::Memory &held) mutable -> Packets {
        uint64_t block;
        size_t at = find_newer(packet, held, &block);
        if (done || packet.head.round == 1 || at == packet.payload.size()) {
            return {packet};
        }
        done = true;
        WirePacket torn = packet;
        memcpy(&torn.payload[at], &held[block * HAUL_PAGE_SIZE], HAUL_PAGE_SIZE / 2);
        return {torn};
    };
}

class BrokenDisk : public testing::Test
{
  protected:
    BrokenDisk() : from_path(directory / "from"), to_path(directory / "to")
    {
        haul_guest_options guest;
        haul_guest_options_default(&guest);
        guest.memory_bytes = kBytes;
        guest.dirty_bytes_per_s = 0; // all that is broken is the disk
        guest.vcpu = "thread";
        guest.tracker = "bitmap";
        guest.disk_bytes = kBytes;
        guest.disk_bytes_per_s = kBlocksPerSecond * HAUL_GUEST_DISK_BLOCK;
        haul_machine *machine = nullptr;
        haul_error error = {};
        guest.disk = to_path.c_str();
        EXPECT_EQ(haul_guest_destination_new(&guest, &machine, &error), 0) << error.message;
        to = Machine(machine);
        guest.disk = from_path.c_str();
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
        PacketProxy proxy(kBlocks, kHoldMs, fault, kDiskBlock);
        MachineMove move(from, to, options, [&](const std::string &uri) { return proxy.open(uri); });
        std::string why = move.wait();
        code = move.code;
        stats = move.stats;
        wrong = proxy.wrong();
        rounds = proxy.last_round();
        handed_over = proxy.handed_over();
        return why;
    }
    // "" when the machine proves itself.
    static std::string check(const Machine &machine, unsigned seconds)
    {
        char report[256];
        haul_error error = {};
        int result = machine->ops->self_check(machine.get(), seconds, report, sizeof report, &error);
        EXPECT_TRUE(result == 0 || result == -EIO) << error.message;
        return result ? error.message : "";
    }
    // The engine notices nothing, and the guest all of it: as many blocks as are wrong, the first by name.
    void expect_guest_notices(const PacketProxy::Fault &fault, const char *what)
    {
        ASSERT_EQ(move(fault, false), "");
        ASSERT_FALSE(wrong.empty()) << "nothing was broken in " << rounds << " rounds";
        std::string expected = "self-check failed: " + std::to_string(wrong.size()) +
                               " of 2048 blocks of the disk are wrong; block " + std::to_string(wrong[0]) +
                               " is " + what + ": ";
        std::string error = check(to, 0);
        EXPECT_EQ(error.rfind(expected, 0), 0u) << error << "\nexpected: " << expected;
    }
    void expect_verify_catches(const PacketProxy::Fault &fault)
    {
        std::string why = move(fault, true);
        ASSERT_FALSE(wrong.empty()) << "nothing was broken in " << rounds << " rounds";
        EXPECT_EQ(code, -EBADMSG) << why;
        EXPECT_NE(why.find("verify: disk guest.disk differs at the destination"), std::string::npos) << why;
        EXPECT_FALSE(handed_over);
        EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_EQ(check(from, 1), "");
        EXPECT_EQ(directory.Names(), (std::vector<std::string>{"from"})) << "an image that is worth nothing";
    }

    Directory directory;
    std::string from_path, to_path;
    Machine from, to;
    int code = 0;
    haul_stats stats = {};
    std::vector<uint64_t> wrong;
    uint32_t rounds = 0;
    bool handed_over = false;
};

// The control: the same move with nothing broken.
TEST_F(BrokenDisk, WholeMovePasses)
{
    ASSERT_EQ(move(forward, true), "");
    EXPECT_TRUE(wrong.empty());
    EXPECT_TRUE(handed_over);
    EXPECT_GE(rounds, 2u);
    EXPECT_EQ(check(to, 0), "");
}

TEST_F(BrokenDisk, DroppedBatchOfTheFirstRoundIsLost)
{
    expect_guest_notices(drop_early(), "lost");
    EXPECT_FALSE(hot(wrong[0]));
}

TEST_F(BrokenDisk, DroppedBatchOfALateRoundIsStale)
{
    expect_guest_notices(drop_late(), "stale");
}

TEST_F(BrokenDisk, SwappedRoundsOfABlockAreStale)
{
    expect_guest_notices(swap_rounds(), "stale");
    EXPECT_EQ(wrong.size(), 1u);
}

TEST_F(BrokenDisk, HalfOfABlockIsTorn)
{
    expect_guest_notices(tear(), "torn");
    EXPECT_EQ(wrong.size(), 1u);
}

TEST_F(BrokenDisk, VerifyCatchesADroppedBatchOfTheFirstRound)
{
    expect_verify_catches(drop_early());
}

TEST_F(BrokenDisk, VerifyCatchesADroppedBatchOfALateRound)
{
    expect_verify_catches(drop_late());
}

TEST_F(BrokenDisk, VerifyCatchesSwappedRoundsOfABlock)
{
    expect_verify_catches(swap_rounds());
}

TEST_F(BrokenDisk, VerifyCatchesATornBlock)
{
    expect_verify_catches(tear());
}

} // namespace
