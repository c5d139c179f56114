// SPDX-License-Identifier: Apache-2.0
// Device state by description: round trips, between versions both ways, and every refusal by name.
#include "engine/device_state.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace
{

constexpr uint32_t V(unsigned major, unsigned minor)
{
    return HAUL_DEVICE_VERSION(major, minor);
}

struct Entry {
    uint32_t index;
    uint64_t value;
};

struct Everything {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    bool yes;
    uint8_t bytes[5];
    uint16_t array[3];
    uint32_t length;
    uint64_t counted[4];
    uint8_t used;
    uint8_t tail[16];
    Entry entry;
    Entry entries[2];
    uint16_t msrs;
    Entry msr[8];
    bool extra;
    uint32_t extra_value;
    std::function<int(haul_error *)> saving;
    std::function<int(uint32_t, haul_error *)> loaded;
};

const haul_device_field kEntry[] = {
    HAUL_DEVICE_VALUE(Entry, index, U32, 0),
    HAUL_DEVICE_VALUE(Entry, value, U64, 0),
    HAUL_DEVICE_END,
};

#pragma GCC diagnostic ignored "-Winvalid-offsetof"
const haul_device_field kFields[] = {
    HAUL_DEVICE_VALUE(Everything, u8, U8, 0),
    HAUL_DEVICE_VALUE(Everything, u16, U16, 0),
    HAUL_DEVICE_VALUE(Everything, u32, U32, 0),
    HAUL_DEVICE_VALUE(Everything, u64, U64, 0),
    HAUL_DEVICE_VALUE(Everything, yes, BOOL, 0),
    HAUL_DEVICE_BYTES(Everything, bytes, 0),
    HAUL_DEVICE_ARRAY(Everything, array, U16, 0),
    HAUL_DEVICE_VALUE(Everything, length, U32, 0),
    HAUL_DEVICE_COUNTED_ARRAY(Everything, counted, U64, length, 0),
    HAUL_DEVICE_VALUE(Everything, used, U8, 0),
    HAUL_DEVICE_COUNTED_BYTES(Everything, tail, used, 0),
    HAUL_DEVICE_NESTED(Everything, entry, kEntry, 0),
    HAUL_DEVICE_NESTED_ARRAY(Everything, entries, kEntry, 0),
    HAUL_DEVICE_VALUE(Everything, msrs, U16, 0),
    HAUL_DEVICE_COUNTED_NESTED(Everything, msr, kEntry, msrs, 0),
    HAUL_DEVICE_END,
};

bool NeedsExtra(const void *object)
{
    return static_cast<const Everything *>(object)->extra;
}

int Saving(void *object, haul_error *error)
{
    auto *everything = static_cast<Everything *>(object);
    return everything->saving ? everything->saving(error) : 0;
}

int Loaded(void *object, uint32_t version, haul_error *error)
{
    auto *everything = static_cast<Everything *>(object);
    return everything->loaded ? everything->loaded(version, error) : 0;
}

const haul_device_field kExtraFields[] = {
    HAUL_DEVICE_VALUE(Everything, extra_value, U32, 0),
    HAUL_DEVICE_END,
};
const haul_device_description kExtra = {.name = "extra",
                                        .version = V(1, 0),
                                        .minimum = 0,
                                        .fields = kExtraFields,
                                        .subsections = nullptr,
                                        .needed = NeedsExtra,
                                        .pre_save = nullptr,
                                        .post_load = nullptr};
const haul_device_description *const kSubsections[] = {&kExtra, nullptr};

haul_device_description Described(const haul_device_field *fields, uint32_t version,
                                  const haul_device_description *const *subsections = nullptr,
                                  uint32_t minimum = 0)
{
    return {.name = "thing",
            .version = version,
            .minimum = minimum,
            .fields = fields,
            .subsections = subsections,
            .needed = nullptr,
            .pre_save = Saving,
            .post_load = Loaded};
}

using Bytes = std::vector<unsigned char>;

// A registry whose objects the caller keeps.
class Registry
{
  public:
    Registry()
    {
        haul_error error = {};
        EXPECT_EQ(haul_devices_new(&devices_, &error), 0);
    }
    ~Registry()
    {
        haul_devices_free(devices_);
    }
    Registry(const Registry &) = delete;
    Registry &operator=(const Registry &) = delete;

    // "" or the error.
    std::string Add(const haul_device_description &description, void *object, uint32_t instance = 0,
                    int priority = 0, uint32_t save_version = 0, bool early = false)
    {
        haul_error error = {};
        haul_device device = {.description = &description,
                              .instance = instance,
                              .priority = priority,
                              .early = early,
                              .save_version = save_version,
                              .object = object};
        code = haul_devices_add(devices_, &device, &error);
        return code == 0 ? "" : error.message;
    }
    Bytes Save(bool early = false)
    {
        unsigned char *bytes = nullptr;
        size_t length = 0;
        haul_error error = {};
        code = haul_devices_save(devices_, early, &bytes, &length, &error);
        message = error.message;
        Bytes copy(bytes, bytes + (code == 0 ? length : 0));
        if (code == 0) {
            EXPECT_LE(length, haul_devices_size(devices_, early));
            free(bytes);
        }
        return copy;
    }
    std::string Load(const Bytes &bytes, bool early = false)
    {
        haul_error error = {};
        code = haul_devices_load(devices_, early, bytes.data(), bytes.size(), &error);
        return code == 0 ? "" : error.message;
    }
    haul_devices *get()
    {
        return devices_;
    }

    int code = 0;
    std::string message;

  private:
    haul_devices *devices_ = nullptr;
};

std::unique_ptr<Everything> Sample()
{
    auto thing = std::make_unique<Everything>();
    thing->u8 = 0x12;
    thing->u16 = 0x1234;
    thing->u32 = 0x12345678;
    thing->u64 = 0x123456789abcdef0;
    thing->yes = true;
    memcpy(thing->bytes, "\x01\x02\x03\x00\x00", 5);
    thing->array[0] = 1;
    thing->array[2] = 3;
    thing->length = 2;
    thing->counted[0] = 10;
    thing->counted[1] = 11;
    thing->used = 3;
    memcpy(thing->tail, "abc", 3);
    thing->entry = {5, 6};
    thing->entries[1] = {7, 8};
    thing->msrs = 8;
    for (uint32_t i = 0; i < 8; i++)
        thing->msr[i] = {i, i * i};
    thing->extra = true;
    thing->extra_value = 99;
    return thing;
}

void ExpectSame(const Everything &a, const Everything &b)
{
    EXPECT_EQ(a.u8, b.u8);
    EXPECT_EQ(a.u16, b.u16);
    EXPECT_EQ(a.u32, b.u32);
    EXPECT_EQ(a.u64, b.u64);
    EXPECT_EQ(a.yes, b.yes);
    EXPECT_EQ(memcmp(a.bytes, b.bytes, sizeof a.bytes), 0);
    EXPECT_EQ(memcmp(a.array, b.array, sizeof a.array), 0);
    EXPECT_EQ(a.length, b.length);
    EXPECT_EQ(memcmp(a.counted, b.counted, sizeof a.counted), 0);
    EXPECT_EQ(a.used, b.used);
    EXPECT_EQ(memcmp(a.tail, b.tail, sizeof a.tail), 0);
    EXPECT_EQ(a.entry.index, b.entry.index);
    EXPECT_EQ(a.entry.value, b.entry.value);
    EXPECT_EQ(a.entries[1].value, b.entries[1].value);
    EXPECT_EQ(a.msrs, b.msrs);
    for (int i = 0; i < 8; i++)
        EXPECT_EQ(a.msr[i].value, b.msr[i].value);
    EXPECT_EQ(a.extra_value, b.extra_value);
}

std::string Print(const Bytes &bytes, haul_device_format format, int *code = nullptr)
{
    char *text = nullptr;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    haul_error error = {};
    int rc = haul_device_print(out, format, bytes.data(), bytes.size(), &error);
    fclose(out);
    std::string printed(text, size);
    free(text);
    if (code) {
        *code = rc;
        EXPECT_TRUE(rc == 0 || printed.empty());
    }
    return rc == 0 ? printed : error.message;
}

// Saves `from` by one description, loads it by another; "" or the error.
std::string Move(Everything &from, const haul_device_description &source, Everything &to,
                 const haul_device_description &destination, int *code = nullptr)
{
    Registry a, b;
    EXPECT_EQ(a.Add(source, &from), "");
    EXPECT_EQ(b.Add(destination, &to), "");
    Bytes bytes = a.Save();
    EXPECT_EQ(a.code, 0) << a.message;
    std::string why = b.Load(bytes);
    if (code)
        *code = b.code;
    return why;
}

// ---- round trips --------------------------------------------------------------------------------------

TEST(DeviceState, EveryTypeComesBack)
{
    auto from = Sample();
    Everything to = {};
    auto description = Described(kFields, V(1, 0), kSubsections);
    EXPECT_EQ(Move(*from, description, to, description), "");
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

// ---- versions -----------------------------------------------------------------------------------------

const haul_device_field kOld[] = {
    HAUL_DEVICE_VALUE(Everything, u8, U8, 0),
    HAUL_DEVICE_END,
};
const haul_device_field kNew[] = {
    HAUL_DEVICE_VALUE(Everything, u32, U32, V(1, 1)),
    HAUL_DEVICE_VALUE(Everything, u8, U8, 0),
    HAUL_DEVICE_VALUE(Everything, length, U32, V(1, 2)),
    HAUL_DEVICE_COUNTED_ARRAY(Everything, counted, U64, length, V(1, 2)),
    HAUL_DEVICE_END,
};

TEST(DeviceState, NewerMinorLoadsOlderStream)
{
    auto from = Sample();
    Everything to = {};
    to.u32 = 4711; // its default
    to.loaded = [](uint32_t version, haul_error *) {
        EXPECT_EQ(version, V(1, 0));
        return 0;
    };
    EXPECT_EQ(Move(*from, Described(kOld, V(1, 0)), to, Described(kNew, V(1, 2))), "");
    EXPECT_EQ(to.u8, from->u8);
    EXPECT_EQ(to.u32, 4711u);
    EXPECT_EQ(to.length, 0u);
}

TEST(DeviceState, OlderMinorRefusesNewerStream)
{
    auto from = Sample();
    Everything to = {};
    int code;
    EXPECT_EQ(Move(*from, Described(kNew, V(1, 2)), to, Described(kOld, V(1, 0)), &code),
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
    EXPECT_EQ(Move(*from, Described(kOld, V(1, 3)), to, Described(kOld, V(2, 0), nullptr, V(2, 0)), &code),
              "state of thing/0: the stream has version 1.3, this side loads 2.0 to 2.0");
    EXPECT_EQ(code, -EINVAL);
    EXPECT_EQ(Move(*from, Described(kOld, V(1, 3)), to, Described(kOld, V(2, 0), nullptr, V(1, 3))), "");
    EXPECT_EQ(Move(*from, Described(kOld, V(2, 0)), to, Described(kOld, V(1, 3)), &code),
              "state of thing/0: the stream has version 2.0, this side loads 1.0 to 1.3");
}

TEST(DeviceState, SubsectionThatIsNotNeededNeedsNotBeKnown)
{
    auto from = Sample();
    from->extra = false;
    Everything to = {};
    EXPECT_EQ(Move(*from, Described(kOld, V(1, 0), kSubsections), to, Described(kOld, V(1, 0))), "");
    EXPECT_EQ(Move(*from, Described(kOld, V(1, 0)), to, Described(kOld, V(1, 0), kSubsections)), "");
}

TEST(DeviceState, UnknownSubsectionIsRefused)
{
    auto from = Sample();
    Everything to = {};
    int code;
    EXPECT_EQ(Move(*from, Described(kOld, V(1, 0), kSubsections), to, Described(kOld, V(1, 0)), &code),
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
    EXPECT_EQ(Move(*from, Described(kOld, V(1, 0), kSubsections), to, Described(kOld, V(1, 0), subsections)),
              "state of thing/0/extra: the stream has version 1.0, this side loads 2.0 to 2.0");
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
        EXPECT_EQ(Move(*from, Described(one.source, V(1, 0)), to, Described(one.destination, V(1, 0)), &code),
                  std::string("state of thing/0: ") + one.message);
        EXPECT_EQ(code, -EINVAL);
    }
}

// ---- bad values ---------------------------------------------------------------------------------------

// The stream of a Sample, with `length` bytes at the place of `find` in the section replaced.
class Damaged : public testing::Test
{
  protected:
    Damaged()
    {
        EXPECT_EQ(source.Add(description, from.get()), "");
        EXPECT_EQ(destination.Add(description, &to), "");
        good = source.Save();
        // The section begins behind the description: u8, then u16.
        const unsigned char head[] = {0x12, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12};
        at = std::search(good.begin(), good.end(), head, head + sizeof head) - good.begin();
        EXPECT_LT(at, good.size());
    }
    std::string With(size_t offset, std::initializer_list<int> bytes)
    {
        Bytes bad = good;
        for (int byte : bytes)
            bad[at + offset++] = (unsigned char)byte;
        int printed = 0;
        Print(bad, HAUL_DEVICE_TEXT, &printed);
        EXPECT_EQ(printed, -EPROTO);
        return destination.Load(bad);
    }

    haul_device_description description = Described(kFields, V(1, 0), kSubsections);
    std::unique_ptr<Everything> from = Sample();
    Everything to = {};
    Registry source, destination;
    Bytes good;
    size_t at = 0;
};

constexpr size_t kYes = 15, kLength = 16 + 5 + 6, kUsed = kLength + 4 + 16, kMsrs = kUsed + 4 + 36;

TEST_F(Damaged, CountOverItsMaximum)
{
    EXPECT_EQ(With(kLength, {0x28, 0x23}), "state of thing/0: field length: 9000 is more than 4");
    EXPECT_EQ(destination.code, -EPROTO);
    EXPECT_EQ(to.length, 0u);
    EXPECT_EQ(With(kUsed, {17}), "state of thing/0: field used: 17 is more than 16");
    EXPECT_EQ(With(kMsrs, {9}), "state of thing/0: field msrs: 9 is more than 8");
}

TEST_F(Damaged, BoolThatIsNone)
{
    EXPECT_EQ(With(kYes, {2}), "state of thing/0: field yes: 2 is neither 0 nor 1");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, SmallerCountLeavesBytes)
{
    // The eighth entry is read as a number of subsections, and the rest as subsections.
    EXPECT_EQ(With(kMsrs, {7}), "state of thing/0: it has a subsection that is cut short or not described");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, GreaterCountFindsNoBytes)
{
    EXPECT_NE(With(kLength, {4}), "");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, EveryCutIsRefused)
{
    for (size_t length = 0; length < good.size(); length++) {
        Bytes cut(good.begin(), good.begin() + (long)length);
        EXPECT_NE(destination.Load(cut), "") << length;
        EXPECT_EQ(destination.code, -EPROTO) << length;
        int code = 0;
        Print(cut, HAUL_DEVICE_JSON, &code);
        EXPECT_EQ(code, -EPROTO) << length;
    }
}

TEST_F(Damaged, BytesBehindTheEnd)
{
    good.push_back(0);
    EXPECT_EQ(destination.Load(good), "the device state stream is damaged: bytes follow its end record");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, WrongMagicAndFormat)
{
    Bytes bad = good;
    bad[0] = 'X';
    EXPECT_EQ(destination.Load(bad), "the device state stream is damaged: it does not begin with HDEV");
    EXPECT_FALSE(haul_device_is_stream(bad.data(), bad.size()));
    EXPECT_TRUE(haul_device_is_stream(good.data(), good.size()));
    bad = good;
    bad[4] = 2;
    EXPECT_EQ(destination.Load(bad), "the device state stream has format 2, this side knows 1");
    EXPECT_EQ(destination.code, -EINVAL);
}

// A stream made by hand: a description as JSON, and a section of the given bytes.
Bytes Stream(const std::string &json, const Bytes &section, int sections = 1, const char *name = "thing")
{
    Bytes bytes = {'H', 'D', 'E', 'V', 1, 0, 0, 0, 1};
    auto u32 = [&bytes](uint32_t value) {
        for (int i = 0; i < 4; i++)
            bytes.push_back((unsigned char)(value >> (8 * i)));
    };
    u32((uint32_t)json.size());
    bytes.insert(bytes.end(), json.begin(), json.end());
    for (int i = 0; i < sections; i++) {
        bytes.insert(bytes.end(), {2, (unsigned char)strlen(name), 0});
        bytes.insert(bytes.end(), name, name + strlen(name));
        u32(0);
        u32((uint32_t)section.size());
        bytes.insert(bytes.end(), section.begin(), section.end());
    }
    bytes.push_back(0);
    return bytes;
}

std::string Fields(const std::string &fields)
{
    return R"({"name":"thing","version":1,"minor":0,"fields":[)" + fields + "]}";
}

TEST(DeviceStream, ShortAndLongSectionsNameTheField)
{
    Everything to = {};
    auto description = Described(kOld, V(1, 0));
    Registry registry;
    ASSERT_EQ(registry.Add(description, &to), "");
    std::string json = Fields(R"({"name":"u8","type":"u8"})");
    EXPECT_EQ(registry.Load(Stream(json, {5, 0})), "");
    EXPECT_EQ(to.u8, 5);
    EXPECT_EQ(registry.Load(Stream(json, {})), "state of thing/0: field u8: the state ends before it");
    EXPECT_EQ(registry.code, -EPROTO);
    EXPECT_EQ(registry.Load(Stream(json, {5})), "state of thing/0: it ends after its fields");
    EXPECT_EQ(registry.Load(Stream(json, {5, 0, 1, 2})), "state of thing/0: 2 bytes follow its last field");
    EXPECT_EQ(registry.code, -EPROTO);
}

TEST(DeviceStream, SectionsThatDoNotFitTheDevices)
{
    Everything to = {};
    auto description = Described(kOld, V(1, 0));
    Registry registry, empty;
    ASSERT_EQ(registry.Add(description, &to), "");
    std::string json = Fields(R"({"name":"u8","type":"u8"})");
    EXPECT_EQ(registry.Load(Stream(json, {5, 0}, 2)), "state of thing/0: it comes twice");
    EXPECT_EQ(registry.code, -EPROTO);
    EXPECT_EQ(empty.Load(Stream(json, {5, 0})), "state of thing/0: this side has no such device");
    EXPECT_EQ(empty.code, -EINVAL);
    EXPECT_EQ(registry.Load(Stream(json, {5, 0}, 0)), "state of thing/0: the stream does not have it");
    EXPECT_EQ(registry.code, -EINVAL);
    EXPECT_EQ(registry.Load(Stream(json, {5, 0}, 1, "other")),
              "the device state stream is damaged: a section has no description");
}

TEST(DeviceStream, DescriptionsThatAreNone)
{
    const struct {
        std::string json, message;
    } cases[] = {
        {"", "the device state stream is damaged: a description is no JSON object with a name"},
        {"[1]", "the device state stream is damaged: a description is no JSON object with a name"},
        {R"({"name":"a b"})",
         "the device state stream is damaged: a description is no JSON object with a name"},
        {std::string(2000, '['),
         "the device state stream is damaged: a description is no JSON object with a name"},
        {std::string(70000, ' '), "the device state stream is damaged: a description has over 64 KiB"},
        {R"({"name":"thing","version":1})", "state of thing/0: its description has no version"},
        {R"({"name":"thing","version":1,"minor":65536,"fields":[]})",
         "state of thing/0: its description has no version"},
        {Fields(""), "state of thing/0: its description has no fields, over 256, or structs over 8 deep"},
        {Fields("7"), "state of thing/0: a field is described without name or type"},
        {Fields(R"({"name":"x","type":"u128"})"),
         "state of thing/0: a field is described without name or type"},
        {Fields(R"({"name":"x\u001b[2J","type":"u8"})"),
         "state of thing/0: a field is described without name or type"},
        {Fields(R"({"name":"x","type":"u8","count":0})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"u8","count":1048577})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"buffer"})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"u8","count_field":"y"})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"u8","max":4,"count_field":"x"})"),
         "state of thing/0: field x: its count is no field before it"},
        {Fields(R"({"name":"y","type":"u8"},{"name":"x","type":"u8","max":4,"count_field":"y"})"),
         "state of thing/0: field x: its count 5 is more than 4"},
        {Fields(R"({"name":"x","type":"struct"})"), "state of thing/0: the fields of x are malformed"},
        {Fields(R"({"name":"x","type":"struct","fields":[]})"),
         "state of thing/0: field x: its description has no fields, over 256, or structs over 8 deep"},
        {Fields(R"({"name":"x","type":"u8","fields":[]})"),
         "state of thing/0: the fields of x are malformed"},
        {Fields(R"({"name":"x","type":"u64"})"), "state of thing/0: field x: the state ends before it"},
    };
    for (const auto &one : cases) {
        int code = 0;
        EXPECT_EQ(Print(Stream(one.json, {5, 0}), HAUL_DEVICE_TEXT, &code), one.message) << one.json;
        EXPECT_EQ(code, -EPROTO);
    }
    std::string deep = R"({"name":"x","type":"u8"})";
    for (int i = 0; i < 9; i++)
        deep = R"({"name":"x","type":"struct","fields":[)" + deep + "]}";
    int code = 0;
    Print(Stream(Fields(deep), {5, 0}), HAUL_DEVICE_TEXT, &code);
    EXPECT_EQ(code, -EPROTO);
}

TEST(DeviceStream, AMillionValuesAreEnough)
{
    std::string json = Fields(R"({"name":"x","type":"u8","count":1048576},{"name":"y","type":"u8"})");
    int code = 0;
    EXPECT_EQ(Print(Stream(json, Bytes(1048578, 0)), HAUL_DEVICE_TEXT, &code),
              "state of thing/0: field y: there are over 1048576 values");
    EXPECT_EQ(code, -EPROTO);
}

// ---- printing -----------------------------------------------------------------------------------------

TEST(DevicePrint, TextAndJson)
{
    struct Part {
        uint32_t n;
        uint8_t bytes[4];
    } parts[2] = {{300, {0xab, 0, 0, 0}}, {1, {}}};
    struct Whole {
        bool on;
        uint8_t count;
        Part part[2];
        uint64_t spare;
    } whole = {true, 2, {parts[0], parts[1]}, 42};
    const haul_device_field part[] = {HAUL_DEVICE_VALUE(Part, n, U32, 0), HAUL_DEVICE_BYTES(Part, bytes, 0),
                                      HAUL_DEVICE_END};
    const haul_device_field fields[] = {
        HAUL_DEVICE_VALUE(Whole, on, BOOL, 0), HAUL_DEVICE_VALUE(Whole, count, U8, 0),
        HAUL_DEVICE_COUNTED_NESTED(Whole, part, part, count, 0), HAUL_DEVICE_END};
    const haul_device_field spare[] = {HAUL_DEVICE_VALUE(Whole, spare, U64, 0), HAUL_DEVICE_END};
    haul_device_description sub = {};
    sub.name = "spare";
    sub.version = V(1, 1);
    sub.fields = spare;
    sub.needed = [](const void *) { return true; };
    const haul_device_description *const subs[] = {&sub, nullptr};
    haul_device_description description = {};
    description.name = "whole";
    description.version = V(1, 0);
    description.fields = fields;
    description.subsections = subs;
    Registry registry;
    ASSERT_EQ(registry.Add(description, &whole, 4), "");
    Bytes bytes = registry.Save();
    EXPECT_EQ(Print(bytes, HAUL_DEVICE_TEXT), "whole/4 version 1.0\n"
                                              "  on: true\n"
                                              "  count: 2\n"
                                              "  part[0].n: 300 (0x12c)\n"
                                              "  part[0].bytes: 4 bytes: ab, then 3 zero bytes\n"
                                              "  part[1].n: 1\n"
                                              "  part[1].bytes: 4 bytes, 4 zero bytes\n"
                                              "whole/4/spare version 1.1\n"
                                              "  spare: 42 (0x2a)\n");
    EXPECT_EQ(
        Print(bytes, HAUL_DEVICE_JSON),
        R"({"whole/4":{"version":"1.0","state":{"on":true,"count":2,"part":[{"n":300,"bytes":"ab000000"},)"
        R"({"n":1,"bytes":"00000000"}]},"subsections":{"spare":{"version":"1.1","state":{"spare":42}}}}})");
}

// ---- tables that are wrong ----------------------------------------------------------------------------

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
