// SPDX-License-Identifier: Apache-2.0
// What is saved comes back, in the promised order and bytes.
#include "things.h"

using namespace haul_test;

namespace
{

// ---- round trips --------------------------------------------------------------------------------------

TEST(DeviceState, EveryTypeComesBack)
{
    auto from = Sample();
    Everything to = {};
    auto description = Described(kFields, V(1, 0), kSubsections);
    EXPECT_EQ(Transfer(*from, description, to, description), "");
    ExpectSame(*from, to);
}

TEST(DeviceState, NumbersAreLittleEndianAndCompact)
{
    struct Small {
        uint16_t word;
        bool flag;
    } small = {0x1234, true};
    const haul_device_field fields[] = {HAUL_DEVICE_VALUE(Small, word, U16, 0),
                                        HAUL_DEVICE_VALUE(Small, flag, BOOL, 0), HAUL_DEVICE_END};
    haul_device_description description = {};
    description.name = "s";
    description.version = V(2, 3);
    description.fields = fields;
    Registry registry;
    ASSERT_EQ(registry.Add(description, &small, 7), "");
    Bytes bytes = registry.Save();
    std::string json = "{\"name\":\"s\",\"version\":2,\"minor\":3,\"fields\":[{\"name\":\"word\",\"type\":"
                       "\"u16\"},{\"name\":\"flag\",\"type\":\"bool\"}]}";
    Bytes expected = {'H', 'D', 'E', 'V', 1, 0, 0, 0, 1, (unsigned char)json.size(), 0, 0, 0};
    expected.insert(expected.end(), json.begin(), json.end());
    for (int byte : {2, 1, 0, int('s'), 7, 0, 0, 0, 4, 0, 0, 0, 0x34, 0x12, 1, 0, 0})
        expected.push_back((unsigned char)byte);
    EXPECT_EQ(bytes, expected);
}

TEST(DeviceState, OneDescriptionForAllInstances)
{
    auto description = Described(kFields, V(1, 0));
    auto a = Sample(), b = Sample();
    b->u32 = 77;
    Registry one, two, destination;
    ASSERT_EQ(one.Add(description, a.get(), 0), "");
    ASSERT_EQ(two.Add(description, a.get(), 0), "");
    ASSERT_EQ(two.Add(description, b.get(), 9), "");
    EXPECT_LT(two.Save().size(), one.Save().size() + 400);
    Everything to[2] = {};
    ASSERT_EQ(destination.Add(description, &to[1], 9), "");
    ASSERT_EQ(destination.Add(description, &to[0], 0), "");
    EXPECT_EQ(destination.Load(two.Save()), "");
    EXPECT_EQ(to[0].u32, a->u32);
    EXPECT_EQ(to[1].u32, 77u);
}

TEST(DeviceState, NoDevicesAtAll)
{
    Registry a, b;
    EXPECT_EQ(b.Load(a.Save()), "");
}

// ---- order and callbacks ------------------------------------------------------------------------------

TEST(DeviceState, PriorityOrdersSavingAndLoading)
{
    auto description = Described(kFields, V(1, 0));
    Everything things[3] = {};
    Registry registry, other;
    std::string order;
    const int priorities[] = {0, 5, 5};
    for (unsigned i = 0; i < 3; i++) {
        things[i].saving = [&order, i](haul_error *) { return order += std::to_string(i), 0; };
        things[i].loaded = [&order, i](uint32_t, haul_error *) { return order += char('a' + i), 0; };
        ASSERT_EQ(registry.Add(description, &things[i], i, priorities[i]), "");
        // The destination's own order counts, whatever the source's was.
        ASSERT_EQ(other.Add(description, &things[i], i, -priorities[i]), "");
    }
    Bytes bytes = registry.Save();
    EXPECT_EQ(registry.Load(bytes), "");
    EXPECT_EQ(other.Load(bytes), "");
    EXPECT_EQ(order, "120bcaabc");
}

TEST(DeviceState, EarlyDevicesAreAStreamOfTheirOwn)
{
    auto description = Described(kFields, V(1, 0));
    auto early = Sample(), late = Sample();
    Registry registry, destination;
    ASSERT_EQ(registry.Add(description, late.get(), 0), "");
    ASSERT_EQ(registry.Add(description, early.get(), 1, 0, 0, true), "");
    Everything to[2] = {};
    ASSERT_EQ(destination.Add(description, &to[1], 1, 0, 0, true), "");
    // An early device may bring others.
    to[1].loaded = [&](uint32_t, haul_error *) {
        EXPECT_EQ(destination.Add(description, &to[0], 0, 100), "");
        return 0;
    };
    EXPECT_EQ(destination.Load(registry.Save(true), true), "");
    EXPECT_EQ(to[1].u32, early->u32);
    EXPECT_EQ(to[0].u32, 0u);
    EXPECT_EQ(destination.Load(registry.Save(false), false), "");
    EXPECT_EQ(to[0].u32, late->u32);
}

TEST(DeviceState, FailuresOfCallbacksNameTheSection)
{
    auto description = Described(kFields, V(1, 0));
    Everything thing = {};
    Registry registry;
    ASSERT_EQ(registry.Add(description, &thing, 3), "");
    Bytes bytes = registry.Save();
    thing.loaded = [](uint32_t version, haul_error *error) {
        EXPECT_EQ(version, V(1, 0));
        return haul_error_set(error, EIO, "the timer is in the past");
    };
    EXPECT_EQ(registry.Load(bytes), "state of thing/3: the timer is in the past");
    EXPECT_EQ(registry.code, -EIO);
    thing.saving = [](haul_error *error) { return haul_error_set(error, EBUSY, "it runs"); };
    registry.Save();
    EXPECT_EQ(registry.code, -EBUSY);
    EXPECT_EQ(registry.message, "state of thing/3: it runs");
}

} // namespace
