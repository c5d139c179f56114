// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/faults.h"

#include <algorithm>
#include <cstring>

namespace haul_test
{

using Packets = std::vector<WirePacket>;

// A page of a later round whose bytes differ from what the destination holds, and where they begin in the
// payload.
struct Newer {
    bool found;
    uint64_t page;
    size_t at;
};

static Newer find_newer(const WirePacket &packet, const PacketProxy::Memory &held, Temperature of)
{
    Newer newer = {false, 0, 0};
    if (packet.head.round == 1) {
        return newer;
    }
    for (uint64_t page : data_pages(packet)) {
        newer.page = page;
        newer.found = of.hot(page) &&
                      memcmp(&packet.payload[newer.at], &held[page * HAUL_PAGE_SIZE], HAUL_PAGE_SIZE) != 0;
        if (newer.found) {
            break;
        }
        newer.at += HAUL_PAGE_SIZE;
    }
    return newer;
}

// Hands the first packet with a newer version of a page to `strike`.
static PacketProxy::Fault late(Temperature of, Packets (*strike)(const WirePacket &packet, const Newer &newer,
                                                                 const unsigned char *older))
{
    return [=, done = false](const WirePacket &packet, const PacketProxy::Memory &held) mutable -> Packets {
        Newer newer = find_newer(packet, held, of);
        if (done || !newer.found) {
            return {packet};
        }
        done = true;
        return strike(packet, newer, &held[newer.page * HAUL_PAGE_SIZE]);
    };
}

PacketProxy::Fault forward()
{
    return [](const WirePacket &packet, const PacketProxy::Memory &) -> Packets { return {packet}; };
}

PacketProxy::Fault drop_early(Temperature of)
{
    return [=, done = false](const WirePacket &packet, const PacketProxy::Memory &) mutable -> Packets {
        std::vector<uint64_t> pages = data_pages(packet);
        if (done || packet.head.round != 1 || pages.empty() ||
            !std::all_of(pages.begin(), pages.end(), of.cold)) {
            return {packet};
        }
        done = true;
        return {};
    };
}

PacketProxy::Fault drop_late(Temperature of)
{
    return late(of, [](const WirePacket &, const Newer &, const unsigned char *) { return Packets{}; });
}

PacketProxy::Fault swap_rounds(Temperature of)
{
    return late(of, [](const WirePacket &packet, const Newer &newer, const unsigned char *older) {
        WirePacket behind;
        behind.head.type = HAUL_PACKET_PAGES;
        behind.head.codec = HAUL_CODEC_RAW;
        behind.head.round = packet.head.round;
        behind.head.block = packet.head.block;
        behind.head.data_runs = 1;
        behind.head.data_pages = 1;
        behind.head.payload_bytes = HAUL_PAGE_SIZE;
        behind.head.runs[0] = {newer.page, 1};
        behind.payload.assign(older, older + HAUL_PAGE_SIZE);
        return Packets{packet, behind};
    });
}

PacketProxy::Fault tear(Temperature of)
{
    return late(of, [](const WirePacket &packet, const Newer &newer, const unsigned char *older) {
        WirePacket torn = packet;
        memcpy(&torn.payload[newer.at], older, HAUL_PAGE_SIZE / 2);
        return Packets{torn};
    });
}

} // namespace haul_test
