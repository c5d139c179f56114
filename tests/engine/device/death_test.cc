// SPDX-License-Identifier: Apache-2.0
// A process dies in the middle of saving or loading described state, early or late, its own or its peer's,
// on the way to the other one or to a file and back, within one version of a program and between two.
#include "processes.h"

using namespace haul_test;

namespace
{

class DeviceDeath : public testing::TestWithParam<std::tuple<Moment, Versions, Way>>
{
  protected:
    DeviceDeath()
    {
        from.early.extra = from.late.extra = versions.extra;
        limited.max_bandwidth_bytes_per_s = 1 << 20; // the first round outlasts the load
    }
    ~DeviceDeath() override
    {
        unlink(uri.substr(strlen("unix:")).c_str());
    }
    // What remains of a move whose source is in this process.
    void ExpectRunsOn(Here &source)
    {
        EXPECT_LT(source.Wait(), 0);
        EXPECT_NE(source.message, "");
        EXPECT_EQ(source.stats.state, HAUL_STATE_FAILED);
        haul_test::ExpectRunsOn(from, to, source.stats);
    }
    void ExpectNeverRuns(Here &destination)
    {
        EXPECT_LT(destination.Wait(), 0);
        EXPECT_NE(destination.message, "");
        EXPECT_EQ(destination.stats.state, HAUL_STATE_FAILED);
        EXPECT_EQ(to.guest.starts, 0u);
    }

    const Moment moment = std::get<0>(GetParam());
    const Versions versions = std::get<1>(GetParam());
    const haul_options options = OptionsOf(std::get<2>(GetParam()));
    haul_options limited = options;
    Machine from{true, versions.from, versions.from}, to{false, versions.to, versions.to};
    const std::string uri = UnixUri();
};

INSTANTIATE_TEST_SUITE_P(Moments, DeviceDeath,
                         testing::Combine(testing::ValuesIn(kMoments), testing::ValuesIn(kVersions),
                                          testing::Values(Way::kCopied, Way::kHandedOver)),
                         [](const auto &info) {
                             return std::string(std::get<0>(info.param).name) + std::get<1>(info.param).name +
                                    (std::get<2>(info.param) == Way::kCopied ? "Copied" : "HandedOver");
                         });

TEST_P(DeviceDeath, OfTheOneThatSavesOrLoads)
{
    if (moment.load) {
        Process destination(to, false, uri, options, &moment);
        from.guest.Run(5, 1000);
        Here source(from, true, uri, moment.early ? limited : options);
        ASSERT_TRUE(destination.Says('!'));
        destination.Kill();
        ExpectRunsOn(source);
        return;
    }
    Process source(from, true, uri, options, &moment);
    Here destination(to, false, uri, options);
    source.Go();
    ASSERT_TRUE(source.Says('!'));
    source.Kill();
    ExpectNeverRuns(destination);
    EXPECT_EQ(to.late.kind, 0u) << "it was not loaded";
    if (moment.early) {
        EXPECT_EQ(to.early.kind, 0u) << "it was not loaded";
    }
}

TEST_P(DeviceDeath, OfItsPeer)
{
    if (!moment.load) {
        Process destination(to, false, uri, options);
        from.Hook(moment) = [&] { destination.Kill(); };
        from.guest.Run(5, 1000);
        Here source(from, true, uri, options);
        ExpectRunsOn(source);
        return;
    }
    Process source(from, true, uri, moment.early ? limited : options);
    to.Hook(moment) = [&] { source.Kill(); };
    Here destination(to, false, uri, options);
    source.Go();
    ExpectNeverRuns(destination);
}

// Into a file, or out of one.
class DeviceFileDeath : public testing::TestWithParam<std::tuple<Moment, Versions>>
{
  protected:
    DeviceFileDeath()
    {
        from.early.extra = from.late.extra = versions.extra;
    }
    const Moment moment = std::get<0>(GetParam());
    const Versions versions = std::get<1>(GetParam());
    const haul_options options = Options();
    Machine from{true, versions.from, versions.from}, to{false, versions.to, versions.to};
    Directory directory;
    const std::string uri = "file:" + directory / "a";
};

INSTANTIATE_TEST_SUITE_P(Moments, DeviceFileDeath,
                         testing::Combine(testing::ValuesIn(kMoments), testing::ValuesIn(kVersions)),
                         [](const auto &info) {
                             return std::string(std::get<0>(info.param).name) + std::get<1>(info.param).name;
                         });

TEST_P(DeviceFileDeath, LeavesAWholeFileOrNone)
{
    Process source(from, true, uri, options, moment.load ? nullptr : &moment);
    source.Go();
    if (!moment.load) {
        ASSERT_TRUE(source.Says('!'));
        source.Kill();
        EXPECT_TRUE(directory.Names().empty());
        Here again(from, true, uri, options);
        EXPECT_EQ(again.Wait(), 0) << again.message;
    } else {
        Report report = source.Ends();
        ASSERT_EQ(report.code, 0) << report.message;
        Process destination(to, false, uri, options, &moment);
        ASSERT_TRUE(destination.Says('!'));
        destination.Kill();
    }
    EXPECT_EQ(directory.Names(), std::vector<std::string>{"a"});
    Here another(to, false, uri, options);
    EXPECT_EQ(another.Wait(), 0) << another.message;
    EXPECT_EQ(to.guest.starts, 1u);
    EXPECT_EQ(to.early.kind, from.early.kind);
    EXPECT_EQ(to.late.kind, from.late.kind);
    std::string where;
    EXPECT_TRUE(SameMemory(from.guest, to.guest, &where)) << where;
}

} // namespace
