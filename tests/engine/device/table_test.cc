// SPDX-License-Identifier: Apache-2.0
// Tables, devices and objects that are wrong are refused by name.
#include "things.h"

using namespace haul_test;

namespace
{

TEST(DeviceTable, WrongTablesAreRefusedByName)
{
    const haul_device_field entry = HAUL_DEVICE_VALUE(Everything, u32, U32, 0), end = HAUL_DEVICE_END;
    auto with = [&](std::function<void(haul_device_field &)> change) {
        haul_device_field fields[] = {entry, end};
        change(fields[0]);
        Everything thing = {};
        Registry registry;
        std::string why = registry.Add(Described(fields, V(1, 0)), &thing);
        EXPECT_EQ(registry.code, -EINVAL);
        return why;
    };
    EXPECT_EQ(with([](haul_device_field &f) { f.name = "a.b"; }),
              "device description thing: field a.b: a name has 1 to 63 letters, digits, '_' and '-'");
    EXPECT_EQ(with([](haul_device_field &f) { f.type = HAUL_DEVICE_U64; }),
              "device description thing: field u32: its type has another size than the member");
    EXPECT_EQ(with([](haul_device_field &f) { f.since = V(1, 1); }),
              "device description thing: field u32: it is newer than its description");
    EXPECT_EQ(with([](haul_device_field &f) { f.type = HAUL_DEVICE_STRUCT; }),
              "device description thing: field u32: a struct needs fields");
    EXPECT_EQ(with([](haul_device_field &f) { f.type = HAUL_DEVICE_BUFFER; }),
              "device description thing: field u32: an array has 1 to 1048576 elements");
    EXPECT_EQ(with([](haul_device_field &f) {
                  f.is_counted = true;
                  f.count = 4;
              }),
              "device description thing: field u32: its count is no u8, u16, u32 or u64 field before it");
    haul_device_field loop[] = {HAUL_DEVICE_NESTED(Everything, entry, nullptr, 0), end};
    loop[0].fields = loop;
    Everything thing = {};
    Registry registry;
    EXPECT_NE(registry.Add(Described(loop, V(1, 0)), &thing).find("structs are nested over 8 deep"),
              std::string::npos);
    haul_device_field huge[] = {HAUL_DEVICE_NESTED_ARRAY(Everything, entries, kFields, 0), end};
    huge[0].count = 1 << 20;
    EXPECT_EQ(registry.Add(Described(huge, V(1, 0)), &thing),
              "device description thing: its state can have over 16 MiB");
    EXPECT_EQ(registry.Add(Described(kFields, 7), &thing),
              "device description thing: its version must be at least 1.0 and its minimum not above it");
}

TEST(DeviceTable, WrongDevicesAreRefused)
{
    Everything thing = {};
    auto description = Described(kOld, V(1, 0)), other = Described(kOld, V(1, 0));
    Registry registry;
    ASSERT_EQ(registry.Add(description, &thing, 1), "");
    EXPECT_EQ(registry.Add(description, &thing, 1), "device thing/1 is there already");
    EXPECT_EQ(registry.code, -EEXIST);
    EXPECT_EQ(registry.Add(other, &thing, 2),
              "devices thing/1 and thing/2 need the same description and save_version");
    EXPECT_EQ(registry.Add(description, &thing, 3, 0, V(1, 1)),
              "device thing/3: it cannot be saved as version 1.1");
}

TEST(DeviceTable, WrongObjectsAreNotSaved)
{
    auto thing = Sample();
    auto description = Described(kFields, V(1, 0));
    Registry registry;
    ASSERT_EQ(registry.Add(description, thing.get()), "");
    thing->length = 5;
    registry.Save();
    EXPECT_EQ(registry.code, -EINVAL);
    EXPECT_EQ(registry.message, "state of thing/0: field length: 5 is more than 4");
    thing->length = 0;
    memset(&thing->yes, 3, 1);
    registry.Save();
    EXPECT_EQ(registry.message, "state of thing/0: field yes: 3 is neither 0 nor 1");
    memset(&thing->yes, 0, 1);
}

} // namespace
