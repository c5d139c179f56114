// SPDX-License-Identifier: Apache-2.0
// What a sender makes of a batch before anything is sent: the sample that the choice of a codec sees, and
// what becomes of pages whose encoding is given up.
#include "channels/pack.h"
#include "tests/compress/contents.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>

namespace
{

constexpr uint64_t kPages = HAUL_BATCH_PAGES;

class Pack : public testing::Test
{
  protected:
    void SetUp() override
    {
        memory_ = static_cast<unsigned char *>(aligned_alloc(HAUL_PAGE_SIZE, kPages * HAUL_PAGE_SIZE));
        ASSERT_NE(memory_, nullptr);
        contents::fill_text(memory_, kPages * HAUL_PAGE_SIZE, 1);
        block_.host = memory_;
        block_.pages = kPages;
        pack_ = std::make_unique<haul_pack>();
        *pack_ = {};
        ASSERT_EQ(haul_pack_init(pack_.get(), HAUL_COMPRESS_AUTO, false, -1), 0);
    }
    void TearDown() override
    {
        haul_pack_cleanup(pack_.get());
        free(memory_);
    }
    // Sorts a batch of these runs.
    void Sort(const std::vector<haul_run> &runs)
    {
        haul_batch batch = {};
        batch.kind = HAUL_BATCH_KIND_PAGES;
        batch.round = 1;
        for (const haul_run &run : runs) {
            batch.runs[batch.run_count++] = run;
            batch.page_count += static_cast<uint32_t>(run.count);
        }
        haul_error error = {};
        ASSERT_EQ(haul_pack_sort(pack_.get(), &batch, &block_, 1, &error), 0) << error.message;
    }
    unsigned char *memory_ = nullptr;
    haul_block_view block_ = {};
    std::unique_ptr<haul_pack> pack_;
};

const haul_codec *lz4()
{
    return haul_codec_by_id(HAUL_CODEC_LZ4);
}

TEST_F(Pack, SampleComesFromAllOverTheBatch)
{
    for (uint64_t page = 0; page < kPages; page++)
        memset(memory_ + page * HAUL_PAGE_SIZE, static_cast<int>(1 + page / 32), HAUL_PAGE_SIZE);
    unsigned char sample[HAUL_CHOICE_SAMPLE];
    Sort({{0, kPages}});
    haul_pack_sample(pack_.get(), &block_, sample);
    EXPECT_EQ(std::set<int>(sample, sample + sizeof sample), (std::set<int>{1, 2, 3, 4, 5, 6, 7, 8}));
    // The same in runs, with zero pages between them, which no sample is of.
    memset(memory_ + 40 * HAUL_PAGE_SIZE, 0, 20 * HAUL_PAGE_SIZE);
    Sort({{0, 2}, {33, 30}, {200, 1}, {255, 1}});
    haul_pack_sample(pack_.get(), &block_, sample);
    EXPECT_EQ(std::set<int>(sample, sample + sizeof sample), (std::set<int>{1, 2, 7}));
    // Fewer pages than are sampled.
    Sort({{255, 1}});
    haul_pack_sample(pack_.get(), &block_, sample);
    EXPECT_EQ(std::set<int>(sample, sample + sizeof sample), (std::set<int>{8}));
}

TEST_F(Pack, EncodesWithEnoughPatience)
{
    for (double patience_ns : {0.0, 1e9}) {
        Sort({{0, kPages}});
        haul_pack_encode(pack_.get(), &block_, lz4(), patience_ns);
        EXPECT_FALSE(pack_->gave_up);
        EXPECT_EQ(pack_->packet.codec, HAUL_CODEC_LZ4);
        EXPECT_EQ(pack_->compressed_pages, kPages);
        EXPECT_LT(pack_->packet.payload_bytes, kPages * HAUL_PAGE_SIZE);
        EXPECT_GT(pack_->chunk_ns, 0);
    }
}

TEST_F(Pack, WithoutPatienceThePagesStayRaw)
{
    Sort({{0, 100}, {120, 56}});
    haul_pack_encode(pack_.get(), &block_, lz4(), 1e-9);
    EXPECT_TRUE(pack_->gave_up);
    EXPECT_GT(pack_->chunk_ns, 0);
    EXPECT_EQ(pack_->packet.codec, HAUL_CODEC_RAW);
    EXPECT_EQ(pack_->compressed_pages, 0u);
    EXPECT_EQ(pack_->compressed_bytes, 0u);
    EXPECT_EQ(pack_->packet.payload_checksum, 0u);
    EXPECT_EQ(pack_->packet.payload_bytes, 156 * HAUL_PAGE_SIZE);
    ASSERT_EQ(pack_->part_count, 3u);
    EXPECT_EQ(pack_->parts[1].iov_base, memory_);
    EXPECT_EQ(pack_->parts[2].iov_base, memory_ + 120 * HAUL_PAGE_SIZE);
    EXPECT_EQ(pack_->total_bytes, pack_->parts[0].iov_len + 156 * HAUL_PAGE_SIZE);
    // Nothing of it is left in the next batch.
    Sort({{0, 1}});
    haul_pack_encode(pack_.get(), &block_, haul_codec_by_id(HAUL_CODEC_RAW), 0);
    EXPECT_FALSE(pack_->gave_up);
    EXPECT_EQ(pack_->chunk_ns, 0);
}

} // namespace
