// SPDX-License-Identifier: Apache-2.0
// Described device state through whole moves: copied, handed over and by a file; refused, cancelled, and in
// the order that early setup promises.
#include "machine.h"

#include <cerrno>

using namespace haul_test;

namespace
{

void ExpectArrived(const Machine &from, const Machine &to)
{
    EXPECT_EQ(to.early.kind, from.early.kind);
    EXPECT_EQ(to.early.length, 2u);
    EXPECT_EQ(to.early.sizes[1], from.early.sizes[1]);
    EXPECT_EQ(to.late.kind, from.late.kind);
    EXPECT_EQ(to.late.sizes[0], from.late.sizes[0]);
    std::string where;
    EXPECT_TRUE(SameMemory(from.guest, to.guest, &where)) << where;
    EXPECT_EQ(to.guest.starts, 1u);
}

class DeviceMove : public testing::TestWithParam<Way>
{
};

INSTANTIATE_TEST_SUITE_P(Ways, DeviceMove, testing::Values(Way::kCopied, Way::kHandedOver), WayName);

// ---- arriving -----------------------------------------------------------------------------------------

TEST_P(DeviceMove, EarlyStateComesBeforeTheGuestStops)
{
    Machine from(true), to(false);
    unsigned stops_at_save = 99, order = 0, early_loaded = 0, late_loaded = 0;
    from.on_early_save = [&] { stops_at_save = from.guest.stops; };
    to.on_early_load = [&] { early_loaded = ++order; };
    to.on_late_load = [&] { late_loaded = ++order; };
    from.guest.Run(5, 1000);
    Move move(from.guest, to.guest, OptionsOf(GetParam()));
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(stops_at_save, 0u);
    EXPECT_EQ(early_loaded, 1u);
    EXPECT_EQ(late_loaded, 2u);
    ExpectArrived(from, to);
}

TEST(DeviceFile, HoldsEarlyAndLateState)
{
    Directory directory;
    Machine from(true), to(false);
    FileEnd save(from.guest, true, Options());
    ASSERT_EQ(save.Run(directory / "a"), 0) << save.message();
    uint64_t read = 0;
    FileEnd restore(to.guest, false, Options());
    to.on_early_load = [&] {
        haul_stats stats{};
        haul_get_stats(restore.migration, &stats);
        read = stats.normal;
    };
    ASSERT_EQ(restore.Run(directory / "a"), 0) << restore.message();
    EXPECT_EQ(read, 512u) << "a file's early state is loaded after its memory";
    ExpectArrived(from, to);
}

// ---- refused ------------------------------------------------------------------------------------------

struct Refusal {
    const char *name;
    bool early;
    Shape from, to;
    void (*spoil)(Machine &from, bool early);
    int code;
    std::string message; // behind "state of setup/0: " or "state of timer/0: "
};

Part &PartOf(Machine &machine, bool early)
{
    return early ? machine.early : machine.late;
}

std::vector<Refusal> Refusals()
{
    std::vector<Refusal> all;
    for (bool early : {true, false}) {
        all.push_back({"WrongVersion",
                       early,
                       {HAUL_DEVICE_VERSION(2, 0), false},
                       {},
                       [](Machine &, bool) {},
                       -EINVAL,
                       "the stream has version 2.0, this side loads 1.0 to 1.0"});
        all.push_back({"UnknownSubsection",
                       early,
                       {kOneZero, true},
                       {},
                       [](Machine &from, bool which) { PartOf(from, which).extra = 1; },
                       -EINVAL,
                       "it has subsection extra, which this side does not know"});
        all.push_back({"BadCount",
                       early,
                       {},
                       {},
                       [](Machine &from, bool which) { from.Forge(which, 2, 9000); },
                       -EPROTO,
                       "field length: 9000 is more than 4"});
        all.push_back({"ValueThatTheDeviceRefuses",
                       early,
                       {},
                       {},
                       [](Machine &from, bool which) { PartOf(from, which).kind = 13; },
                       -EINVAL,
                       "field kind: 13 is none"});
    }
    return all;
}

class DeviceRefused : public testing::TestWithParam<std::tuple<Refusal, Way>>
{
  protected:
    DeviceRefused()
        : one(std::get<0>(GetParam())),
          from(true, one.early ? one.from : Shape{}, one.early ? Shape{} : one.from),
          to(false, one.early ? one.to : Shape{}, one.early ? Shape{} : one.to),
          sentence(std::string("state of ") + (one.early ? "setup" : "timer") + "/0: " + one.message)
    {
        one.spoil(from, one.early);
    }
    const Refusal one;
    Machine from, to;
    const std::string sentence;
};

TEST_P(DeviceRefused, BeforeTheHandoverWithTheFieldsName)
{
    Way way = std::get<1>(GetParam());
    haul_options options = OptionsOf(way);
    options.max_bandwidth_bytes_per_s = one.early ? 1 << 20 : 0; // the first round outlasts the refusal
    from.guest.Run(5, 1000);
    Move move(from.guest, to.guest, options);
    EXPECT_EQ(move.Wait(), one.code) << move.source_error.message;
    for (const haul_error *error : {&move.source_error, &move.destination_error}) {
        EXPECT_NE(std::string(error->message).find(sentence), std::string::npos) << error->message;
    }
    ExpectRunsOn(from, to, move.stats);
    if (one.early && way == Way::kCopied) {
        EXPECT_EQ(from.guest.stops, 0u) << "refused while the guest runs";
    }
}

INSTANTIATE_TEST_SUITE_P(Reasons, DeviceRefused,
                         testing::Combine(testing::ValuesIn(Refusals()),
                                          testing::Values(Way::kCopied, Way::kHandedOver)),
                         [](const auto &info) {
                             const Refusal &one = std::get<0>(info.param);
                             return std::string(one.name) + (one.early ? "Early" : "Late") +
                                    (std::get<1>(info.param) == Way::kCopied ? "Copied" : "HandedOver");
                         });

class DeviceFileRefused : public DeviceRefused
{
};

TEST_P(DeviceFileRefused, NoGuestStartsFromIt)
{
    Directory directory;
    FileEnd save(from.guest, true, Options());
    ASSERT_EQ(save.Run(directory / "a"), 0) << save.message();
    FileEnd restore(to.guest, false, Options());
    EXPECT_EQ(restore.Run(directory / "a"), one.code);
    EXPECT_NE(restore.message().find(sentence), std::string::npos) << restore.message();
    EXPECT_EQ(to.guest.starts, 0u);
    EXPECT_EQ(directory.Names(), std::vector<std::string>{"a"});
}

INSTANTIATE_TEST_SUITE_P(Reasons, DeviceFileRefused,
                         testing::Combine(testing::ValuesIn(Refusals()), testing::Values(Way::kCopied)),
                         [](const auto &info) {
                             const Refusal &one = std::get<0>(info.param);
                             return std::string(one.name) + (one.early ? "Early" : "Late");
                         });

} // namespace
