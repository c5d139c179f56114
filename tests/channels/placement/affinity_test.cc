// SPDX-License-Identifier: Apache-2.0
#include "channels/placement/placement.h"

#include <gtest/gtest.h>

#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>
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

Topology Here()
{
    return Read(HAUL_TOPOLOGY_THIS_MACHINE, nullptr);
}

int LastCpu()
{
    cpu_set_t set;
    EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
    int last = -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        last = CPU_ISSET(cpu, &set) ? cpu : last;
    }
    return last;
}

/* Whether this kernel and container let us ask for memory policies. */
bool PoliciesWork()
{
    int mode = 0;
    return get_mempolicy(&mode, nullptr, 0, nullptr, 0) == 0;
}

/* Those whose memory this process may use. On more than one kernel_test runs these tests. */
std::vector<int> Nodes()
{
    std::vector<int> nodes;
    for (int node = 0; numa_available() == 0 && node <= numa_max_node(); node++) {
        if (numa_bitmask_isbitset(numa_all_nodes_ptr, (unsigned)node)) {
            nodes.push_back(node);
        }
    }
    return nodes;
}

TEST(PlacementApply, PinsTheCallingThreadOnly)
{
    Topology topology = Here();
    int cpu = LastCpu();
    std::thread([&] {
        haul_placement_slot slot = {cpu, HAUL_NODE_UNKNOWN};
        haul_error error = {};
        ASSERT_EQ(haul_placement_apply(topology.get(), &slot, &error), 0) << error.message;
        cpu_set_t set;
        ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
        EXPECT_EQ(CPU_COUNT(&set), 1);
        EXPECT_TRUE(CPU_ISSET(cpu, &set));
        EXPECT_EQ(sched_getcpu(), cpu);
    }).join();
    cpu_set_t mine;
    ASSERT_EQ(sched_getaffinity(0, sizeof mine, &mine), 0);
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        EXPECT_GT(CPU_COUNT(&mine), 1);
    }
}

TEST(PlacementApply, PrefersTheNodesMemory)
{
    if (!PoliciesWork()) {
        GTEST_SKIP() << "get_mempolicy is not permitted here: " << strerror(errno);
    }
    Topology topology = Here();
    for (int node : Nodes()) {
        std::thread([&] {
            haul_placement_slot slot = {HAUL_CPU_ANY, node};
            haul_error error = {};
            ASSERT_EQ(haul_placement_apply(topology.get(), &slot, &error), 0) << error.message;
            int mode = -1;
            unsigned long nodes[1024 / (8 * sizeof(unsigned long))] = {};
            ASSERT_EQ(get_mempolicy(&mode, nodes, 1024, nullptr, 0), 0);
            EXPECT_EQ(mode, MPOL_PREFERRED);
            EXPECT_EQ(nodes[0], 1ul << node);
        }).join();
    }
}

TEST(PlacementApply, AnywhereChangesNothing)
{
    cpu_set_t before, after;
    ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
    haul_placement_slot slot = {HAUL_CPU_ANY, HAUL_NODE_UNKNOWN};
    EXPECT_EQ(haul_placement_apply(Here().get(), &slot, nullptr), 0);
    EXPECT_EQ(haul_placement_apply(Read(HAUL_TOPOLOGY_SYNTHETIC, "node:2 core:2 pu:1").get(), &slot, nullptr),
              0);
    ASSERT_EQ(sched_getaffinity(0, sizeof after, &after), 0);
    EXPECT_TRUE(CPU_EQUAL(&before, &after));
    int mode = -1;
    if (get_mempolicy(&mode, nullptr, 0, nullptr, 0) == 0) {
        EXPECT_EQ(mode, MPOL_DEFAULT);
    }
}

TEST(PlacementApply, RefusesACpuThatIsNotThere)
{
    haul_placement_slot slot = {100000, HAUL_NODE_UNKNOWN};
    haul_error error = {};
    EXPECT_EQ(haul_placement_apply(Here().get(), &slot, &error), -EINVAL);
    EXPECT_STREQ(error.message, "cannot pin a thread to CPU 100000: it is not usable here");
}

TEST(PlacementApply, RefusesANodeThatIsNotThere)
{
    haul_placement_slot slot = {HAUL_CPU_ANY, 1000};
    haul_error error = {};
    EXPECT_EQ(haul_placement_apply(Here().get(), &slot, &error), -EINVAL);
    EXPECT_STREQ(error.message, "cannot prefer memory of node 1000: the machine has no such node");
}

TEST(PlacementApply, RefusesAnotherMachinesPlan)
{
    Topology other = Read(HAUL_TOPOLOGY_SYNTHETIC, "node:2 core:2 pu:1");
    haul_placement_slot slot = {0, 0};
    haul_error error = {};
    EXPECT_EQ(haul_placement_apply(other.get(), &slot, &error), -EINVAL);
    EXPECT_STREQ(error.message, "cannot apply a placement that was planned for another machine");
}

TEST(PlacementAlloc, IsZeroedAlignedAndWritable)
{
    for (int node : {HAUL_NODE_UNKNOWN, 0, 1000, INT_MAX}) {
        size_t size = 1000000;
        unsigned char *memory = static_cast<unsigned char *>(haul_placement_alloc(size, node));
        ASSERT_NE(memory, nullptr) << node;
        EXPECT_EQ((uintptr_t)memory % (uintptr_t)sysconf(_SC_PAGESIZE), 0u);
        for (size_t i = 0; i < size; i++) {
            ASSERT_EQ(memory[i], 0) << i;
        }
        memset(memory, 0xa5, size);
        haul_placement_free(memory, size);
    }
}

TEST(PlacementAlloc, SaysWhenThereIsNone)
{
    EXPECT_EQ(haul_placement_alloc(0, 0), nullptr);
    EXPECT_EQ(haul_placement_alloc((size_t)1 << 60, 0), nullptr);
    haul_placement_free(nullptr, 4096);
}

TEST(MemoryNode, NeedsAPresentPageAndDoesNotMakeOne)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *memory = static_cast<unsigned char *>(haul_placement_alloc(2 * page, HAUL_NODE_UNKNOWN));
    ASSERT_NE(memory, nullptr);
    memory[0] = 1;
    int node = haul_memory_node(memory + 5);
    if (node == HAUL_NODE_UNKNOWN) {
        int status = -1;
        void *address = memory;
        EXPECT_NE(move_pages(0, 1, &address, nullptr, &status, 0), 0) << "the kernel says, we do not";
        haul_placement_free(memory, 2 * page);
        GTEST_SKIP() << "move_pages is not permitted here: " << strerror(errno);
    }
    EXPECT_GE(node, 0);
    EXPECT_EQ(haul_memory_node(memory + page), HAUL_NODE_UNKNOWN);
    unsigned char present = 0xff;
    ASSERT_EQ(mincore(memory + page, page, &present), 0);
    EXPECT_EQ(present & 1, 0) << "asking touched the page";
    haul_placement_free(memory, 2 * page);
}

TEST(MemoryNode, IsUnknownForWhatIsNotMapped)
{
    EXPECT_EQ(haul_memory_node(nullptr), HAUL_NODE_UNKNOWN);
    EXPECT_EQ(haul_memory_node(reinterpret_cast<void *>(UINTPTR_MAX)), HAUL_NODE_UNKNOWN);
}

TEST(MemoryNode, FollowsTheAllocation)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    std::vector<int> nodes = Nodes();
    for (int wanted : nodes) {
        unsigned char *memory = static_cast<unsigned char *>(haul_placement_alloc(page, wanted));
        ASSERT_NE(memory, nullptr);
        memory[0] = 1;
        int node = haul_memory_node(memory);
        haul_placement_free(memory, page);
        if (node == HAUL_NODE_UNKNOWN) {
            GTEST_SKIP() << "move_pages is not permitted here";
        }
        EXPECT_EQ(node, wanted);
    }
    if (nodes.empty()) {
        GTEST_SKIP() << "this kernel knows no nodes";
    }
}
} // namespace
