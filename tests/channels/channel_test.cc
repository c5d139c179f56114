/* SPDX-License-Identifier: Apache-2.0 */
/* What senders send is what receivers put into memory, over every kind of socket. */
#include "tests/channels/link.h"

#include <cerrno>
#include <sys/mman.h>

namespace
{

using namespace haul_test;

struct Case {
    const char *uri;
    int mode;
    unsigned channels;
};

class Move : public ::testing::TestWithParam<Case>
{
};

std::string uri_of(const Case &the_case)
{
    if (std::string(the_case.uri) != "unix")
        return the_case.uri;
    return "unix:/tmp/haul_channel_test." + std::to_string(getpid());
}

TEST_P(Move, MixedMemoryArrives)
{
    const uint64_t pages = 3000;
    Link link(GetParam().channels, pages, GetParam().mode, uri_of(GetParam()));
    for (uint64_t i = 0; i < pages; i++) {
        if (i % 7 == 0)
            link.source.fill_random(i, 1);
        else if (i % 3 != 0)
            link.source.fill(i, static_cast<int>(i));
        link.destination.fill(i, 0x55);
        link.destination.set_bit(i);
    }
    link.submit_all(1);
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    EXPECT_TRUE(link.same());
    uint64_t zero = 0, raw = 0, compressed = 0, written = 0, read = 0;
    for (unsigned i = 0; i < GetParam().channels; i++) {
        link.drain(i);
        haul_channel_counters sent, received;
        haul_sender_counters(link.senders[i], &sent);
        haul_receiver_counters(link.receivers[i], &received);
        EXPECT_EQ(sent.bytes_written, received.bytes_written);
        EXPECT_EQ(sent.bytes_written, sent.bytes_delivered);
        EXPECT_EQ(sent.pages, received.pages);
        EXPECT_EQ(sent.compressed_bytes, received.compressed_bytes);
        EXPECT_EQ(sent.pages, sent.zero_pages + sent.raw_pages + sent.compressed_pages);
        EXPECT_GT(sent.tid, 0);
        EXPECT_GE(sent.cpu, 0);
        EXPECT_GT(sent.busy_ns, 0u);
        EXPECT_LE(sent.encode_ns, sent.busy_ns);
        zero += sent.zero_pages;
        raw += sent.raw_pages;
        compressed += sent.compressed_pages;
        written += sent.bytes_written;
        read += received.bytes_written;
    }
    EXPECT_EQ(pages, zero + raw + compressed);
    EXPECT_GT(zero, pages / 4);
    EXPECT_EQ(written, read);
    if (GetParam().mode == HAUL_CODEC_RAW) {
        EXPECT_EQ(0u, compressed);
        EXPECT_GE(written, raw * HAUL_PAGE_SIZE);
    } else if (GetParam().mode == HAUL_CODEC_LZ4) {
        EXPECT_GT(compressed, 0u);
        EXPECT_LT(written, (raw + compressed) * HAUL_PAGE_SIZE / 2);
    }
    EXPECT_EQ(0u, link.barrier.failures());
}

INSTANTIATE_TEST_SUITE_P(Channels, Move,
                         ::testing::Values(Case{"pair", HAUL_CODEC_RAW, 1}, Case{"pair", HAUL_CODEC_LZ4, 1},
                                           Case{"tcp:127.0.0.1:0", HAUL_CODEC_RAW, 4},
                                           Case{"tcp:127.0.0.1:0", HAUL_CODEC_LZ4, 2},
                                           Case{"tcp:127.0.0.1:0", HAUL_COMPRESS_AUTO, 2},
                                           Case{"unix", HAUL_CODEC_RAW, 2}, Case{"unix", HAUL_CODEC_LZ4, 1},
                                           Case{"unix", HAUL_COMPRESS_AUTO, 3}));

class Compressed : public ::testing::TestWithParam<int>
{
};

/* Single pages far apart: as many runs as a batch can have, chunks that span runs. */
TEST_P(Compressed, ScatteredRunsArrive)
{
    const uint64_t pages = 2 * HAUL_BATCH_RUNS + 50;
    Link link(1, pages, GetParam());
    std::vector<haul_run> single, mixed;
    for (uint64_t i = 0; i < HAUL_BATCH_RUNS; i++) {
        single.push_back({2 * i, 1});
        i % 5 ? link.source.fill(2 * i, static_cast<int>(i + 1)) : link.source.fill_random(2 * i, 9);
    }
    /* Runs of 1, 2, 3 ... pages, of which the odd ones are new. */
    for (uint64_t first = 1, length = 1; first + length < pages && length < 20;
         first += length + 3, length++) {
        mixed.push_back({first, length});
        for (uint64_t i = 0; i < length; i++)
            link.source.fill_random(first + i, 4);
    }
    link.submit(0, HAUL_BATCH_KIND_PAGES, 1, single);
    link.mark(1);
    link.submit(0, HAUL_BATCH_KIND_PAGES, 2, mixed);
    link.mark(2);
    ASSERT_TRUE(link.barrier.wait_round(2));
    EXPECT_TRUE(link.same());
}

/* Trap T5, on both ways that a zero page can travel. */
TEST_P(Compressed, ZeroPageThatWasNotIsCleared)
{
    const uint64_t pages = 200;
    Link link(1, pages, GetParam());
    for (uint64_t i = 0; i < pages; i++)
        link.source.fill(i, 7);
    link.submit_all(1);
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    ASSERT_TRUE(link.same());
    link.source.fill(3, 0);
    for (uint64_t i = 60; i < 195; i++)
        link.source.fill(i, 0);
    link.submit(0, HAUL_BATCH_KIND_PAGES, 2, {{3, 1}});
    link.submit(0, HAUL_BATCH_KIND_ZERO, 2, {{60, 135}});
    link.mark(2);
    ASSERT_TRUE(link.barrier.wait_round(2));
    EXPECT_TRUE(link.same());
    for (uint64_t i = 0; i < pages; i++)
        EXPECT_EQ(i != 3 && !(i >= 60 && i < 195), link.destination.bit(i)) << i;
}

INSTANTIATE_TEST_SUITE_P(Channels, Compressed,
                         ::testing::Values(HAUL_CODEC_RAW, HAUL_CODEC_LZ4, HAUL_COMPRESS_AUTO));

/* Pages whose bit is clear are known to be zero: they stay untouched, which keeps them unpopulated. */
TEST(Channel, ZeroRunLeavesUntouchedPagesAlone)
{
    Link link(1, 130);
    link.destination.fill(64, 0xaa); /* no bit: a write here would show */
    link.destination.fill(65, 0xaa);
    link.destination.set_bit(65);
    link.submit(0, HAUL_BATCH_KIND_ZERO, 1, {{0, 130}});
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    EXPECT_EQ(0xaa, link.destination.page(64)[0]);
    EXPECT_EQ(0, link.destination.page(65)[0]);
    EXPECT_EQ(0, link.destination.page(65)[HAUL_PAGE_SIZE - 1]);
    EXPECT_FALSE(link.destination.bit(65));
}

/* A hole is never read: here reading would be fatal. */
TEST(Channel, ZeroBatchNeverReadsMemory)
{
    Link link(1, 5000);
    mprotect(link.source.view.host, 5000 * HAUL_PAGE_SIZE, PROT_NONE);
    link.submit(0, HAUL_BATCH_KIND_ZERO, 1, {{0, 4000}, {4500, 500}});
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    haul_channel_counters counters;
    link.drain(0);
    haul_sender_counters(link.senders[0], &counters);
    EXPECT_EQ(4500u, counters.zero_pages);
    EXPECT_LT(counters.bytes_written, 1000u);
    mprotect(link.source.view.host, 5000 * HAUL_PAGE_SIZE, PROT_READ);
}

} // namespace
