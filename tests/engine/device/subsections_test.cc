// SPDX-License-Identifier: Apache-2.0
// Subsections: known or not, between versions, and damaged.
#include "things.h"

using namespace haul_test;

namespace
{

TEST(DeviceState, SubsectionThatIsNotNeededNeedsNotBeKnown)
{
    auto from = Sample();
    from->extra = false;
    Everything to = {};
    EXPECT_EQ(Transfer(*from, Described(kOld, V(1, 0), kSubsections), to, Described(kOld, V(1, 0))), "");
    EXPECT_EQ(Transfer(*from, Described(kOld, V(1, 0)), to, Described(kOld, V(1, 0), kSubsections)), "");
}

TEST(DeviceState, UnknownSubsectionIsRefused)
{
    auto from = Sample();
    Everything to = {};
    int code;
    EXPECT_EQ(Transfer(*from, Described(kOld, V(1, 0), kSubsections), to, Described(kOld, V(1, 0)), &code),
              "state of thing/0: it has subsection extra, which this side does not know");
    EXPECT_EQ(code, -EINVAL);
}

TEST(DeviceState, SubsectionOfAnotherVersionIsRefused)
{
    auto from = Sample();
    Everything to = {};
    haul_device_description newer = kExtra;
    newer.version = newer.minimum = V(2, 0);
    const haul_device_description *const subsections[] = {&newer, nullptr};
    EXPECT_EQ(
        Transfer(*from, Described(kOld, V(1, 0), kSubsections), to, Described(kOld, V(1, 0), subsections)),
        "state of thing/0/extra: the stream has version 1.0, this side loads 2.0 to 2.0");
}

// ---- save_version -----------------------------------------------------------------------------------

// As of the thing's 1.2 "extra" has a second field, and "late" is new.
const haul_device_field kMoreExtraFields[] = {
    HAUL_DEVICE_VALUE(Everything, extra_value, U32, 0),
    HAUL_DEVICE_VALUE(Everything, u64, U64, V(1, 1)),
    HAUL_DEVICE_END,
};
const haul_device_field kLateFields[] = {HAUL_DEVICE_VALUE(Everything, u16, U16, 0), HAUL_DEVICE_END};
const haul_device_history kExtraHistory[] = {{V(1, 0), V(1, 0)}, {V(1, 2), V(1, 1)}, {0, 0}};
const haul_device_history kLateHistory[] = {{V(1, 2), V(1, 0)}, {0, 0}};

class Subsections : public testing::Test
{
  protected:
    Subsections()
    {
        extra.fields = kMoreExtraFields;
        extra.version = V(1, 1);
        extra.history = kExtraHistory;
        late.name = "late";
        late.fields = kLateFields;
        late.history = kLateHistory;
    }
    // What the newest thing saves as `version`.
    Bytes SavedAs(uint32_t version)
    {
        Registry registry;
        EXPECT_EQ(registry.Add(newest, from.get(), 0, 0, version), "");
        return registry.Save();
    }
    static std::string LoadedBy(const haul_device_description &description, const Bytes &bytes,
                                Everything *to)
    {
        Registry registry;
        EXPECT_EQ(registry.Add(description, to), "");
        return registry.Load(bytes);
    }

    haul_device_description extra = kExtra, late = kExtra;
    const haul_device_description *const both[3] = {&extra, &late, nullptr};
    const haul_device_description newest = Described(kNew, V(1, 2), both);
    std::unique_ptr<Everything> from = Sample();
    Everything to = {};
};

TEST_F(Subsections, AreWrittenAsTheOlderVersionDid)
{
    auto old = Described(kOld, V(1, 0), kSubsections);
    Registry registry;
    ASSERT_EQ(registry.Add(old, from.get()), "");
    EXPECT_EQ(SavedAs(V(1, 0)), registry.Save()) << "byte for byte";
    EXPECT_EQ(LoadedBy(old, SavedAs(V(1, 0)), &to), "");
    EXPECT_EQ(to.u8, from->u8);
    EXPECT_EQ(to.extra_value, from->extra_value);
}

TEST_F(Subsections, AreLeftOutWhereTheOlderVersionHadNone)
{
    const haul_device_description *const only_late[] = {&late, nullptr};
    auto newer = Described(kNew, V(1, 2), only_late), old = Described(kOld, V(1, 0));
    Registry a, b;
    ASSERT_EQ(a.Add(newer, from.get(), 0, 0, V(1, 1)), "");
    EXPECT_EQ(Print(a.Save(), HAUL_DEVICE_TEXT).find("late"), std::string::npos);
    ASSERT_EQ(b.Add(newer, from.get(), 0, 0, V(1, 0)), "");
    EXPECT_EQ(LoadedBy(old, b.Save(), &to), "");
    EXPECT_EQ(to.u16, 0);
}

TEST_F(Subsections, AreWrittenWholeByTheirOwnVersion)
{
    EXPECT_EQ(SavedAs(0), SavedAs(V(1, 2)));
    EXPECT_EQ(LoadedBy(newest, SavedAs(0), &to), "");
    EXPECT_EQ(to.u16, from->u16);
    EXPECT_EQ(to.u64, from->u64);
    EXPECT_EQ(to.extra_value, from->extra_value);
}

TEST_F(Subsections, OfAnOlderVersionAreLoadedByTheNewer)
{
    to.u64 = 4711; // what stays as it was
    EXPECT_EQ(LoadedBy(newest, SavedAs(V(1, 1)), &to), "");
    EXPECT_EQ(to.extra_value, from->extra_value);
    EXPECT_EQ(to.u64, 4711u);
    EXPECT_EQ(to.u16, 0);
}

TEST_F(Subsections, WithoutAHistoryGoWithEveryVersion)
{
    late.history = nullptr;
    int code = 0;
    EXPECT_NE(Print(SavedAs(V(1, 0)), HAUL_DEVICE_TEXT, &code).find("thing/0/late version 1.0"),
              std::string::npos);
    EXPECT_EQ(LoadedBy(Described(kOld, V(1, 0), kSubsections), SavedAs(V(1, 0)), &to),
              "state of thing/0: it has subsection late, which this side does not know");
}

TEST_F(Subsections, WrongHistoriesAreRefused)
{
    const haul_device_history none[] = {{0, 0}}, other[] = {{V(1, 1), V(1, 1)}, {0, 0}},
                              newer[] = {{V(1, 3), V(1, 0)}, {0, 0}},
                              same[] = {{V(1, 1), V(1, 0)}, {V(1, 2), V(1, 0)}, {0, 0}},
                              back[] = {{V(1, 2), V(1, 0)}, {V(1, 1), V(1, 1)}, {0, 0}},
                              early[] = {{V(1, 0), 7}, {V(1, 1), V(1, 0)}, {0, 0}};
    const std::string ends = "its history does not end with its version and the section's",
                      order = "its history does not go from older to newer versions";
    const std::pair<const haul_device_history *, const std::string &> cases[] = {
        {none, ends}, {other, ends}, {newer, ends}, {same, order}, {back, order}, {early, order},
    };
    for (const auto &[history, why] : cases) {
        late.history = history;
        Registry registry;
        EXPECT_EQ(registry.Add(newest, from.get()), "device description thing: subsection late: " + why);
        EXPECT_EQ(registry.code, -EINVAL);
    }
}

// ---- damage -------------------------------------------------------------------------------------------

const std::string kByte = R"({"name":"u8","type":"u8"})";

// A thing of one byte, 5, and what its description and its section hold of subsections.
Bytes With(const std::string &described, const Bytes &subsections)
{
    std::string json = Fields(kByte);
    json.insert(json.size() - 1, ",\"subsections\":[" + described + "]");
    Bytes section = {5};
    section.insert(section.end(), subsections.begin(), subsections.end());
    return Stream(json, section);
}

const std::string kExtraDescribed =
    R"({"name":"extra","version":1,"minor":0,"fields":[{"name":"extra_value","type":"u32"}]})";

// "extra", as long as said, with that many bytes.
Bytes Extra(unsigned char length, size_t bytes)
{
    Bytes subsection = {5, 0, 'e', 'x', 't', 'r', 'a', length, 0, 0, 0};
    subsection.insert(subsection.end(), bytes, 7);
    return subsection;
}

Bytes operator+(Bytes a, const Bytes &b)
{
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

TEST(DeviceSubsection, DamageNamesThePlace)
{
    const std::string cut = "state of thing/0: it has a subsection that is cut short or not described";
    const std::string wrong_name = R"({"name":"a b","version":1,"minor":0,"fields":[]})";
    const struct {
        Bytes bytes;
        std::string message;
        int code;
    } cases[] = {
        {With(kExtraDescribed, Bytes{1} + Extra(4, 4)), "", 0},
        {With(kExtraDescribed, Bytes{1} + Extra(5, 5)),
         "state of thing/0/extra: 1 bytes follow its last field", -EPROTO},
        {With(kExtraDescribed, Bytes{1} + Extra(3, 3)),
         "state of thing/0/extra: field extra_value: the state ends before it", -EPROTO},
        {With(kExtraDescribed, Bytes{1} + Extra(4, 3)), cut, -EPROTO},
        {With(kExtraDescribed, Bytes{1}), cut, -EPROTO},
        {With(kExtraDescribed, Bytes{2} + Extra(4, 4)), cut, -EPROTO},
        {With(kExtraDescribed, Bytes{0} + Extra(4, 4)), "state of thing/0: 15 bytes follow its last field",
         -EPROTO},
        {With(kExtraDescribed, Bytes{2} + Extra(4, 4) + Extra(4, 4)),
         "state of thing/0: subsection extra comes twice", -EPROTO},
        {With("7,{}", Bytes{1} + Extra(4, 4)), cut, -EPROTO},
        {With(wrong_name, Bytes{1, 3, 0, 'a', ' ', 'b', 0, 0, 0, 0}), cut, -EPROTO},
        {With(R"({"name":"extra"})", Bytes{1} + Extra(4, 4)),
         "state of thing/0/extra: its description has no version", -EPROTO},
    };
    auto description = Described(kOld, V(1, 0), kSubsections);
    for (const auto &one : cases) {
        Everything to = {};
        Registry registry;
        ASSERT_EQ(registry.Add(description, &to), "");
        EXPECT_EQ(registry.Load(one.bytes), one.message);
        EXPECT_EQ(registry.code, one.code);
        int printed = 1;
        std::string text = Print(one.bytes, HAUL_DEVICE_TEXT, &printed);
        /* A printer prints what comes twice. */
        EXPECT_EQ(printed, one.message.find("twice") == std::string::npos ? one.code : 0) << text;
    }
}

TEST(DeviceSubsection, ItsCallbacksComeBeforeTheSections)
{
    haul_device_description extra = kExtra;
    extra.pre_save = [](void *object, haul_error *error) {
        return static_cast<Everything *>(object)->u16 == 13 ? haul_error_set(error, EBUSY, "it is busy") : 0;
    };
    extra.post_load = [](void *object, uint32_t version, haul_error *error) {
        auto *thing = static_cast<Everything *>(object);
        EXPECT_EQ(version, V(1, 0));
        thing->u64 = thing->extra_value; // for the section's
        return thing->extra_value == 13 ? haul_error_set(error, EIO, "13 is none") : 0;
    };
    const haul_device_description *const subsections[] = {&extra, nullptr};
    auto description = Described(kOld, V(1, 1), subsections);
    auto from = Sample();
    Everything to = {};
    bool loaded = false;
    to.loaded = [&](uint32_t version, haul_error *) {
        EXPECT_EQ(version, V(1, 1));
        EXPECT_EQ(to.u64, 99u);
        loaded = true;
        return 0;
    };
    EXPECT_EQ(Transfer(*from, description, to, description), "");
    EXPECT_TRUE(loaded);
    from->extra_value = 13;
    loaded = false;
    int code;
    EXPECT_EQ(Transfer(*from, description, to, description, &code), "state of thing/0/extra: 13 is none");
    EXPECT_EQ(code, -EIO);
    EXPECT_FALSE(loaded);
    from->u16 = 13;
    Registry registry;
    ASSERT_EQ(registry.Add(description, from.get()), "");
    registry.Save();
    EXPECT_EQ(registry.message, "state of thing/0/extra: it is busy");
    EXPECT_EQ(registry.code, -EBUSY);
}

// `needed` may depend on what the ones before it did.
TEST(DeviceSubsection, IsAskedOnceWhetherItIsNeeded)
{
    auto from = Sample();
    from->u16 = 0;
    haul_device_description extra = kExtra;
    extra.needed = [](const void *object) {
        return const_cast<Everything *>(static_cast<const Everything *>(object))->u16++ > 0;
    };
    const haul_device_description *const subsections[] = {&extra, nullptr};
    auto description = Described(kOld, V(1, 0), subsections);
    Everything to = {};
    EXPECT_EQ(Transfer(*from, description, to, description), "");
    EXPECT_EQ(to.extra_value, 0u);
    EXPECT_EQ(Transfer(*from, description, to, description), "");
    EXPECT_EQ(to.extra_value, 99u);
    EXPECT_EQ(from->u16, 2);
}

} // namespace
