// SPDX-License-Identifier: Apache-2.0
#include "compress/codec.h"
#include "tests/compress/contents.h"
#include "tests/compress/guarded.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <climits>
#include <thread>

namespace
{

using contents::Bytes;

class Scratch
{
  public:
    explicit Scratch(const haul_codec *codec) : memory_(codec->scratch_size() + 16)
    {
    }
    void *get()
    {
        auto at = reinterpret_cast<uintptr_t>(memory_.data());
        return reinterpret_cast<void *>((at + 15) & ~uintptr_t{15});
    }

  private:
    Bytes memory_;
};

ptrdiff_t encode(const haul_codec *codec, const Bytes &plain, Bytes *wire, size_t capacity)
{
    Scratch scratch(codec);
    wire->assign(capacity, 0);
    ptrdiff_t length = codec->encode(plain.data(), plain.size(), wire->data(), capacity, scratch.get());
    wire->resize(length > 0 ? static_cast<size_t>(length) : 0);
    return length;
}

TEST(CodecTable, FindsEveryCodecByIdAndName)
{
    for (unsigned id = 0; id < HAUL_CODEC_COUNT; id++) {
        const haul_codec *codec = haul_codec_by_id(id);
        ASSERT_NE(codec, nullptr) << "codec " << id << " is missing from the table";
        EXPECT_EQ(codec->id, id);
        EXPECT_EQ(haul_codec_by_name(codec->name), codec) << codec->name;
    }
}

// The ids are on the wire: a change here breaks moves between versions.
TEST(CodecTable, IdsNeverChange)
{
    EXPECT_STREQ(haul_codec_by_id(0)->name, "none");
    EXPECT_STREQ(haul_codec_by_id(1)->name, "lz4");
}

TEST(CodecTable, RefusesUnknownIds)
{
    EXPECT_EQ(haul_codec_by_id(HAUL_CODEC_COUNT), nullptr);
    EXPECT_EQ(haul_codec_by_id(255), nullptr);
    EXPECT_EQ(haul_codec_by_id(UINT_MAX), nullptr);
}

TEST(CodecTable, RefusesUnknownNames)
{
    for (const char *name : {"", "LZ4", "lz4 ", "zstd", "auto"})
        EXPECT_EQ(haul_codec_by_name(name), nullptr) << "\"" << name << "\"";
}

class EveryCodec : public testing::TestWithParam<unsigned>
{
  protected:
    const haul_codec *codec_ = haul_codec_by_id(GetParam());
};

TEST_P(EveryCodec, RestoresWhatItEncoded)
{
    for (size_t length : {size_t{1}, size_t{13}, size_t{4096}, size_t{12288}, HAUL_CODEC_CHUNK}) {
        for (const Bytes &plain : {contents::random(length), contents::text(length),
                                   contents::half_zero(length), Bytes(length, 0), Bytes(length, 0xab)}) {
            Bytes wire;
            ASSERT_GT(encode(codec_, plain, &wire, codec_->encode_bound(length)), 0) << length << " bytes";
            Bytes back(length);
            ASSERT_EQ(codec_->decode(wire.data(), wire.size(), back.data(), length), 0) << length << " bytes";
            EXPECT_EQ(back, plain) << length << " bytes";
        }
    }
}

TEST_P(EveryCodec, NeverWritesPastItsCapacity)
{
    Bytes plain = contents::text(HAUL_CODEC_CHUNK);
    Scratch scratch(codec_);
    for (size_t capacity : {1, 100, 4095, 30000, 65535}) {
        Guarded wire(capacity);
        ptrdiff_t length = codec_->encode(plain.data(), plain.size(), wire.bytes(), capacity, scratch.get());
        EXPECT_TRUE(length == -ENOSPC || (length > 0 && static_cast<size_t>(length) <= capacity))
            << "capacity " << capacity << " gave " << length;
    }
}

TEST_P(EveryCodec, AnswersNoSpaceForRandomDataInLessThanItsLength)
{
    Bytes plain = contents::random(HAUL_CODEC_CHUNK);
    Bytes wire;
    EXPECT_EQ(encode(codec_, plain, &wire, plain.size() - 1), -ENOSPC);
}

TEST_P(EveryCodec, RefusesTruncatedInput)
{
    Bytes plain = contents::text(4096);
    Bytes wire;
    ASSERT_GT(encode(codec_, plain, &wire, codec_->encode_bound(plain.size())), 0);
    for (size_t length = 0; length < wire.size(); length++) {
        Guarded input(length);
        Guarded back(plain.size());
        memcpy(input.bytes(), wire.data(), length);
        ASSERT_EQ(codec_->decode(input.bytes(), length, back.bytes(), plain.size()), -EPROTO)
            << length << " of " << wire.size() << " bytes";
    }
}

TEST_P(EveryCodec, RefusesInputThatExpandsToAnotherLength)
{
    Bytes plain = contents::text(8192);
    Bytes wire;
    ASSERT_GT(encode(codec_, plain, &wire, codec_->encode_bound(plain.size())), 0);
    for (size_t expected : {1, 4096, 8191, 8193, 12288, 65536}) {
        Guarded back(expected);
        EXPECT_EQ(codec_->decode(wire.data(), wire.size(), back.bytes(), expected), -EPROTO) << expected;
    }
}

TEST_P(EveryCodec, RefusesInputWithBytesLeftOver)
{
    Bytes plain = contents::text(4096);
    Bytes wire;
    ASSERT_GT(encode(codec_, plain, &wire, codec_->encode_bound(plain.size())), 0);
    wire.push_back(0);
    Bytes back(plain.size());
    EXPECT_EQ(codec_->decode(wire.data(), wire.size(), back.data(), back.size()), -EPROTO);
}

TEST_P(EveryCodec, WorksInSeveralThreadsAtOnce)
{
    std::vector<std::thread> threads;
    for (uint64_t seed = 0; seed < 4; seed++) {
        threads.emplace_back([this, seed] {
            Bytes plain = contents::text(HAUL_CODEC_CHUNK, seed);
            for (int i = 0; i < 20; i++) {
                Bytes wire;
                EXPECT_GT(encode(codec_, plain, &wire, codec_->encode_bound(plain.size())), 0);
                Bytes back(plain.size());
                EXPECT_EQ(codec_->decode(wire.data(), wire.size(), back.data(), back.size()), 0);
                EXPECT_EQ(back, plain);
            }
        });
    }
    for (auto &thread : threads)
        thread.join();
}

INSTANTIATE_TEST_SUITE_P(Codec, EveryCodec, testing::Range<unsigned>(0, HAUL_CODEC_COUNT),
                         [](const testing::TestParamInfo<unsigned> &info) {
                             return std::string(haul_codec_by_id(info.param)->name);
                         });

TEST(Lz4, ShrinksTextAndHalfZeroPages)
{
    const haul_codec *lz4 = haul_codec_by_id(HAUL_CODEC_LZ4);
    Bytes wire;
    ptrdiff_t text = encode(lz4, contents::text(HAUL_CODEC_CHUNK), &wire, HAUL_CODEC_CHUNK - 1);
    EXPECT_GT(text, 0);
    EXPECT_LT(text, static_cast<ptrdiff_t>(HAUL_CODEC_CHUNK * 3 / 4));
    ptrdiff_t half = encode(lz4, contents::half_zero(HAUL_CODEC_CHUNK), &wire, HAUL_CODEC_CHUNK - 1);
    EXPECT_GT(half, 0);
    EXPECT_LT(half, static_cast<ptrdiff_t>(HAUL_CODEC_CHUNK * 6 / 10));
}

TEST(Lz4, AnswersNoSpaceOutsideItsChunk)
{
    const haul_codec *lz4 = haul_codec_by_id(HAUL_CODEC_LZ4);
    Bytes wire;
    EXPECT_EQ(encode(lz4, Bytes(HAUL_CODEC_CHUNK + 1, 7), &wire, HAUL_CODEC_CHUNK), -ENOSPC);
    EXPECT_EQ(encode(lz4, Bytes(), &wire, 100), -ENOSPC);
}

TEST(Lz4, RefusesAMatchThatPointsBeforeTheOutput)
{
    const haul_codec *lz4 = haul_codec_by_id(HAUL_CODEC_LZ4);
    // One literal, then a match of 4 + 15 bytes at distance 0xffff, then the final literals.
    const uint8_t wire[] = {0x1f, 'a', 0xff, 0xff, 0x00, 0x50, 'b', 'c', 'd', 'e', 'f'};
    Guarded back(25, Guarded::kBefore);
    EXPECT_EQ(lz4->decode(wire, sizeof wire, back.bytes(), 25), -EPROTO);
}

TEST(Lz4, RefusesLengthsThatDoNotFitItsIntegers)
{
    const haul_codec *lz4 = haul_codec_by_id(HAUL_CODEC_LZ4);
    uint8_t byte = 0;
    EXPECT_EQ(lz4->decode(&byte, size_t{INT_MAX} + 1, &byte, 1), -EPROTO);
    EXPECT_EQ(lz4->decode(&byte, 1, &byte, size_t{1} << 32), -EPROTO);
}

} // namespace
