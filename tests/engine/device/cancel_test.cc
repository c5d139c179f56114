// SPDX-License-Identifier: Apache-2.0
// A move or a snapshot file is cancelled in the middle of saving or loading described state, early or late,
// by either side, within one version of a program and between two.
#include "machine.h"

#include <cerrno>

using namespace haul_test;

namespace
{

template <typename Info> std::string MomentName(const Info &info)
{
    return std::string(std::get<0>(info.param).name) + std::get<1>(info.param).name;
}

class DeviceFileCancel : public testing::TestWithParam<std::tuple<Moment, Versions>>
{
  protected:
    DeviceFileCancel()
    {
        from.early.extra = from.late.extra = versions.extra;
    }
    const Moment moment = std::get<0>(GetParam());
    const Versions versions = std::get<1>(GetParam());
    Machine from{true, versions.from, versions.from}, to{false, versions.to, versions.to};
    Directory directory;
};

INSTANTIATE_TEST_SUITE_P(Moments, DeviceFileCancel,
                         testing::Combine(testing::ValuesIn(kMoments), testing::ValuesIn(kVersions)),
                         [](const auto &info) { return MomentName(info); });

TEST_P(DeviceFileCancel, LeavesNoFileAndStartsNoGuest)
{
    from.guest.Run(5, 1000);
    FileEnd save(from.guest, true, Options());
    if (!moment.load) {
        from.Hook(moment) = [&] { EXPECT_EQ(haul_cancel(save.migration), 0); };
        EXPECT_EQ(save.Run(directory / "a"), -ECANCELED) << save.message();
        EXPECT_EQ(save.stats.state, HAUL_STATE_CANCELLED);
        EXPECT_TRUE(from.guest.running());
        EXPECT_TRUE(directory.Names().empty());
        return;
    }
    ASSERT_EQ(save.Run(directory / "a"), 0) << save.message();
    FileEnd restore(to.guest, false, Options());
    to.Hook(moment) = [&] { EXPECT_EQ(haul_cancel(restore.migration), 0); };
    EXPECT_EQ(restore.Run(directory / "a"), -ECANCELED) << restore.message();
    EXPECT_EQ(restore.stats.state, HAUL_STATE_CANCELLED);
    EXPECT_EQ(to.guest.starts, 0u);
    EXPECT_EQ(directory.Names(), std::vector<std::string>{"a"});
}

class DeviceMoveCancel : public testing::TestWithParam<std::tuple<Moment, Versions, Way, bool>>
{
};

INSTANTIATE_TEST_SUITE_P(Moments, DeviceMoveCancel,
                         testing::Combine(testing::ValuesIn(kMoments), testing::ValuesIn(kVersions),
                                          testing::Values(Way::kCopied, Way::kHandedOver), testing::Bool()),
                         [](const auto &info) {
                             return MomentName(info) +
                                    (std::get<2>(info.param) == Way::kCopied ? "Copied" : "HandedOver") +
                                    (std::get<3>(info.param) ? "BySource" : "ByDestination");
                         });

TEST_P(DeviceMoveCancel, TheGuestGoesOn)
{
    const auto &[moment, versions, way, by_source] = GetParam();
    Machine from(true, versions.from, versions.from), to(false, versions.to, versions.to);
    from.early.extra = from.late.extra = versions.extra;
    haul_options options = OptionsOf(way);
    if (moment.early && moment.load) {
        options.max_bandwidth_bytes_per_s = 1 << 20; // the first round outlasts the load
    }
    Move *running = nullptr;
    std::mutex lock;
    unsigned cancels = 0;
    (moment.load ? to : from).Hook(moment) = [&, at_source = by_source] {
        std::lock_guard<std::mutex> hold(lock); // until `running` is set
        EXPECT_EQ(haul_cancel(at_source ? running->source : running->destination), 0);
        cancels++;
    };
    from.guest.Run(5, 1000);
    lock.lock();
    Move move(from.guest, to.guest, options);
    running = &move;
    lock.unlock();
    EXPECT_LT(move.Wait(), 0);
    EXPECT_EQ(cancels, 1u);
    EXPECT_EQ(by_source ? move.source_result : move.destination_result, -ECANCELED)
        << move.source_error.message << "; " << move.destination_error.message;
    EXPECT_LT(move.destination_result, 0);
    const haul_error &other = by_source ? move.destination_error : move.source_error;
    EXPECT_NE(std::string(other.message).find("cancelled"), std::string::npos) << other.message;
    ExpectRunsOn(from, to, move.stats);
}

} // namespace
