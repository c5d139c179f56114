/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves over two networks of different speed at once: two network namespaces of our own, joined by two veth
 * pairs that tbf slows down. Needs root.
 */
#include "tests/tools/loopback.h"
#include "tests/waiting.h"

#include <jansson.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <iomanip>
#include <sched.h>
#include <sstream>
#include <unistd.h>

namespace
{

const double kSlow = 200e6 / 8, kFast = 400e6 / 8; /* bytes per second */
const double kPayload = 1448.0 / 1514;             /* of a full frame, which is what tbf counts */
const double kBurst =
    1e6; /* bytes: a link that nobody filled for 20 ms, on a busy machine, makes up for it */

class Networks : public Move
{
  protected:
    void SetUp() override
    {
        Move::SetUp();
        if (geteuid() != 0) {
            GTEST_SKIP() << "needs root to make network namespaces";
        }
        if (system("ip -V >/dev/null 2>&1 && tc -V >/dev/null 2>&1") != 0) {
            GTEST_SKIP() << "needs the commands ip and tc (Debian package iproute2)";
        }
        home_ = Current();
        if (unshare(CLONE_NEWNET) != 0) {
            GTEST_SKIP() << "cannot make a network namespace: " << strerror(errno);
        }
        far_ = Current();
        ASSERT_EQ(unshare(CLONE_NEWNET), 0);
        near_ = Current();
        std::string far_path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(far_);
        for (std::string i : {"0", "1"}) {
            Run("ip link add near" + i + " type veth peer name far" + i + " netns " + far_path);
            Run("ip addr add 10.0." + i + ".1/24 dev near" + i);
            Run("ip link set near" + i + " up");
        }
        if (system(SlowDown("near0", kSlow).c_str()) != 0) {
            GTEST_SKIP() << "this kernel has no tbf to slow a link down";
        }
        Run(SlowDown("near1", kFast));
        Enter(far_);
        for (std::string i : {"0", "1"}) {
            Run("ip addr add 10.0." + i + ".2/24 dev far" + i);
            Run("ip link set far" + i + " up");
        }
        Run("ip link set lo up");
        Run("ip addr add 10.9.0.1/32 dev lo");
    }
    void TearDown() override
    {
        if (home_ >= 0) {
            Enter(home_);
        }
        for (int fd : {home_, near_, far_}) {
            if (fd >= 0) {
                close(fd);
            }
        }
    }
    static std::string SlowDown(const std::string &device, double bytes_per_s)
    {
        std::ostringstream command;
        command << std::fixed << std::setprecision(0) << "tc qdisc add dev " << device << " root tbf rate "
                << bytes_per_s << "bps burst " << kBurst << " latency 20ms";
        return command.str();
    }
    static int Current()
    {
        return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    }
    static void Enter(int name_space)
    {
        ASSERT_EQ(setns(name_space, CLONE_NEWNET), 0) << strerror(errno);
    }
    static void Run(const std::string &command)
    {
        ASSERT_EQ(system(command.c_str()), 0) << command;
    }
    std::unique_ptr<Program> ReceiveFar(const std::string &uri, const std::string &memory = "192M")
    {
        Enter(far_);
        auto program = std::make_unique<Program>(
            destination_, Words{"receive", "--listen", uri, "--timeout", "10", "--guest", "--guest-vcpu",
                                "thread", "--guest-memory", memory, "--run-for", "0"});
        memory_ = memory;
        address_ = program->Address();
        EXPECT_NE(address_, "") << program->Err();
        return program;
    }
    std::unique_ptr<Program> SendNear(const Words &more)
    {
        Enter(near_);
        Words words = {"send",    address_,          "--timeout", "10",
                       "--guest", "--guest-vcpu",    "thread",    "--guest-memory",
                       memory_,   "--guest-tracker", "bitmap",    "--guest-dirty-rate",
                       "0",       "--guest-zero",    "0",         "--run-for",
                       "0",       "--json"};
        words.insert(words.end(), more.begin(), more.end());
        return std::make_unique<Program>(source_, words);
    }
    /* Bytes per second over all channels, what the links let pass at once left out, and what the channels
     * carried. */
    static double Rate(const Program &send, std::vector<double> *channels)
    {
        json_t *json = json_loads(send.Out().c_str(), 0, nullptr);
        json_int_t transferred = 0;
        double total = 0, setup = 0;
        json_unpack(json, "{s:F s:F s:{s:I}}", "total-time", &total, "setup-time", &setup, "ram",
                    "transferred", &transferred);
        size_t i;
        json_t *channel;
        json_array_foreach(json_object_get(json, "channels"), i, channel)
        {
            channels->push_back(json_number_value(json_object_get(channel, "bytes")));
        }
        json_decref(json);
        EXPECT_GT(total, setup);
        return (static_cast<double>(transferred) - 2 * kBurst * kPayload) / (total - setup) * 1000;
    }
    /* How much of what both links can was not used, in percent; all of it when one had not its share. */
    int64_t PercentUnused(const std::string &listen, const Words &more, const std::string &memory)
    {
        auto receive = ReceiveFar(listen, memory);
        auto send = SendNear(more);
        std::vector<double> channels;
        EXPECT_EQ(send->Wait(), 0) << send->Err();
        EXPECT_EQ(receive->Wait(), 0) << receive->Err();
        double rate = Rate(*send, &channels), sum = (kSlow + kFast) * kPayload;
        EXPECT_EQ(channels.size() % 2, 0u);
        double slow = 0, fast = 0;
        for (size_t i = 0; i + 1 < channels.size(); i += 2) {
            slow += channels[i];
            fast += channels[i + 1];
        }
        std::cout << "links carried " << slow / 1e6 << " and " << fast / 1e6 << " MB, together "
                  << 100 * rate / sum << " % of what both can\n";
        bool shared = fast / slow > 1.6 && fast / slow < 2.4;
        return shared ? static_cast<int64_t>(100 - 100 * rate / sum) : 100;
    }
    /* In the best of some tries, so that a machine that does something else meanwhile does not count. */
    void ExpectBothLinksFull(const std::string &listen, const Words &more, const std::string &memory)
    {
        constexpr int64_t kFew = 10;
        EXPECT_LT(haul_test::BestOfTries(kFew, [&](int) { return PercentUnused(listen, more, memory); }),
                  kFew);
    }
    std::string memory_;
    int home_ = -1, near_ = -1, far_ = -1;
};

TEST_F(Networks, TheFasterLinkCarriesItsShare)
{
    ExpectBothLinksFull("tcp:10.0.0.2:0,10.0.1.2:0", {}, "192M");
}

/* A move of two seconds must not end with one second of the slow link alone: several channels on each link
 * have long queues. */
TEST_F(Networks, ASmallMoveOverManyChannelsFillsBothToTheEnd)
{
    ExpectBothLinksFull("tcp:10.0.0.2:0,10.0.1.2:0", {"--channels", "4"}, "128M");
}

/* One address of the destination, reached by the link that belongs to the source address. */
TEST_F(Networks, SourceAddressesSpreadTheChannels)
{
    Enter(near_);
    for (std::string i : {"0", "1"}) {
        Run("ip rule add from 10.0." + i + ".1 table 10" + i);
        Run("ip route add 10.9.0.1/32 via 10.0." + i + ".2 table 10" + i);
    }
    ExpectBothLinksFull("tcp:10.9.0.1:0", {"--bind", "10.0.0.1,10.0.1.1"}, "192M");
}

TEST_F(Networks, ALinkThatIsDownIsNamed)
{
    auto receive = ReceiveFar("tcp:10.0.0.2:0,10.0.1.2:0");
    Enter(near_);
    Run("ip link set near1 down");
    auto send = SendNear({});
    EXPECT_EQ(send->Wait(), 1);
    EXPECT_TRUE(Has(send->Err(), "channel 1: connecting to tcp:10.0.1.2:")) << send->Err();
    EXPECT_TRUE(Has(send->Err(), "unreachable")) << send->Err();
    EXPECT_EQ(receive->Wait(), 1);
}

} // namespace
