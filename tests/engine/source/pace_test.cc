// SPDX-License-Identifier: Apache-2.0
#include "engine/source/pace.h"

#include <gtest/gtest.h>

#include <vector>

namespace
{

constexpr uint64_t kMs = 1000000;
constexpr unsigned kMost = 8;
constexpr uint64_t kMany = 1000000; // pages: no batch takes long

void Measure(haul_pace *pace, uint64_t bytes, uint64_t pages, uint64_t busy_ns)
{
    haul_pace_sample sample = {bytes, pages, busy_ns};
    haul_pace_measure(pace, &sample);
}

// The depths of channels that deliver so many bytes in each of ten windows of 100 ms.
std::vector<unsigned> Depths(const std::vector<uint64_t> &bytes)
{
    std::vector<haul_pace> paces(bytes.size());
    for (int window = 0; window < 10; window++) {
        for (size_t i = 0; i < bytes.size(); i++) {
            Measure(&paces[i], bytes[i], bytes[i] > 0 ? kMany : 0, 100 * kMs);
        }
    }
    haul_pace_share(paces.data(), static_cast<unsigned>(paces.size()), kMost);
    std::vector<unsigned> depths;
    for (const haul_pace &pace : paces) {
        depths.push_back(pace.depth);
    }
    return depths;
}

TEST(Pace, DepthsAreInProportionToSpeed)
{
    EXPECT_EQ(Depths({1000000, 2000000, 4000000}), (std::vector<unsigned>{2, 4, 8}));
    EXPECT_EQ(Depths({2500000, 5000000, 2500000, 5000000}), (std::vector<unsigned>{4, 8, 4, 8}));
}

TEST(Pace, ASlowChannelKeepsWork)
{
    EXPECT_EQ(Depths({1000, 100000000}), (std::vector<unsigned>{HAUL_PACE_LEAST, 8}));
}

TEST(Pace, ChannelsOfAboutTheSameSpeedShareAlike)
{
    EXPECT_EQ(Depths({80, 100, 90}), (std::vector<unsigned>{8, 8, 8}));
}

TEST(Pace, NothingIsKnownAtFirstNorOfAnIdleChannel)
{
    EXPECT_EQ(Depths({0, 0}), (std::vector<unsigned>{HAUL_PACE_LEAST, HAUL_PACE_LEAST}));
    EXPECT_EQ(Depths({0, 1000000}), (std::vector<unsigned>{HAUL_PACE_LEAST, 8}));
    haul_pace pace = {};
    Measure(&pace, 1000000, kMany, kMs); // too little work to say anything
    EXPECT_EQ(pace.bytes_per_ns, 0);
}

TEST(Pace, OneBadWindowHardlyCounts)
{
    std::vector<haul_pace> paces(2);
    for (int window = 0; window < 10; window++) {
        Measure(&paces[0], 1000000, kMany, 100 * kMs);
        Measure(&paces[1], 1000000, kMany, 100 * kMs);
    }
    Measure(&paces[1], 100000, kMany, 100 * kMs);
    haul_pace_share(paces.data(), 2, kMost);
    EXPECT_EQ(paces[1].depth, kMost);
}

// What a channel holds after ten windows in each of which it handles so many pages in 100 ms.
haul_pace After(uint64_t pages)
{
    haul_pace pace = {};
    for (int window = 0; window < 10; window++) {
        Measure(&pace, pages * HAUL_PAGE_SIZE, pages, 100 * kMs);
    }
    haul_pace_share(&pace, 1, kMost);
    return pace;
}

TEST(Pace, AChannelHoldsNoMoreThanSomeTensOfMilliseconds)
{
    for (uint64_t pages : {100, 300, 1000, 3000, 10000}) { // 4 to 400 MB/s
        haul_pace pace = After(pages);
        double batch_ms = 100.0 * pace.batch_pages / static_cast<double>(pages);
        EXPECT_LE(batch_ms, 20) << pages;
        EXPECT_LE(pace.depth * batch_ms, 50) << pages;
        EXPECT_GE(pace.depth * batch_ms, 20) << pages << ": it must not run dry";
    }
}

TEST(Pace, AFastChannelHoldsAllThatItMay)
{
    EXPECT_EQ(After(5000).depth, kMost);
    EXPECT_EQ(After(5000).batch_pages, HAUL_BATCH_PAGES);
    haul_pace unknown = {};
    haul_pace_share(&unknown, 1, kMost);
    EXPECT_LT(unknown.batch_pages * unknown.depth, HAUL_BATCH_PAGES) << "it may be slow";
}

TEST(Pace, ABatchThatTakesManyWindowsIsMeasuredAsAWhole)
{
    haul_pace pace = {};
    for (int window = 0; window < 4; window++) {
        Measure(&pace, 1 << 18, 0, 100 * kMs);
    }
    EXPECT_EQ(pace.ns_per_page, 0);
    Measure(&pace, 1 << 18, 1000, 100 * kMs);
    EXPECT_EQ(pace.ns_per_page, 500.0 * kMs / 1000);
}

TEST(Pace, AStallIsSoonForgotten)
{
    haul_pace pace = After(10000);
    Measure(&pace, 1, 1, 5000 * kMs);
    haul_pace_share(&pace, 1, kMost);
    EXPECT_LT(pace.batch_pages, HAUL_BATCH_PAGES);
    for (int window = 0; window < 6; window++) {
        Measure(&pace, 10000 * HAUL_PAGE_SIZE, 10000, 100 * kMs);
    }
    haul_pace_share(&pace, 1, kMost);
    EXPECT_EQ(pace.batch_pages, HAUL_BATCH_PAGES);
}

// What haul_pace_pick chooses among channels of these depths, loads and nodes, for memory on `node`.
int Pick(const std::vector<unsigned> &depths, const std::vector<unsigned> &loads,
         const std::vector<int> &nodes, int node, unsigned first = 0)
{
    std::vector<haul_pace> paces(depths.size());
    for (size_t i = 0; i < depths.size(); i++) {
        paces[i].depth = depths[i];
    }
    haul_pace_choice choice = {};
    choice.paces = paces.data();
    choice.loads = loads.data();
    choice.nodes = nodes.data();
    choice.count = static_cast<unsigned>(depths.size());
    choice.first = first;
    choice.node = node;
    return haul_pace_pick(&choice);
}

constexpr int kUnknown = -1;

TEST(Pick, TheLessFullShareComesFirst)
{
    for (int i = 0; i < 2; i++) { // whichever is looked at first
        EXPECT_EQ(Pick({8, 4}, {3, 2}, {0, 0}, kUnknown, i), 0);
        EXPECT_EQ(Pick({8, 4}, {4, 1}, {0, 0}, kUnknown, i), 1);
        EXPECT_EQ(Pick({8, 4}, {4, 2}, {0, 0}, kUnknown, i), i) << "equally full: in turn";
    }
}

TEST(Pick, AFullChannelIsLeftOut)
{
    EXPECT_EQ(Pick({2, 2}, {2, 1}, {0, 0}, 0), 1);
    EXPECT_EQ(Pick({2, 8}, {2, 7}, {0, 1}, 0), 1) << "however far from the memory";
    EXPECT_LT(Pick({2, 2}, {2, 2}, {0, 1}, 1), 0);
    EXPECT_LT(Pick({}, {}, {}, 0), 0);
}

TEST(Pick, AmongEqualsOneOnTheMemorysNode)
{
    for (unsigned first = 0; first < 4; first++) {
        EXPECT_EQ(Pick({8, 8, 8, 8}, {1, 1, 1, 1}, {0, 0, 0, 1}, 1, first), 3);
        EXPECT_EQ(Pick({8, 8, 8, 8}, {1, 1, 1, 1}, {0, 1, 1, 1}, 0, first), 0);
        EXPECT_EQ(Pick({8, 8, 8, 8}, {1, 1, 1, 1}, {kUnknown, kUnknown, 0, 0}, 1, first), (int)first)
            << "none is on it";
    }
    EXPECT_EQ(Pick({8, 8, 8, 8}, {1, 1, 1, 1}, {0, 1, 0, 1}, 1, 2), 3) << "in turn among those, too";
    EXPECT_EQ(Pick({8, 8, 8, 8}, {1, 1, 1, 1}, {0, 1, 0, 1}, 1, 0), 1);
}

TEST(Pick, ALessFullChannelElsewhereComesFirst)
{
    for (unsigned first = 0; first < 2; first++) {
        EXPECT_EQ(Pick({8, 8}, {1, 2}, {0, 1}, 1, first), 0);
        EXPECT_EQ(Pick({8, 4}, {2, 1}, {0, 1}, 1, first), 1) << "a quarter each";
    }
}

TEST(Pick, MemoryOnAnUnknownNodePrefersNone)
{
    EXPECT_EQ(Pick({8, 8}, {0, 0}, {1, kUnknown}, kUnknown, 0), 0);
    EXPECT_EQ(Pick({8, 8}, {0, 0}, {1, kUnknown}, kUnknown, 1), 1);
}

} // namespace
