// SPDX-License-Identifier: Apache-2.0
// Between versions, both ways, and tables that differ.
#include "things.h"

using namespace haul_test;

namespace
{

TEST(DeviceState, NewerMinorLoadsOlderStream)
{
    auto from = Sample();
    Everything to = {};
    to.u32 = 4711; // its default
    to.loaded = [](uint32_t version, haul_error *) {
        EXPECT_EQ(version, V(1, 0));
        return 0;
    };
    EXPECT_EQ(Transfer(*from, Described(kOld, V(1, 0)), to, Described(kNew, V(1, 2))), "");
    EXPECT_EQ(to.u8, from->u8);
    EXPECT_EQ(to.u32, 4711u);
    EXPECT_EQ(to.length, 0u);
}

TEST(DeviceState, OlderMinorRefusesNewerStream)
{
    auto from = Sample();
    Everything to = {};
    int code;
    EXPECT_EQ(Transfer(*from, Described(kNew, V(1, 2)), to, Described(kOld, V(1, 0)), &code),
              "state of thing/0: the stream has version 1.2, this side loads 1.0 to 1.0");
    EXPECT_EQ(code, -EINVAL);
}

TEST(DeviceState, NewerMinorSavesForAnOlderOne)
{
    auto description = Described(kNew, V(1, 2)), old = Described(kOld, V(1, 0));
    auto from = Sample();
    Everything to = {};
    Registry a, b;
    ASSERT_EQ(a.Add(description, from.get(), 0, 0, V(1, 0)), "");
    ASSERT_EQ(b.Add(old, &to), "");
    EXPECT_EQ(b.Load(a.Save()), "");
    EXPECT_EQ(to.u8, from->u8);
}

TEST(DeviceState, OtherMajorIsRefusedUnlessTheMinimumAllowsIt)
{
    auto from = Sample();
    Everything to = {};
    int code;
    EXPECT_EQ(
        Transfer(*from, Described(kOld, V(1, 3)), to, Described(kOld, V(2, 0), nullptr, V(2, 0)), &code),
        "state of thing/0: the stream has version 1.3, this side loads 2.0 to 2.0");
    EXPECT_EQ(code, -EINVAL);
    EXPECT_EQ(Transfer(*from, Described(kOld, V(1, 3)), to, Described(kOld, V(2, 0), nullptr, V(1, 3))), "");
    EXPECT_EQ(Transfer(*from, Described(kOld, V(2, 0)), to, Described(kOld, V(1, 3)), &code),
              "state of thing/0: the stream has version 2.0, this side loads 1.0 to 1.3");
}

// ---- tables that differ -------------------------------------------------------------------------------

TEST(DeviceState, DifferentTablesOfOneVersionAreRefusedByName)
{
    auto from = Sample();
    Everything to = {};
    const haul_device_field wide[] = {HAUL_DEVICE_VALUE(Everything, u8, U8, 0),
                                      HAUL_DEVICE_VALUE(Everything, u16, U16, 0), HAUL_DEVICE_END};
    const haul_device_field renamed[] = {HAUL_DEVICE_VALUE(Everything, used, U8, 0), HAUL_DEVICE_END};
    const haul_device_field retyped[] = {
        {"u8", HAUL_DEVICE_BOOL, offsetof(Everything, yes), 1, 0, false, 0, 0, nullptr}, HAUL_DEVICE_END};
    const haul_device_field three[] = {HAUL_DEVICE_ARRAY(Everything, array, U16, 0), HAUL_DEVICE_END};
    const haul_device_field two[] = {
        {"array", HAUL_DEVICE_U16, offsetof(Everything, array), 2, 2, false, 0, 0, nullptr}, HAUL_DEVICE_END};
    const haul_device_field counted[] = {HAUL_DEVICE_VALUE(Everything, length, U32, 0),
                                         HAUL_DEVICE_COUNTED_ARRAY(Everything, counted, U64, length, 0),
                                         HAUL_DEVICE_END};
    const haul_device_field fixed[] = {HAUL_DEVICE_VALUE(Everything, length, U32, 0),
                                       HAUL_DEVICE_ARRAY(Everything, counted, U64, 0), HAUL_DEVICE_END};
    const haul_device_field narrow_entry[] = {HAUL_DEVICE_VALUE(Entry, index, U32, 0), HAUL_DEVICE_END};
    const haul_device_field nested[] = {HAUL_DEVICE_NESTED(Everything, entry, kEntry, 0), HAUL_DEVICE_END};
    const haul_device_field narrow[] = {HAUL_DEVICE_NESTED(Everything, entry, narrow_entry, 0),
                                        HAUL_DEVICE_END};
    const struct {
        const haul_device_field *source, *destination;
        const char *message;
    } cases[] = {
        {wide, kOld, "the stream has field u16, which this side does not know"},
        {kOld, wide, "the stream does not have field u16"},
        {renamed, kOld, "the stream has field used where this side has u8"},
        {retyped, kOld, "field u8: it is bool in the stream and u8 here"},
        {two, three, "field array: it has 2 elements in the stream and 3 here"},
        {counted, fixed,
         "field counted: its elements are counted by length in the stream and by a fixed number here"},
        {nested, narrow, "field entry: the stream has field value, which this side does not know"},
    };
    for (const auto &one : cases) {
        int code = 0;
        EXPECT_EQ(
            Transfer(*from, Described(one.source, V(1, 0)), to, Described(one.destination, V(1, 0)), &code),
            std::string("state of thing/0: ") + one.message);
        EXPECT_EQ(code, -EINVAL);
    }
}

} // namespace
