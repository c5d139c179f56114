/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/packet.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

namespace
{

const uint64_t kBlockPages = 1000;

haul_packet raw_packet()
{
    haul_packet packet{};
    packet.type = HAUL_PACKET_PAGES;
    packet.round = 5;
    packet.block = 2;
    packet.data_runs = 2;
    packet.zero_runs = 1;
    packet.data_pages = 20;
    packet.zero_pages = 400;
    packet.payload_bytes = 20 * HAUL_PAGE_SIZE;
    packet.runs[0] = {0, 12};
    packet.runs[1] = {992, 8};
    packet.runs[2] = {100, 400};
    return packet;
}

haul_packet lz4_packet()
{
    haul_packet packet = raw_packet();
    packet.codec = HAUL_CODEC_LZ4;
    packet.chunks[0] = 1000;
    packet.chunks[1] = 4 * HAUL_PAGE_SIZE; /* stored */
    packet.payload_bytes = 1000 + 4 * HAUL_PAGE_SIZE;
    packet.payload_checksum = 77;
    return packet;
}

std::vector<unsigned char> encode(const haul_packet &packet)
{
    std::vector<unsigned char> bytes(HAUL_PACKET_HEAD_MAX);
    bytes.resize(haul_packet_encode(&packet, bytes.data(), bytes.size()));
    EXPECT_GE(bytes.size(), static_cast<size_t>(HAUL_PACKET_HEADER_SIZE));
    return bytes;
}

int decode(const std::vector<unsigned char> &bytes, haul_packet *packet, std::string *message = nullptr)
{
    haul_error error{};
    int result = haul_packet_decode_header(bytes.data(), packet, &error);
    if (result == 0)
        result =
            haul_packet_decode_table(bytes.data(), bytes.data() + HAUL_PACKET_HEADER_SIZE,
                                     bytes.size() - HAUL_PACKET_HEADER_SIZE, kBlockPages, packet, &error);
    EXPECT_EQ(-result, error.code);
    if (message)
        *message = error.message;
    return result;
}

TEST(Packet, RoundTrips)
{
    for (const haul_packet &packet : {raw_packet(), lz4_packet()}) {
        auto bytes = encode(packet);
        EXPECT_EQ(bytes.size(), HAUL_PACKET_HEADER_SIZE + haul_packet_table_size(&packet));
        haul_packet out{};
        std::string message;
        ASSERT_EQ(0, decode(bytes, &out, &message)) << message;
        EXPECT_EQ(0, memcmp(&packet, &out, sizeof out));
    }
}

TEST(Packet, RoundMarkRoundTrips)
{
    haul_packet mark{}, out{};
    mark.type = HAUL_PACKET_ROUND;
    mark.round = 9;
    auto bytes = encode(mark);
    EXPECT_EQ(static_cast<size_t>(HAUL_PACKET_HEADER_SIZE), bytes.size());
    ASSERT_EQ(0, decode(bytes, &out));
    EXPECT_EQ(9u, out.round);
}

TEST(Packet, IsAsTheDocumentSays)
{
    auto bytes = encode(lz4_packet());
    const unsigned char expected[56] = {
        'H',  'A', 'L', 'P', 1,    0,    1, 0,
        5,    0,   0,   0,   2,    0,    0, 0, /* magic, type, flags, codec, 0, round, block */
        2,    0,   0,   0,   1,    0,    0, 0,
        20,   0,   0,   0,   0xe8, 0x43, 0, 0, /* runs, runs, pages, payload */
        0x90, 1,   0,   0,   0,    0,    0, 0,
        77,   0,   0,   0,   0,    0,    0, 0, /* zero pages, payload checksum */
    };
    EXPECT_EQ(0, memcmp(expected, bytes.data(), sizeof expected));
    EXPECT_EQ(64u + 3 * 16 + 2 * 4, bytes.size());
    EXPECT_EQ(0xe8, bytes[64 + 48]); /* 1000, the first chunk's size */
}

TEST(Packet, FullPacketFitsItsLimits)
{
    haul_packet packet{};
    packet.type = HAUL_PACKET_PAGES;
    packet.round = 1;
    packet.codec = HAUL_CODEC_LZ4;
    packet.data_runs = packet.data_pages = HAUL_BATCH_RUNS;
    packet.payload_bytes = HAUL_PACKET_CHUNKS;
    for (uint32_t i = 0; i < HAUL_BATCH_RUNS; i++)
        packet.runs[i] = {i * 3, 1};
    for (uint32_t i = 0; i < HAUL_PACKET_CHUNKS; i++)
        packet.chunks[i] = 1;
    auto bytes = encode(packet);
    EXPECT_EQ(HAUL_PACKET_HEAD_MAX, bytes.size());
    haul_packet out{};
    EXPECT_EQ(0, decode(bytes, &out));
    for (size_t capacity = 0; capacity < bytes.size(); capacity++)
        EXPECT_EQ(0u, haul_packet_encode(&packet, bytes.data(), capacity));
}

TEST(Packet, EveryTableTruncationIsRefused)
{
    auto whole = encode(lz4_packet());
    for (size_t length = HAUL_PACKET_HEADER_SIZE; length < whole.size(); length++) {
        std::vector<unsigned char> cut(whole.begin(), whole.begin() + static_cast<long>(length));
        haul_packet out;
        EXPECT_EQ(-EPROTO, decode(cut, &out)) << length;
        /* Also when the checksum is made to fit. */
        haul_packet_seal(cut.data(), cut.data() + HAUL_PACKET_HEADER_SIZE, length - HAUL_PACKET_HEADER_SIZE);
        EXPECT_EQ(-EPROTO, decode(cut, &out)) << length;
    }
}

TEST(Packet, EveryFlippedBitIsRefused)
{
    auto whole = encode(lz4_packet());
    for (size_t bit = 0; bit < whole.size() * 8; bit++) {
        auto bad = whole;
        bad[bit / 8] = static_cast<unsigned char>(bad[bit / 8] ^ 1 << bit % 8);
        haul_packet out;
        EXPECT_EQ(-EPROTO, decode(bad, &out)) << bit;
    }
}

/* Each number of the header and table just out of its range, with a right checksum. */
TEST(Packet, FieldsOutOfRangeAreRefused)
{
    const struct {
        void (*spoil)(haul_packet &);
        const char *message;
    } cases[] = {
        {[](haul_packet &p) { p.type = 0; }, "unknown packet type 0"},
        {[](haul_packet &p) { p.type = 3; }, "unknown packet type 3"},
        {[](haul_packet &p) { p.type = HAUL_PACKET_ROUND; }, "round mark with pages"},
        {[](haul_packet &p) { p.codec = HAUL_CODEC_COUNT; }, "unknown codec 2"},
        {[](haul_packet &p) { p.codec = 255; }, "unknown codec 255"},
        {[](haul_packet &p) { p.codec = HAUL_CODEC_LZ4; }, "chunk 0 has 0 bytes for 16 pages"},
        {[](haul_packet &p) { p.round = 0; }, "round 0"},
        {[](haul_packet &p) { p.payload_checksum = 1; }, "raw packet with a payload checksum"},
        {[](haul_packet &p) { p.data_pages = 19; }, "81920 payload bytes for 19 pages"},
        {[](haul_packet &p) { p.data_pages = 257, p.payload_bytes = 257 * 4096; },
         "257 pages, allowed are 256"},
        {[](haul_packet &p) { p.data_pages = 1, p.payload_bytes = 4096; }, "1 pages in 2 runs"},
        {[](haul_packet &p) { p.data_pages = 21, p.payload_bytes = 21 * 4096; },
         "20 pages, the packet announces 21"},
        {[](haul_packet &p) { p.data_pages = 19, p.payload_bytes = 19 * 4096; },
         "more than the 19 pages that the packet announces"},
        {[](haul_packet &p) { p.payload_bytes--; }, "81919 payload bytes for 20 pages"},
        {[](haul_packet &p) { p.payload_bytes = UINT32_MAX; }, "4294967295 payload bytes"},
        {[](haul_packet &p) { p.zero_pages = 0; }, "0 zero pages in 1 runs"},
        {[](haul_packet &p) { p.zero_pages = 399; }, "more than the 399 pages"},
        {[](haul_packet &p) { p.zero_pages = UINT64_MAX; },
         "400 pages, the packet announces 18446744073709551615"},
        {[](haul_packet &p) { p.runs[0].count = 0; }, "pages from 0, 0 of them, lie outside"},
        {[](haul_packet &p) { p.runs[0].first = kBlockPages; }, "pages from 1000, 12 of them, lie outside"},
        {[](haul_packet &p) { p.runs[1].first++; },
         "pages from 993, 8 of them, lie outside their block of 1000"},
        {[](haul_packet &p) { p.runs[1].first = UINT64_MAX - 3; }, "lie outside"},
        {[](haul_packet &p) { p.runs[2].count = UINT64_MAX; }, "lie outside"},
        {[](haul_packet &p) { p.runs[0].count = 13; }, "more than the 20 pages"},
        {[](haul_packet &p) { p.runs[0].count = 11; }, "hold 19 pages, the packet announces 20"},
    };
    for (const auto &the_case : cases) {
        haul_packet packet = raw_packet(), out;
        the_case.spoil(packet);
        std::string message;
        EXPECT_EQ(-EPROTO, decode(encode(packet), &out, &message)) << the_case.message;
        EXPECT_NE(std::string::npos, message.find(the_case.message)) << message;
    }
}

TEST(Packet, ChunkSizesOutOfRangeAreRefused)
{
    const struct {
        void (*spoil)(haul_packet &);
        const char *message;
    } cases[] = {
        {[](haul_packet &p) { p.chunks[0] = 0; }, "chunk 0 has 0 bytes for 16 pages"},
        {[](haul_packet &p) { p.chunks[0] = 65537; }, "chunk 0 has 65537 bytes for 16 pages"},
        {[](haul_packet &p) { p.chunks[1] = 16385; }, "chunk 1 has 16385 bytes for 4 pages"},
        {[](haul_packet &p) { p.chunks[1] = UINT32_MAX; }, "chunk 1 has 4294967295 bytes"},
        {[](haul_packet &p) { p.chunks[0] = 999; }, "chunks have 17383 bytes, the packet announces 17384"},
        {[](haul_packet &p) { p.payload_bytes = 81921; }, "81921 payload bytes for 20 pages"},
        {[](haul_packet &p) { p.data_runs = 0, p.data_pages = 0; }, "packet with codec 1 and no pages"},
    };
    for (const auto &the_case : cases) {
        haul_packet packet = lz4_packet(), out;
        the_case.spoil(packet);
        std::string message;
        EXPECT_EQ(-EPROTO, decode(encode(packet), &out, &message)) << the_case.message;
        EXPECT_NE(std::string::npos, message.find(the_case.message)) << message;
    }
}

/* Counts that would not even fit the encoder's arrays are written into the bytes. */
TEST(Packet, HugeCountsAreRefused)
{
    const uint32_t values[] = {257, 0x7fffffff, 0x80000000, 0xffffffff};
    for (size_t field : {16, 20, 24}) {
        for (uint32_t value : values) {
            auto bytes = encode(raw_packet());
            memcpy(&bytes[field], &value, 4);
            haul_packet out;
            haul_error error;
            EXPECT_EQ(-EPROTO, haul_packet_decode_header(bytes.data(), &out, &error)) << field;
            EXPECT_NE(nullptr, strstr(error.message, "allowed are 256")) << error.message;
        }
    }
    auto bytes = encode(raw_packet());
    const uint32_t half = 200;
    memcpy(&bytes[16], &half, 4);
    memcpy(&bytes[20], &half, 4);
    haul_packet out;
    haul_error error;
    EXPECT_EQ(-EPROTO, haul_packet_decode_header(bytes.data(), &out, &error));
    EXPECT_STREQ("packet with 200 data runs and 200 zero runs, allowed are 256 together", error.message);
}

TEST(Packet, OnlyRawPagesCanBePlaced)
{
    haul_packet packet = raw_packet(), out;
    packet.placed = true;
    ASSERT_EQ(0, decode(encode(packet), &out));
    EXPECT_TRUE(out.placed);
    ASSERT_EQ(0, decode(encode(raw_packet()), &out));
    EXPECT_FALSE(out.placed);
    std::string message;
    packet = lz4_packet();
    packet.placed = true;
    EXPECT_EQ(-EPROTO, decode(encode(packet), &out, &message));
    EXPECT_EQ("packet with codec 1 and 20 pages, said to be placed", message);
    packet = raw_packet();
    packet.placed = true;
    packet.data_runs = packet.data_pages = packet.payload_bytes = 0;
    packet.runs[0] = packet.runs[2];
    EXPECT_EQ(-EPROTO, decode(encode(packet), &out, &message));
    EXPECT_EQ("packet with codec 0 and 0 pages, said to be placed", message);
}

TEST(Packet, EmptyPacketsAndFlagsAreRefused)
{
    haul_packet packet{}, out;
    packet.type = HAUL_PACKET_PAGES;
    packet.round = 1;
    std::string message;
    EXPECT_EQ(-EPROTO, decode(encode(packet), &out, &message));
    EXPECT_EQ("packet without pages", message);
    for (size_t at : {5, 7, 48, 55}) {
        auto bytes = encode(raw_packet());
        bytes[at] = 2;
        haul_packet_seal(bytes.data(), bytes.data() + 64, bytes.size() - 64);
        EXPECT_EQ(-EPROTO, decode(bytes, &out, &message));
        EXPECT_NE(std::string::npos, message.find("unknown flags")) << message;
    }
    auto bytes = encode(raw_packet());
    bytes[0]++;
    EXPECT_EQ(-EPROTO, decode(bytes, &out, &message));
    EXPECT_EQ("not a packet (magic 0x504c4149)", message);
}

} // namespace
