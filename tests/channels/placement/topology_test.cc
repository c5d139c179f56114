// SPDX-License-Identifier: Apache-2.0
#include "channels/placement/placement.h"
#include "channels/placement/topology.h"

#include <gtest/gtest.h>

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace
{
using Topology = std::unique_ptr<haul_topology, decltype(&haul_topology_free)>;

Topology Read(haul_topology_source source, const char *text)
{
    haul_topology *topology = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_topology_new(source, text, &topology, &error), 0) << error.message;
    return Topology(topology, haul_topology_free);
}

Topology ReadFile(const std::string &name)
{
    return Read(HAUL_TOPOLOGY_XML, ("tests/channels/placement/data/" + name).c_str());
}

std::string Printed(const haul_topology *topology)
{
    char *text = nullptr;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    haul_topology_print(topology, out);
    fclose(out);
    std::string result(text, size);
    free(text);
    return result;
}

TEST(Topology, SyntheticNodesAndCpus)
{
    Topology two = Read(HAUL_TOPOLOGY_SYNTHETIC, "node:2 core:4 pu:1");
    EXPECT_EQ(haul_topology_node_count(two.get()), 2u);
    EXPECT_EQ(two->cpu_count, 8u);
    EXPECT_EQ(haul_topology_find_cpu(two.get(), 5)->node, 1);
    EXPECT_EQ(haul_topology_find_cpu(two.get(), 8), nullptr);
    EXPECT_EQ(haul_topology_find_node(two.get(), 2), nullptr);

    Topology four = Read(HAUL_TOPOLOGY_SYNTHETIC, "node:4 core:2 pu:2");
    EXPECT_EQ(haul_topology_node_count(four.get()), 4u);
    EXPECT_EQ(four->cpu_count, 16u);
}

TEST(Topology, FirstThreadsOfCoresComeFirst)
{
    Topology topology = Read(HAUL_TOPOLOGY_SYNTHETIC, "node:2 core:2 pu:2");
    std::string order;
    for (unsigned i = 0; i < topology->cpu_count; i++) {
        order += std::to_string(topology->cpus[i].cpu) + " ";
    }
    EXPECT_EQ(order, "0 2 4 6 1 3 5 7 ");
}

TEST(Topology, FirstUsableThreadOfACoreCountsAsItsFirst)
{
    /* CPU 13 is the second thread of CPU 5's core. */
    Topology topology = ReadFile("two_nodes_restricted.xml");
    ASSERT_EQ(topology->cpu_count, 4u);
    EXPECT_EQ(topology->cpus[2].cpu, 5);
    EXPECT_EQ(topology->cpus[3].cpu, 13);
    EXPECT_EQ(topology->cpus[3].node, 1);
    EXPECT_EQ(haul_topology_find_cpu(topology.get(), 0), nullptr);
}

TEST(Topology, RefusesWhatHwlocCannotRead)
{
    haul_topology *topology = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_topology_new(HAUL_TOPOLOGY_SYNTHETIC, "node:two", &topology, &error), -EINVAL);
    EXPECT_EQ(topology, nullptr);
    EXPECT_NE(std::string(error.message).find("\"node:two\""), std::string::npos) << error.message;
    EXPECT_EQ(error.code, EINVAL);
}

TEST(Topology, RefusesAMissingFile)
{
    haul_topology *topology = nullptr;
    haul_error error = {};
    EXPECT_EQ(haul_topology_new(HAUL_TOPOLOGY_XML, "/nowhere/machine.xml", &topology, &error), -ENOENT);
    EXPECT_STREQ(error.message, "cannot read topology file /nowhere/machine.xml: No such file or directory");
    EXPECT_EQ(haul_topology_new(HAUL_TOPOLOGY_XML, "/nowhere/machine.xml", &topology, nullptr), -ENOENT);
}

TEST(Topology, RefusesAFileThatIsNoTopology)
{
    std::string path = ::testing::TempDir() + "/broken.xml";
    for (const char *content :
         {"", "not xml at all", "<?xml version=\"1.0\"?>\n<topology version=\"2.0\">\n"}) {
        std::ofstream(path) << content;
        haul_topology *topology = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_topology_new(HAUL_TOPOLOGY_XML, path.c_str(), &topology, &error), -EINVAL) << content;
        EXPECT_NE(std::string(error.message).find(path), std::string::npos) << error.message;
    }
}

TEST(Topology, FreeTakesNull)
{
    haul_topology_free(nullptr);
}

TEST(Topology, CardIsOnItsNode)
{
    for (const char *file : {"two_nodes.xml", "four_nodes.xml", "memory_only_node.xml"}) {
        Topology topology = ReadFile(file);
        EXPECT_EQ(haul_topology_nic_node(topology.get(), "ens1f0"), 1) << file;
    }
}

TEST(Topology, CardOfTheWholeMachineIsOnNoNode)
{
    Topology topology = ReadFile("two_nodes.xml");
    EXPECT_EQ(haul_topology_nic_node(topology.get(), "usb0"), HAUL_NODE_UNKNOWN);
}

TEST(Topology, UnknownNamesAreOnNoNode)
{
    Topology topology = ReadFile("two_nodes.xml");
    EXPECT_EQ(haul_topology_nic_node(topology.get(), "ens1f"), HAUL_NODE_UNKNOWN);
    EXPECT_EQ(haul_topology_nic_node(topology.get(), ""), HAUL_NODE_UNKNOWN);
    Topology here = Read(HAUL_TOPOLOGY_THIS_MACHINE, nullptr);
    EXPECT_EQ(haul_topology_nic_node(here.get(), "lo"), HAUL_NODE_UNKNOWN);
}

/* A folder like /sys/class/net: bond0 on ens1f0, vlan5 on bond0, br0 on vlan5 and a tap. */
class LowerCards : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        std::string pattern = ::testing::TempDir() + "/netXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder = pattern;
    }
    void Add(const std::string &upper, const std::string &lower)
    {
        mkdir((folder + "/" + upper).c_str(), 0700);
        mkdir((folder + "/" + upper + "/lower_" + lower).c_str(), 0700);
    }
    int Node(const char *name)
    {
        return haul_nic_node_below(topology.get(), folder.c_str(), name);
    }
    std::string folder;
    Topology topology = ReadFile("two_nodes.xml");
};

TEST_F(LowerCards, ABondIsOnTheNodeOfItsCard)
{
    Add("bond0", "ens1f0");
    EXPECT_EQ(Node("bond0"), 1);
}

TEST_F(LowerCards, ABridgeOnAVlanOnABondIsTooAndTapsSayNothing)
{
    Add("bond0", "ens1f0");
    Add("vlan5", "bond0");
    Add("br0", "vlan5");
    Add("br0", "tap7");
    EXPECT_EQ(Node("br0"), 1);
}

TEST_F(LowerCards, NothingBelowIsNoNode)
{
    Add("br1", "tap7");
    EXPECT_EQ(Node("br1"), HAUL_NODE_UNKNOWN);
    EXPECT_EQ(Node("none"), HAUL_NODE_UNKNOWN);
}

TEST_F(LowerCards, ALoopEnds)
{
    Add("a", "b");
    Add("b", "a");
    EXPECT_EQ(Node("a"), HAUL_NODE_UNKNOWN);
}

/* A folder like /sys/class/net beside one like /sys/devices. */
class Interfaces : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        std::string pattern = ::testing::TempDir() + "/ifsXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder = pattern;
        topology->card_count = 0; /* but for what the folder has */
    }
    /* An interface whose device is at `device`, "" for one of the kernel's making. */
    void Add(const std::string &name, const std::string &device)
    {
        std::string net = folder + "/net/" + name, at = folder + "/devices/" + device;
        std::filesystem::create_directories(net);
        std::filesystem::create_directories(at);
        if (!device.empty()) {
            ASSERT_EQ(symlink(at.c_str(), (net + "/device").c_str()), 0);
        }
    }
    const haul_topology_card *Find(const std::string &name)
    {
        for (unsigned i = 0; i < topology->card_count; i++) {
            if (topology->cards[i].name == name) {
                return &topology->cards[i];
            }
        }
        return nullptr;
    }
    std::string folder;
    Topology topology = ReadFile("two_nodes.xml");
};

TEST_F(Interfaces, AreWhereTheirDevicesAre)
{
    Add("straight", "pci0000:81/0000:81:00.0"); /* ens1f0's in the description */
    Add("below", "pci0000:81/0000:81:00.0/virtio3");
    Add("elsewhere", "platform/fec0");
    Add("lo", "");
    ASSERT_EQ(haul_topology_find_cards(topology.get(), (folder + "/net").c_str()), 0);
    EXPECT_EQ(topology->card_count, 3u);
    for (const char *name : {"straight", "below"}) {
        ASSERT_NE(Find(name), nullptr);
        EXPECT_EQ(haul_card_node(topology.get(), Find(name)), 1) << name;
        EXPECT_EQ(Find(name)->at->type, HWLOC_OBJ_PCI_DEVICE) << name;
    }
    ASSERT_NE(Find("elsewhere"), nullptr);
    EXPECT_EQ(haul_card_node(topology.get(), Find("elsewhere")), HAUL_NODE_UNKNOWN);
    EXPECT_EQ(Find("lo"), nullptr);
}

TEST_F(Interfaces, AFolderThatIsNotThereHasNone)
{
    EXPECT_EQ(haul_topology_find_cards(topology.get(), (folder + "/none").c_str()), 0);
    EXPECT_EQ(topology->card_count, 0u);
}

/* What it asks of the system beneath must be meant for several threads: ThreadSanitizer looks at this. */
TEST(Topology, SeveralThreadsReadThisMachineAtOnce)
{
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([] {
            for (int k = 0; k < 5; k++) {
                Topology here = Read(HAUL_TOPOLOGY_THIS_MACHINE, nullptr);
                EXPECT_GT(haul_topology_node_count(here.get()), 0u);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

TEST(LinkSpeed, ReadsWhatTheKernelSays)
{
    std::string folder = ::testing::TempDir() + "/speeds";
    mkdir(folder.c_str(), 0700);
    for (auto [name, text] :
         {std::pair<const char *, const char *>{"fast", "100000\n"}, {"down", "-1\n"}, {"odd", "x"}}) {
        mkdir((folder + "/" + name).c_str(), 0700);
        std::ofstream(folder + "/" + name + "/speed") << text;
    }
    EXPECT_EQ(haul_link_speed(folder.c_str(), "fast"), 100000u);
    EXPECT_EQ(haul_link_speed(folder.c_str(), "down"), 0u);
    EXPECT_EQ(haul_link_speed(folder.c_str(), "odd"), 0u);
    EXPECT_EQ(haul_link_speed(folder.c_str(), "gone"), 0u);
}

TEST(Topology, MemoryWithoutCpusIsANodeOfItsOwn)
{
    Topology topology = ReadFile("memory_only_node.xml");
    EXPECT_EQ(haul_topology_node_count(topology.get()), 3u);
    EXPECT_EQ(haul_topology_find_node(topology.get(), 2)->memory_bytes, 64ull << 30);
    EXPECT_TRUE(hwloc_bitmap_iszero(haul_topology_find_node(topology.get(), 2)->cpus));
}

TEST(Topology, NodesAroundTheSameCpusLeaveThemToTheFirst)
{
    Topology topology =
        Read(HAUL_TOPOLOGY_SYNTHETIC, "pack:2 [numa(memory=1GB)] [numa(memory=2GB)] core:2 pu:1");
    EXPECT_EQ(haul_topology_node_count(topology.get()), 4u);
    EXPECT_EQ(haul_topology_find_cpu(topology.get(), 1)->node, 0);
    unsigned with_cpus = 0;
    for (unsigned i = 0; i < topology->node_count; i++) {
        with_cpus += !hwloc_bitmap_iszero(topology->nodes[i].cpus);
    }
    EXPECT_EQ(with_cpus, 2u);
}

TEST(Topology, ThisMachineHasTheCpusOfTheCallingThread)
{
    cpu_set_t all;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    Topology whole = Read(HAUL_TOPOLOGY_THIS_MACHINE, nullptr);
    EXPECT_EQ(whole->cpu_count, (unsigned)CPU_COUNT(&all));
    EXPECT_GE(haul_topology_node_count(whole.get()), 1u);

    int last = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        last = CPU_ISSET(cpu, &all) ? cpu : last;
    }
    std::thread([&] {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(last, &one);
        ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
        Topology restricted = Read(HAUL_TOPOLOGY_THIS_MACHINE, nullptr);
        ASSERT_EQ(restricted->cpu_count, 1u);
        EXPECT_EQ(restricted->cpus[0].cpu, last);
        cpu_set_t after;
        ASSERT_EQ(sched_getaffinity(0, sizeof after, &after), 0);
        EXPECT_TRUE(CPU_EQUAL(&one, &after)) << "reading the topology moved the thread";
    }).join();
}

TEST(TopologyPrint, ShowsNodesCpusMemoryAndCards)
{
    EXPECT_EQ(Printed(ReadFile("two_nodes.xml").get()),
              "2 NUMA nodes, 16 CPUs of which 16 usable here, 32.0 GiB of memory\n"
              "  node 0: CPUs 0-3,8-11, memory 16.0 GiB\n"
              "  node 1: CPUs 4-7,12-15, memory 16.0 GiB\n"
              "    card ens1f0, link speed not known, PCI 0000:81:00.0 at 15.8 GB/s\n"
              "  on no node that the machine names:\n"
              "    card usb0, link speed not known, PCI 0000:00:00.0\n");
}

TEST(TopologyPrint, ShowsWhichCpusAreUsable)
{
    std::string restricted = Printed(ReadFile("two_nodes_restricted.xml").get());
    EXPECT_NE(restricted.find("16 CPUs of which 4 usable here"), std::string::npos) << restricted;
    EXPECT_NE(restricted.find("node 0: CPUs 0-3,8-11 (usable here: 1-2), "), std::string::npos) << restricted;
    EXPECT_NE(restricted.find("node 1: CPUs 4-7,12-15 (usable here: 5,13), "), std::string::npos)
        << restricted;

    std::string one = Printed(ReadFile("two_nodes_one_usable.xml").get());
    EXPECT_NE(one.find("node 1: CPUs 4-7,12-15 (usable here: none), "), std::string::npos) << one;

    std::string bare = Printed(ReadFile("memory_only_node.xml").get());
    EXPECT_NE(bare.find("node 2: CPUs none, memory 64.0 GiB\n"), std::string::npos) << bare;
}

TEST(TopologyPrint, PrintsThisMachine)
{
    std::string here = Printed(Read(HAUL_TOPOLOGY_THIS_MACHINE, nullptr).get());
    EXPECT_NE(here.find("  node 0: CPUs "), std::string::npos) << here;
    RecordProperty("topology", here);
}
} // namespace
