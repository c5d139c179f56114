// SPDX-License-Identifier: Apache-2.0
// Described device state between two processes that run two versions of one program.
#include "processes.h"

using namespace haul_test;

namespace
{

class DeviceProcesses : public testing::TestWithParam<const char *>
{
  protected:
    DeviceProcesses()
    {
        options.mode = GetParam();
    }
    ~DeviceProcesses() override
    {
        unlink(uri.substr(strlen("unix:")).c_str());
    }
    haul_options options = Options();
    const std::string uri = UnixUri();
};

INSTANTIATE_TEST_SUITE_P(Modes, DeviceProcesses, testing::Values("normal", "cpr-transfer"),
                         [](const auto &info) {
                             return std::string(info.param) == "normal" ? "Copied" : "HandedOver";
                         });

TEST_P(DeviceProcesses, ANewerMinorVersionLoadsWhatAnOlderOneSaved)
{
    Machine from(true), to(false, {kOneOne, true}, {kOneOne, true});
    to.early.newer = to.late.newer = 4711; // what stays as it was
    Process destination(to, false, uri, options);
    from.guest.Run(5, 1000);
    Here source(from, true, uri, options);
    EXPECT_EQ(source.Wait(), 0) << source.message;
    EXPECT_EQ(source.stats.ownership, HAUL_OWNER_DESTINATION);
    Report report = destination.Ends();
    EXPECT_EQ(report.code, 0) << report.message;
    EXPECT_EQ(report.starts, 1u);
    EXPECT_EQ(report.early.kind, from.early.kind);
    EXPECT_EQ(report.early.sizes[1], from.early.sizes[1]);
    EXPECT_EQ(report.late.kind, from.late.kind);
    EXPECT_EQ(report.early.newer, 4711u);
    EXPECT_EQ(report.late.newer, 4711u);
    std::string where;
    if (std::string(options.mode) == "normal") {
        EXPECT_TRUE(SameMemory(from.guest, to.guest, &where)) << where;
    }
}

TEST_P(DeviceProcesses, AnOlderMinorVersionLoadsWhatANewerOneSavedForIt)
{
    Shape newer{kOneOne, true, kOneZero};
    Machine from(true, newer, newer), to(false);
    from.early.extra = from.late.extra = 6; // in a subsection that the older one does not know
    Process destination(to, false, uri, options);
    from.guest.Run(5, 1000);
    Here source(from, true, uri, options);
    EXPECT_EQ(source.Wait(), 0) << source.message;
    Report report = destination.Ends();
    EXPECT_EQ(report.code, 0) << report.message;
    EXPECT_EQ(report.starts, 1u);
    EXPECT_EQ(report.early.kind, from.early.kind);
    EXPECT_EQ(report.late.sizes[1], from.late.sizes[1]);
    EXPECT_EQ(report.early.newer, 0u);
    EXPECT_EQ(report.late.extra, 0u);
}

TEST_P(DeviceProcesses, AnOlderMinorVersionRefusesWhatANewerOneSaved)
{
    for (bool early : {true, false}) {
        Shape newer{kOneOne, false};
        Machine from(true, early ? newer : Shape{}, early ? Shape{} : newer), to(false);
        Process destination(to, false, uri, options);
        from.guest.Run(5, 1000);
        Here source(from, true, uri, options);
        EXPECT_EQ(source.Wait(), -EINVAL);
        std::string sentence = std::string("state of ") + (early ? "setup" : "timer") +
                               "/0: the stream has version 1.1, this side loads 1.0 to 1.0";
        EXPECT_NE(source.message.find(sentence), std::string::npos) << source.message;
        ExpectRunsOn(from, to, source.stats);
        Report report = destination.Ends();
        EXPECT_EQ(report.code, -EINVAL);
        EXPECT_EQ(report.starts, 0u);
        unlink(uri.substr(strlen("unix:")).c_str());
    }
}

} // namespace
