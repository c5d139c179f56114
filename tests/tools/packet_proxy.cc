// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/packet_proxy.h"

#include "channels/wire.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace haul_test
{

static constexpr uint32_t held_rounds = 2;

static bool receive_all(int fd, void *bytes, size_t length)
{
    return length == 0 || recv(fd, bytes, length, MSG_WAITALL) == static_cast<ssize_t>(length);
}

static bool send_all(int fd, const void *bytes, size_t length)
{
    const char *at = static_cast<const char *>(bytes);
    while (length > 0) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        at += sent;
        length -= static_cast<size_t>(sent);
    }
    return true;
}

static bool send_packet(int fd, const WirePacket &packet)
{
    unsigned char head[HAUL_PACKET_HEAD_MAX];
    size_t length = haul_packet_encode(&packet.head, head, sizeof head);
    EXPECT_GT(length, 0u);
    return send_all(fd, head, length) && send_all(fd, packet.payload.data(), packet.payload.size());
}

std::vector<uint64_t> data_pages(const WirePacket &packet)
{
    std::vector<uint64_t> pages;
    for (uint32_t i = 0; i < packet.head.data_runs; i++) {
        for (uint64_t j = 0; j < packet.head.runs[i].count; j++) {
            pages.push_back(packet.head.runs[i].first + j);
        }
    }
    return pages;
}

static void apply(const WirePacket &packet, PacketProxy::Memory *memory)
{
    const haul_packet &head = packet.head;
    for (uint32_t i = head.data_runs; i < head.data_runs + head.zero_runs; i++) {
        memset(memory->data() + head.runs[i].first * HAUL_PAGE_SIZE, 0, head.runs[i].count * HAUL_PAGE_SIZE);
    }
    const unsigned char *from = packet.payload.data();
    for (uint64_t page : data_pages(packet)) {
        memcpy(memory->data() + page * HAUL_PAGE_SIZE, from, HAUL_PAGE_SIZE);
        from += HAUL_PAGE_SIZE;
    }
}

PacketProxy::PacketProxy(uint64_t pages, unsigned hold_ms, Fault fault, uint32_t block)
    : pages_(pages), hold_ms_(hold_ms), fault_(std::move(fault)), block_(block),
      sent_(pages * HAUL_PAGE_SIZE), held_(pages * HAUL_PAGE_SIZE)
{
    proxy_.CarryWith([this](int from, int to) { carry(from, to); });
}

std::string PacketProxy::open(const std::string &uri)
{
    return proxy_.Open(uri);
}

std::vector<uint64_t> PacketProxy::wrong() const
{
    std::lock_guard<std::mutex> hold(lock_);
    std::vector<uint64_t> pages;
    for (uint64_t page = 0; page < pages_; page++) {
        size_t at = page * HAUL_PAGE_SIZE;
        if (memcmp(sent_.data() + at, held_.data() + at, HAUL_PAGE_SIZE) != 0) {
            pages.push_back(page);
        }
    }
    return pages;
}

// What a connection is for stands in its first frame.
void PacketProxy::carry(int from, int to)
{
    unsigned char bytes[256];
    enum haul_frame_type type;
    size_t length = 0;
    haul_hello hello = {};
    haul_error error = {};
    if (haul_frame_recv(from, &type, bytes, sizeof bytes, &length, -1, &error) < 0) {
        return;
    }
    EXPECT_EQ(type, HAUL_FRAME_HELLO);
    EXPECT_EQ(haul_hello_decode(bytes, length, &hello, &error), 0) << error.message;
    if (haul_frame_send(to, type, bytes, length, &error) < 0) {
        return;
    }
    if (hello.channel == HAUL_CONTROL_CHANNEL) {
        carry_frames(from, to);
    } else {
        carry_packets(from, to);
    }
}

void PacketProxy::carry_frames(int from, int to)
{
    std::vector<unsigned char> bytes(HAUL_FRAME_MAX);
    enum haul_frame_type type;
    size_t length = 0;
    haul_error error = {};
    while (haul_frame_recv(from, &type, bytes.data(), bytes.size(), &length, -1, &error) == 0) {
        handed_over_ = handed_over_ || type == HAUL_FRAME_HANDOVER;
        if (haul_frame_send(to, type, bytes.data(), length, &error) < 0) {
            return;
        }
    }
}

bool PacketProxy::receive(int from, WirePacket *packet) const
{
    unsigned char header[HAUL_PACKET_HEADER_SIZE], table[HAUL_PACKET_TABLE_MAX];
    haul_error error = {};
    if (!receive_all(from, header, sizeof header)) {
        return false;
    }
    EXPECT_EQ(haul_packet_decode_header(header, &packet->head, &error), 0) << error.message;
    size_t length = haul_packet_table_size(&packet->head);
    if (!receive_all(from, table, length)) {
        return false;
    }
    EXPECT_EQ(haul_packet_decode_table(header, table, length, pages_, &packet->head, &error), 0)
        << error.message;
    EXPECT_EQ(packet->head.codec, HAUL_CODEC_RAW);
    packet->payload.resize(packet->head.payload_bytes);
    return error.code == 0 && receive_all(from, packet->payload.data(), packet->payload.size());
}

std::vector<WirePacket> PacketProxy::pass(const WirePacket &packet)
{
    std::lock_guard<std::mutex> hold(lock_);
    if (packet.head.data_pages > 0 && packet.head.round > last_round_) {
        last_round_ = packet.head.round;
    }
    apply(packet, &sent_);
    std::vector<WirePacket> instead = fault_(packet, held_);
    for (const WirePacket &one : instead) {
        apply(one, &held_);
    }
    return instead;
}

// Nothing is sent under the lock: a channel may be blocked until another one, which needs the lock, has
// reached its round mark.
void PacketProxy::carry_packets(int from, int to)
{
    WirePacket packet;
    while (receive(from, &packet)) {
        bool mark = packet.head.type == HAUL_PACKET_ROUND;
        if (mark || packet.head.block != block_) {
            usleep(mark && packet.head.round <= held_rounds ? hold_ms_ * 1000 : 0);
            if (!send_packet(to, packet)) {
                return;
            }
            continue;
        }
        for (const WirePacket &one : pass(packet)) {
            if (!send_packet(to, one)) {
                return;
            }
        }
    }
}

} // namespace haul_test
