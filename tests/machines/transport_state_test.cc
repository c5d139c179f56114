// SPDX-License-Identifier: Apache-2.0
// The reference guest over each transport, into a file, and out of one. In each state up to HANDOVER: the
// move is cancelled, the source's haul dies, the destination's does, or all connections break; and the
// destination's haul dies with HANDOVER in its hands. At no time may both sides run the guest (rule R1), and
// nothing may be left behind.
#include "tests/machines/folder.h"
#include "tests/machines/ways.h"

#include <csignal>
#include <cstring>

namespace
{

using namespace haul_test;

class EveryState : public ::testing::TestWithParam<Ending>
{
  protected:
    // The guest runs here, whole; or, where HANDOVER may be on its way, it stands still and that is said.
    static void expect_source_failed(Transport &transport, int code, Fault fault, bool before_handover)
    {
        const std::string &output = transport.source->output();
        if (before_handover && fault != Fault::kCancel && code == 3) {
            EXPECT_NE(output.find("stays paused here"), std::string::npos) << transport.log();
            EXPECT_EQ(output.find("CHECK"), std::string::npos) << transport.log();
            return;
        }
        EXPECT_EQ(code, 1) << transport.log();
        EXPECT_NE(output.find("CHECK self-check passed"), std::string::npos) << transport.log();
        if (fault == Fault::kCancel) {
            EXPECT_NE(output.find("END -125 "), std::string::npos) << transport.log();
        }
    }
};

TEST_P(EveryState, EndsWithOneOwner)
{
    const auto &[way, moment, fault] = GetParam();
    std::unique_ptr<Transport> transport = way.make();
    std::string missing = transport->start({}, moment.settings);
    if (!missing.empty()) {
        GTEST_SKIP() << missing;
    }
    int code = end_early(*transport, GetParam());
    if (fault == Fault::kSourceDies) {
        EXPECT_EQ(code, -SIGKILL) << transport->log();
    } else {
        expect_source_failed(*transport, code, fault, moment.state == std::string("handover"));
    }
    transport->expect_destination_failed(fault == Fault::kDestinationDies);
}

std::vector<Way> ways()
{
    std::vector<Way> list = ways_of_processes();
    for (const Way &way : ways_of_sockets()) {
        list.push_back(way);
    }
    list.push_back(way_tcp());
    return list;
}

std::vector<Way> with_the_file(std::vector<Way> list)
{
    list.push_back(way_file());
    return list;
}

INSTANTIATE_TEST_SUITE_P(All, EveryState, ::testing::ValuesIn(every_ending(with_the_file(ways()))),
                         [](const auto &info) { return info.param.name(); });

TEST(Vsock, IsOneOfTheWays)
{
    if (!has_vsock()) {
        GTEST_SKIP()
            << "no vsock loopback here: only vsock_test has the reference guest meet its faults over vsock";
    }
}

// ---- after HANDOVER ----

class Uncertain : public ::testing::TestWithParam<Way>
{
};

// The guest may run there: the source says so and leaves its own as it stands. (What an operator can do then:
// tests/tools/cli_uncertain_transport_test.cc.)
TEST_P(Uncertain, TheGuestStaysPausedHere)
{
    std::unique_ptr<Transport> transport = GetParam().make();
    transport->there = {kDiesWithTheMachine};
    std::string missing = transport->start({}, {});
    if (!missing.empty()) {
        GTEST_SKIP() << missing;
    }
    EXPECT_EQ(end_uncertain(*transport), 3) << transport->log();
    const std::string &output = transport->source->output();
    EXPECT_NE(output.find("stays paused here"), std::string::npos) << transport->log();
    EXPECT_EQ(output.find("CHECK"), std::string::npos) << transport->log();
}

INSTANTIATE_TEST_SUITE_P(All, Uncertain, ::testing::ValuesIn(ways()),
                         [](const auto &info) { return std::string(info.param.name); });

// ---- out of a file ----

struct Restored {
    const char *name;
    const char *state;
    Fault fault; // kCancel, or kDestinationDies: the haul that restores
};

class Restore : public ::testing::TestWithParam<Restored>
{
  protected:
    void SetUp() override
    {
        Mover save({"send", "guest", uri_});
        ASSERT_EQ(save.wait(), 0) << save.output();
    }
    // A guest that runs, whole.
    static void expect_restores(Mover &mover)
    {
        EXPECT_EQ(mover.wait(), 0) << mover.output();
        EXPECT_NE(mover.output().find("CHECK self-check passed"), std::string::npos) << mover.output();
    }
    Folder folder_;
    std::string uri_ = "file:" + folder_ / "snapshot";
};

// No guest runs that is not whole, and the snapshot is as good as before.
TEST_P(Restore, CanBeDoneAgain)
{
    const auto &[name, state, fault] = GetParam();
    Mover mover({"receive", "guest", uri_, std::string("hold=") + state});
    mover.expect(std::string("STATE ") + state);
    if (fault == Fault::kCancel) {
        mover.tell("cancel");
        mover.tell("go");
    } else {
        mover.kill(SIGKILL);
    }
    if (fault == Fault::kCancel && strcmp(state, "handover-received") == 0) {
        expect_restores(mover); // the cancel came too late
    } else {
        EXPECT_EQ(mover.wait(), fault == Fault::kCancel ? 1 : -SIGKILL) << mover.output();
        EXPECT_EQ(mover.output().find("CHECK"), std::string::npos) << mover.output();
        if (fault == Fault::kCancel) {
            EXPECT_NE(mover.output().find("END -125 "), std::string::npos) << mover.output();
        }
    }
    Mover again({"receive", "guest", uri_});
    expect_restores(again);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / ""), {}), 1) << "nothing is left";
}

INSTANTIATE_TEST_SUITE_P(
    Every, Restore,
    ::testing::Values(Restored{"FileSetupCancel", "setup", Fault::kCancel},
                      Restored{"FileSetupDies", "setup", Fault::kDestinationDies},
                      Restored{"FileActiveCancel", "active", Fault::kCancel},
                      Restored{"FileActiveDies", "active", Fault::kDestinationDies},
                      Restored{"FileDeviceCancel", "device", Fault::kCancel},
                      Restored{"FileDeviceDies", "device", Fault::kDestinationDies},
                      Restored{"FileHandoverCancel", "handover-received", Fault::kCancel},
                      Restored{"FileHandoverDies", "handover-received", Fault::kDestinationDies}),
    [](const auto &info) { return std::string(info.param.name); });

} // namespace
