// SPDX-License-Identifier: Apache-2.0
#include "channels/placement/placement.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace
{
using Topology = std::unique_ptr<haul_topology, decltype(&haul_topology_free)>;
using Slots = std::vector<haul_placement_slot>;

Topology Read(haul_topology_source source, const std::string &text)
{
    haul_topology *topology = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_topology_new(source, text.c_str(), &topology, &error), 0) << error.message;
    return Topology(topology, haul_topology_free);
}

Topology Synthetic(const std::string &text)
{
    return Read(HAUL_TOPOLOGY_SYNTHETIC, text);
}

Topology File(const std::string &name)
{
    return Read(HAUL_TOPOLOGY_XML, "tests/channels/placement/data/" + name);
}

struct Plan {
    int status;
    Slots slots;
    haul_error error;
};

Plan Make(const Topology &topology, const char *policy, unsigned channels, int nic_node = HAUL_NODE_UNKNOWN,
          const std::vector<uint64_t> &memory = {})
{
    Plan plan = {0, Slots(channels + 1, haul_placement_slot{-77, -77}), {}};
    haul_placement_request request = {};
    request.policy = policy;
    request.channels = channels;
    request.nic_node = nic_node;
    request.memory_bytes_by_node = memory.empty() ? nullptr : memory.data();
    request.memory_nodes = (unsigned)memory.size();
    plan.status = haul_placement_plan(topology.get(), &request, plan.slots.data(), &plan.error);
    EXPECT_EQ(plan.slots.back().cpu, -77) << "wrote past the last slot";
    plan.slots.pop_back();
    return plan;
}

/* "4/1 5/1": CPU and node of each channel; "*" for any. */
std::string Text(const Slots &slots)
{
    std::string text;
    for (const haul_placement_slot &slot : slots) {
        text += text.empty() ? "" : " ";
        text += slot.cpu == HAUL_CPU_ANY ? "*" : std::to_string(slot.cpu);
        text += "/" + (slot.node == HAUL_NODE_UNKNOWN ? "*" : std::to_string(slot.node));
    }
    return text;
}

std::map<int, unsigned> PerNode(const Slots &slots)
{
    std::map<int, unsigned> count;
    for (const haul_placement_slot &slot : slots) {
        count[slot.node]++;
    }
    return count;
}

TEST(PlacementNone, PinsNothing)
{
    Plan plan = Make(Synthetic("node:2 core:4 pu:1"), "none", 3, 1);
    EXPECT_EQ(plan.status, 0);
    EXPECT_EQ(Text(plan.slots), "*/* */* */*");
}

TEST(PlacementAuto, OneNodeIsLeftToTheScheduler)
{
    EXPECT_EQ(Text(Make(Synthetic("node:1 core:8 pu:1"), "auto", 2, 0, {1 << 30}).slots), "*/* */*");
    EXPECT_EQ(Text(Make(Synthetic("core:1 pu:1"), "auto", 1).slots), "*/*");
}

TEST(PlacementAuto, UsableCpusOnOneNodeAreLeftToTheScheduler)
{
    EXPECT_EQ(Text(Make(File("two_nodes_one_usable.xml"), "auto", 2, 1, {0, 1 << 30}).slots), "*/* */*");
}

TEST(PlacementAuto, TheCardsNodeComesFirstWhenMemoryIsNotKnown)
{
    EXPECT_EQ(Text(Make(File("two_nodes.xml"), "auto", 1, 1).slots), "4/1");
    EXPECT_EQ(Text(Make(File("two_nodes.xml"), "auto", 4, 1).slots), "4/1 0/0 5/1 1/0");
    EXPECT_EQ(Text(Make(File("four_nodes.xml"), "auto", 5, 1).slots), "4/1 0/0 8/2 12/3 5/1");
}

TEST(PlacementAuto, WithoutACardTheLowestNodeComesFirst)
{
    EXPECT_EQ(Text(Make(File("two_nodes.xml"), "auto", 3).slots), "0/0 4/1 1/0");
}

TEST(PlacementAuto, NoBytesAnywhereIsAsIfNotKnown)
{
    EXPECT_EQ(Text(Make(File("two_nodes.xml"), "auto", 2, 1, {0, 0}).slots), "4/1 0/0");
}

TEST(PlacementAuto, FollowsTheGuestsMemory)
{
    Topology topology = File("two_nodes.xml");
    EXPECT_EQ(Text(Make(topology, "auto", 3, 0, {0, 8ull << 30}).slots), "4/1 5/1 6/1");
    EXPECT_EQ(PerNode(Make(topology, "auto", 4, 1, {3ull << 30, 1ull << 30}).slots),
              (std::map<int, unsigned>{{0, 3}, {1, 1}}));
    EXPECT_EQ(PerNode(Make(topology, "auto", 8, 1, {5ull << 30, 3ull << 30}).slots),
              (std::map<int, unsigned>{{0, 5}, {1, 3}}));
}

TEST(PlacementAuto, FourNodesShareInProportion)
{
    EXPECT_EQ(PerNode(Make(File("four_nodes.xml"), "auto", 8, 1, {4, 2, 1, 1}).slots),
              (std::map<int, unsigned>{{0, 4}, {1, 2}, {2, 1}, {3, 1}}));
}

TEST(PlacementAuto, MoreThanANodeHoldsGoesToFreeCpusElsewhere)
{
    Plan plan = Make(File("four_nodes.xml"), "auto", 6, 1, {0, 0, 1 << 30, 0});
    EXPECT_EQ(Text(plan.slots), "8/2 9/2 10/2 11/2 4/1 5/1");
}

TEST(PlacementAuto, MemoryOfNodesThatTheListOmitsIsNone)
{
    EXPECT_EQ(Text(Make(File("four_nodes.xml"), "auto", 2, 3, {1 << 30}).slots), "0/0 1/0");
}

TEST(PlacementAuto, MemoryOnANodeWithoutCpusWeighsNothing)
{
    EXPECT_EQ(Text(Make(File("memory_only_node.xml"), "auto", 2, 1, {1, 0, 64ull << 30}).slots), "0/0 1/0");
    EXPECT_EQ(Text(Make(File("memory_only_node.xml"), "auto", 2, 1, {0, 0, 64ull << 30}).slots), "2/1 0/0");
}

TEST(PlacementAuto, HugeSizesDoNotOverflow)
{
    EXPECT_EQ(PerNode(Make(File("two_nodes.xml"), "auto", 4, 1, {UINT64_MAX, UINT64_MAX}).slots),
              (std::map<int, unsigned>{{0, 2}, {1, 2}}));
}

TEST(PlacementAuto, SecondThreadsOfCoresComeLast)
{
    Slots slots = Make(File("two_nodes.xml"), "auto", 16, 1).slots;
    for (unsigned i = 0; i < 8; i++) {
        EXPECT_LT(slots[i].cpu, 8) << i;
        EXPECT_GE(slots[i + 8].cpu, 8) << i;
    }
}

TEST(PlacementAuto, UsesOnlyUsableCpus)
{
    EXPECT_EQ(Text(Make(File("two_nodes_restricted.xml"), "auto", 5, 1).slots), "5/1 1/0 13/1 2/0 5/1");
}

TEST(PlacementAuto, EachChannelHasItsOwnCpuThenAllShareEvenly)
{
    for (const char *file : {"two_nodes.xml", "four_nodes.xml"}) {
        Topology topology = File(file);
        Slots longest = Make(topology, "auto", 128, 1, {1, 5, 0, 2}).slots;
        for (unsigned channels = 1; channels <= 128; channels++) {
            Plan plan = Make(topology, "auto", channels, 1, {1, 5, 0, 2});
            ASSERT_EQ(plan.status, 0) << plan.error.message;
            std::map<int, unsigned> per_cpu;
            for (const haul_placement_slot &slot : plan.slots) {
                per_cpu[slot.cpu]++;
            }
            for (auto [cpu, count] : per_cpu) {
                ASSERT_LE(count, (channels + 15) / 16)
                    << file << ": CPU " << cpu << ", " << channels << " channels";
            }
            ASSERT_EQ(Text(plan.slots), Text(Slots(longest.begin(), longest.begin() + channels)));
        }
    }
}

TEST(PlacementList, TakesCpusInOrderAndRepeats)
{
    Topology topology = File("two_nodes.xml");
    EXPECT_EQ(Text(Make(topology, "0-3,8", 7).slots), "0/0 1/0 2/0 3/0 8/0 0/0 1/0");
    EXPECT_EQ(Text(Make(topology, "1", 2).slots), "1/0 1/0");
    EXPECT_EQ(Text(Make(topology, "13,4-5", 3).slots), "13/1 4/1 5/1");
    EXPECT_EQ(Text(Make(topology, "4-4", 1).slots), "4/1");
    EXPECT_EQ(Text(Make(topology, "0-15", 2).slots), "0/0 1/0");
    EXPECT_EQ(Make(topology, "0-15", 128).status, 0);
}

TEST(PlacementList, WorksOnOneNode)
{
    EXPECT_EQ(Text(Make(Synthetic("node:1 core:2 pu:1"), "1,0", 3).slots), "1/0 0/0 1/0");
}

struct Refused {
    const char *policy;
    const char *message;
};

class PlacementRefused : public ::testing::TestWithParam<Refused>
{
};

TEST_P(PlacementRefused, NamesWhatIsWrong)
{
    Plan plan = Make(Synthetic("node:2 core:4 pu:1"), GetParam().policy, 2);
    EXPECT_EQ(plan.status, -EINVAL);
    EXPECT_EQ(plan.error.code, EINVAL);
    EXPECT_STREQ(plan.error.message, GetParam().message);
}

#define NEITHER " is neither auto, none nor a CPU list like 0-3,8 (at \""
INSTANTIATE_TEST_SUITE_P(
    All, PlacementRefused,
    ::testing::Values(
        Refused{"", "placement \"\"" NEITHER "\")"}, Refused{"fast", "placement \"fast\"" NEITHER "fast\")"},
        Refused{"AUTO", "placement \"AUTO\"" NEITHER "AUTO\")"},
        Refused{"0-", "placement \"0-\"" NEITHER "0-\")"}, Refused{"-1", "placement \"-1\"" NEITHER "-1\")"},
        Refused{"0,", "placement \"0,\"" NEITHER "0,\")"},
        Refused{"0,,1", "placement \"0,,1\"" NEITHER ",1\")"},
        Refused{"0-2-3", "placement \"0-2-3\"" NEITHER "0-2-3\")"},
        Refused{" 1", "placement \" 1\"" NEITHER " 1\")"}, Refused{"1 ", "placement \"1 \"" NEITHER "1 \")"},
        Refused{"0x1", "placement \"0x1\"" NEITHER "0x1\")"},
        Refused{"99999999999999999999",
                "placement \"99999999999999999999\"" NEITHER "99999999999999999999\")"},
        Refused{"0-4294967296", "placement \"0-4294967296\"" NEITHER "0-4294967296\")"},
        Refused{"3-1", "placement \"3-1\": the range 3-1 runs backwards, write 1-3"},
        Refused{"8", "placement \"8\": CPU 8 is not usable here, only 0-7"},
        Refused{"0-7,9", "placement \"0-7,9\": CPU 9 is not usable here, only 0-7"},
        Refused{"0-2147483646", "placement \"0-2147483646\": CPU 8 is not usable here, only 0-7"}));

TEST(PlacementList, RefusesACpuThatTheProcessMayNotUse)
{
    Plan plan = Make(File("two_nodes_restricted.xml"), "1-2,5,6", 1);
    EXPECT_EQ(plan.status, -EINVAL);
    EXPECT_STREQ(plan.error.message, "placement \"1-2,5,6\": CPU 6 is not usable here, only 1-2,5,13");
}

TEST(PlacementPlan, RefusesChannelsOutOfRange)
{
    Topology topology = Synthetic("node:2 core:4 pu:1");
    for (unsigned channels : {0u, 129u}) {
        for (const char *policy : {"none", "auto", "0"}) {
            Plan plan = Make(topology, policy, channels);
            EXPECT_EQ(plan.status, -EINVAL);
            EXPECT_EQ(std::string(plan.error.message),
                      "cannot place " + std::to_string(channels) + " channels: the number must be 1 to 128");
        }
    }
}

TEST(PlacementPlan, RefusesNoPolicy)
{
    Plan plan = Make(Synthetic("node:2 core:4 pu:1"), nullptr, 1);
    EXPECT_EQ(plan.status, -EINVAL);
    EXPECT_STREQ(plan.error.message, "no placement given: use auto, none or a CPU list like 0-3,8");
}

TEST(PlacementPlan, ErrorMayBeNull)
{
    Topology topology = Synthetic("node:2 core:4 pu:1");
    haul_placement_slot slot;
    haul_placement_request request = {};
    request.policy = "9";
    request.channels = 1;
    EXPECT_EQ(haul_placement_plan(topology.get(), &request, &slot, nullptr), -EINVAL);
}

TEST(PlacementPrint, JoinsChannelsWithTheSameSlot)
{
    Slots slots = {{4, 1},
                   {0, 0},
                   {HAUL_CPU_ANY, 1},
                   {HAUL_CPU_ANY, HAUL_NODE_UNKNOWN},
                   {HAUL_CPU_ANY, HAUL_NODE_UNKNOWN}};
    char *text = nullptr;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    haul_placement_print(slots.data(), (unsigned)slots.size(), out);
    fclose(out);
    EXPECT_STREQ(text, "  channel 0: CPU 4, node 1\n"
                       "  channel 1: CPU 0, node 0\n"
                       "  channel 2: any CPU, node 1\n"
                       "  channels 3-4: any CPU\n");
    free(text);
}
} // namespace
