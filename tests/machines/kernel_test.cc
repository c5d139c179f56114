// SPDX-License-Identifier: Apache-2.0
// What needs a kernel that this machine may not have, within a Linux guest: soft-dirty bits, and two NUMA
// nodes with two CPUs each and a network card on the second.
#include "tests/machines/within_linux.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <set>
#include <sstream>

namespace
{

using namespace haul_test;

// How a case moves something. A script sets SOURCE, what a sender gives away, GUEST, what a receiver takes,
// and ON, what runs both.
constexpr char kCases[] = R"script(
ip link set lo up
SMALL="--guest --guest-vcpu thread --guest-memory 16M"
begin() # RECEIVE_OPTIONS SEND_OPTIONS
{
    rm -f /tmp/send /tmp/receive
    step 60 "the receiver is to listen"
    $ON /haul receive --listen tcp:127.0.0.1:7000 --json --timeout 120 $GUEST $1 >/tmp/receive 2>&1 &
    receiver=$!
    until grep -qs listening /tmp/receive; do sleep 0.1; done
    step 120 "both sides are to end"
    $ON /haul send tcp:127.0.0.1:7000 --json --timeout 120 $SOURCE $2 >/tmp/send 2>&1 &
    sender=$!
}
ended() # CASE
{
    wait $sender
    sent=$?
    wait $receiver
    received=$?
    cat /tmp/send /tmp/receive
    echo "$1: receive ended with $received, send ended with $sent"
}
)script";

// Of the reference guest, and of memory that another process writes.
constexpr char kSoftDirty[] = R"script(
run_test 200 tests/engine/trackers/soft_dirty_test
run_test 100 tests/tools/guest_move_thread_test GuestMoves.SoftDirtyTrackerServes
run_test 200 tests/tools/memory_test LiveMemory.*

GUEST="$SMALL --run-for 1"
SOURCE="$SMALL --guest-dirty-rate 2M --guest-tracker soft-dirty --max-bandwidth 8M"
SOURCE="$SOURCE --downtime-limit 5000 --channels 2 --verify"
begin
ended GUEST

truncate -s 16M /dev/shm/from
/writer /dev/shm/from &
writer=$!
GUEST="--memory /dev/shm/to --memory-size 16M"
SOURCE="--memory /dev/shm/from --pid $writer --max-bandwidth 8M --downtime-limit 10000 --channels 2 --verify"
begin
ended MEMORY
cmp /dev/shm/from /dev/shm/to && echo "SAME"
kill -9 $writer
)script";

// Both sides stand still while it is seen where their threads may run and where their memory lies. What they
// then report of a channel comes with what its thread was seen to be allowed.
constexpr char kPlaced[] = R"script(
seen() # SIDE PID
{
    awk '/^Pid:/ { tid = $2 } /^Cpus_allowed_list:/ { print tid, $2 }' /proc/$2/task/*/status >/tmp/$1.allowed
    grep ' prefer:' /proc/$2/numa_maps >/tmp/$1.memory
}
reported() # CASE SIDE
{
    sed -n 's/^ *"\(cpu\|node\|thread-id\)": \([-0-9]*\).*/\2/p' /tmp/$2 | while read cpu && read node && read tid; do
        allowed=$(sed -n "s/^$tid //p" /tmp/$2.allowed)
        echo "$1 $2 CPU $cpu node $node allowed ${allowed:-unseen}"
    done
}
place() # CASE RECEIVE_OPTIONS SEND_OPTIONS
{
    begin "$2" "$3"
    until grep -q 'round 1' /tmp/send && grep -q 'so far' /tmp/receive; do sleep 0.1; done
    kill -STOP $sender $receiver
    seen send $sender
    seen receive $receiver
    kill -CONT $sender $receiver
    ended $1
    reported $1 send
    reported $1 receive
    for side in send receive; do sed "s/^/$1 $side memory /" /tmp/$side.memory; done
}
)script";

constexpr char kNodes[] = R"script(
GUEST="$SMALL --run-for 1"
SOURCE="$SMALL --guest-dirty-rate 256K --max-bandwidth 2M --downtime-limit 5000 --channels 4 --verify"
place AUTO
place NONE "--placement none" "--placement none"
place LIST "--placement 1" "--placement 3,0"
ON="taskset c"
place ONENODE
ON="taskset e"
place THREECPUS
step 60 "a CPU that may not be used is to be refused"
taskset c /haul topology --placement 0 2>&1
echo "REFUSED: ended with $?"
ON=

taskset c dd if=/dev/urandom of=/dev/shm/from bs=1M count=16
/writer /dev/shm/from &
writer=$!
GUEST="--memory /dev/shm/to --memory-size 16M"
SOURCE="--memory /dev/shm/from --pid $writer --max-bandwidth 2M --downtime-limit 10000 --channels 2"
place MEMORY
kill -9 $writer
)script";

// Two cards, connected to each other, on node 1: one for each side, in a network and a /sys of its own. Of
// memory that nobody touched no node is known, so that nothing but the card can say where the only channel
// belongs.
constexpr char kCards[] = R"script(
step 60 "the cards are to be asked for"
until [ -d /sys/class/net/eth1 ]; do sleep 0.1; done
for card in eth0 eth1; do echo "$card is on node $(cat /sys/class/net/$card/device/../numa_node)"; done
ip addr add 192.168.7.1/24 dev eth0
ip link set eth0 up
/haul topology --channels 2 --to 192.168.7.2
echo "TOPOLOGY: ended with $?"

step 60 "the receiver is to listen at its card"
cat >/tmp/there <<'END'
mount -t sysfs sys /sys
until ip addr add 192.168.7.2/24 dev eth1; do sleep 0.1; done
ip link set eth1 up
exec /haul receive --listen tcp:192.168.7.2:7000 --json --no-populate --memory /dev/shm/hole-there --memory-size 16M
END
unshare -n -m sh /tmp/there >/tmp/receive 2>&1 &
receiver=$!
until [ $(readlink /proc/$receiver/ns/net) != $(readlink /proc/self/ns/net) ]; do sleep 0.1; done
ip link set eth1 netns $receiver
until grep -qs listening /tmp/receive; do sleep 0.1; done
truncate -s 16M /dev/shm/hole
step 120 "both sides are to end"
/haul send tcp:192.168.7.2:7000 --json --memory /dev/shm/hole --channels 1 >/tmp/send 2>&1 &
sender=$!
ended CARDS
reported CARDS send
reported CARDS receive
)script";

// A channel as its side reports it, and the CPUs that its thread was seen to be allowed.
struct Channel {
    int cpu;
    int node;
    std::string allowed;
};

using Channels = std::vector<Channel>;

Channels channels_of(const std::string &console, const std::string &name, const std::string &side)
{
    Channels channels;
    std::istringstream lines(console);
    std::string format = name + " " + side + " CPU %d node %d allowed %31s";
    for (std::string line; std::getline(lines, line);) {
        Channel channel = {};
        char allowed[32] = "";
        if (sscanf(line.c_str(), format.c_str(), &channel.cpu, &channel.node, allowed) == 3) {
            channel.allowed = allowed;
            channels.push_back(channel);
        }
    }
    return channels;
}

std::string text(const Channels &channels)
{
    std::string text;
    for (const Channel &channel : channels) {
        text += (text.empty() ? "" : " ") + std::to_string(channel.cpu) + "/" + std::to_string(channel.node) +
                "/" + channel.allowed;
    }
    return text;
}

// Each is bound to one CPU of these, its own, and reports the node of that.
void expect_own_cpus(const Channels &channels, size_t count, const std::set<int> &cpus)
{
    std::set<int> used;
    for (const Channel &channel : channels) {
        EXPECT_EQ(cpus.count(channel.cpu), 1u) << channel.cpu;
        EXPECT_EQ(channel.node, channel.cpu / 2);
        EXPECT_EQ(channel.allowed, std::to_string(channel.cpu));
        used.insert(channel.cpu);
    }
    EXPECT_EQ(channels.size(), count);
    EXPECT_EQ(used.size(), std::min(count, cpus.size())) << text(channels);
}

// None is bound: each ran on one of these CPUs, and reports no node.
void expect_unbound(const Channels &channels, size_t count, const std::string &allowed,
                    const std::set<int> &cpus)
{
    for (const Channel &channel : channels) {
        EXPECT_EQ(cpus.count(channel.cpu), 1u) << channel.cpu;
        EXPECT_EQ(channel.node, -1);
        EXPECT_EQ(channel.allowed, allowed);
    }
    EXPECT_EQ(channels.size(), count);
}

// Memory that was allocated for a node lies there, and both nodes have some.
void expect_memory_where_told(const std::string &console, const std::string &name, const std::string &side)
{
    int pages_on[2] = {};
    std::istringstream lines(console);
    for (std::string line; std::getline(lines, line);) {
        size_t at = line.find(" prefer:");
        if (line.rfind(name + " " + side + " memory ", 0) != 0 || at == std::string::npos) {
            continue;
        }
        int wanted = line[at + strlen(" prefer:")] - '0';
        for (int node : {0, 1}) {
            size_t pages = line.find(" N" + std::to_string(node) + "=");
            if (pages != std::string::npos) {
                EXPECT_EQ(node, wanted) << line;
                pages_on[node] += atoi(line.c_str() + pages + strlen(" N0="));
            }
        }
    }
    EXPECT_GT(pages_on[0], 0);
    EXPECT_GT(pages_on[1], 0);
}

class Kernel : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing_for_linux().empty()) {
            GTEST_SKIP() << missing_for_linux();
        }
    }
    void TearDown() override
    {
        if (HasFailure()) {
            std::cerr << console;
        }
    }
    static LinuxGuest two_nodes()
    {
        LinuxGuest guest;
        guest.machine.backends = 2;
        guest.machine.cpus = 2;
        guest.machine.mib = 512;
        return guest;
    }
    std::string console;
};

TEST_F(Kernel, TracksBySoftDirtyBits)
{
    LinuxGuest guest;
    guest.machine.cpus = 2;
    guest.machine.mib = 512;
    guest.programs = {test_program("tests/engine/trackers/soft_dirty_test"),
                      test_program("tests/tools/guest_move_thread_test"),
                      test_program("tests/tools/memory_test"),
                      {"haul", "haul/tools/haul/haul"},
                      {"writer", "haul/tests/machines/writer"}};
    console = run_within_linux(std::string(kCases) + kSoftDirty, std::move(guest));
    expect_passed(console, "tests/engine/trackers/soft_dirty_test", 7);
    expect_passed(console, "tests/tools/guest_move_thread_test", 1);
    expect_passed(console, "tests/tools/memory_test", 9);
    const std::string ended = "receive ended with 0, send ended with 0";
    expect(console,
           {{"GUEST",
             {"\"tracker\": \"soft-dirty\"", "\"verified\": true", "\"passed\": true", "GUEST: " + ended}},
            {"MEMORY", {"\"verified\": true", "MEMORY: " + ended}}});
    if (kernel_release().rfind("6.1.", 0) == 0) { // PAGEMAP_SCAN came with 6.7
        expect(console, {{"MEMORY", {"\"tracker\": \"soft-dirty\""}}});
    }
    EXPECT_NE(console.find("\nSAME"), std::string::npos);
}

TEST_F(Kernel, PassesTheTestsOfNodesOnTwo)
{
    LinuxGuest guest = two_nodes();
    guest.programs = {test_program("tests/channels/placement/affinity_test"),
                      test_program("tests/channels/placement/topology_test"),
                      test_program("tests/engine/memory_nodes_test")};
    console = run_within_linux(R"(
run_test 100 tests/channels/placement/affinity_test
run_test 100 tests/channels/placement/topology_test Topology.SeveralThreads*:Topology.ThisMachine*:*PrintsThisMachine
run_test 100 tests/engine/memory_nodes_test
)",
                               std::move(guest));
    expect_passed(console, "tests/channels/placement/affinity_test", 11);
    expect_passed(console, "tests/channels/placement/topology_test", 3);
    expect_passed(console, "tests/engine/memory_nodes_test", 9);
}

TEST_F(Kernel, PlacesChannelsOnTwoNodes)
{
    LinuxGuest guest = two_nodes();
    guest.modules = {"drivers/virtio/virtio_ring",
                     "drivers/virtio/virtio",
                     "drivers/virtio/virtio_pci_modern_dev",
                     "drivers/virtio/virtio_pci_legacy_dev",
                     "drivers/virtio/virtio_pci",
                     "net/core/failover",
                     "drivers/net/net_failover",
                     "drivers/net/virtio_net"};
    guest.machine.extra = {"-device", "pxb-pcie,id=node1,bus_nr=128,bus=pcie.0,numa_node=1"};
    for (const std::string number : {"0", "1"}) {
        for (const std::string &more :
             {std::string("-device"), "pcie-root-port,bus=node1,chassis=" + number + ",id=port" + number,
              std::string("-netdev"), "hubport,hubid=0,id=hub" + number, std::string("-device"),
              "virtio-net-pci,romfile=,bus=port" + number + ",netdev=hub" + number}) {
            guest.machine.extra.push_back(more);
        }
    }
    guest.programs = {{"haul", "haul/tools/haul/haul"}, {"writer", "haul/tests/machines/writer"}};
    console = run_within_linux(std::string(kCases) + kPlaced + kNodes + kCards, std::move(guest));

    const std::string ended = "receive ended with 0, send ended with 0";
    expect(console,
           {{"AUTO", {"\"verified\": true", "\"passed\": true", ended}},
            {"NONE", {"\"verified\": true", ended}},
            {"LIST", {"\"verified\": true", ended}},
            {"ONENODE", {"\"verified\": true", ended}},
            {"THREECPUS", {"\"verified\": true", ended}},
            {"REFUSED", {"CPU 0 is not usable here, only 2-3"}},
            {"MEMORY", {ended}},
            {"TOPOLOGY",
             {"eth0 is on node 1", "eth1 is on node 1", "2 NUMA nodes, 4 CPUs of which 4 usable here",
              "\n  node 0: CPUs 0-1, memory 2", "\n  node 1: CPUs 2-3, memory 2", "\n    card eth0, ",
              "\n    card eth1, ", "The way to 192.168.7.2: eth0, on node 1", "\n  channel 0: CPU 2, node 1",
              "\n  channel 1: CPU 0, node 0"}},
            {"CARDS", {ended}}});
    for (const char *side : {"send", "receive"}) {
        SCOPED_TRACE(side);
        expect_own_cpus(channels_of(console, "AUTO", side), 4, {0, 1, 2, 3});
        expect_memory_where_told(console, "AUTO", side);
        expect_unbound(channels_of(console, "NONE", side), 4, "0-3", {0, 1, 2, 3});
        expect_unbound(channels_of(console, "ONENODE", side), 4, "2-3", {2, 3});
        expect_own_cpus(channels_of(console, "THREECPUS", side), 4, {1, 2, 3});
        EXPECT_EQ(text(channels_of(console, "CARDS", side)), "2/1/unseen");
    }
    EXPECT_EQ(text(channels_of(console, "LIST", "send")), "3/1/3 0/0/0 3/1/3 0/0/0");
    EXPECT_EQ(text(channels_of(console, "LIST", "receive")), "1/0/1 1/0/1 1/0/1 1/0/1");
    expect_own_cpus(channels_of(console, "MEMORY", "send"), 2, {2, 3});
}

} // namespace
