/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the fuzzer's entry point without a fuzzer: over valid packets, and over seeded mutations of them. */
#include "channels/packet.h"
#include "tests/fuzz/packet_fuzz.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace
{

using Bytes = std::vector<uint8_t>;

Bytes input_of(const haul_packet &packet, uint8_t block)
{
    Bytes bytes(1 + HAUL_PACKET_HEAD_MAX);
    bytes[0] = block;
    bytes.resize(1 + haul_packet_encode(&packet, bytes.data() + 1, bytes.size() - 1));
    return bytes;
}

std::vector<Bytes> corpus()
{
    std::vector<Bytes> inputs;
    haul_packet packet{};
    packet.type = HAUL_PACKET_ROUND;
    packet.round = 1;
    inputs.push_back(input_of(packet, 0));
    packet.type = HAUL_PACKET_PAGES;
    packet.zero_runs = 2;
    packet.zero_pages = 30;
    packet.runs[0] = {0, 10};
    packet.runs[1] = {50, 20};
    inputs.push_back(input_of(packet, 255));
    packet.data_runs = 1;
    packet.data_pages = 20;
    packet.zero_runs = 1;
    packet.zero_pages = 10;
    packet.runs[0] = {50, 20};
    packet.runs[1] = {0, 10};
    packet.payload_bytes = 20 * HAUL_PAGE_SIZE;
    inputs.push_back(input_of(packet, 100));
    packet.codec = HAUL_CODEC_LZ4;
    packet.chunks[0] = 500;
    packet.chunks[1] = 4 * HAUL_PAGE_SIZE;
    packet.payload_bytes = 500 + 4 * HAUL_PAGE_SIZE;
    inputs.push_back(input_of(packet, 5));
    haul_packet full{};
    full.type = HAUL_PACKET_PAGES;
    full.round = 1;
    full.data_runs = full.data_pages = HAUL_BATCH_RUNS;
    full.payload_bytes = HAUL_PACKET_PAYLOAD_MAX;
    for (uint32_t i = 0; i < HAUL_BATCH_RUNS; i++)
        full.runs[i] = {2 * i, 1};
    inputs.push_back(input_of(full, 40));
    return inputs;
}

/* Changes a few bytes, mostly within the header, often to a value at some edge. */
void mutate(Bytes &bytes, std::mt19937_64 &random)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff};
    for (unsigned changes = 1 + random() % 4; changes > 0; changes--) {
        size_t range = random() % 3 && bytes.size() > 65 ? 65 : bytes.size();
        uint8_t &at = bytes[random() % range];
        at = random() % 2 ? edges[random() % sizeof edges] : static_cast<uint8_t>(random());
    }
    if (random() % 8 == 0)
        bytes.resize(1 + random() % bytes.size());
}

TEST(PacketFuzz, Corpus)
{
    for (const Bytes &input : corpus())
        EXPECT_EQ(0, LLVMFuzzerTestOneInput(input.data(), input.size()));
}

TEST(PacketFuzz, MutationsOfTheCorpus)
{
    std::mt19937_64 random(20240607);
    const auto seeds = corpus();
    for (int i = 0; i < 200000; i++) {
        Bytes input = seeds[random() % seeds.size()];
        mutate(input, random);
        ASSERT_EQ(0, LLVMFuzzerTestOneInput(input.data(), input.size()));
    }
}

TEST(PacketFuzz, Noise)
{
    std::mt19937_64 random(7);
    for (int i = 0; i < 20000; i++) {
        Bytes input(random() % 200);
        for (auto &byte : input)
            byte = static_cast<uint8_t>(random());
        ASSERT_EQ(0, LLVMFuzzerTestOneInput(input.data(), input.size()));
    }
}

} // namespace
