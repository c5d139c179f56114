// SPDX-License-Identifier: Apache-2.0
// The network between the ends breaks or goes silent, in each state, on the control connection or on a
// channel.
#include "engine/state.h"
#include "tests/engine/move.h"
#include "tests/engine/proxy.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <cerrno>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr uint32_t kTimeoutSeconds = 2;
struct Loss {
    const char *name;
    haul_state state; // of the source, when it happens
    bool control;     // or channel 1
    bool stall;       // or cut
};

std::ostream &operator<<(std::ostream &out, const Loss &loss)
{
    return out << loss.name;
}

void Strike(Proxy &proxy, const Loss &loss)
{
    unsigned connection = loss.control ? Proxy::kControl : Proxy::Channel(1);
    loss.stall ? proxy.Stall(connection) : proxy.Cut(connection);
}

class ConnectionLoss : public testing::TestWithParam<Loss>
{
};

TEST_P(ConnectionLoss, TheGuestGoesOnAtTheSourceAndMovesAgain)
{
    const Loss &loss = GetParam();
    Guest from({8 * kMiB}, true), to({8 * kMiB}, false);
    from.Run(5, 1000);
    haul_options options = Options();
    options.timeout_s = kTimeoutSeconds;
    Clock::time_point struck;
    {
        Proxy proxy;
        auto strike = [&] {
            struck = Clock::now();
            Strike(proxy, loss);
        };
        // In setup: when the control connection stands and the channels are still to come.
        if (loss.state == HAUL_STATE_SETUP) {
            from.on_setup = strike;
        } else {
            from.on_state = [&](haul_state state) {
                if (state == loss.state) {
                    strike();
                }
            };
        }
        Move move(from, to, options, "tcp:127.0.0.1:0",
                  [&](const std::string &uri) { return proxy.Open(uri); });
        int result = haul_wait(move.source, &move.source_error);
        EXPECT_LT(result, 0);
        // The transport's own limits and ours run one after the other at worst.
        EXPECT_LT(MsSince(struck), loss.stall ? kTimeoutSeconds * 1000 * 3 + 4000 : 8000)
            << move.source_error.message;
        EXPECT_TRUE(from.running());
        move.Wait();
        EXPECT_LT(move.destination_result, 0);
        EXPECT_EQ(move.stats.state, HAUL_STATE_FAILED);
        EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_EQ(to.starts, 0u);
        EXPECT_STRNE(move.source_error.message, "");
        if (loss.stall) {
            EXPECT_EQ(result, -ETIMEDOUT) << move.source_error.message;
        }
    }
    from.on_state = nullptr;
    from.on_setup = nullptr;
    Move again(from, to, Options());
    std::string where;
    EXPECT_EQ(again.Wait(), 0) << again.source_error.message;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
}

INSTANTIATE_TEST_SUITE_P(
    BeforeHandover, ConnectionLoss,
    testing::Values(Loss{"ControlCutInSetup", HAUL_STATE_SETUP, true, false},
                    Loss{"ControlStalledInSetup", HAUL_STATE_SETUP, true, true},
                    Loss{"ChannelCutInSetup", HAUL_STATE_SETUP, false, false},
                    Loss{"ChannelStalledInSetup", HAUL_STATE_SETUP, false, true},
                    Loss{"ControlCutInActive", HAUL_STATE_ACTIVE, true, false},
                    Loss{"ControlStalledInActive", HAUL_STATE_ACTIVE, true, true},
                    Loss{"ChannelCutInActive", HAUL_STATE_ACTIVE, false, false},
                    Loss{"ChannelStalledInActive", HAUL_STATE_ACTIVE, false, true},
                    Loss{"ControlCutInPreSwitchover", HAUL_STATE_PRE_SWITCHOVER, true, false},
                    Loss{"ControlStalledInPreSwitchover", HAUL_STATE_PRE_SWITCHOVER, true, true},
                    Loss{"ChannelCutInPreSwitchover", HAUL_STATE_PRE_SWITCHOVER, false, false},
                    Loss{"ChannelStalledInPreSwitchover", HAUL_STATE_PRE_SWITCHOVER, false, true},
                    Loss{"ControlCutInDevice", HAUL_STATE_DEVICE, true, false},
                    Loss{"ControlStalledInDevice", HAUL_STATE_DEVICE, true, true},
                    Loss{"ChannelCutInDevice", HAUL_STATE_DEVICE, false, false},
                    Loss{"ChannelStalledInDevice", HAUL_STATE_DEVICE, false, true}),
    [](const auto &info) { return std::string(info.param.name); });

// HANDOVER is swallowed by the network: nobody runs the guest, and the source says so.
TEST(ConnectionLossAtHandover, ASwallowedHandoverLeavesTheGuestPaused)
{
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    from.Run(5, 1000);
    haul_options options = Options();
    options.timeout_s = kTimeoutSeconds;
    Proxy proxy;
    from.on_step = [&](haul_step step) {
        if (step == HAUL_STEP_HANDOVER_SENDING) {
            proxy.StallAll();
        }
    };
    Move move(from, to, options, "tcp:127.0.0.1:0", [&](const std::string &uri) { return proxy.Open(uri); });
    EXPECT_EQ(move.Wait(), -ETIMEDOUT) << move.source_error.message;
    EXPECT_NE(std::string(move.source_error.message).find("the guest stays paused here"), std::string::npos)
        << move.source_error.message;
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(from.running());
    EXPECT_EQ(from.resumes, 0u);
    EXPECT_EQ(move.destination_result, -ETIMEDOUT) << move.destination_error.message;
    EXPECT_EQ(to.starts, 0u);
}

// RUNNING is swallowed: the guest runs at the destination, the source does not know and stays paused.
TEST(ConnectionLossAtHandover, ASwallowedRunningLeavesTheSourcePaused)
{
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    from.Run(5, 1000);
    haul_options options = Options();
    options.timeout_s = kTimeoutSeconds;
    Proxy proxy;
    to.on_start = [&] { proxy.StallAll(); };
    Move move(from, to, options, "tcp:127.0.0.1:0", [&](const std::string &uri) { return proxy.Open(uri); });
    EXPECT_EQ(move.Wait(), -ETIMEDOUT) << move.source_error.message;
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(from.running());
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_EQ(to.starts, 1u);
}

// Everything is cut while the guest starts.
TEST(ConnectionLossAtHandover, CutAfterHandoverTheGuestRunsAtTheDestination)
{
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    from.Run(5, 1000);
    Proxy proxy;
    to.on_start = [&] {
        proxy.CutAll();
        usleep(100000);
    };
    Move move(from, to, Options(), "tcp:127.0.0.1:0",
              [&](const std::string &uri) { return proxy.Open(uri); });
    EXPECT_LT(move.Wait(), 0);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(from.running());
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_EQ(to.starts, 1u);
}

// A cut channel after all was received is nothing that matters.
TEST(ConnectionLossAtHandover, AChannelCutAfterPreparedDoesNotMatter)
{
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    from.Run(5, 1000);
    Proxy proxy;
    from.on_step = [&](haul_step step) {
        if (step == HAUL_STEP_HANDOVER_SENDING) {
            proxy.Cut(Proxy::Channel(0));
            proxy.Cut(Proxy::Channel(1));
            usleep(100000);
        }
    };
    Move move(from, to, Options(), "tcp:127.0.0.1:0",
              [&](const std::string &uri) { return proxy.Open(uri); });
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_EQ(to.starts, 1u);
}

TEST(ConnectionLossAtHandover, ASlowNetworkIsNoLoss)
{
    Guest from({2 * kMiB}, true), to({2 * kMiB}, false);
    from.Run(5, 1000);
    Proxy proxy;
    for (unsigned i = 0; i < 3; i++) {
        proxy.Delay(i, 5);
    }
    Move move(from, to, Options(), "tcp:127.0.0.1:0",
              [&](const std::string &uri) { return proxy.Open(uri); });
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    std::string where;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
    EXPECT_GT(move.stats.round_trip_ns, 9000000u) << "both ways";
}

} // namespace
