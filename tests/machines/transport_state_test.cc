// SPDX-License-Identifier: Apache-2.0
// The reference guest over each transport whose connections are made of processes or descriptors, and over
// rdma; and into a file. In each state up to HANDOVER: the move is cancelled, the source's haul dies, the
// destination's does, or all connections break. At no time may both sides run the guest (rule R1), and
// nothing may be left behind.
#include "tests/machines/ways.h"

#include <csignal>

namespace
{

using namespace haul_test;

class EveryState : public ::testing::TestWithParam<std::tuple<Way, Moment, Fault>>
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
    int code = end_early(*transport, moment, fault);
    if (fault == Fault::kSourceDies) {
        EXPECT_EQ(code, -SIGKILL) << transport->log();
    } else {
        expect_source_failed(*transport, code, fault, moment.state == std::string("handover"));
    }
    transport->expect_destination_failed(fault == Fault::kDestinationDies);
}

std::string case_name(const ::testing::TestParamInfo<EveryState::ParamType> &info)
{
    return std::string(std::get<0>(info.param).name) + std::get<1>(info.param).name +
           kFaults[static_cast<int>(std::get<2>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(All, EveryState,
                         ::testing::Combine(::testing::ValuesIn(ways_of_processes()),
                                            ::testing::ValuesIn(kMoments),
                                            ::testing::Values(Fault::kCancel, Fault::kSourceDies,
                                                              Fault::kDestinationDies, Fault::kCut)),
                         case_name);

INSTANTIATE_TEST_SUITE_P(Alone, EveryState,
                         ::testing::Combine(::testing::Values(way_file()), ::testing::ValuesIn(kMoments),
                                            ::testing::Values(Fault::kCancel, Fault::kSourceDies)),
                         case_name);

} // namespace
