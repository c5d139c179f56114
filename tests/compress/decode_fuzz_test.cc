// SPDX-License-Identifier: Apache-2.0
// Drives decode_fuzzer.cc with inputs that a fixed seed makes: noise, and damaged LZ4 blocks.
#include "compress/codec.h"
#include "tests/compress/contents.h"

#include <gtest/gtest.h>

#include <algorithm>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace
{

contents::Bytes with_expected(size_t expected, const contents::Bytes &block)
{
    contents::Bytes input(2 + block.size());
    input[0] = static_cast<uint8_t>((expected - 1) & 0xff);
    input[1] = static_cast<uint8_t>((expected - 1) >> 8);
    std::copy(block.begin(), block.end(), input.begin() + 2);
    return input;
}

contents::Bytes lz4_block(const contents::Bytes &plain)
{
    const haul_codec *lz4 = haul_codec_by_id(HAUL_CODEC_LZ4);
    contents::Bytes block(lz4->encode_bound(plain.size()));
    std::vector<uint64_t> scratch(lz4->scratch_size() / 8 + 2);
    ptrdiff_t length = lz4->encode(plain.data(), plain.size(), block.data(), block.size(), scratch.data());
    EXPECT_GT(length, 0);
    block.resize(length > 0 ? static_cast<size_t>(length) : 0);
    return block;
}

TEST(DecodeFuzz, NoiseStaysInsideTheBuffers)
{
    std::mt19937_64 random(7);
    for (int i = 0; i < 2000; i++) {
        contents::Bytes noise = contents::random(random() % 600, random());
        contents::Bytes input = with_expected(1 + random() % (i % 2 ? 65536 : 300), noise);
        ASSERT_EQ(LLVMFuzzerTestOneInput(input.data(), input.size()), 0) << "input " << i;
    }
}

TEST(DecodeFuzz, DamagedBlocksStayInsideTheBuffers)
{
    std::mt19937_64 random(11);
    const contents::Bytes blocks[] = {
        lz4_block(contents::text(4096)),
        lz4_block(contents::half_zero(16384)),
        lz4_block(contents::Bytes(HAUL_CODEC_CHUNK, 0x55)),
    };
    const size_t sizes[] = {4096, 16384, HAUL_CODEC_CHUNK};
    for (int i = 0; i < 3000; i++) {
        size_t which = random() % 3;
        contents::Bytes block = blocks[which];
        for (size_t flips = 1 + random() % 4; flips > 0; flips--)
            block[random() % block.size()] = static_cast<uint8_t>(random() % 3 ? random() : 0xff);
        if (random() % 4 == 0)
            block.resize(random() % block.size());
        // Now and then, a length that is a little or much too small for the block.
        size_t expected = sizes[which];
        if (random() % 3 == 0)
            expected -= std::min<size_t>(expected - 1, random() % (random() % 2 ? 16 : 4096));
        contents::Bytes input = with_expected(expected, block);
        ASSERT_EQ(LLVMFuzzerTestOneInput(input.data(), input.size()), 0) << "input " << i;
    }
}

} // namespace
