// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_PACKET_PROXY_H
#define HAUL_TESTS_TOOLS_PACKET_PROXY_H

// Stands between the two ends of a move with raw pages, and breaks what passes of one block, packet by
// packet, so that each end still sees a flawless conversation. It keeps both what the source sent and what
// the destination got, and so knows which pages must be wrong in the end.

#include "channels/packet.h"
#include "tests/engine/proxy.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace haul_test
{

struct WirePacket {
    haul_packet head{};
    std::vector<unsigned char> payload;
};

// The pages of a packet that have content, in the order of its payload.
std::vector<uint64_t> data_pages(const WirePacket &packet);

class PacketProxy
{
  public:
    using Memory = std::vector<unsigned char>;
    // Gets each packet of pages, and what the destination holds before it; returns the packets that go on in
    // its place, which keep its round. One call at a time.
    using Fault = std::function<std::vector<WirePacket>(const WirePacket &packet, const Memory &held)>;

    // Each of the first rounds lasts `hold_ms` longer, while the guest goes on writing. `pages` of block
    // number `block`; no block has more.
    PacketProxy(uint64_t pages, unsigned hold_ms, Fault fault, uint32_t block = 0);
    PacketProxy(const PacketProxy &) = delete;

    // As Proxy::Open.
    std::string open(const std::string &uri);

    // Pages of which the destination last got other bytes than the source last sent, in their order.
    std::vector<uint64_t> wrong() const;
    // The last round that came with content.
    uint32_t last_round() const
    {
        return last_round_;
    }
    // A HANDOVER was sent.
    bool handed_over() const
    {
        return handed_over_;
    }

  private:
    void carry(int from, int to);
    void carry_frames(int from, int to);
    void carry_packets(int from, int to);
    bool receive(int from, WirePacket *packet) const;
    std::vector<WirePacket> pass(const WirePacket &packet);

    const uint64_t pages_;
    const unsigned hold_ms_;
    const Fault fault_;
    const uint32_t block_;
    std::atomic<uint32_t> last_round_{0};
    std::atomic<bool> handed_over_{false};
    mutable std::mutex lock_; // sent_, held_, and whatever fault_ keeps
    Memory sent_, held_;
    Proxy proxy_; // last: ends its threads first
};

} // namespace haul_test

#endif
