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

TEST(DeviceTable, WrongListsOfFieldsAreRefused)
{
    const haul_device_field u8 = HAUL_DEVICE_VALUE(Everything, u8, U8, 0), end = HAUL_DEVICE_END,
                            length = HAUL_DEVICE_VALUE(Everything, length, U32, 0),
                            counted = HAUL_DEVICE_COUNTED_ARRAY(Everything, counted, U64, length, 0);
    haul_device_field unknown = u8, long_array = u8, newer = length, tail = counted, of_array = length;
    unknown.type = HAUL_DEVICE_TYPE_COUNT;
    long_array.count = (1 << 20) + 1;
    newer.since = V(1, 1);
    tail.name = "tail";
    of_array.count = 1;
    const struct {
        std::vector<haul_device_field> fields;
        std::string message;
    } cases[] = {
        {{u8, u8}, "field u8: its name is there already"},
        {{unknown}, "field u8: its type is unknown"},
        {{long_array}, "field u8: an array has 1 to 1048576 elements"},
        {{newer, counted}, "field counted: its count is newer than itself"},
        {{counted, length}, "field counted: its count is no u8, u16, u32 or u64 field before it"},
        {{of_array, counted}, "field counted: its count is no u8, u16, u32 or u64 field before it"},
        {{length, counted, tail}, "field tail: its count counts another array too"},
        {{}, "it needs fields"},
    };
    Everything thing = {};
    for (auto one : cases) {
        one.fields.push_back(end);
        Registry registry;
        EXPECT_EQ(registry.Add(Described(one.fields.data(), V(1, 1)), &thing),
                  "device description thing: " + one.message);
        EXPECT_EQ(registry.code, -EINVAL);
    }
    std::vector<std::string> names;
    for (int i = 0; i < 257; i++)
        names.push_back("f" + std::to_string(i));
    for (size_t count : {256, 257}) {
        std::vector<haul_device_field> fields(count, u8);
        for (size_t i = 0; i < count; i++)
            fields[i].name = names[i].c_str();
        fields.push_back(end);
        Registry registry;
        EXPECT_EQ(registry.Add(Described(fields.data(), V(1, 0)), &thing),
                  count == 256 ? ""
                               : "device description thing: field f256: a struct has at most 256 fields");
    }
}

TEST(DeviceTable, WrongDescriptionsAreRefused)
{
    Everything thing = {};
    auto why = [&](const haul_device_description &description) {
        Registry registry;
        std::string message = registry.Add(description, &thing);
        EXPECT_EQ(registry.code, message.empty() ? 0 : -EINVAL);
        return message;
    };
    auto description = Described(kOld, V(1, 1), nullptr, V(1, 2));
    EXPECT_EQ(why(description),
              "device description thing: its version must be at least 1.0 and its minimum not above it");
    description.minimum = V(1, 1);
    EXPECT_EQ(why(description), "");
    description.fields = nullptr;
    EXPECT_EQ(why(description), "device description thing: it needs fields");
    description.name = nullptr;
    EXPECT_EQ(why(description),
              "device description (without a name): a name has 1 to 63 letters, digits, '_' and '-'");
    const std::string longest(63, 'n'), longer(64, 'n');
    description = Described(kOld, V(1, 0));
    description.name = longest.c_str();
    EXPECT_EQ(why(description), "");
    description.name = longer.c_str();
    EXPECT_NE(why(description), "");
}

TEST(DeviceTable, WrongSubsectionsAreRefused)
{
    Everything thing = {};
    std::vector<haul_device_description> subs(33, kExtra);
    std::vector<std::string> names;
    for (size_t i = 0; i < subs.size(); i++)
        names.push_back("s" + std::to_string(i));
    auto why = [&](size_t count) {
        std::vector<const haul_device_description *> list;
        for (size_t i = 0; i < count; i++) {
            subs[i].name = subs[i].name == kExtra.name ? names[i].c_str() : subs[i].name;
            list.push_back(&subs[i]);
        }
        list.push_back(nullptr);
        Registry registry;
        std::string message = registry.Add(Described(kOld, V(1, 0), list.data()), &thing);
        EXPECT_EQ(registry.code, message.empty() ? 0 : -EINVAL);
        return message;
    };
    EXPECT_EQ(why(32), "");
    EXPECT_EQ(why(33), "device description thing: subsection s32: there are over 32 subsections");
    subs[1].name = "s0";
    EXPECT_EQ(why(2), "device description thing: subsection s0: its name is there already");
    subs[1].name = "s 1";
    EXPECT_EQ(why(2), "device description thing/s 1: a name has 1 to 63 letters, digits, '_' and '-'");
    subs[1].name = "s1";
    subs[1].needed = nullptr;
    EXPECT_EQ(why(2),
              "device description thing: subsection s1: a subsection needs `needed` and has no subsections");
    subs[1].needed = NeedsExtra;
    subs[1].subsections = kSubsections;
    EXPECT_EQ(why(2),
              "device description thing: subsection s1: a subsection needs `needed` and has no subsections");
    subs[1].subsections = nullptr;
    EXPECT_EQ(why(2), "");
    const haul_device_field huge[] = {{"many", HAUL_DEVICE_STRUCT, 0, 1, 1 << 20, false, 0, 0, kFields},
                                      HAUL_DEVICE_END};
    subs[1].fields = huge;
    EXPECT_EQ(why(2), "device description thing: its state can have over 16 MiB");
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
    EXPECT_EQ(registry.Add(description, &thing, 3, 0, 1),
              "device thing/3: it cannot be saved as version 0.1");
    auto newer = Described(kNew, V(1, 2));
    Registry versions;
    ASSERT_EQ(versions.Add(newer, &thing, 0, 0, V(1, 1)), "");
    EXPECT_EQ(versions.Add(newer, &thing, 1),
              "devices thing/0 and thing/1 need the same description and save_version");
    EXPECT_EQ(versions.code, -EINVAL);
}

TEST(DeviceTable, FourThousandDevicesAreEnough)
{
    std::vector<Everything> things(4096);
    auto description = Described(kOld, V(1, 0));
    Registry registry;
    for (uint32_t i = 0; i < 4096; i++)
        ASSERT_EQ(registry.Add(description, &things[i], i), "");
    EXPECT_EQ(registry.Add(description, things.data(), 4096), "more than 4096 devices");
    EXPECT_EQ(registry.code, -ENOSPC);
    EXPECT_EQ(registry.Load(registry.Save()), "");
}

TEST(DeviceTable, OverSixtyFourMebibytesAreNotSaved)
{
    std::vector<haul_device_field> fields;
    const char *names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"};
    for (const char *name : names)
        fields.push_back({name, HAUL_DEVICE_BUFFER, 0, 1, 1 << 20, false, 0, 0, nullptr});
    fields.push_back(HAUL_DEVICE_END);
    auto description = Described(fields.data(), V(1, 0));
    description.pre_save = nullptr;
    std::vector<unsigned char> object(1 << 20);
    Registry registry;
    for (uint32_t i = 0; i < 5; i++) {
        registry.Save();
        EXPECT_EQ(registry.code, 0) << i;
        ASSERT_EQ(registry.Add(description, object.data(), i), "");
    }
    registry.Save();
    EXPECT_EQ(registry.code, -EMSGSIZE);
    EXPECT_EQ(registry.message, "the state of all devices can have over 64 MiB");
}

// Who loads takes no more, so nobody saves more.
TEST(DeviceTable, OverAMebibyteOfDescriptionsIsRefused)
{
    std::vector<std::string> names;
    for (int i = 0; i < 256; i++)
        names.push_back(std::string(59, 'x') + std::to_string(1000 + i));
    std::vector<haul_device_field> fields;
    Everything thing = {};
    for (const std::string &name : names) {
        fields.push_back(HAUL_DEVICE_VALUE(Everything, u8, U8, 0));
        fields.back().name = name.c_str();
    }
    fields.push_back(HAUL_DEVICE_END);
    Registry registry;
    std::vector<haul_device_description> descriptions(100, Described(fields.data(), V(1, 0)));
    unsigned added = 0;
    std::string why;
    for (; added < descriptions.size() && why.empty(); added++) {
        descriptions[added].name = names[added].c_str();
        why = registry.Add(descriptions[added], &thing);
    }
    EXPECT_EQ(why, "the devices' descriptions have over 1 MiB as JSON");
    EXPECT_EQ(registry.code, -ENOSPC);
    EXPECT_GT(added, 40u); // of 22 KiB each
    // A further device of a description that is there, and the other stream, have room.
    EXPECT_EQ(registry.Add(descriptions[0], &thing, 1), "");
    EXPECT_EQ(registry.Add(descriptions[added - 1], &thing, 0, 0, 0, true), "");
    EXPECT_EQ(registry.Load(registry.Save()), "");
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
