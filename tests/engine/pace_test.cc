// SPDX-License-Identifier: Apache-2.0
#include "engine/source/pace.h"

#include <gtest/gtest.h>

#include <vector>

namespace
{

constexpr uint64_t kMs = 1000000;
constexpr unsigned kMost = 8;

// The depths of channels that deliver so many bytes in each of ten windows of 100 ms.
std::vector<unsigned> Depths(const std::vector<uint64_t> &bytes)
{
    std::vector<haul_pace> paces(bytes.size());
    for (int window = 0; window < 10; window++) {
        for (size_t i = 0; i < bytes.size(); i++) {
            haul_pace_measure(&paces[i], bytes[i], 100 * kMs);
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
    EXPECT_EQ(Depths({0, 0}), (std::vector<unsigned>{8, 8}));
    EXPECT_EQ(Depths({0, 1000000}), (std::vector<unsigned>{8, 8}));
    haul_pace pace = {};
    haul_pace_measure(&pace, 1000000, kMs); // too little work to say anything
    EXPECT_EQ(pace.bytes_per_ns, 0);
}

TEST(Pace, OneBadWindowHardlyCounts)
{
    std::vector<haul_pace> paces(2);
    for (int window = 0; window < 10; window++) {
        haul_pace_measure(&paces[0], 1000000, 100 * kMs);
        haul_pace_measure(&paces[1], 1000000, 100 * kMs);
    }
    haul_pace_measure(&paces[1], 100000, 100 * kMs);
    haul_pace_share(paces.data(), 2, kMost);
    EXPECT_EQ(paces[1].depth, kMost);
}

TEST(Pace, TheLessFullShareComesFirst)
{
    haul_pace slow = {1, 4}, fast = {2, 8};
    EXPECT_TRUE(haul_pace_before(&fast, 3, &slow, 2));
    EXPECT_FALSE(haul_pace_before(&fast, 4, &slow, 2));
    EXPECT_FALSE(haul_pace_before(&slow, 2, &fast, 4));
    EXPECT_TRUE(haul_pace_before(&slow, 1, &fast, 4));
}

} // namespace
